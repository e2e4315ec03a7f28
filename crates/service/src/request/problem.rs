//! Error replies: a request that failed for good is answered, so that the asker need not wait for its deadline.
//!
//! The payload is `{"code":"PR-1309","message":"…"}` in the manner of RFC 9457, the type [`TYPE`].

use std::fmt;

use bytes::Bytes;
use postrider_core::code::Code;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::id::MessageId;
use postrider_core::text::Text;
use serde::{Deserialize, Serialize};

use crate::delivery::Delivery;
use crate::effect::follow;

/// The message type of an error reply.
const TYPE: Text = Text::from_static("postrider.problem");
const CONTENT_TYPE: Text = Text::from_static("application/problem+json");

/// The longest text of an error reply, in characters.
const MESSAGE_CHARS_MAX: usize = 2000;

#[derive(Serialize, Deserialize)]
pub(super) struct Problem {
    code: String,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// The answer to a request that failed for good. `None`: nobody asked. Its id is derived, so that it is the same however often it is sent.
pub(crate) fn error_reply(delivery: &Delivery, code: Code, text: &str) -> Option<Outgoing> {
    let parent = delivery.envelope();
    let destination = parent.reply_to.clone()?;
    let subscription = delivery.subscription();
    let id = MessageId::derived(parent.id, &subscription.to_string(), &TYPE, None, 0);
    let source = Text::from(subscription.service.as_str());
    let mut envelope = Envelope::new(id, source, TYPE, delivery.inner.runtime.clock.wall());
    envelope.content_type = CONTENT_TYPE;
    follow(&mut envelope, parent);
    crate::telemetry::inject(&mut envelope, &*delivery.inner.runtime.entropy);
    let problem = Problem {
        code: code.to_string(),
        message: text.chars().take(MESSAGE_CHARS_MAX).collect(),
    };
    Some(Outgoing {
        destination,
        envelope,
        payload: Bytes::from(serde_json::to_vec(&problem).ok()?),
    })
}

/// Reads an error reply; `None`: it is another answer.
pub(super) fn read(envelope: &Envelope, payload: &[u8]) -> Option<Problem> {
    if envelope.message_type != TYPE {
        return None;
    }
    let unreadable = || Problem {
        code: Code::REPLY_FAILED.to_string(),
        message: "an error without a readable text".to_owned(),
    };
    Some(serde_json::from_slice(payload).unwrap_or_else(|_| unreadable()))
}
