//! tower layers for handlers: [`Timeout`], [`Bulkhead`], [`Breaker`], [`Trace`]. Retry and key order are not layers: they belong to the
//! kernel, since a layer that sleeps holds a slot.

mod timeout;

pub use timeout::{Timeout, TimeoutService};
