//! The framework of Postrider: typed messages, plain async handlers, effects as return values.
//!
//! **Is**: the bus, services with their handlers, extractors and effects, layers, the loop that drives the kernel over an
//! engine's source, the outbox relay, failures by API, metrics, and the admin API of a running engine directory.
//!
//! **Is not**: an engine or a store; it never names one. Users take it through the `postrider` crate.

pub mod delivery;
#[allow(dead_code, reason = "its users land next")]
mod erased;
mod runtime;
