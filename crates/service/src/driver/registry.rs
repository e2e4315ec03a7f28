//! What runs in this process on one bus: subscriptions and relays, for the admin API and the failures handle.

use std::sync::Arc;
#[cfg(all(feature = "admin", unix))]
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use postrider_core::failure::FailureStore;
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
#[cfg(all(feature = "admin", unix))]
use postrider_core::plan::Plan;
#[cfg(all(feature = "admin", unix))]
use postrider_core::policy::Policy;
use postrider_kernel::Suspects;

#[cfg(all(feature = "admin", unix))]
use super::handle::DriverHandle;
use crate::relay::Relays;

/// One running subscription.
pub(crate) struct Running {
    pub(crate) id: SubscriptionId,
    pub(crate) member: InstanceId,
    /// A failure store of its own; `None` where its failures are with the engine.
    pub(crate) failures: Option<Arc<dyn FailureStore>>,
    #[cfg(all(feature = "admin", unix))]
    pub(crate) shown: Shown,
}

/// What the admin API shows of a subscription, and the handle to pause it with.
#[cfg(all(feature = "admin", unix))]
pub(crate) struct Shown {
    pub(crate) plan: Option<Plan>,
    pub(crate) policy: Policy,
    pub(crate) lease: Duration,
    /// Message types that have a handler.
    pub(crate) types: Vec<String>,
    pub(crate) handle: DriverHandle,
}

/// What runs on one bus.
pub(crate) struct Registry {
    running: Mutex<Vec<Arc<Running>>>,
    relays: Arc<Relays>,
    /// What is known of crashes, by all subscriptions together: all of them die together.
    suspects: Mutex<Suspects>,
}

impl Registry {
    /// Of this process.
    pub(crate) fn new(life: InstanceId) -> Self {
        Self {
            running: Mutex::default(),
            relays: Arc::default(),
            suspects: Mutex::new(Suspects::new(life)),
        }
    }

    /// Adds a subscription until [`Registry::remove`].
    pub(crate) fn add(&self, running: Running) -> Arc<Running> {
        let running = Arc::new(running);
        self.running.lock().push(Arc::clone(&running));
        running
    }

    /// Takes a subscription out again.
    pub(crate) fn remove(&self, running: &Arc<Running>) {
        self.running.lock().retain(|r| !Arc::ptr_eq(r, running));
        self.suspects().closed(&running.id, running.member);
    }

    /// What is known of crashes. Held for a look-up only.
    pub(super) fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock()
    }

    /// All running subscriptions, by their text form.
    pub(crate) fn all(&self) -> Vec<Arc<Running>> {
        let mut all = self.running.lock().clone();
        all.sort_by(|a, b| (&a.id, a.member).cmp(&(&b.id, b.member)));
        all
    }

    /// The members of one subscription that run in this process.
    pub(crate) fn members(&self, id: &SubscriptionId) -> Vec<Arc<Running>> {
        let running = self.running.lock();
        running.iter().filter(|r| r.id == *id).cloned().collect()
    }

    /// The relays of the stores.
    pub(crate) fn relays(&self) -> &Arc<Relays> {
        &self.relays
    }
}
