//! A message on its way out of a handler or a bus, before it has an id, a time and a conversation.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::Timestamp;
use postrider_core::code::Code;
use postrider_core::codec::CodecError;
use postrider_core::envelope::{Envelope, HEADERS_BYTES_MAX, Headers, Outgoing};
use postrider_core::id::MessageId;
use postrider_core::message::{Key, Message};
use postrider_core::name::{Destination, DestinationKind, Name};
use postrider_core::planted::{self, Plant};
use postrider_core::text::Text;

use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::telemetry::{self, TraceContext};

/// What a sender may say of a message beside its type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) headers: Vec<(Text, Bytes)>,
    pub(crate) key: Option<Key>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) at: Option<Timestamp>,
    pub(crate) after: Option<Duration>,
}

/// Where a draft goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Topic(&'static str),
    Queue(&'static str),
    /// To whoever asked.
    Asker,
}

/// An encoded message without an identity.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) to: To,
    pub(crate) message_type: &'static str,
    pub(crate) version: u32,
    pub(crate) content_type: &'static str,
    pub(crate) payload: Bytes,
    pub(crate) wishes: Wishes,
}

impl Draft {
    pub(crate) fn of<M: Message>(
        to: To,
        message: &M,
        mut wishes: Wishes,
    ) -> Result<Self, CodecError> {
        wishes.key = wishes.key.or_else(|| message.key());
        Ok(Self {
            to,
            message_type: M::TYPE,
            version: M::VERSION,
            content_type: M::CONTENT_TYPE,
            payload: message.encode()?,
            wishes,
        })
    }

    /// Bytes of key, headers and payload.
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self
            .wishes
            .headers
            .iter()
            .map(|(n, v)| n.len() + v.len())
            .sum();
        let key = self.wishes.key.as_ref().map_or(0, |k| k.as_bytes().len());
        self.payload.len() + key + headers
    }

    pub(crate) fn deliver_at(&mut self, at: Timestamp) {
        self.wishes.at = Some(at);
    }

    /// The message with this identity.
    ///
    /// # Errors
    /// `PUBLISH_BAD_ENVELOPE`: a key or the headers are too large; `NAME_MALFORMED`: of the destination.
    pub(crate) fn seal(
        self,
        to: Destination,
        id: MessageId,
        source: &Text,
        now: Timestamp,
    ) -> Result<Outgoing> {
        self.check()?;
        let wishes = self.wishes;
        let mut envelope = Envelope::new(
            id,
            source.clone(),
            Text::from_static(self.message_type),
            now,
        );
        envelope.version = self.version;
        envelope.content_type = Text::from_static(self.content_type);
        envelope.key = wishes.key;
        envelope.deliver_at = wishes.at.or_else(|| wishes.after.map(|d| now.plus(d)));
        envelope.expires_at = wishes
            .expires_in
            .map(|d| envelope.deliver_at.unwrap_or(now).plus(d));
        let mut headers = Headers::default();
        for (name, value) in wishes.headers {
            headers.push(name, value);
        }
        envelope.headers = headers;
        Ok(Outgoing {
            destination: to,
            envelope,
            payload: self.payload,
        })
    }

    fn check(&self) -> Result {
        let bad = |what: String| Err(Error::new(Code::PUBLISH_BAD_ENVELOPE, what));
        if let Some(key) = &self.wishes.key
            && key.as_bytes().len() > Key::BYTES_MAX
        {
            return bad(format!(
                "the key of `{}` has {} bytes; a key has at most {}",
                self.message_type,
                key.as_bytes().len(),
                Key::BYTES_MAX
            ));
        }
        let headers: usize = self
            .wishes
            .headers
            .iter()
            .map(|(n, v)| n.len() + v.len())
            .sum();
        if headers > HEADERS_BYTES_MAX {
            return bad(format!(
                "the headers of `{}` have {headers} bytes; they have at most {HEADERS_BYTES_MAX}",
                self.message_type
            ));
        }
        if self.wishes.headers.iter().any(|(n, _)| n.is_empty()) {
            return bad(format!("a header of `{}` has no name", self.message_type));
        }
        Ok(())
    }
}

/// The destination of a message type.
///
/// # Errors
/// The name breaks the rule (the derive checks it at compile time; a hand-written `Message` may not).
pub(crate) fn destination(kind: DestinationKind, name: &'static str) -> Result<Destination> {
    Ok(Destination {
        kind,
        name: Name::new(Text::from_static(name))?,
    })
}

/// Gives the drafts of one handler run their identities: derived, so that a re-run emits the same ids. `trace`: the handler's own, where it is
/// known ([`crate::telemetry::current`] of the handler's task, which a store's thread is not).
///
/// # Errors
/// A draft breaks a limit, or a reply cannot go anywhere it says.
pub(crate) fn seal_effects(
    drafts: Vec<Draft>,
    delivery: &Delivery,
    source: &Text,
    trace: Option<TraceContext>,
) -> Result<Vec<Outgoing>> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    let parent = delivery.envelope();
    let subscription = delivery.subscription().to_string();
    let runtime = &delivery.inner.runtime;
    let now = runtime.clock.wall();
    let entropy = &*runtime.entropy;
    let trace = trace.unwrap_or_else(|| telemetry::context_of(parent, entropy));
    let mut counts: HashMap<(&'static str, Option<Key>), u32> = HashMap::new();
    let mut sealed = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let Some(to) = resolve(draft.to, parent)? else {
            tracing::debug!(id = %parent.id, reply = draft.message_type, "nobody waits for this reply: dropped");
            continue;
        };
        let key = draft.wishes.key.clone();
        let nth = counts.entry((draft.message_type, key.clone())).or_default();
        let key_bytes = key.as_ref().map(|k| &k.as_bytes()[..]);
        let id = MessageId::derived(
            parent.id,
            &subscription,
            draft.message_type,
            key_bytes,
            *nth,
        );
        *nth += 1;
        let id = match planted::is(Plant::IdNotDerived) {
            true => MessageId::v7(now, [entropy.next_u64(), entropy.next_u64()]),
            false => id,
        };
        let mut message = draft.seal(to, id, source, now)?;
        follow(&mut message.envelope, parent);
        message.envelope.traceparent = Some(trace.child(entropy).to_text());
        sealed.push(message);
    }
    Ok(sealed)
}

fn resolve(to: To, parent: &Envelope) -> Result<Option<Destination>> {
    Ok(match to {
        To::Topic(name) => Some(destination(DestinationKind::Topic, name)?),
        To::Queue(name) => Some(destination(DestinationKind::Queue, name)?),
        To::Asker => parent.reply_to.clone(),
    })
}

/// Makes a message part of the conversation of `parent`.
pub(crate) fn follow(envelope: &mut Envelope, parent: &Envelope) {
    let id = Text::from(parent.id.to_string());
    envelope.correlation_id = Some(parent.correlation_id.clone().unwrap_or_else(|| id.clone()));
    envelope.causation_id = Some(id);
    envelope.tenant = parent.tenant.clone();
    envelope.tracestate = parent.tracestate.clone();
}
