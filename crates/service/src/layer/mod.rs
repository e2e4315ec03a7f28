//! tower layers for handlers: [`Timeout`], [`Bulkhead`], [`Breaker`], [`Trace`]. Retry and key order are not layers: they belong to the
//! kernel, since a layer that sleeps holds a slot.
//!
//! Any tower layer works whose service takes a [`Delivery`](crate::delivery::Delivery) and gives an
//! [`Ending`](crate::delivery::Ending); its error counts as transient.

mod breaker;
mod bulkhead;
mod timeout;
mod trace;

pub use breaker::{Breaker, BreakerService, BreakerState};
pub use bulkhead::{Bulkhead, BulkheadService};
pub use timeout::{Timeout, TimeoutService};
pub use trace::{Trace, TraceService};
