//! The engines that the suite runs on.

mod embedded;
#[cfg(feature = "kafka")]
mod kafka;
mod namespace;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;

pub use embedded::Embedded;
#[cfg(feature = "kafka")]
pub use kafka::Kafka;
pub use namespace::Namespace;
#[cfg(feature = "rabbitmq")]
pub use rabbitmq::RabbitMq;
