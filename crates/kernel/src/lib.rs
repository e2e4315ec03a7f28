//! The delivery state machine of Postrider: lanes, retry, park, dead letter, watermark, drain.
//!
//! **Is**: one pure state machine per opened source. Inputs go in through [`Kernel::handle`], effects come out of
//! [`Kernel::poll_output`]; time and randomness are arguments. It sees positions, keys and sizes, never payloads.
//!
//! **Is not**: a runtime. It does no I/O, reads no clock, spawns nothing, and knows no engine.

pub mod io;
