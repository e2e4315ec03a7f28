//! A publisher that keeps what it was given, and fails when told to.
//!
//! Its waits are virtual: every test that uses it runs with `start_paused`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::capability::{Capability, Durability};
use postrider_core::engine::{Cancel, CommitError, Publisher, Receipt, Scheduled};
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::settle::{Settle, SettleOp};

use super::sources::Settles;

type Refuse = Box<dyn FnMut(&Outgoing) -> Option<Fault> + Send>;
type Delay = Box<dyn FnMut() -> Duration + Send>;

/// A publisher in memory. Contract kept: order per key, and after a failure later messages of that key in the call fail too.
#[derive(Default)]
pub struct FakePublisher {
    pub stored: Mutex<Vec<Outgoing>>,
    /// Asked before each message is stored.
    pub refuse: Mutex<Option<Refuse>>,
    /// How long a call takes, before and after it stores.
    pub delay: Mutex<Option<Delay>>,
    /// Where commits settle; `None`: no `AtomicSettle`.
    pub settles: Option<Arc<Settles>>,
    pub calls: Mutex<u32>,
}

impl FakePublisher {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }
    pub fn with_settles(settles: Arc<Settles>) -> Arc<Self> {
        Arc::new(Self {
            settles: Some(settles),
            ..Self::default()
        })
    }
    pub fn refuse(&self, refuse: impl FnMut(&Outgoing) -> Option<Fault> + Send + 'static) {
        *self.refuse.lock() = Some(Box::new(refuse));
    }
    pub fn delay(&self, delay: impl FnMut() -> Duration + Send + 'static) {
        *self.delay.lock() = Some(Box::new(delay));
    }
    fn refused(&self, message: &Outgoing) -> Option<Fault> {
        self.refuse
            .lock()
            .as_mut()
            .and_then(|refuse| refuse(message))
    }
    async fn pass_time(&self) {
        let delay = self.delay.lock().as_mut().map(|delay| delay());
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }
}

fn receipt() -> Receipt {
    Receipt {
        durability: Durability::Memory,
        position: None,
        duplicate: false,
        subscriptions: Some(1),
    }
}

impl Publisher for FakePublisher {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            self.pass_time().await;
            *self.calls.lock() += 1;
            let mut failed = HashSet::new();
            let mut results = Vec::new();
            for message in messages {
                let key = message.envelope.key.clone();
                if key.is_some() && failed.contains(&(message.destination.clone(), key.clone())) {
                    results.push(Err(super::passing()));
                    continue;
                }
                match self.refused(&message) {
                    Some(fault) => {
                        // An unknown effect is both: stored, and reported as failed.
                        if fault.effect == postrider_core::fault::Effect::Unknown {
                            self.stored.lock().push(message.clone());
                        }
                        failed.insert((message.destination.clone(), key));
                        results.push(Err(fault));
                    }
                    None => {
                        self.stored.lock().push(message);
                        results.push(Ok(receipt()));
                    }
                }
            }
            self.pass_time().await;
            results
        })
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        Box::pin(async move {
            self.pass_time().await;
            *self.calls.lock() += 1;
            let failed = |fault, publish, settle| {
                Err(CommitError {
                    fault,
                    publish,
                    settle,
                })
            };
            let Some(settles) = &self.settles else {
                let kind = FaultKind::Unsupported(Capability::AtomicSettle);
                let fault = Fault::new(kind, Advice::FixConfig, "no atomic settle");
                return failed(fault, publish, settle);
            };
            if let Some(fault) = publish.iter().find_map(|m| self.refused(m)) {
                return failed(fault, publish, settle);
            }
            if settle.iter().any(|op| settles.is_lost(op.token.position)) {
                let fault =
                    Fault::new(FaultKind::LeaseLost, Advice::Rebalance, "the lease is lost");
                return failed(fault, publish, settle);
            }
            let receipts = publish.iter().map(|_| receipt()).collect();
            self.stored.lock().extend(publish);
            for op in &settle {
                assert!(matches!(op.settle, Settle::Ack), "only acks are committed");
                settles.note(op.token.position, "commit");
            }
            Ok(receipts)
        })
    }

    fn cancel<'a>(&'a self, _: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        Box::pin(async { Ok(Cancel::AlreadyFired) })
    }
}
