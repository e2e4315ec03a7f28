//! The delivery state machine of Postrider: lanes, retry, park, dead letter, watermark, drain.
//!
//! **Is**: one pure state machine per opened source. Inputs go in through [`Kernel::handle`], effects come out of
//! [`Kernel::poll_output`]; time and randomness are arguments. It sees positions, keys and sizes, never payloads.
//!
//! **Is not**: a runtime. It does no I/O, reads no clock, spawns nothing, and knows no engine.

pub mod config;
pub mod io;

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
mod suspects;
mod timers;
mod watermark;

pub use config::Config;
pub use describe::{Bound, Description};
pub use io::{Incoming, Input, Origin, Outcome, Output, Slot};
pub use kernel::Kernel;
