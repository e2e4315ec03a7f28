//! The effects of handlers: published before the delivery is acknowledged, in one commit with it where the engine can.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::clock::backoff;
use postrider_core::engine::{CommitError, Receipt};
use postrider_core::envelope::Outgoing;
use postrider_core::failure::Cause;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::planted::{self, Plant};
use postrider_core::settle::{Settle, SettleOp};
use postrider_kernel::{Input, Outcome, Slot};

use super::calls::{Effected, Returned};
use super::engine_lane::is_lost;
use super::error::DriverError;
use super::held::{Doing, From, Publishing};
use super::run::{Alarm, Driver};
use crate::failures::error_chain;

/// Messages of one call.
const BATCH_MESSAGES_MAX: usize = 256;
/// Payload bytes of one call; one delivery's effects stay together.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Effects that go out in one call.
#[derive(Default)]
struct Batch {
    deliveries: Vec<Effected>,
    messages: Vec<Outgoing>,
    settle: Vec<SettleOp>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl Driver {
    /// Sends the effects of all handlers that ended in this turn.
    pub(super) fn call_publisher(&mut self) {
        let (mut commit, mut publish) = (Batch::default(), Batch::default());
        while let Some((slot, run)) = self.to_publish.pop_front() {
            let Some(held) = self.slab.get_mut(slot).filter(|h| h.run == run) else {
                continue;
            };
            let Doing::Publishing(publishing) = &mut held.doing else {
                continue;
            };
            if publishing.calling {
                continue;
            }
            publishing.calling = true;
            let (effects, alone) = (publishing.effects.clone(), publishing.alone);
            let first = planted::is(Plant::AckBeforePublish);
            let atomic = self.atomic_settle && matches!(held.from, From::Lease(Some(_))) && !first;
            let token = if atomic { held.take_token() } else { None };
            let mut single = Batch::default();
            let batch = match (alone, atomic) {
                (true, _) => &mut single,
                (false, true) => &mut commit,
                (false, false) => &mut publish,
            };
            batch.deliveries.push(Effected {
                slot,
                run,
                count: effects.len(),
            });
            batch.bytes += effects.iter().map(|m| m.payload.len()).sum::<usize>();
            batch.messages.extend(effects);
            let settle = Settle::Ack;
            batch
                .settle
                .extend(token.map(|token| SettleOp { token, settle }));
            self.slab.call_out(slot);
            if first {
                self.engine.settle(slot, Settle::Ack);
            }
            if alone {
                self.send(single, atomic);
            } else if atomic && commit.is_full() {
                self.send(std::mem::take(&mut commit), true);
            } else if publish.is_full() {
                self.send(std::mem::take(&mut publish), false);
            }
        }
        self.send(commit, true);
        self.send(publish, false);
    }

    fn send(&mut self, batch: Batch, atomic: bool) {
        let Some(first) = batch.messages.first() else {
            return;
        };
        let system = self.runtime.engine.info().scheme;
        let destination = first.destination.name.as_str();
        let span = crate::telemetry::publish_span(
            system,
            destination,
            &first.envelope,
            batch.messages.len(),
        );
        let publisher = Arc::clone(&self.runtime.publisher);
        let Batch {
            deliveries,
            messages,
            settle,
            ..
        } = batch;
        let call = async move {
            if atomic {
                Returned::Committed(deliveries, publisher.commit(messages, settle).await)
            } else {
                Returned::Published(deliveries, publisher.publish(messages).await)
            }
        };
        self.calls
            .push(Box::pin(tracing::Instrument::instrument(call, span)));
    }

    pub(super) fn committed(
        &mut self,
        deliveries: Vec<Effected>,
        result: Result<Vec<Receipt>, CommitError>,
    ) {
        let error = match result {
            Ok(_) => {
                for delivery in deliveries {
                    self.slab.call_back(delivery.slot);
                    self.published(delivery, Outcome::DoneAndSettled);
                }
                return;
            }
            Err(error) => error,
        };
        let CommitError { fault, settle, .. } = error;
        let single = deliveries.len() == 1;
        for (delivery, op) in deliveries.into_iter().zip(settle) {
            self.slab.call_back(delivery.slot);
            if let Some(held) = self.slab.get_mut(delivery.slot) {
                held.put_token(op.token);
            }
            if single {
                self.publish_failed(delivery, &fault);
            } else {
                self.split(delivery, &fault);
            }
        }
    }

    pub(super) fn publish_returned(
        &mut self,
        deliveries: Vec<Effected>,
        results: Vec<Result<Receipt, Fault>>,
    ) {
        let mut results = results.into_iter();
        for delivery in deliveries {
            self.slab.call_back(delivery.slot);
            let mut own = results.by_ref().take(delivery.count);
            let fault = own.find_map(Result::err);
            own.for_each(drop);
            match fault {
                None => self.published(delivery, Outcome::Done),
                Some(fault) => self.publish_failed(delivery, &fault),
            }
        }
    }

    /// What is being published for a delivery, if it still is this run of its handler.
    fn publishing_of(&mut self, delivery: Effected) -> Option<(&mut Publishing, bool)> {
        let held = self.slab.get_mut(delivery.slot)?;
        if held.run != delivery.run {
            return None;
        }
        let cancelled = held.cancelled;
        match &mut held.doing {
            Doing::Publishing(publishing) => Some((publishing, cancelled)),
            _ => None,
        }
    }

    fn published(&mut self, delivery: Effected, outcome: Outcome) {
        if self.publishing_of(delivery).is_some() {
            self.metrics.handled.add(1);
            self.finished(delivery.slot, outcome);
        }
    }

    /// A commit of several failed as a whole: each is tried alone, so that one that is to blame stops no other.
    fn split(&mut self, delivery: Effected, fault: &Fault) {
        if fault.is_retriable() {
            self.publish_failed(delivery, fault);
            return;
        }
        let Some((publishing, cancelled)) = self.publishing_of(delivery) else {
            return;
        };
        publishing.calling = false;
        publishing.alone = true;
        if cancelled {
            self.finished(delivery.slot, Outcome::Cancelled);
        } else {
            self.to_publish.push_back((delivery.slot, delivery.run));
        }
    }

    fn publish_failed(&mut self, delivery: Effected, fault: &Fault) {
        if matches!(fault.kind, FaultKind::Unsupported(_)) && self.atomic_settle {
            // The engine declared it and does not do it: from now on publish, confirm, acknowledge.
            self.atomic_settle = false;
        }
        let slot = delivery.slot;
        let Some((publishing, cancelled)) = self.publishing_of(delivery) else {
            return;
        };
        publishing.calling = false;
        publishing.tries = publishing.tries.saturating_add(1);
        let tries = publishing.tries;
        if cancelled {
            self.finished(slot, Outcome::Cancelled);
            return;
        }
        if is_lost(fault) {
            self.metrics.leases_lost.add(1);
            self.inputs.push_back(Input::LeaseLost(vec![slot]));
            return;
        }
        match fault.advice {
            Advice::FixMessage => {
                self.failed(slot, error_chain(fault), "publish");
                self.finished(slot, Outcome::Permanent(Cause::Permanent));
            }
            Advice::StopOwner => {
                let again = Fault::new(fault.kind, fault.advice, fault.message.clone());
                self.fail(DriverError::Publisher {
                    subscription: self.spec.id.clone(),
                    fault: again,
                });
                self.finished(slot, Outcome::Cancelled);
            }
            // Nobody owns the queue, say: a person must act. Held, such deliveries would fill all slots and stop other keys; as failures they are
            // tried again by the policy, and then set aside where they are seen.
            Advice::FixConfig if !matches!(fault.kind, FaultKind::Unsupported(_)) => {
                self.failed(slot, error_chain(fault), "publish");
                self.finished(slot, Outcome::Transient);
            }
            advice => self.hold_publish(delivery, tries, advice, fault),
        }
    }

    /// The delivery is held and its effects are sent again later. The handler is not run again.
    fn hold_publish(&mut self, delivery: Effected, tries: u32, advice: Advice, fault: &Fault) {
        let least = match advice {
            Advice::Retry { after } => after,
            _ => Duration::ZERO,
        };
        let unsupported = matches!(fault.kind, FaultKind::Unsupported(_));
        let wait = match unsupported {
            true => Duration::ZERO,
            false => backoff(tries, self.runtime.entropy.next_u64()).max(least),
        };
        tracing::warn!(target: "postrider", subscription = %self.spec.id, %fault, ?wait, "a handler's messages were not taken; they are sent again");
        let at = self.later(wait);
        self.alarm(at, Alarm::Publish(delivery.slot, delivery.run));
    }

    pub(super) fn publish_again(&mut self, slot: Slot, run: u64) {
        self.to_publish.push_back((slot, run));
    }
}
