//! The log on a simulated disk and clock: the physical layer by itself, and the whole log with a model beside it.
#![allow(clippy::unwrap_used)]

mod log;
mod rng;
mod wal;
