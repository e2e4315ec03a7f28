//! The engines that the suite runs on.

mod embedded;
#[cfg(feature = "kafka")]
mod kafka;
mod namespace;

pub use embedded::Embedded;
#[cfg(feature = "kafka")]
pub use kafka::Kafka;
pub use namespace::Namespace;
