//! Apache Kafka as an engine: consumer groups as a log source, the idempotent producer as the publisher.
//!
//! **Is**: an adapter between the contracts of `postrider-core` and librdkafka. A topic or queue is a Kafka topic, a subscription a consumer group, a
//! member's share of it the partitions that it owns. Progress is the committed offset, and what is done above it stands in the commit's metadata.
//!
//! **Is not**: where retries, parking and failure records are decided or kept: the kernel decides, and a failure store stands beside the engine.
//!
//! The recipe of the consumer (cooperative, nothing stored by itself, the callback only sends to a channel) is explained in `source`; what each setting
//! is for stands in [`Options`] and in the crate's README.

mod admin;
mod board;
mod connection;
mod context;
mod done;
mod engine;
mod fault;
mod look;
mod names;
mod options;
mod probe;
mod provision;
mod publisher;
mod record;
mod seats;
mod source;
mod start;
#[cfg(test)]
mod test_support;

pub use engine::KafkaEngine;
pub use options::Options;
