//! The embedded durable engine of Postrider: `embedded:DIR` and `memory:`.
//!
//! **It is** the storage engine of `postrider-log` behind the contract of [`postrider_core::engine::Engine`], in your process: topics,
//! queues, subscriptions that order by key, delays, expiry, dedupe, atomic publish and settle, failure records and parked keys.
//! **It is not** a server, and not a cluster: one process has the directory open at a time.
//!
//! ```
//! use postrider_core::engine::Engine;
//! use postrider_embedded::{Embedded, MemoryOptions};
//!
//! # fn main() -> Result<(), postrider_embedded::Error> {
//! let engine = Embedded::memory(MemoryOptions::default())?;
//! assert_eq!(engine.info().scheme, "memory");
//! # Ok(())
//! # }
//! ```
//!
//! **Who writes.** In a directory one thread, `postrider-log`, writes and syncs; callers stage under one short lock and wait for
//! it. What is staged while it syncs goes with the next sync: many wait for one, and there is no timer. In memory whoever commits
//! does it at once, and there is no thread, so it works under the paused clock of a test.
//!
//! **What is durable when.** A publish: at its stream's level when `publish` returns. A dead letter, a parked key, a redrive, a
//! position of a log source: synced at return. An acknowledgement: decided at return, and synced within 100 ms. An attempt, a crash
//! state: written at return, so they survive `kill -9`, and synced with the next of anything.

mod admin;
mod convert;
mod engine;
mod error;
mod failures;
mod host;
mod names;
mod options;
mod provision;
mod publisher;
mod reader;
mod settle;
mod shared;
mod source;
mod stepper;
mod waiters;

pub use engine::Embedded;
pub use error::Error;
pub use options::{MESSAGE_BYTES_MAX_DEFAULT, MemoryOptions, Options, SystemClock};
pub use stepper::Stepper;
