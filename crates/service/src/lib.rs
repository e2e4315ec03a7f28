//! The framework of Postrider: typed messages, plain async handlers, effects as return values.
//!
//! **Is**: the bus, services with their handlers, extractors and effects, layers, the loop that drives the kernel over an
//! engine's source, the outbox relay, failures by API, metrics, and the admin API of a running engine directory.
//!
//! **Is not**: an engine or a store; it never names one. Users take it through the `postrider` crate.

#[cfg(all(feature = "admin", unix))]
pub mod admin;
pub mod bus;
mod context;
pub mod delivery;
pub mod driver;
pub mod effect;
mod erased;
pub mod error;
pub mod extract;
pub mod failures;
#[cfg(test)]
mod fake;
pub mod handler;
pub mod layer;
pub mod metrics;
pub mod plan;
pub mod relay;
mod request;
mod runtime;
pub mod service;
mod signal;
pub mod telemetry;

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod test_support;

pub use bus::{Bus, BusOptions};
pub use error::{Error, Result};
pub use service::{Running, Service};
