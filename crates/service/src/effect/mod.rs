//! Effects: what a handler returns is what happens. `Ok` is the acknowledgement.
//!
//! | effect | what happens |
//! |---|---|
//! | `()` | nothing more |
//! | [`struct@Publish`]`(event)` | the event goes to its topic |
//! | [`struct@Send`]`(command)` | the command goes to its queue |
//! | [`struct@Reply`]`(message)` | the answer goes to whoever asked; nobody asked: nothing |
//! | [`After`]`(duration, effect)` | the effect, not before that time has passed |
//! | `Option`, `Vec`, tuples up to 8, [`Effects`] | all of them, in order |
//!
//! Messages of a handler carry ids that are derived from the message that it handled: a second run emits the same ids.

mod draft;
mod into;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::Timestamp;
use postrider_core::codec::CodecError;
use postrider_core::message::{Command, Event, Key, Message};
use postrider_core::text::Text;

pub(crate) use draft::{Draft, To, destination, follow, seal_effects};
pub use into::{IntoEffects, IntoOutcome};

use draft::Wishes;

macro_rules! wishes {
    ($type:ident, $bound:ident) => {
        impl<T: $bound> $type<T> {
            /// With this header. A name may stand more than once; all headers have at most 64 KiB.
            pub fn header(mut self, name: impl Into<Text>, value: impl Into<Bytes>) -> Self {
                self.wishes.headers.push((name.into(), value.into()));
                self
            }

            /// Not handled later than this after it may be delivered.
            pub fn expires_in(mut self, by: Duration) -> Self {
                self.wishes.expires_in = Some(by);
                self
            }

            /// Not handled before this wall time.
            pub fn at(mut self, time: Timestamp) -> Self {
                self.wishes.at = Some(time);
                self
            }

            /// Not handled before this has passed.
            pub fn after(mut self, delay: Duration) -> Self {
                self.wishes.after = Some(delay);
                self
            }

            /// With this key in place of the type's own.
            pub fn key(mut self, key: Key) -> Self {
                self.wishes.key = Some(key);
                self
            }

            /// The message.
            #[must_use]
            pub fn message(&self) -> &T {
                &self.message
            }

            /// The message, taken out.
            #[must_use]
            pub fn into_message(self) -> T {
                self.message
            }
        }

        impl<T: fmt::Debug> fmt::Debug for $type<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($type))
                    .field(&self.message)
                    .finish()
            }
        }
    };
}

/// Publishes an event to its topic. Written `Publish(event)`, with `.header(…)`, `.key(…)`, `.at(…)`, `.expires_in(…)` after it.
#[must_use = "an effect does nothing until a handler returns it or a bus is given it"]
#[derive(Clone)]
pub struct Publish<E> {
    message: E,
    wishes: Wishes,
}

/// [`struct@Publish`] of this event.
#[allow(non_snake_case)]
pub fn Publish<E: Event>(event: E) -> Publish<E> {
    Publish {
        message: event,
        wishes: Wishes::default(),
    }
}

/// Sends a command to its queue. Written `Send(command)`; otherwise as [`struct@Publish`].
#[must_use = "an effect does nothing until a handler returns it or a bus is given it"]
#[derive(Clone)]
pub struct Send<C> {
    message: C,
    wishes: Wishes,
}

/// [`struct@Send`] of this command.
#[allow(non_snake_case)]
pub fn Send<C: Command>(command: C) -> Send<C> {
    Send {
        message: command,
        wishes: Wishes::default(),
    }
}

/// Answers whoever asked, with the correlation of the request; where nobody asked, nothing happens. Written `Reply(message)`.
#[must_use = "an effect does nothing until a handler returns it"]
#[derive(Clone)]
pub struct Reply<M> {
    message: M,
    wishes: Wishes,
}

/// [`struct@Reply`] with this message.
#[allow(non_snake_case)]
pub fn Reply<M: Message>(message: M) -> Reply<M> {
    Reply {
        message,
        wishes: Wishes::default(),
    }
}

impl<E: Event> Publish<E> {
    /// Its key: the one that was given, else the message's own.
    pub(crate) fn key_found(&mut self) -> Option<&Key> {
        if self.wishes.key.is_none() {
            self.wishes.key = self.message.key();
        }
        self.wishes.key.as_ref()
    }

    pub(crate) fn into_draft(self) -> Result<Draft, CodecError> {
        Draft::of(To::Topic(E::DESTINATION), &self.message, self.wishes)
    }
}

impl<C: Command> Send<C> {
    pub(crate) fn into_draft(self) -> Result<Draft, CodecError> {
        Draft::of(To::Queue(C::DESTINATION), &self.message, self.wishes)
    }
}

wishes!(Publish, Event);
wishes!(Send, Command);
wishes!(Reply, Message);

/// An effect, not before this has passed. Around several messages it holds for each that has no time of its own.
#[must_use = "an effect does nothing until a handler returns it"]
#[derive(Clone, Debug)]
pub struct After<E>(pub Duration, pub E);

/// Messages of any types, in order: for handlers whose effects differ from case to case.
///
/// ```text
/// let mut effects = Effects::new();
/// effects.add(Publish(OrderShipped { .. }));
/// if late { effects.add(Send(Apologise { .. })); }
/// effects
/// ```
#[must_use = "effects do nothing until a handler returns them"]
#[derive(Default)]
pub struct Effects {
    drafts: Vec<Draft>,
    fault: Option<CodecError>,
}

impl Effects {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds effects after those that are there.
    pub fn add(&mut self, effects: impl IntoEffects) -> &mut Self {
        effects.into_effects(self);
        self
    }

    /// The same with more effects.
    pub fn with(mut self, effects: impl IntoEffects) -> Self {
        effects.into_effects(&mut self);
        self
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// The messages with their types, in order: `(type, payload)`. For tests of a handler as a plain function.
    pub fn messages(&self) -> impl Iterator<Item = (&'static str, &Bytes)> {
        self.drafts.iter().map(|d| (d.message_type, &d.payload))
    }

    pub(crate) fn push(&mut self, draft: Result<Draft, CodecError>) {
        match draft {
            Ok(draft) => self.drafts.push(draft),
            Err(error) => self.fault = self.fault.take().or(Some(error)),
        }
    }

    /// # Errors
    /// A message could not be encoded.
    pub(crate) fn into_drafts(self) -> Result<Vec<Draft>, CodecError> {
        match self.fault {
            None => Ok(self.drafts),
            Some(error) => Err(error),
        }
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.drafts.iter().map(|d| (d.to, d.message_type)))
            .finish()
    }
}

#[cfg(test)]
mod tests;
