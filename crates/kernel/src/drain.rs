//! Pause and drain: what is not in the handler goes back, the last received first.

use std::collections::BTreeMap;

use postrider_core::clock::Mono;
use postrider_core::id::MessageId;

use crate::config::CANCEL_GRACE;
use crate::io::{Origin, Output, Slot};
use crate::kernel::{Kernel, Phase};
use crate::lane::LaneId;
use crate::message::{Settling, State};

impl Kernel {
    pub(crate) fn pause(&mut self) {
        self.paused = true;
        self.give_back_held();
    }

    pub(crate) fn drain(&mut self, deadline: Mono) {
        let cancelled = matches!(
            self.phase,
            Phase::Draining {
                cancelled: true,
                ..
            }
        );
        self.phase = Phase::Draining {
            deadline,
            cancelled,
        };
        self.give_back_held();
    }

    pub(crate) fn drain_deadline(&mut self) {
        let Phase::Draining {
            deadline,
            cancelled,
        } = self.phase
        else {
            return;
        };
        if !cancelled && deadline <= self.now {
            self.phase = Phase::Draining {
                deadline,
                cancelled: true,
            };
            self.cancel_running();
        }
    }

    /// The end: all is settled and committed, or was given up.
    pub(crate) fn maybe_drained(&mut self) {
        let Phase::Draining {
            deadline,
            cancelled,
        } = self.phase
        else {
            return;
        };
        let given_up = cancelled && deadline.plus(CANCEL_GRACE) <= self.now;
        let busy = !self.messages.is_empty() || !self.all_committed() || self.going > 0;
        if busy && !given_up {
            return;
        }
        let left: Vec<Slot> = self.messages.slots().collect();
        for slot in left {
            self.forget(slot);
        }
        self.phase = Phase::Drained;
        self.out.push(Output::Drained);
    }

    /// Gives back all that is neither in the handler nor being settled. A log source has nothing to give back to: its messages are dropped when the
    /// kernel drains, and kept when it is paused.
    fn give_back_held(&mut self) {
        let held: Vec<Slot> = self
            .messages
            .slots()
            .rev()
            .filter(|slot| self.messages.at(*slot).is_held())
            .collect();
        let mut release = Vec::new();
        for slot in held {
            match self.messages.at(slot).origin {
                Origin::Lease { .. } => release.push(slot),
                Origin::Redrive => {
                    self.take_out(slot);
                    self.finish_redrive_released(slot);
                }
                Origin::Log { .. } if self.is_draining() => self.drop_held(slot),
                Origin::Log { .. } => {}
            }
        }
        self.release_with_gaps(release);
    }

    /// Gives back one held message that came, or came out of the handler, while nothing is accepted.
    pub(crate) fn give_back_one(&mut self, slot: Slot) {
        let Some(message) = self.messages.get(slot).filter(|m| m.is_held()) else {
            return;
        };
        match message.origin {
            Origin::Lease { .. } => self.release_with_gaps(vec![slot]),
            Origin::Redrive => {
                self.take_out(slot);
                self.finish_redrive_released(slot);
            }
            Origin::Log { .. } if self.is_draining() => self.drop_held(slot),
            Origin::Log { .. } => {}
        }
    }

    /// A dependency is down for so long that the engine would take the messages back by itself: they are given back before.
    pub(crate) fn release_in_outage(&mut self) {
        let hold_max = self.config.policy.limits.hold_max;
        let old = |received: Mono| received.plus(hold_max) <= self.now;
        let due = !self.outages.is_empty()
            && self
                .messages
                .oldest()
                .is_some_and(|m| m.is_leased() && old(m.received));
        if due {
            let held = |slot: &Slot| {
                self.messages.at(*slot).is_held() && self.messages.at(*slot).is_leased()
            };
            let slots: Vec<Slot> = self.messages.slots().rev().filter(held).collect();
            self.release_with_gaps(slots);
        }
    }

    fn release_with_gaps(&mut self, slots: Vec<Slot>) {
        let mut lanes: BTreeMap<LaneId, Vec<(u64, MessageId)>> = BTreeMap::new();
        for slot in &slots {
            let message = self.messages.at(*slot);
            if let Some(lane) = message.lane {
                lanes
                    .entry(lane)
                    .or_default()
                    .push((message.place, message.id));
            }
        }
        self.release(slots);
        if self.is_draining() {
            return;
        }
        for (lane, ids) in lanes {
            self.open_gap(lane, ids);
        }
    }

    /// Gives back without counting, the last first. What failed here keeps the count of its attempts and the rest of its wait, where the engine can
    /// keep them for it: a pause must not give a message its retries anew.
    pub(crate) fn release(&mut self, mut slots: Vec<Slot>) {
        slots.sort_unstable_by_key(|slot| std::cmp::Reverse(self.messages.at(*slot).place));
        let mut released = Vec::with_capacity(slots.len());
        for slot in slots {
            let message = self.messages.at(slot);
            let failed = message.lane.is_none() && message.is_leased() && message.failures > 0;
            let wait = message.retry_at.map(|at| at.since(self.now));
            let attempts = message.attempts();
            self.take_out(slot);
            self.messages.at_mut(slot).state = State::Settling(Settling::GiveBack);
            if failed && self.config.delayed_retry {
                self.out.push(Output::RetryLater {
                    slot,
                    delay: wait.unwrap_or_default(),
                    attempts,
                });
            } else {
                released.push(slot);
            }
        }
        if !released.is_empty() {
            self.out.push(Output::Release(released));
        }
    }
}
