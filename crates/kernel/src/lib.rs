//! The delivery state machine of Postrider: lanes, retry, park, dead letter, watermark, drain.
//!
//! **Is**: one pure state machine per opened source. Inputs go in through [`Kernel::handle`], effects come out of
//! [`Kernel::poll_output`]; time and randomness are arguments. It sees positions, keys and sizes, never payloads.
//!
//! **Is not**: a runtime. It does no I/O, reads no clock, spawns nothing, and knows no engine.
//!
//! The rules that are not said elsewhere:
//!
//! - **Order.** One message of a key is in the handler at a time; its acknowledgement is put out before the next is dispatched. Keys take turns, round
//!   robin. Messages without a key, and all of an unordered subscription, are free.
//! - **Lost leases.** When a message is lost (its lease, or its settle), what came behind it of its key is cancelled and given back, and what comes
//!   for the key waits until the lost ones are back in their places. After the time of a lease, what waits goes back once, so that the engine says
//!   the order; if nothing waits, the lost ones went elsewhere.
//! - **Attempts.** A dispatch says hand-overs before + failures here + 1. In a lane the retries are used up by failures seen since the message
//!   came; crashes are the business of suspects. Free messages may go back to the engine between tries, so their hand-overs count,
//!   but only a failure that was seen ends the retries.
//! - **Panics** are transient; from the second of a message on without the immediate retries, and what ends them is `Panicked`.
//! - **Share.** A blocked key over its messages or bytes is set aside at once; so is the largest blocked key while blocked keys hold more than
//!   half of a window that is nearly full, unless retries wait for their budget (then nearly everything fails, and slowing down is the answer).
//! - **Nothing can keep it.** Without a failure store (and for a key, always without one) a failed message is held and tried again at the longest
//!   backoff.
//! - **An outage** longer than `hold_max` gives held messages back; it sets nothing aside.
//! - **A person's pause** gives back what is held, except on a log, which has nothing to give back to.

pub mod config;
pub mod io;
pub mod suspects;

mod credit;
mod describe;
mod dispatch;
mod drain;
mod intake;
mod kernel;
mod lane;
mod lease;
mod message;
mod outage;
mod outbox;
mod outcome;
mod park;
mod retry;
mod settle;
mod shard;
mod timers;
mod watch;
mod watermark;

pub use config::Config;
pub use describe::{Bound, Description};
pub use io::{Incoming, Input, Origin, Outcome, Output, Slot, Verdict};
pub use kernel::Kernel;
pub use suspects::Suspects;
