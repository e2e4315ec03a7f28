//! Apache Kafka as an engine: consumer groups as a log source, the idempotent producer as the publisher.
