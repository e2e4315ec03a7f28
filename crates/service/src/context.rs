//! What a handler can reach beside its message: the delivery, the service's states and stores, the bus.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::sync::Arc;

use postrider_core::code::Code;
use postrider_core::id::BodyHash;
use postrider_core::store::{InboxEntry, Store, StoreInfo, TxStore, Unit};

use crate::bus::Bus;
use crate::delivery::Delivery;
use crate::error::{Error, Result};

/// The states and stores that a service was given, by type.
#[derive(Default)]
pub struct Registry {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    stores: Vec<(TypeId, Arc<dyn Store>)>,
}

impl Registry {
    /// The state of that type, cloned.
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref().cloned()
    }

    /// The store of that type.
    #[must_use]
    pub fn store<S: TxStore>(&self) -> Option<Arc<S>> {
        self.state::<Arc<S>>()
    }

    /// The state of that type, or the error that a service reports at its start.
    ///
    /// # Errors
    /// `STATE_MISSING`.
    pub fn require_state<T: Clone + Send + Sync + 'static>(&self) -> Result<T> {
        self.state().ok_or_else(|| {
            Error::new(
                Code::STATE_MISSING,
                format!(
                    "no state of type `{}` was given to the service",
                    type_name::<T>()
                ),
            )
        })
    }

    /// The store of that type, or the error that a service reports at its start.
    ///
    /// # Errors
    /// `STORE_MISSING`.
    pub fn require_store<S: TxStore>(&self) -> Result<Arc<S>> {
        self.store().ok_or_else(|| {
            Error::new(
                Code::STORE_MISSING,
                format!(
                    "no store of type `{}` was given to the service",
                    type_name::<S>()
                ),
            )
        })
    }

    pub(crate) fn put_state<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// Gives whether there was none of that type before.
    pub(crate) fn put_store<S: TxStore>(&mut self, store: Arc<S>) -> bool {
        self.stores.push((TypeId::of::<S>(), store.clone()));
        self.values
            .insert(TypeId::of::<Arc<S>>(), Box::new(store))
            .is_none()
    }

    pub(crate) fn stores(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        self.stores.iter().map(|(_, store)| store)
    }

    /// What the store of this type says of itself.
    pub(crate) fn store_info(&self, kind: TypeId) -> Option<&StoreInfo> {
        let store = self.stores.iter().find(|(k, _)| *k == kind);
        store.map(|(_, store)| store.info())
    }
}

/// One running service, as its handlers share it.
pub(crate) struct Host {
    pub(crate) registry: Registry,
    pub(crate) bus: Bus,
}

/// What an extractor takes from: one delivery and the service that handles it. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub(crate) delivery: Delivery,
    pub(crate) host: Arc<Host>,
}

impl Context {
    /// The delivery.
    #[must_use]
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// The service's states and stores.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.host.registry
    }

    /// The bus, as a part of this conversation: what is published through it carries this message's correlation and causation.
    #[must_use]
    pub fn bus(&self) -> Bus {
        self.host.bus.within(self.delivery.envelope())
    }

    /// The inbox row of this delivery.
    pub(crate) fn inbox_entry(&self) -> InboxEntry {
        let inner = &self.delivery.inner;
        InboxEntry {
            subscription: inner.subscription.clone(),
            message: inner.envelope.id,
            body: BodyHash::of(&inner.payload),
            received_at: inner.runtime.clock.wall(),
        }
    }

    /// The commit of this delivery.
    pub(crate) fn unit(&self) -> Unit {
        Unit {
            inbox: self.inbox_entry(),
            fence: self.delivery.inner.fence.clone(),
        }
    }
}
