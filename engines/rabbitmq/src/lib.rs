//! RabbitMQ as an engine: quorum queues as a lease source, publisher confirms.
