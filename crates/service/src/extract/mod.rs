//! Extractors: what a handler takes after its message.
//!
//! | extractor | gives |
//! |---|---|
//! | [`State`]`<T>` | a value that the service was given with `.state(…)` |
//! | [`Meta`] | id, time, attempt, correlation, key, … of the delivery |
//! | [`Headers`] | the application headers |
//! | [`Bus`] | the bus, as a part of this conversation |
//! | [`Db`]`<S>` | the service's store, for an async handler that ends with one commit |
//! | [`Ctx`] | time, ids and randomness that tests own |
//! | [`Delivery`] | the delivery as it came |
//!
//! `&mut `[`Tx`]`<S>` is not an extractor: it makes a plain `fn` a transactional handler, and stands right after the message.

mod ctx;
mod db;
mod meta;
mod tx;

use std::any::TypeId;
use std::ops::Deref;

use postrider_core::Fut;
use postrider_core::fault::{Fault, HandlerError};
use postrider_core::store::Seen;

use crate::bus::Bus;
pub use crate::context::{Context, Registry};
use crate::delivery::Delivery;
use crate::error::Result;

pub use ctx::Ctx;
pub use db::{Committed, Db};
pub use meta::{Headers, Meta};
pub use tx::Tx;
pub(crate) use tx::in_store;

/// Something that a handler can take after its message.
///
/// Contract. Extraction MUST be cheap and MUST NOT wait; it MAY run more than once per delivery (a group commit that failed runs again).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be taken by a handler",
    label = "not an extractor",
    note = "after the message a handler takes `State<T>`, `Meta`, `Headers`, `Bus`, `Db<S>`, `Ctx` or `Delivery`, by value",
    note = "a transactional handler is a plain `fn` whose second parameter is `&mut Tx<S>`"
)]
pub trait FromDelivery: Sized + Send + 'static {
    /// The type of the store that a handler that takes this commits its effects in. `None`: it commits nowhere.
    #[must_use]
    fn store() -> Option<TypeId> {
        None
    }

    /// What this needs of the service, checked at its start: a missing state is an error then, not at the first message.
    ///
    /// # Errors
    /// What is missing.
    fn check(registry: &Registry) -> Result {
        let _ = registry;
        Ok(())
    }

    /// Takes it.
    ///
    /// # Errors
    /// What that means for the delivery; the handler is not called.
    fn from_delivery(context: &Context) -> Result<Self, HandlerError>;

    /// A cheap look at an inbox before the handler is called: a message that was handled before skips it. `None`: there is none.
    fn seen(context: &Context) -> Option<Fut<'_, Result<Seen, Fault>>> {
        let _ = context;
        None
    }
}

/// A value that the service was given with [`Service::state`](crate::Service::state), cloned. Put what is large behind an `Arc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct State<T>(pub T);

impl<T> Deref for State<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone + Send + Sync + 'static> FromDelivery for State<T> {
    fn check(registry: &Registry) -> Result {
        registry.require_state::<T>().map(drop)
    }

    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        let value = context.registry().require_state();
        value.map(Self).map_err(|e| HandlerError::Stop(e.into()))
    }
}

impl FromDelivery for Delivery {
    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        Ok(context.delivery.clone())
    }
}

impl FromDelivery for Bus {
    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        Ok(context.bus())
    }
}

impl FromDelivery for Context {
    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        Ok(context.clone())
    }
}
