//! What the tests share: an engine that passes everything on, but slower, or with records of a foreign hand.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::carriage::Raw;
use postrider::contract::clock::Mono;
use postrider::contract::engine::{
    Admin, Cancel, CommitError, Engine, EngineInfo, Publisher, Receipt, Scheduled,
};
use postrider::contract::envelope::Outgoing;
use postrider::contract::failure::FailureStore;
use postrider::contract::fault::Fault;
use postrider::contract::id::InstanceId;
use postrider::contract::name::Destination;
use postrider::contract::settle::SettleOp;
use postrider::contract::source::{Credit, LeaseSource, Leased, Record, Settler, Source};
use postrider::contract::subscription::SubscriptionSpec;
use postrider::contract::topology::{ProvisionMode, Topology, TopologyDiff};
use postrider::embedded::{Embedded, MemoryOptions};
use postrider::{Bus, BusOptions, Clock, Timestamp};
use tokio::time::Instant;

/// How long a test waits in virtual time before it gives up.
pub const SOON: Duration = Duration::from_secs(600);

/// Wall and monotonic time that are tokio's, which a test pauses.
pub struct VirtualClock(Instant);

impl VirtualClock {
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for VirtualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(1_800_000_000_000).plus(self.0.elapsed())
    }
    fn mono(&self) -> Mono {
        Mono(self.0.elapsed())
    }
}

/// What a foreign hand does to a stored record.
pub type Forge = fn(Raw) -> Raw;

/// `memory:` behind an engine that is slower, or whose records somebody else wrote.
pub struct Wrapped {
    engine: Arc<dyn Engine>,
    /// How long a publish takes.
    slow: Duration,
    forge: Forge,
}

impl Wrapped {
    /// A bus on it.
    pub async fn bus(slow: Duration, forge: Forge, options: BusOptions) -> Bus {
        let memory = MemoryOptions::on(options.clock.clone());
        let engine = Self {
            engine: Arc::new(Embedded::memory(memory).unwrap()),
            slow,
            forge,
        };
        Bus::from_engine(Arc::new(engine), options).await.unwrap()
    }
}

impl Engine for Wrapped {
    fn info(&self) -> &EngineInfo {
        self.engine.info()
    }
    fn provision<'a>(
        &'a self,
        topology: &'a Topology,
        mode: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>> {
        self.engine.provision(topology, mode)
    }
    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>> {
        Box::pin(async move {
            let inner = self.engine.publisher().await?;
            let slow: Arc<dyn Publisher> = Arc::new(Slow {
                inner,
                by: self.slow,
            });
            Ok(slow)
        })
    }
    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        Box::pin(async move {
            Ok(match self.engine.open(spec).await? {
                Source::Lease(inner) => Source::Lease(Box::new(Forged {
                    inner,
                    forge: self.forge,
                })),
                log => log,
            })
        })
    }
    fn inbox(&self, instance: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        self.engine.inbox(instance)
    }
    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        self.engine.failures()
    }
    fn admin(&self) -> Option<Arc<dyn Admin>> {
        self.engine.admin()
    }
    fn directory(&self) -> Option<&Path> {
        self.engine.directory()
    }
    fn close(&self, grace: Duration) -> Fut<'_, Result<(), Fault>> {
        self.engine.close(grace)
    }
}

struct Slow {
    inner: Arc<dyn Publisher>,
    by: Duration,
}

impl Publisher for Slow {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            if !self.by.is_zero() {
                // Virtual: every test that uses it runs with `start_paused`.
                tokio::time::sleep(self.by).await;
            }
            self.inner.publish(messages).await
        })
    }
    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        self.inner.commit(publish, settle)
    }
    fn cancel<'a>(&'a self, scheduled: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        self.inner.cancel(scheduled)
    }
}

struct Forged {
    inner: Box<dyn LeaseSource>,
    forge: Forge,
}

impl LeaseSource for Forged {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>> {
        Box::pin(async move {
            let mut leased = self.inner.next(room).await?;
            for one in &mut leased {
                let raw = (self.forge)(one.record.raw.clone());
                one.record = Record::read(raw, one.record.position, one.record.stored_at);
            }
            Ok(leased)
        })
    }
    fn settler(&self) -> Arc<dyn Settler> {
        self.inner.settler()
    }
}

/// Leaves records as they are.
pub fn as_it_is(raw: Raw) -> Raw {
    raw
}
