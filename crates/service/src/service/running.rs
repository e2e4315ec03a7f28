//! A service that runs.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use postrider_core::code::Code;
use postrider_core::plan::Plan;
use postrider_core::store::Store;
use tokio::time::Instant;

use crate::bus::{Bus, ServiceCount};
use crate::driver::{DriverError, DriverHandle};
use crate::error::Error;
use crate::plan::ServicePlan;
use crate::relay::{RelayHandle, RelayShare};

/// A service that runs: [`Running::stop`] ends it.
///
/// Dropped without a stop it ends as a crash of the process would end it, and nothing goes on unseen: handlers are aborted at their next
/// `await`, nothing that they do later is committed, nothing is settled or lost. What was held comes again, at once where the engine
/// learns of it; what is committed in an outbox is published by the next start.
#[must_use = "stop it, or wait for its end: dropped, it is cut off"]
pub struct Running {
    pub(super) plan: ServicePlan,
    pub(super) drivers: Drivers,
    /// They leave with their owner.
    pub(super) relays: Vec<RelayShare>,
    pub(super) stores: Vec<Arc<dyn Store>>,
    pub(super) bus: Bus,
    pub(super) _count: ServiceCount,
}

/// Drivers that are cut off with their owner. One that was stopped before has ended, and does not notice.
#[derive(Default)]
pub(super) struct Drivers(pub(super) Vec<DriverHandle>);

impl Drop for Drivers {
    fn drop(&mut self) {
        self.0.iter().for_each(DriverHandle::cut);
    }
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
    /// Committed messages that wait in the outbox: the next start publishes them. Not those of a store that another service of the bus still uses:
    /// its relay goes on.
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

    /// Its subscriptions: to look at, to pause and to resume.
    #[must_use]
    pub fn subscriptions(&self) -> &[DriverHandle] {
        &self.drivers.0
    }

    /// The relays of its stores' outboxes, to look at: what waits there, and keys that are stuck. One of a store that another service shares is of both.
    pub fn relays(&self) -> impl Iterator<Item = &RelayHandle> {
        self.relays.iter().map(RelayShare::relay)
    }

    /// Waits until a subscription stopped itself, and says why. Never, where all go on. Cancel safe.
    pub async fn ended(&self) -> Error {
        let ends = self.drivers.0.iter().map(|driver| Box::pin(driver.ended()));
        let mut ends: Vec<_> = ends.collect();
        while !ends.is_empty() {
            let (ended, _, rest) = select_all(ends).await;
            if let Some(error) = ended.error {
                return error_of(&error);
            }
            ends = rest;
        }
        std::future::pending().await
    }

    /// Takes nothing new, finishes what runs for at most `grace`, gives the rest back, publishes what is committed, and closes the
    /// service's own stores. Where another service of the bus uses the store too, its relay goes on and publishes the rest.
    ///
    /// Cancel safety: dropped, what has not stopped by then is cut off as [`Running`] says, and the stores stay open.
    pub async fn stop(self, grace: Duration) -> Left {
        Box::pin(self.stop_or_hurry(grace, std::future::pending())).await
    }

    /// As [`Running::stop`]; once `hurry` is done it waits no longer.
    pub(super) async fn stop_or_hurry(
        self,
        grace: Duration,
        hurry: impl Future<Output = ()> + Send,
    ) -> Left {
        let ended = tokio::select! {
            biased;
            left = self.end(grace) => Some(left),
            () = hurry => None,
        };
        let mut left = match ended {
            Some(left) => left,
            None => self.end(Duration::ZERO).await,
        };
        left.outbox = self.outbox().await;
        let closes = self.stores.iter().map(|store| store.close(grace));
        for fault in join_all(closes).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%fault, "a store did not close cleanly");
        }
        left
    }

    /// Ends what runs. Again with a shorter time: it ends sooner.
    async fn end(&self, grace: Duration) -> Left {
        let deadline = Instant::now() + grace;
        let ended = join_all(self.drivers.0.iter().map(|d| d.stop(grace))).await;
        let mut left = Left::default();
        for report in ended.iter().map(|e| &e.report) {
            left.cancelled += u64::from(report.cancelled);
            left.released += u64::from(report.released);
            left.unsettled += u64::from(report.left);
        }
        self.flush(deadline).await;
        let remaining = deadline.saturating_duration_since(Instant::now());
        join_all(self.relays.iter().map(|r| r.stop(remaining))).await;
        left
    }

    /// Gives the relays time to publish what the last handlers committed: until nothing waits, or a key is blocked, or the deadline.
    async fn flush(&self, deadline: Instant) {
        while Instant::now() < deadline && self.outbox().await > 0 {
            let blocked = |share: &RelayShare| {
                let status = share.relay().status();
                status.blocked_keys + status.stuck_keys > 0
            };
            if self.left_alone().any(blocked) {
                return;
            }
            tokio::time::sleep(FLUSH_LOOK).await;
        }
    }

    /// The relays that nobody else needs. This one leaves them.
    fn left_alone(&self) -> impl Iterator<Item = &RelayShare> {
        self.relays.iter().filter(|share| share.leave())
    }

    /// Committed messages that are not published, and will not be before the next start.
    async fn outbox(&self) -> u64 {
        let depths = join_all(self.left_alone().map(|share| share.relay().depth())).await;
        depths.into_iter().filter_map(Result::ok).sum()
    }
}

/// How often a stop looks whether the outbox is empty.
const FLUSH_LOOK: Duration = Duration::from_millis(5);

fn error_of(error: &Arc<DriverError>) -> Error {
    let code = match &**error {
        DriverError::Source { fault, .. }
        | DriverError::FailureStore { fault, .. }
        | DriverError::Publisher { fault, .. } => fault.code.unwrap_or(Code::ENGINE_FAILED),
        _ => Code::SUBSCRIPTION_STOPPED,
    };
    Error::new(code, error.to_string())
}
