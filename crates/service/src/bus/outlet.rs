//! The one publisher of a bus: bus, driver and relay publish through it, so that destinations exist before their first message, an event
//! that nobody subscribes to is reported, and an answer that nobody waits for is dropped, whoever published it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use postrider_core::Fut;
use postrider_core::capability::Durability;
use postrider_core::engine::{Cancel, CommitError, Engine, Publisher, Receipt, Scheduled};
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind};
use postrider_core::settle::SettleOp;
use postrider_core::topology::{DestinationSpec, ProvisionMode, Topology};

pub(super) struct Outlet {
    inner: Arc<dyn Publisher>,
    engine: Arc<dyn Engine>,
    provision: ProvisionMode,
    known: RwLock<HashSet<Destination>>,
    unheard: Mutex<HashSet<Destination>>,
    /// Those that could not be created: said once.
    uncreated: Mutex<HashSet<Destination>>,
}

/// Why each of these destinations could not be created.
type Refused = HashMap<Destination, Fault>;

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
            uncreated: Mutex::default(),
        }
    }

    /// Creates destinations before their first message, where the bus may create. Gives those that could not be created: their messages are
    /// answered with the engine's reason, and the next publish tries again.
    async fn know(&self, messages: &[Outgoing]) -> Refused {
        let mut refused = Refused::new();
        if self.provision == ProvisionMode::Check {
            return refused;
        }
        let unknown = self.unknown(messages);
        if unknown.is_empty() || self.create(&unknown).await.is_ok() {
            return refused;
        }
        // One that cannot be created does not hold up the others.
        for destination in unknown {
            if let Err(fault) = self.create(std::slice::from_ref(&destination)).await {
                if self.uncreated.lock().insert(destination.clone()) {
                    tracing::warn!(%destination, %fault, "a destination could not be created");
                }
                refused.insert(destination, fault);
            }
        }
        refused
    }

    async fn create(&self, destinations: &[Destination]) -> Result<(), Fault> {
        let spec = |destination: &Destination| DestinationSpec {
            destination: destination.clone(),
            durability: None,
            retain: Duration::ZERO,
        };
        let topology = Topology {
            destinations: destinations.iter().map(spec).collect(),
            subscriptions: Vec::new(),
        };
        let created = self.engine.provision(&topology, ProvisionMode::Create);
        created.await?;
        self.known.write().extend(destinations.iter().cloned());
        let mut uncreated = self.uncreated.lock();
        destinations.iter().for_each(|d| {
            uncreated.remove(d);
        });
        Ok(())
    }

    /// Publishes what can be, and answers the rest; result `i` belongs to message `i`.
    async fn publish_others(
        &self,
        messages: Vec<Outgoing>,
        refused: &Refused,
    ) -> Vec<Result<Receipt, Fault>> {
        let mut results: Vec<_> = messages
            .iter()
            .map(|m| refused.get(&m.destination).map(|fault| Err(again(fault))))
            .collect();
        let rest = messages
            .into_iter()
            .filter(|m| !refused.contains_key(&m.destination));
        let mut given = self.inner.publish(rest.collect()).await.into_iter();
        results
            .iter_mut()
            .map(|result| result.take().or_else(|| given.next()))
            .map(|result| result.unwrap_or_else(|| Err(Fault::closed("the publisher"))))
            .collect()
    }

    fn unknown(&self, messages: &[Outgoing]) -> Vec<Destination> {
        let known = self.known.read();
        let destinations = messages.iter().map(|m| &m.destination);
        let unknown: BTreeSet<_> = destinations
            .filter(|d| d.kind != DestinationKind::Inbox && !known.contains(*d))
            .collect();
        unknown.into_iter().cloned().collect()
    }

    /// One of the messages has nowhere to go. If that may be an answer, answers are published apart: each of them reaches who waits for it or is
    /// dropped, and the rest is one commit as before.
    async fn commit_without_answers(
        &self,
        refused: CommitError,
    ) -> Result<Vec<Receipt>, CommitError> {
        let is_answer = |m: &Outgoing| m.destination.kind == DestinationKind::Inbox;
        if !refused.publish.iter().any(is_answer) {
            return Err(refused);
        }
        let CommitError {
            publish, settle, ..
        } = refused;
        let (answers, rest): (Vec<_>, Vec<_>) = publish.iter().cloned().partition(is_answer);
        let answered = self.publish(answers).await;
        let faults = answered.iter().filter_map(|r| r.as_ref().err());
        if let Some(fault) = faults.into_iter().next() {
            let fault = Fault::new(fault.kind, fault.advice, fault.message.clone());
            return Err(CommitError {
                fault: fault.unknown_effect(),
                publish,
                settle,
            });
        }
        let committed = self.inner.commit(rest, settle).await;
        let committed = committed.map_err(|error| CommitError {
            publish: publish.clone(),
            ..error
        })?;
        let (mut answered, mut committed) = (
            answered.into_iter().filter_map(Result::ok),
            committed.into_iter(),
        );
        let receipts = publish.iter().map(|message| match is_answer(message) {
            true => answered.next(),
            false => committed.next(),
        });
        Ok(receipts.flatten().collect())
    }

    /// Whether there is nothing to create before a message to this destination.
    fn knows(&self, destination: &Destination) -> bool {
        self.provision == ProvisionMode::Check
            || destination.kind == DestinationKind::Inbox
            || self.known.read().contains(destination)
    }

    fn answered(&self, destination: &Destination, result: &mut Result<Receipt, Fault>) {
        match result {
            Ok(receipt) => self.report(destination, receipt),
            Err(fault) if is_unawaited(destination, fault) => *result = Ok(dropped(destination)),
            Err(_) => {}
        }
    }

    /// Says once per destination that nobody listens.
    fn report(&self, destination: &Destination, receipt: &Receipt) {
        let nobody = receipt.subscriptions == Some(0) && destination.kind != DestinationKind::Inbox;
        if nobody && self.unheard.lock().insert(destination.clone()) {
            tracing::warn!(%destination, "nobody subscribes: the message reaches no one");
        }
    }
}

/// An answer to a process that is gone: nobody will ever wait for it again.
fn is_unawaited(destination: &Destination, fault: &Fault) -> bool {
    destination.kind == DestinationKind::Inbox && fault.kind == FaultKind::NoRoute
}

fn dropped(destination: &Destination) -> Receipt {
    tracing::debug!(%destination, "an answer is dropped: the process that asked is gone");
    Receipt {
        durability: Durability::Memory,
        position: None,
        duplicate: false,
        subscriptions: Some(0),
    }
}

/// The same fault for another message; what lies underneath stays with the first.
fn again(fault: &Fault) -> Fault {
    let mut again = Fault::new(fault.kind, fault.advice, fault.message.clone());
    again.code = fault.code;
    again
}

impl Publisher for Outlet {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            if let [message] = &messages[..]
                && self.knows(&message.destination)
            {
                let destination = message.destination.clone();
                let mut results = self.inner.publish(messages).await;
                results
                    .iter_mut()
                    .for_each(|result| self.answered(&destination, result));
                return results;
            }
            let refused = self.know(&messages).await;
            let destinations: Vec<_> = messages.iter().map(|m| m.destination.clone()).collect();
            let mut results = if refused.is_empty() {
                self.inner.publish(messages).await
            } else {
                self.publish_others(messages, &refused).await
            };
            for (destination, result) in destinations.iter().zip(&mut results) {
                self.answered(destination, result);
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
            if let Some((_, fault)) = self.know(&publish).await.into_iter().next() {
                return Err(CommitError {
                    fault,
                    publish,
                    settle,
                });
            }
            let destinations: Vec<_> = publish.iter().map(|m| m.destination.clone()).collect();
            let receipts = match self.inner.commit(publish, settle).await {
                Ok(receipts) => receipts,
                Err(error) if error.fault.kind == FaultKind::NoRoute => {
                    self.commit_without_answers(error).await?
                }
                Err(error) => return Err(error),
            };
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

#[cfg(test)]
mod tests;
