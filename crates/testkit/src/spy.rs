//! An engine that passes everything on, and keeps what was published.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::engine::{
    Admin, Cancel, CommitError, Engine, EngineInfo, Publisher, Receipt, Scheduled,
};
use postrider::contract::envelope::Outgoing;
use postrider::contract::failure::FailureStore;
use postrider::contract::fault::Fault;
use postrider::contract::id::InstanceId;
use postrider::contract::name::Destination;
use postrider::contract::settle::SettleOp;
use postrider::contract::source::Source;
use postrider::contract::subscription::SubscriptionSpec;
use postrider::contract::topology::{ProvisionMode, Topology, TopologyDiff};

/// What was published and confirmed, in order; a repetition of an id within the dedupe window is not in it.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Outgoing>>>);

impl Seen {
    pub(crate) fn all(&self) -> Vec<Outgoing> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add(&self, message: Outgoing, receipt: &Receipt) {
        if !receipt.duplicate {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(message);
        }
    }
}

pub(crate) struct Spy {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) seen: Seen,
}

impl Engine for Spy {
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
            Ok(Arc::new(SpyPublisher {
                inner,
                seen: self.seen.clone(),
            }) as Arc<dyn Publisher>)
        })
    }

    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        self.engine.open(spec)
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

struct SpyPublisher {
    inner: Arc<dyn Publisher>,
    seen: Seen,
}

impl Publisher for SpyPublisher {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            let copies = messages.clone();
            let results = self.inner.publish(messages).await;
            for (message, result) in copies.into_iter().zip(&results) {
                if let Ok(receipt) = result {
                    self.seen.add(message, receipt);
                }
            }
            results
        })
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        Box::pin(async move {
            let copies = publish.clone();
            let receipts = self.inner.commit(publish, settle).await?;
            for (message, receipt) in copies.into_iter().zip(&receipts) {
                self.seen.add(message, receipt);
            }
            Ok(receipts)
        })
    }

    fn cancel<'a>(&'a self, scheduled: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        self.inner.cancel(scheduled)
    }
}
