//! A service: a name, its handlers, what they need, and how it runs.

mod running;
mod start;
mod subscription;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::capability::Durability;
use postrider_core::code::Code;
use postrider_core::failure::FailureStore;
use postrider_core::store::{Store, TxStore};
use postrider_core::text::Text;

pub use running::{Left, Running};

use crate::bus::Bus;
use crate::context::Registry;
use crate::error::{Error, Result};
use crate::handler::{Configured, IntoHandler};
use crate::signal;

/// A service: handlers under one name. All its handlers of one topic or queue share one subscription, its order and its position.
///
/// ```text
/// Service::new("inventory")
///     .store(Sqlite::open("inventory.db")?)
///     .on(reserve.retry(Retry::backoff(secs(1)..mins(5)).times(8)))
///     .run(Bus::connect("embedded:./data").await?)
///     .await
/// ```
#[must_use = "a service does nothing until it is run"]
pub struct Service {
    name: Text,
    registry: Registry,
    /// Stores that end with the service.
    owned: Vec<Arc<dyn Store>>,
    handlers: Vec<Configured>,
    failures: Option<Arc<dyn FailureStore>>,
    grace: Duration,
    announce: bool,
    deny_emulation: bool,
    durability: Option<Durability>,
    faults: Vec<Error>,
}

impl Service {
    /// How long a stop waits for handlers that run, where nothing else is said: 10 s.
    pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);

    /// A service of this name. The name is its identity on every engine: under another name it is another service, with other subscriptions.
    pub fn new(name: impl Into<Text>) -> Self {
        Self {
            name: name.into(),
            registry: Registry::default(),
            owned: Vec::new(),
            handlers: Vec::new(),
            failures: None,
            grace: Self::GRACE_DEFAULT,
            announce: true,
            deny_emulation: false,
            durability: None,
            faults: Vec::new(),
        }
    }

    /// Adds a handler: a function, or one with policies (`reserve.retry(…)`).
    pub fn on<Marker>(mut self, handler: impl IntoHandler<Marker>) -> Self {
        self.handlers.push(handler.into_handler());
        self
    }

    /// The store that `Tx<S>` and `Db<S>` of the handlers mean: inbox, state and outbox live there. The service closes it at its end.
    pub fn store<S: TxStore>(mut self, store: S) -> Self {
        let store = Arc::new(store);
        self.owned.push(store.clone());
        self.shared_store(store)
    }

    /// As [`Service::store`], for a store that the program uses elsewhere too, another member of the service for one. It stays open: who made it
    /// closes it, after the last service that uses it.
    pub fn shared_store<S: TxStore>(mut self, store: Arc<S>) -> Self {
        if !self.registry.put_store(store) {
            let kind = std::any::type_name::<S>();
            let what = format!(
                "the service `{}` was given two stores of type `{kind}`",
                self.name
            );
            self.faults.push(Error::new(Code::STORE_TWICE, what));
        }
        self
    }

    /// A value that handlers take as `State<T>`. One per type; a second one of a type replaces the first.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.registry.put_state(value);
        self
    }

    /// Where failure records and parked keys of this service live, if not in the engine.
    pub fn failures(mut self, failures: Arc<dyn FailureStore>) -> Self {
        self.failures = Some(failures);
        self
    }

    /// How long a stop waits for handlers that run. Default: 10 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Whether the plan is written to standard error at the start. Default: yes. It is a `tracing` event either way.
    pub fn announce(mut self, announce: bool) -> Self {
        self.announce = announce;
        self
    }

    /// Refuses to start where a need is only emulated. Default: emulation is allowed, and printed.
    pub fn deny_emulation(mut self) -> Self {
        self.deny_emulation = true;
        self
    }

    /// Refuses to start where a confirmed publish survives less than this. Default: what the engine gives, shown in the plan.
    pub fn durability(mut self, at_least: Durability) -> Self {
        self.durability = Some(at_least);
        self
    }

    /// Runs until SIGTERM or Ctrl-C, also while it starts, or until a subscription stops itself. Then it takes nothing new, finishes what runs (for at most
    /// [`Service::grace`]; a second signal ends the waiting), gives back the rest, and says on standard error what was left. The last
    /// service on a bus closes it.
    ///
    /// # Errors
    /// The service does not start (`PR-11xx`, `PR-14xx`), or a subscription stopped itself (`PR-1315`).
    pub async fn run(self, bus: Bus) -> Result {
        let mut signals = signal::watch()?;
        let mut again = signals.clone();
        let first = async move { signal::nth(&mut signals, 1).await };
        let second = async move { signal::nth(&mut again, 2).await };
        Box::pin(self.run_between(bus, first, second)).await
    }

    /// As [`Service::run`], until `shutdown` is done; signals are left to the caller.
    ///
    /// # Errors
    /// As [`Service::run`].
    pub async fn run_until(self, bus: Bus, shutdown: impl Future<Output = ()> + Send) -> Result {
        Box::pin(self.run_between(bus, shutdown, std::future::pending())).await
    }

    async fn run_between(
        self,
        bus: Bus,
        shutdown: impl Future<Output = ()> + Send,
        hurry: impl Future<Output = ()> + Send,
    ) -> Result {
        let (name, grace, announce) = (self.name.clone(), self.grace, self.announce);
        let say = |text: String| {
            if announce {
                eprintln!("postrider: {name}: {text}");
            }
        };
        let mut shutdown = std::pin::pin!(shutdown);
        // CANCEL: an engine or a failure store that is away may keep the start waiting; dropped, what it has started is cut off.
        let started = tokio::select! {
            biased;
            started = self.start(&bus) => Some(started?),
            () = &mut shutdown => None,
        };
        let Some(running) = started else {
            say("stopped before it had started".to_owned());
            tracing::info!(service = %name, "stopped before it had started");
            return close_last(&bus, grace).await;
        };
        let stopped = tokio::select! {
            () = shutdown => None,
            error = running.ended() => Some(error),
        };
        let left = running.stop_or_hurry(grace, hurry).await;
        say(left.to_string());
        tracing::info!(service = %name, %left, "stopped");
        let closed = close_last(&bus, grace).await;
        let Some(reason) = stopped else {
            return closed;
        };
        // Why it stopped explains why the bus did not close, never the other way.
        if let Err(error) = closed {
            tracing::warn!(service = %name, %error, "the bus did not close cleanly");
        }
        Err(reason)
    }

    /// Starts the service and gives a handle: several services run in one process on clones of one bus.
    ///
    /// # Errors
    /// As [`Service::run`]. Nothing is started then.
    pub async fn start(self, bus: &Bus) -> Result<Running> {
        Box::pin(start::start(self, bus)).await
    }
}

/// The last service on a bus closes it.
async fn close_last(bus: &Bus, grace: Duration) -> Result {
    match bus.is_idle() {
        true => bus.close(grace).await,
        false => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
