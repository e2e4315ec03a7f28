//! The log on a simulated disk and clock: the physical layer by itself, and the whole log with a model beside it.
#![allow(clippy::unwrap_used)]

mod harness;
mod log;
mod log_tests;
mod wal;
mod wal_tests;
