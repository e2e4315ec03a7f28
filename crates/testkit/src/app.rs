//! Services on `memory:`, and what a test asks of them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postrider::contract::engine::Engine;
use postrider::contract::failure::{FailureRecord, FailureState, Reason, Selection};
use postrider::contract::name::SubscriptionId;
use postrider::embedded::{Embedded, MemoryOptions};
use postrider::{Bus, BusOptions, Command, Error, Event, Message, Result, Running, Service};

use crate::clock::{SeededEntropy, VirtualClock};
use crate::spy::{Seen, Spy};

/// Failure records of one call.
const PAGE: u32 = 1000;
/// How long [`App::settle`] lets virtual time pass before it gives up.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How often it looks, in virtual time: first, and at most. The pause doubles, so that a long backoff costs few looks.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_secs(10);

/// Services on one `memory:` bus under virtual time.
pub struct App {
    bus: Bus,
    engine: Arc<dyn Engine>,
    seen: Seen,
    running: Vec<Running>,
}

/// What was left when [`App::try_settle`] gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stuck {
    /// Subscriptions with messages or redriven failures that are not handled, and how many.
    pub subscriptions: Vec<(SubscriptionId, u64)>,
    /// Outboxes with messages that are not published.
    pub outboxes: Vec<StuckOutbox>,
    /// Why it cannot be seen what is left: an engine or a store has failed or was closed.
    pub error: Option<String>,
}

/// An outbox with messages that are not published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StuckOutbox {
    /// Whose store it is of.
    pub service: String,
    /// How many messages wait.
    pub depth: u64,
    /// Keys whose next message the engine refuses for good.
    pub stuck_keys: usize,
    /// What the relay met last.
    pub last_fault: Option<String>,
}

impl Stuck {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return write!(f, "it cannot be seen what is left: {error}");
        }
        f.write_str("after a day of virtual time these still have work:")?;
        for (id, depth) in &self.subscriptions {
            write!(f, " {id} ({depth})")?;
        }
        for outbox in &self.outboxes {
            let StuckOutbox { service, depth, .. } = outbox;
            write!(f, " the outbox of {service} ({depth}")?;
            if outbox.stuck_keys > 0 {
                write!(f, ", {} keys stuck", outbox.stuck_keys)?;
            }
            if let Some(fault) = &outbox.last_fault {
                write!(f, ": {fault}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl App {
    /// Starts services, with the seed 1.
    ///
    /// # Errors
    /// What [`Service::start`] says.
    pub async fn start(services: impl IntoIterator<Item = Service>) -> Result<Self> {
        Self::start_seeded(services, 1).await
    }

    /// Starts services; ids and jitter come from this seed.
    ///
    /// # Errors
    /// What [`Service::start`] says.
    pub async fn start_seeded(
        services: impl IntoIterator<Item = Service>,
        seed: u64,
    ) -> Result<Self> {
        let clock = Arc::new(VirtualClock::new());
        let inner: Arc<dyn Engine> = Arc::new(Embedded::memory(MemoryOptions::on(clock.clone()))?);
        let seen = Seen::default();
        let engine: Arc<dyn Engine> = Arc::new(Spy {
            engine: inner,
            seen: seen.clone(),
        });
        let options = BusOptions {
            source: "test".into(),
            clock,
            entropy: Arc::new(SeededEntropy::new(seed)),
            ..BusOptions::default()
        };
        let bus = Bus::from_engine(engine.clone(), options).await?;
        let mut running = Vec::new();
        for service in services {
            running.push(service.announce(false).start(&bus).await?);
        }
        Ok(Self {
            bus,
            engine,
            seen,
            running,
        })
    }

    /// The bus, for whatever the other methods do not say.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Publishes an event, as somebody outside would.
    ///
    /// # Errors
    /// What [`Bus::publish`] says.
    pub async fn given<E: Event>(&self, event: E) -> Result {
        self.bus.publish(event).await.map(drop)
    }

    /// Sends a command, as somebody outside would.
    ///
    /// # Errors
    /// What [`Bus::send`] says.
    pub async fn sent<C: Command>(&self, command: C) -> Result {
        self.bus.send(command).await.map(drop)
    }

    /// Lets this much virtual time pass; what falls due meanwhile happens in its order.
    pub async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    /// Waits until every message is handled or set aside as a failure, and every outbox is empty. Retries wait out their backoff in virtual time. What is scheduled for later
    /// stays scheduled: [`App::advance`] brings it.
    ///
    /// # Panics
    /// After a day of virtual time, naming what is left; at once where an engine or a store has failed.
    pub async fn settle(&self) {
        if let Err(stuck) = self.try_settle().await {
            panic!("{stuck}");
        }
    }

    /// As [`App::settle`].
    ///
    /// # Errors
    /// [`Stuck`] after a day of virtual time, or at once where an engine or a store has failed for good.
    pub async fn try_settle(&self) -> std::result::Result<(), Stuck> {
        let until = tokio::time::Instant::now() + PATIENCE;
        let (mut quiet, mut look) = (0, LOOK_FIRST);
        loop {
            // Two looks: between them a relay may carry what a handler has just committed.
            tokio::time::sleep(look).await;
            let left = match self.left().await {
                Ok(left) => left,
                Err(error) => {
                    let unseen = Stuck {
                        error: Some(error.to_string()),
                        ..Stuck::default()
                    };
                    if !error.is_retriable() {
                        return Err(unseen);
                    }
                    unseen
                }
            };
            (quiet, look) = match left.is_nothing() {
                true => (quiet + 1, LOOK_FIRST),
                false => (0, (look * 2).min(LOOK_LAST)),
            };
            if quiet == 2 {
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                return Err(left);
            }
        }
    }

    async fn left(&self) -> Result<Stuck> {
        let admin = self
            .engine
            .admin()
            .expect("the embedded engine can be looked into");
        let mut left = Stuck::default();
        for destination in admin.destinations().await? {
            for id in destination.subscriptions {
                let depth = admin.depth(&id).await?;
                let redriving = self.redriving(&id).await?;
                let now = depth.depth.saturating_sub(depth.delayed) + redriving;
                if now > 0 {
                    left.subscriptions.push((id, now));
                }
            }
        }
        for running in &self.running {
            for relay in running.relays() {
                let depth = relay.depth().await?;
                let status = relay.status();
                if depth > 0 {
                    left.outboxes.push(StuckOutbox {
                        service: running.plan().service.clone(),
                        depth,
                        stuck_keys: status.stuck_keys,
                        last_fault: status.last_fault,
                    });
                }
            }
        }
        Ok(left)
    }

    /// Failure records on their way back to the handler.
    async fn redriving(&self, id: &SubscriptionId) -> Result<u64> {
        let redriving = |r: &&FailureRecord| r.state == FailureState::Redriving;
        Ok(self.records(id).await?.iter().filter(redriving).count() as u64)
    }

    /// All failure records of a subscription, without bodies.
    async fn records(&self, id: &SubscriptionId) -> Result<Vec<FailureRecord>> {
        let mut all: Vec<FailureRecord> = Vec::new();
        let Some(store) = self.engine.failures() else {
            return Ok(all);
        };
        loop {
            let after = all.last().map(|record| record.id);
            let page = store.list(id, None, after, PAGE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The subscriptions that have failures.
    async fn failing(&self) -> Result<Vec<SubscriptionId>> {
        let Some(store) = self.engine.failures() else {
            return Ok(Vec::new());
        };
        let groups = store.groups(None).await?;
        let ids: BTreeSet<SubscriptionId> = groups.into_iter().map(|g| g.subscription).collect();
        Ok(ids.into_iter().collect())
    }

    /// All messages of this type that were published so far, by anybody, in order.
    ///
    /// # Panics
    /// One of them cannot be read as `M`.
    #[must_use]
    pub fn published<M: Message>(&self) -> Vec<M> {
        let of_type = |o: &postrider::contract::envelope::Outgoing| {
            o.destination.kind == M::KIND
                && (M::DESTINATION.is_empty() || o.destination.name.as_str() == M::DESTINATION)
                && o.envelope.message_type == M::TYPE
        };
        let read = |o: postrider::contract::envelope::Outgoing| {
            M::decode(&o.envelope.content_type, &o.payload)
                .unwrap_or_else(|e| panic!("a published `{}` cannot be read: {e}", M::TYPE))
        };
        self.seen
            .all()
            .into_iter()
            .filter(of_type)
            .map(read)
            .collect()
    }

    /// All failure records of all subscriptions, with their original bytes.
    ///
    /// # Errors
    /// What the failure store says.
    pub async fn failures(&self) -> Result<Vec<FailureRecord>> {
        let Some(store) = self.engine.failures() else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for id in self.failing().await? {
            for record in self.records(&id).await? {
                all.push(store.get(&id, record.id).await?);
            }
        }
        Ok(all)
    }

    /// Redrives every failure of every subscription; gives how many. Follow it with [`App::settle`].
    ///
    /// # Errors
    /// What the failure store says.
    pub async fn redrive_all(&self) -> Result<u64> {
        let Some(store) = self.engine.failures() else {
            return Ok(0);
        };
        let mut count = 0;
        for id in self.failing().await? {
            let reason = Reason {
                by: "test".into(),
                text: "redrive all".into(),
                at: self.bus.now(),
            };
            count += store.redrive(&id, Selection::All, reason).await?;
        }
        Ok(count)
    }

    /// Stops the services and closes the bus.
    ///
    /// # Errors
    /// Something could not be confirmed within ten (virtual) seconds.
    pub async fn stop(self) -> std::result::Result<(), Error> {
        let grace = Duration::from_secs(10);
        for running in self.running {
            running.stop(grace).await;
        }
        self.bus.close(grace).await
    }
}
