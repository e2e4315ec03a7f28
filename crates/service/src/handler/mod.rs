//! Handlers: plain functions whose first parameter is the message.
//!
//! | shape | what it is |
//! |---|---|
//! | `async fn(M, extractors…) -> effects` | at least once: effects are published, then the message is acknowledged |
//! | `fn(M, &mut Tx<S>, extractors…) -> effects` | effects once: inbox row, writes and effects are one commit |
//! | `async fn(M, extractors…, Db<S>) -> Committed` | calls the outside world first, ends with `db.commit(…)`: effects once |
//! | [`raw`]`("topic:…", async fn(Delivery) -> effects)` | everything of a destination that no other handler takes |
//!
//! Up to six extractors. What is said of a handler beside that ([`HandlerExt`]) is either the handler's own (retry, timeout, layers) or its
//! subscription's (order, concurrency, dead letter, start): two handlers of one destination must not contradict each other there.

mod call;
mod configured;

pub use call::Handler;
pub(crate) use configured::SubscriptionWishes;
pub use configured::{Configured, DeadLetter, HandlerExt, HandlerService, IntoHandler, raw};

use std::any::TypeId;

use postrider_core::name::DestinationKind;

/// What is known of a handler before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its path in the program.
    pub name: &'static str,
    /// Topic or queue.
    pub kind: DestinationKind,
    /// The name of the topic or queue.
    pub destination: &'static str,
    /// The message type that it takes; empty: all that no other takes.
    pub message_type: &'static str,
    /// The newest version of it that it reads.
    pub version: u32,
    /// Whether messages of the type have a key.
    pub keyed: bool,
    /// The type of the store that its effects are committed in, if they are.
    pub store: Option<TypeId>,
}

#[cfg(test)]
mod tests;
