//! RabbitMQ as an engine of Postrider: quorum queues as lease sources, publisher confirms, the topology that order per key needs.
//!
//! **Is**: an adapter. It maps topics, queues and subscriptions onto exchanges and quorum queues, publishes with confirms on one task per channel,
//! holds deliveries unacknowledged, and says truthfully what the server cannot do.
//!
//! **Is not**: where retries, parking or dead letters are decided: the kernel does that, and the service names a failure store beside it. The
//! server's own dead-letter queue is the net below.
//!
//! Needs RabbitMQ 4.0 or later. The page of the engine, with every setting and its reason, is `engines/rabbitmq/README.md`.

mod admin;
mod engine;
mod error;
mod headers;
mod link;
mod names;
mod options;
mod probe;
mod publisher;
mod source;
mod topology;

pub use engine::RabbitEngine;
pub use error::Error;
pub use options::Options;
