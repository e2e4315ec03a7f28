//! The one publisher of a bus: bus, driver and relay publish through it, so that destinations exist before their first message and an event
//! that nobody subscribes to is reported, whoever published it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use postrider_core::Fut;
use postrider_core::engine::{Cancel, CommitError, Engine, Publisher, Receipt, Scheduled};
use postrider_core::envelope::Outgoing;
use postrider_core::fault::Fault;
use postrider_core::name::{Destination, DestinationKind};
use postrider_core::settle::SettleOp;
use postrider_core::topology::{DestinationSpec, ProvisionMode, Topology};

pub(super) struct Outlet {
    inner: Arc<dyn Publisher>,
    engine: Arc<dyn Engine>,
    provision: ProvisionMode,
    known: RwLock<HashSet<Destination>>,
    unheard: Mutex<HashSet<Destination>>,
}

impl Outlet {
    pub(super) fn new(
        inner: Arc<dyn Publisher>,
        engine: Arc<dyn Engine>,
        provision: ProvisionMode,
    ) -> Self {
        Self {
            inner,
            engine,
            provision,
            known: RwLock::default(),
            unheard: Mutex::default(),
        }
    }

    /// Creates destinations before their first message, where the bus may create. A failure is left to the publish to report.
    async fn know(&self, messages: &[Outgoing]) {
        if self.provision == ProvisionMode::Check {
            return;
        }
        let unknown = self.unknown(messages);
        if unknown.is_empty() {
            return;
        }
        let topology = Topology {
            destinations: unknown
                .iter()
                .map(|destination| DestinationSpec {
                    destination: destination.clone(),
                    durability: None,
                    retain: Duration::ZERO,
                })
                .collect(),
            subscriptions: Vec::new(),
        };
        match self
            .engine
            .provision(&topology, ProvisionMode::Create)
            .await
        {
            Ok(_) => self.known.write().extend(unknown),
            Err(fault) => tracing::warn!(%fault, "a destination could not be created"),
        }
    }

    fn unknown(&self, messages: &[Outgoing]) -> HashSet<Destination> {
        let known = self.known.read();
        let destinations = messages.iter().map(|m| &m.destination);
        destinations
            .filter(|d| d.kind != DestinationKind::Inbox && !known.contains(*d))
            .cloned()
            .collect()
    }

    /// Says once per destination that nobody listens.
    fn report(&self, destination: &Destination, receipt: &Receipt) {
        if receipt.subscriptions == Some(0) && self.unheard.lock().insert(destination.clone()) {
            tracing::warn!(%destination, "nobody subscribes: the message reaches no one");
        }
    }
}

impl Publisher for Outlet {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            self.know(&messages).await;
            let destinations: Vec<_> = messages.iter().map(|m| m.destination.clone()).collect();
            let results = self.inner.publish(messages).await;
            for (destination, result) in destinations.iter().zip(&results) {
                if let Ok(receipt) = result {
                    self.report(destination, receipt);
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
            self.know(&publish).await;
            let destinations: Vec<_> = publish.iter().map(|m| m.destination.clone()).collect();
            let receipts = self.inner.commit(publish, settle).await?;
            for (destination, receipt) in destinations.iter().zip(&receipts) {
                self.report(destination, receipt);
            }
            Ok(receipts)
        })
    }

    fn cancel<'a>(&'a self, scheduled: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        self.inner.cancel(scheduled)
    }
}
