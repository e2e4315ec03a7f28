//! Reliable messaging for microservices: typed messages, plain async handlers, an embedded durable engine.
