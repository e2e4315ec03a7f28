//! A handler ended: handled, or to be tried again, and when.

use std::time::Duration;

use postrider_core::failure::Cause;
use postrider_core::fault::Dependency;
use postrider_core::planted::{self, Plant};

use crate::dispatch::Entry;
use crate::io::{Origin, Outcome, Output, Slot};
use crate::kernel::{Kernel, Phase};
use crate::lane::LaneId;
use crate::message::{Settling, State};
use crate::retry::{decorrelated, guess_last};
use crate::timers::Alarm;
use crate::watch::Watch;

impl Kernel {
    /// A handler ended. Of a slot that is not in a handler: nothing.
    pub(crate) fn handler_ended(&mut self, slot: Slot, outcome: Outcome) {
        let Some(message) = self.messages.get_mut(slot) else {
            return;
        };
        let State::Running { lost, .. } = message.state else {
            return;
        };
        message.state = State::Queued;
        let (id, lane) = (message.id, message.lane);
        let watch = std::mem::replace(&mut message.watch, Watch::No);
        self.running -= 1;
        if watch == Watch::Noted {
            self.gone(id, true);
        }
        if let Some(lane) = lane {
            self.lanes.at_mut(lane).running = None;
        }
        let answers = !lost && !matches!(outcome, Outcome::Unavailable(_) | Outcome::Cancelled);
        self.outages.probed(slot, answers);
        if lost && self.messages.at(slot).recalled {
            self.release(vec![slot]);
        } else if lost {
            self.forget(slot);
        } else {
            self.decide(slot, outcome);
            self.drop_if_leaving(slot);
        }
        if let Some(lane) = lane {
            self.maybe_ready(lane);
        }
    }

    fn decide(&mut self, slot: Slot, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.budget.success();
                self.handled(slot);
            }
            Outcome::DoneAndSettled => {
                self.budget.success();
                self.handled_and_settled(slot);
            }
            Outcome::Transient => self.failed(slot, None),
            Outcome::RetryAfter(wait) => self.failed(slot, Some(wait)),
            Outcome::Panicked if planted::is(Plant::PanicAcknowledges) => self.handled(slot),
            Outcome::Panicked => {
                self.messages.at_mut(slot).panics += 1;
                self.failed(slot, None);
            }
            Outcome::Permanent(cause) => {
                let message = self.messages.at_mut(slot);
                message.failures = message.failures.saturating_add(1);
                self.end_of_retries(slot, cause);
            }
            Outcome::Unavailable(dependency) => self.unavailable(slot, dependency),
            Outcome::Cancelled => self.cancelled(slot),
            Outcome::Stop => {
                self.requeue(slot);
                self.stop(slot, Cause::Permanent);
            }
        }
    }

    /// Handled, or nobody here handles it.
    pub(crate) fn handled(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        match message.origin {
            Origin::Lease { .. } => {
                message.state = State::Settling(Settling::Ack);
                self.stop_extending(slot);
                self.out.ack(slot);
            }
            Origin::Log { .. } => self.handled_and_settled(slot),
            Origin::Redrive => {
                message.state = State::Settling(Settling::FinishRedrive { back: false });
                let attempts = message.failures.saturating_add(1);
                self.out.push(Output::FinishRedrive {
                    slot,
                    failed: None,
                    attempts,
                    released: false,
                });
            }
        }
    }

    fn handled_and_settled(&mut self, slot: Slot) {
        match self.messages.at(slot).origin {
            Origin::Log { at, position } => self.position_done(at, position),
            Origin::Lease { .. } | Origin::Redrive => {}
        }
        self.forget(slot);
    }

    /// Failed, and to be tried again unless its retries are used up.
    ///
    /// What counts: in a lane, the failures seen here since it came (a crash or a lost lease starts anew: only suspects answer for crashes). Free
    /// messages may have gone back to the engine between two tries, so their hand-overs count too; but only a failure that was
    /// seen ends the retries, never the count alone.
    fn failed(&mut self, slot: Slot, not_before: Option<Duration>) {
        let ordered = self.config.policy.ordered;
        let message = self.messages.at_mut(slot);
        if !planted::is(Plant::AttemptNotCounted) {
            message.failures = message.failures.saturating_add(1);
        }
        let rule = self.config.rule(message.retry);
        let goes_back = !ordered && message.is_leased();
        let used = if goes_back {
            message.attempts()
        } else {
            message.failures
        };
        if used > rule.times {
            let cause = if message.panics >= 2 {
                Cause::Panicked
            } else {
                Cause::RetriesExhausted
            };
            self.end_of_retries(slot, cause);
            return;
        }
        // A second panic is not tried again at once.
        let at_once = used <= rule.immediate && message.panics < 2;
        let wait = match not_before {
            Some(wait) => wait,
            None if at_once => Duration::ZERO,
            None => {
                if message.last_wait.is_zero() && goes_back {
                    message.last_wait = guess_last(&rule, used);
                }
                let wait = decorrelated(&mut self.rng, rule.base, rule.max, message.last_wait);
                message.last_wait = wait;
                wait
            }
        };
        let crowded = wait > Duration::ZERO
            && u64::from(self.free_blocked) * 2 >= u64::from(self.window.messages_max());
        let accepting = self.is_accepting();
        let too_long = wait > self.config.hold_wait_max() || crowded;
        let attempts = self.messages.at(slot).attempts();
        if goes_back && self.config.delayed_retry && (!accepting || too_long) {
            self.messages.at_mut(slot).state = State::Settling(Settling::GiveBack);
            self.stop_extending(slot);
            self.out.push(Output::RetryLater {
                slot,
                delay: wait,
                attempts,
            });
        } else if accepting {
            self.hold(slot, wait, true);
        } else {
            self.requeue(slot);
            self.give_back_one(slot);
        }
    }

    /// Keeps a failed message and its lane until it is tried again. `limited`: not longer than the policy's `hold_max` in all.
    pub(crate) fn hold(&mut self, slot: Slot, wait: Duration, limited: bool) {
        let now = self.now;
        let hold_max = self.config.policy.limits.hold_max;
        let message = self.messages.at_mut(slot);
        let lane = message.lane;
        let mut until = now.plus(wait);
        if limited && !message.is_redriven() {
            until = until.min(message.received.plus(hold_max)).max(now);
        }
        if until > now {
            message.state = State::Waiting;
            message.retry_at = Some(until);
            self.timers.set(until, Alarm::Retry(slot));
        } else {
            message.state = State::Due;
            self.due.push_back((message.seq, slot));
        }
        match lane {
            Some(lane) => {
                self.lanes.at_mut(lane).queue.push_front(slot);
                if planted::is(Plant::RetryBehindItsKey) {
                    self.lanes.at_mut(lane).queue.rotate_left(1);
                }
                self.lanes.set_blocked(lane, true);
                self.relieve_lane(lane);
            }
            None => self.free_blocked += 1,
        }
    }

    /// A backoff is over.
    pub(crate) fn backoff_over(&mut self, slot: Slot) {
        let Some(message) = self.messages.get_mut(slot) else {
            return;
        };
        message.retry_at = None;
        if message.state != State::Waiting {
            return;
        }
        if message.watch == Watch::Suspect {
            self.suspect_waited(slot);
            return;
        }
        message.state = State::Due;
        let seq = message.seq;
        if self.is_held_too_long(slot) {
            self.end_held(slot);
            return;
        }
        self.due.push_back((seq, slot));
    }

    /// Lets retries go that the budget has a token for.
    pub(crate) fn pump_due(&mut self) {
        if !self.is_accepting() || self.stopped {
            return;
        }
        while let Some(&(seq, slot)) = self.due.front() {
            let current = self
                .messages
                .get(slot)
                .filter(|m| m.seq == seq && m.state == State::Due);
            let Some(message) = current else {
                self.due.pop_front();
                continue;
            };
            let lane = message.lane;
            if !self.budget.take(self.now) {
                return;
            }
            self.due.pop_front();
            self.messages.at_mut(slot).state = State::Queued;
            self.unblocked(lane);
            match lane {
                Some(lane) => self.maybe_ready(lane),
                None => self.ready.push_back(Entry::Free(seq, slot)),
            }
        }
    }

    /// A message is not backing off any more.
    pub(crate) fn unblocked(&mut self, lane: Option<LaneId>) {
        match lane {
            Some(lane) => self.lanes.set_blocked(lane, false),
            None => self.free_blocked -= 1,
        }
    }

    /// Puts a message back to the front of its lane, as if it had not been tried.
    pub(crate) fn requeue(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        message.state = State::Queued;
        match message.lane {
            Some(lane) => {
                self.lanes.at_mut(lane).queue.push_front(slot);
                self.maybe_ready(lane);
            }
            None => {
                let entry = Entry::Free(message.seq, slot);
                self.ready.push_front(entry);
            }
        }
    }

    fn unavailable(&mut self, slot: Slot, dependency: Dependency) {
        self.requeue(slot);
        if !self.is_accepting() {
            self.give_back_one(slot);
            return;
        }
        let message = self.messages.at(slot);
        let rule = self.config.rule(message.retry);
        let seq = message.seq;
        if self.outages.report(
            &mut self.rng,
            &rule,
            dependency.clone(),
            (seq, slot),
            self.now,
        ) {
            self.out.push(Output::Paused(dependency));
        }
    }

    /// Cancelled though nobody asked: after a while, again. No attempt is burned.
    fn cancelled(&mut self, slot: Slot) {
        if self.is_accepting() {
            let rule = self.config.rule(self.messages.at(slot).retry);
            self.hold(slot, rule.base, false);
        } else {
            self.requeue(slot);
            self.give_back_one(slot);
        }
    }

    /// The subscription stops: nothing more is dispatched, nothing is settled.
    pub(crate) fn stop(&mut self, slot: Slot, cause: Cause) {
        if self.stopped || matches!(self.phase, Phase::Draining { .. }) {
            if !self.is_accepting() {
                self.give_back_one(slot);
            }
            return;
        }
        self.stopped = true;
        self.out.push(Output::Stopped { slot, cause });
        if self.paused {
            self.give_back_one(slot);
        }
    }
}
