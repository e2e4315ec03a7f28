//! Settles and extensions: in order, one call of the engine at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt as _;
use postrider_core::clock::{Mono, backoff};
use postrider_core::fault::{Advice, Effect, Fault, FaultKind};
use postrider_core::planted::{self, Plant};
use postrider_core::settle::{LeaseToken, Settle, SettleError, SettleOp};
use postrider_kernel::{Input, Slot};

use super::calls::Returned;
use super::error::DriverError;
use super::run::{Alarm, Driver};

/// Operations of one settle call.
const SETTLES_MAX: usize = 1024;

/// What waits for the engine. Bounded by what is held.
#[derive(Default)]
pub(super) struct EngineLane {
    /// A lease runs out while settles wait: extensions go first.
    extends: VecDeque<Vec<Slot>>,
    settles: VecDeque<(Slot, Settle)>,
    calling: bool,
    /// Until its alarm: a settle failed. Extensions go on meanwhile: else one settle that fails would end the leases of all.
    pub(super) waits: bool,
    tries: u32,
}

impl EngineLane {
    pub(super) fn settle(&mut self, slot: Slot, settle: Settle) {
        self.settles.push_back((slot, settle));
    }

    pub(super) fn extend(&mut self, slots: Vec<Slot>) {
        self.extends.push_back(slots);
    }
}

/// The delivery belongs to another.
pub(super) fn is_lost(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::LeaseLost | FaultKind::Fenced)
}

impl Driver {
    /// Makes the next call, if none is outstanding.
    pub(super) fn call_engine(&mut self) {
        while !self.engine.calling {
            if let Some(slots) = self.engine.extends.pop_front() {
                self.call_extend(slots);
            } else if !self.engine.waits && !self.engine.settles.is_empty() {
                self.call_settle();
            } else {
                return;
            }
        }
    }

    fn call_extend(&mut self, slots: Vec<Slot>) {
        let mut out: Vec<(Slot, LeaseToken)> = Vec::with_capacity(slots.len());
        for slot in slots {
            // One whose token is in a commit is being settled by it.
            let token = self.slab.get_mut(slot).and_then(|held| held.take_token());
            if let Some(token) = token {
                self.slab.call_out(slot);
                out.push((slot, token));
            }
        }
        let Some(settler) = self.settler.as_ref().filter(|_| !out.is_empty()) else {
            return;
        };
        let (settler, by) = (Arc::clone(settler), self.spec.lease);
        self.engine.calling = true;
        self.calls.push(Box::pin(async move {
            let results = {
                let tokens: Vec<&LeaseToken> = out.iter().map(|(_, token)| token).collect();
                settler.extend(&tokens, by).await
            };
            Returned::Extended(out, results)
        }));
    }

    fn call_settle(&mut self) {
        let (mut slots, mut ops, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        while ops.len() < SETTLES_MAX {
            let Some((slot, settle)) = self.engine.settles.pop_front() else {
                break;
            };
            match self.slab.get_mut(slot).and_then(|held| held.take_token()) {
                Some(_) if planted::is(Plant::SettleLost) && !ops.is_empty() => settled.push(slot),
                Some(token) => {
                    self.slab.call_out(slot);
                    slots.push(slot);
                    ops.push(SettleOp { token, settle });
                }
                // A log record or a redriven one has nothing to settle with the engine.
                None => settled.push(slot),
            }
        }
        if !settled.is_empty() {
            self.inputs.push_back(Input::Settled(settled));
        }
        let Some(settler) = self.settler.as_ref().filter(|_| !ops.is_empty()) else {
            return;
        };
        let settler = Arc::clone(settler);
        self.engine.calling = true;
        self.calls.push(Box::pin(async move {
            let results = settler.settle(ops).await;
            Returned::Settled(slots, results)
        }));
    }

    pub(super) fn extended(
        &mut self,
        tokens: Vec<(Slot, LeaseToken)>,
        results: Vec<Result<Mono, Fault>>,
    ) {
        self.engine.calling = false;
        let mut lost = Vec::new();
        let mut kept: Vec<(Mono, Vec<Slot>)> = Vec::new();
        let mut results = results.into_iter();
        for (slot, token) in tokens {
            self.slab.call_back(slot);
            match results.next() {
                Some(Ok(until)) => match kept.last_mut() {
                    Some((same, slots)) if *same == until => slots.push(slot),
                    _ => kept.push((until, vec![slot])),
                },
                Some(Err(fault)) if is_lost(&fault) => lost.push(slot),
                // The kernel asks again after another third of the lease, and gives it up when it has ended.
                Some(Err(fault)) => {
                    tracing::warn!(target: "postrider", %fault, "a lease was not extended")
                }
                None => {}
            }
            if let Some(held) = self.slab.get_mut(slot) {
                held.put_token(token);
            }
        }
        for (until, slots) in kept {
            self.inputs.push_back(Input::Extended { slots, until });
        }
        if !lost.is_empty() {
            self.metrics.leases_lost.add(lost.len() as u64);
            self.inputs.push_back(Input::LeaseLost(lost));
        }
    }

    pub(super) fn settled(&mut self, slots: Vec<Slot>, results: Vec<Result<(), SettleError>>) {
        self.engine.calling = false;
        let (mut done, mut lost, mut not_parked, mut again) = (vec![], vec![], vec![], vec![]);
        let mut results = results.into_iter();
        for slot in slots {
            self.slab.call_back(slot);
            match results.next() {
                Some(Ok(())) => done.push(slot),
                Some(Err(error)) => match self.settle_failed(slot, error) {
                    After::Settled => done.push(slot),
                    After::Lost => lost.push(slot),
                    After::NotParked => not_parked.push(slot),
                    After::Again(settle) => again.push((slot, settle)),
                },
                // An engine that answers with too few results broke its contract: the lease will run out.
                None => lost.push(slot),
            }
        }
        if again.is_empty() {
            self.engine.tries = 0;
        } else {
            self.engine.tries = self.engine.tries.saturating_add(1);
            self.engine.waits = true;
            let wait = backoff(self.engine.tries, self.runtime.entropy.next_u64());
            self.alarm(self.later(wait), Alarm::Engine);
            // ORDER: before everything that became due later.
            again
                .into_iter()
                .rev()
                .for_each(|settle| self.engine.settles.push_front(settle));
        }
        if !done.is_empty() {
            self.inputs.push_back(Input::Settled(done));
        }
        if !lost.is_empty() {
            self.metrics.leases_lost.add(lost.len() as u64);
            self.inputs.push_back(Input::SettleLost(lost));
        }
        if !not_parked.is_empty() {
            self.inputs.push_back(Input::NotParked(not_parked));
        }
    }

    /// ORDER: before what came in is told to the kernel, so that a message that was lost and came again is not there twice.
    pub(super) fn hear_lost(&mut self) {
        let settler = self.settler.clone();
        let lost = settler.and_then(|settler| settler.lost().now_or_never());
        if let Some(generations) = lost {
            self.generations_lost(&generations);
        }
    }

    /// What is in a call of the engine learns it from the answer.
    pub(super) fn generations_lost(&mut self, generations: &[u64]) {
        let lost = self.slab.leased_under(generations);
        if !lost.is_empty() {
            tracing::warn!(target: "postrider", subscription = %self.spec.id, deliveries = lost.len(), "deliveries ended with their connection: they come again");
            self.metrics.leases_lost.add(lost.len() as u64);
            self.inputs.push_back(Input::LeaseLost(lost));
        }
    }

    fn settle_failed(&mut self, slot: Slot, error: SettleError) -> After {
        let SettleError { fault, op } = error;
        if is_lost(&fault) {
            return After::Lost;
        }
        if let Some(held) = self.slab.get_mut(slot) {
            held.put_token(op.token);
        }
        if planted::is(Plant::CutSettleCounts) && fault.effect == Effect::Unknown {
            return After::Settled;
        }
        match (&fault.kind, fault.advice) {
            (FaultKind::NotParked, _) => After::NotParked,
            (_, Advice::StopOwner) => {
                let subscription = self.spec.id.clone();
                self.fail(DriverError::Source {
                    subscription,
                    fault,
                });
                After::Lost
            }
            _ => {
                tracing::warn!(target: "postrider", subscription = %self.spec.id, %fault, "a settle failed; it is tried again");
                After::Again(op.settle)
            }
        }
    }
}

enum After {
    Settled,
    Lost,
    NotParked,
    Again(Settle),
}
