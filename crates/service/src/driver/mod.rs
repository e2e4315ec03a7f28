//! The loop that drives the kernel over an engine's source.

mod error;
mod handle;
mod registry;

pub use error::DriverError;
pub use handle::{DrainReport, DriverHandle, Ended, Phase, Status};
pub(crate) use registry::{Registry, Running};
