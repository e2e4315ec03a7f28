//! The end of retries: a failure record, and in order the whole key behind it.

use std::time::Duration;

use bytes::Bytes;
use postrider_core::failure::Cause;
use postrider_core::planted::{self, Plant};
use postrider_core::policy::WhenExhausted;

use crate::config::PARKED_KEYS_MAX;
use crate::io::{Output, Slot};
use crate::kernel::Kernel;
use crate::lane::LaneId;
use crate::message::{Settling, State};

impl Kernel {
    /// Whether a failed message (`keyed`: in a lane) can be set aside at all, and is to be.
    pub(crate) fn can_set_aside(&self, keyed: bool) -> bool {
        let room = self.parked.len() < PARKED_KEYS_MAX;
        match self.config.policy.when_exhausted {
            WhenExhausted::Stop => true,
            WhenExhausted::ParkKey if keyed => self.config.failure_store && room,
            _ => self.config.failure_store || self.config.native_dead_letter,
        }
    }

    /// A message is not tried again. It is in no queue. Where nothing can keep it, it is tried again at the longest backoff, without end.
    pub(crate) fn end_of_retries(&mut self, slot: Slot, cause: Cause) {
        let message = self.messages.at_mut(slot);
        if message.is_redriven() {
            self.finish_redrive_failed(slot, cause);
            return;
        }
        let (lane, attempts, retry) = (message.lane, message.attempts(), message.retry);
        if self.config.policy.when_exhausted == WhenExhausted::Stop {
            self.requeue(slot);
            self.stop(slot, cause);
            return;
        }
        if !self.can_set_aside(lane.is_some()) {
            let rule = self.config.rule(retry);
            if self.is_accepting() {
                self.hold(slot, rule.max.max(Duration::from_secs(1)), false);
            } else {
                self.requeue(slot);
                self.give_back_one(slot);
            }
            return;
        }
        let park = lane.is_some() && self.config.policy.when_exhausted == WhenExhausted::ParkKey;
        self.messages.at_mut(slot).state = State::Settling(Settling::Fail { park });
        if let Some(lane) = lane {
            let lane = self.lanes.at_mut(lane);
            assert!(
                lane.failing.is_none(),
                "one message of a key fails at a time"
            );
            lane.failing = Some(slot);
        }
        self.stop_extending(slot);
        self.out.push(Output::Fail {
            slot,
            cause,
            attempts,
            park,
        });
    }

    /// A message that is backing off is not held any longer.
    pub(crate) fn end_held(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        assert!(
            message.is_backing_off(),
            "only a failed message is given up"
        );
        let lane = message.lane;
        if let Some(at) = message.retry_at.take() {
            self.timers.cancel(at, crate::timers::Alarm::Retry(slot));
        }
        message.state = State::Queued;
        self.unblocked(lane);
        if let Some(lane) = lane {
            let first = self.lanes.at_mut(lane).queue.pop_front();
            assert!(first == Some(slot), "only the first of a lane backs off");
        }
        self.end_of_retries(slot, Cause::BlockedTooLong);
    }

    /// A redriven record failed again: it waits for a person, and so does what follows it.
    fn finish_redrive_failed(&mut self, slot: Slot, cause: Cause) {
        let message = self.messages.at_mut(slot);
        message.state = State::Settling(Settling::FinishRedrive { back: true });
        let (lane, attempts) = (message.lane, message.failures);
        self.out.push(Output::FinishRedrive {
            slot,
            failed: Some(cause),
            attempts,
            released: false,
        });
        let Some(lane) = lane else { return };
        let state = self.lanes.at_mut(lane);
        state.putting_back += 1;
        self.window.putting_back += 1;
        let state = self.lanes.at(lane);
        if self.parked.contains(&state.key) {
            self.release_redriven(lane);
        }
    }

    /// Puts the redriven records of a lane back, in order.
    pub(crate) fn release_redriven(&mut self, lane: LaneId) {
        let queue = self.lanes.at(lane).queue.clone();
        for slot in queue {
            if self.messages.at(slot).is_redriven() {
                self.take_out(slot);
                self.finish_redrive_released(slot);
            }
        }
    }

    pub(crate) fn finish_redrive_released(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        message.state = State::Settling(Settling::FinishRedrive { back: true });
        let (lane, attempts) = (message.lane, message.failures);
        if let Some(lane) = lane {
            self.lanes.at_mut(lane).putting_back += 1;
            self.window.putting_back += 1;
        }
        self.out.push(Output::FinishRedrive {
            slot,
            failed: None,
            attempts,
            released: true,
        });
    }

    /// The key of a lane is parked: what waits in it follows.
    pub(crate) fn learn_parked(&mut self, lane: LaneId) {
        let key = self.lanes.at(lane).key.clone();
        self.parked.insert(key);
        let queue = std::mem::take(&mut self.lanes.at_mut(lane).queue);
        self.lanes.set_blocked(lane, false);
        for slot in queue {
            let message = self.messages.at_mut(slot);
            if message.is_redriven() {
                if message.is_backing_off() {
                    self.lanes.set_blocked(lane, true);
                }
                self.lanes.at_mut(lane).queue.push_back(slot);
                continue;
            }
            if let Some(at) = message.retry_at.take() {
                self.timers.cancel(at, crate::timers::Alarm::Retry(slot));
            }
            message.state = State::Staged;
            self.lanes.at_mut(lane).staged.push_back(slot);
        }
        self.to_park.push_back(lane);
    }

    /// Sends what waits to follow its parked key, all at once; or lets it be handled where the key is not parked any more.
    pub(crate) fn park_staged(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        if !lane.parking.is_empty() || lane.failing.is_some() {
            return;
        }
        if !self.parked.contains(&lane.key) {
            let staged = std::mem::take(&mut lane.staged);
            for slot in staged {
                self.messages.at_mut(slot).state = State::Queued;
                self.lanes.at_mut(id).queue.push_back(slot);
            }
            self.maybe_ready(id);
            return;
        }
        if lane.staged.is_empty() {
            return;
        }
        lane.parking = std::mem::take(&mut lane.staged);
        let (key, mut slots): (Bytes, Vec<Slot>) =
            (lane.key.clone(), lane.parking.iter().copied().collect());
        if planted::is(Plant::ParkOutOfOrder) {
            slots.reverse();
        }
        for slot in &slots {
            self.messages.at_mut(*slot).state = State::Settling(Settling::Park);
            self.stop_extending(*slot);
        }
        self.out.push(Output::Park { key, slots });
    }

    /// A blocked key over its own share is set aside at once.
    pub(crate) fn relieve_lane(&mut self, id: LaneId) {
        let limits = &self.config.policy.limits;
        let Some(lane) = self.lanes.get(id) else {
            return;
        };
        let over = lane.messages > limits.lane_messages_max || lane.bytes > limits.lane_bytes_max;
        if lane.is_blocked() && over {
            self.give_up_blocked(id);
        }
    }

    /// Blocked keys that hold most of a window that is nearly full are set aside, the largest first. Not while retries wait for their budget:
    /// then nearly everything fails, and slowing down is the answer.
    pub(crate) fn relieve_window(&mut self) {
        while self.window.nearly_full() && self.due.is_empty() && self.is_accepting() {
            let many =
                u64::from(self.lanes.blocked_messages) * 2 > u64::from(self.window.messages_max());
            let large = self.lanes.blocked_bytes.saturating_mul(2) > self.window.bytes_max();
            if !many && !large {
                return;
            }
            let Some(lane) = self.lanes.largest_blocked() else {
                return;
            };
            if !self.give_up_blocked(lane) {
                return;
            }
        }
    }

    /// `false`: nothing can keep it, or the policy is to stop rather than set aside.
    fn give_up_blocked(&mut self, lane: LaneId) -> bool {
        let stops = self.config.policy.when_exhausted == WhenExhausted::Stop;
        if stops || !self.can_set_aside(true) {
            return false;
        }
        let Some(&slot) = self.lanes.at(lane).queue.front() else {
            return false;
        };
        if self.messages.at(slot).is_redriven() || !self.messages.at(slot).is_backing_off() {
            return false;
        }
        self.end_held(slot);
        true
    }
}
