//! The storage engine of Postrider: one log, many views.
//!
//! The physical layer is [`wal`] (segments, batches, frames, checkpoints, recovery) on a [`disk`]; the bytes are in
//! `docs/formats/log.md`.

pub mod disk;
mod error;
pub mod wal;

pub use error::Error;
