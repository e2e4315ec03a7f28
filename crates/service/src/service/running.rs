//! A service that runs.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use postrider_core::plan::Plan;
use postrider_core::store::Store;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, ServiceCount};
use crate::error::Error;
use crate::plan::ServicePlan;
use crate::relay::RelayHandle;

/// A service that runs. Dropping it does not stop the service: [`Running::stop`] does.
#[must_use = "stop it, or wait for its end"]
pub struct Running {
    pub(super) plan: ServicePlan,
    #[allow(dead_code, reason = "the driver takes them from here")]
    pub(super) drivers: Vec<super::start::Opened>,
    pub(super) relays: Vec<RelayHandle>,
    pub(super) pruner: CancellationToken,
    pub(super) stores: Vec<Arc<dyn Store>>,
    pub(super) bus: Bus,
    pub(super) count: ServiceCount,
}

/// What was left when a service stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Handlers that were cancelled at the deadline.
    pub cancelled: u64,
    /// Deliveries that were given back unhandled: they come again.
    pub released: u64,
    /// Deliveries that were neither settled nor given back in time: they come again when their lease ends.
    pub unsettled: u64,
    /// Committed messages that wait in the outbox: the next start publishes them.
    pub outbox: u64,
}

impl Left {
    /// Whether nothing was left.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("stopped, nothing left");
        }
        write!(
            f,
            "stopped; {} handlers cancelled, {} deliveries given back, {} not settled in time, {} messages in the outbox",
            self.cancelled, self.released, self.unsettled, self.outbox
        )
    }
}

impl Running {
    /// What each subscription got.
    #[must_use]
    pub fn plans(&self) -> Vec<Plan> {
        self.plan
            .subscriptions
            .iter()
            .map(|s| s.plan.clone())
            .collect()
    }

    /// The whole plan.
    #[must_use]
    pub fn plan(&self) -> &ServicePlan {
        &self.plan
    }

    /// The block that was printed at the start.
    #[must_use]
    pub fn plan_text(&self) -> String {
        self.plan.text()
    }

    /// The plan as JSON.
    #[must_use]
    pub fn plan_json(&self) -> String {
        self.plan.json()
    }

    /// The bus that it runs on.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Waits until a subscription stopped itself, and says why. Never, where all go on.
    pub async fn ended(&self) -> Error {
        std::future::pending().await
    }

    /// Takes nothing new, finishes what runs for at most `grace`, gives the rest back, and closes the service's stores.
    pub async fn stop(self, grace: Duration) -> Left {
        self.stop_or_hurry(grace, std::future::pending()).await
    }

    /// As [`Running::stop`]; once `hurry` is done it waits no longer.
    pub(super) async fn stop_or_hurry(
        self,
        grace: Duration,
        hurry: impl Future<Output = ()> + Send,
    ) -> Left {
        self.pruner.cancel();
        let hurried = tokio::select! {
            () = self.end(grace) => false,
            () = hurry => true,
        };
        if hurried {
            self.end(Duration::ZERO).await;
        }
        self.bus.runtime().registry.remove_relay(&self.plan.service);
        let mut left = Left::default();
        for store in &self.stores {
            if let Some(outbox) = store.outbox() {
                left.outbox += outbox.depth().await.unwrap_or_default();
            }
        }
        let closes = self.stores.iter().map(|store| store.close(grace));
        for fault in join_all(closes).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%fault, "a store did not close cleanly");
        }
        drop(self.count);
        left
    }

    /// Ends what runs. Again with a shorter time: it ends sooner.
    async fn end(&self, grace: Duration) {
        join_all(self.relays.iter().map(|r| r.stop(grace))).await;
    }
}
