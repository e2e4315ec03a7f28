//! Leases: kept while a message is held or handled, and what is done when one is lost.

use std::collections::{BTreeMap, VecDeque};

use postrider_core::clock::Mono;
use postrider_core::id::MessageId;

use crate::io::{Output, Slot};
use crate::kernel::Kernel;
use crate::lane::{Gap, LaneId};
use crate::message::{Message, State};
use crate::timers::Alarm;

/// What was lost, by lane: the first of the source's and of the redriven in the order of receipt, and the ids.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    lanes: BTreeMap<LaneId, Loss>,
    gone: Vec<Slot>,
}

#[derive(Debug, Default)]
struct Loss {
    first: Option<u64>,
    redriven: bool,
    ids: Vec<(u64, MessageId)>,
}

impl Losses {
    pub(crate) fn add(&mut self, lane: LaneId, message: &Message) {
        let loss = self.lanes.entry(lane).or_default();
        if message.is_redriven() {
            loss.redriven = true;
        } else if message.is_leased() {
            loss.first = Some(
                loss.first
                    .map_or(message.seq, |first| first.min(message.seq)),
            );
            loss.ids.push((message.seq, message.id));
        }
    }
}

impl Kernel {
    /// Extends every lease that is due, and those that are nearly due with them; gives up those that have ended.
    pub(crate) fn extend_leases(&mut self) {
        if self
            .timers
            .leases
            .first()
            .is_none_or(|(at, _)| *at > self.now)
        {
            return;
        }
        let slack = self.config.lease.unwrap_or_default() / 6;
        let horizon = self.now.plus(slack);
        let (mut extend, mut ended) = (Vec::new(), Vec::new());
        while let Some(&(at, slot)) = self.timers.leases.first() {
            if at > horizon {
                break;
            }
            self.timers.leases.pop_first();
            let message = self.messages.at_mut(slot);
            message.lease_at = None;
            let until = message.lease_until.unwrap_or_default();
            if until <= self.now {
                ended.push(slot);
            } else {
                extend.push(slot);
            }
        }
        for &slot in &extend {
            // Asked again after another third, if no answer comes.
            let message = self.messages.at_mut(slot);
            let until = message.lease_until.unwrap_or_default();
            let lease = self
                .config
                .lease
                .unwrap_or_else(|| until.since(message.received));
            let again = self.now.plus(lease / 3).min(until);
            message.lease_at = Some(again);
            self.timers.leases.insert((again, slot));
        }
        if !extend.is_empty() {
            self.out.push(Output::Extend(extend));
        }
        self.lease_lost(&ended);
    }

    pub(crate) fn extended(&mut self, slots: &[Slot], until: Mono) {
        for &slot in slots {
            let Some(message) = self.messages.get_mut(slot) else {
                continue;
            };
            let kept =
                message.is_held() || matches!(message.state, State::Running { lost: false, .. });
            if kept && message.is_leased() {
                message.lease_until = Some(until);
                self.arm_lease(slot);
            }
        }
    }

    pub(crate) fn stop_extending(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        if let Some(at) = message.lease_at.take() {
            self.timers.leases.remove(&(at, slot));
        }
    }

    /// Deliveries belong to another. What is being settled answers for itself.
    pub(crate) fn lease_lost(&mut self, slots: &[Slot]) {
        let mut losses = Losses::default();
        for &slot in slots {
            let Some(message) = self.messages.get(slot) else {
                continue;
            };
            match message.state {
                State::Running { lost: false, .. } => {
                    if let Some(lane) = message.lane {
                        losses.add(lane, message);
                    }
                    self.lose_running(slot);
                }
                _ if message.is_held() => {
                    if let Some(lane) = message.lane {
                        losses.add(lane, message);
                    }
                    self.take_out(slot);
                    self.forget_later(slot, &mut losses);
                }
                _ => {}
            }
        }
        self.break_lanes(losses);
    }

    /// Cancels a handler whose delivery belongs to another: its outcome is dropped, its lane waits for its end.
    pub(crate) fn lose_running(&mut self, slot: Slot) {
        self.stop_extending(slot);
        let message = self.messages.at_mut(slot);
        let State::Running { cancelled, .. } = message.state else {
            return;
        };
        message.state = State::Running {
            lost: true,
            cancelled: true,
        };
        if !cancelled {
            self.out.push(Output::Cancel(slot));
        }
    }

    /// Forgets after the lanes were looked at, so that they live until then.
    pub(crate) fn forget_later(&mut self, slot: Slot, losses: &mut Losses) {
        losses.gone.push(slot);
    }

    /// Gives back what came after a lost message of the same key, the last first: it must not be handled before the lost one is.
    pub(crate) fn break_lanes(&mut self, losses: Losses) {
        for (id, loss) in losses.lanes {
            if loss.redriven {
                self.release_redriven(id);
            }
            let Some(first) = loss.first else { continue };
            let lane = self.lanes.at(id);
            let behind = lane.gap.iter().flat_map(|gap| gap.behind.iter());
            let later: Vec<Slot> = lane
                .queue
                .iter()
                .chain(&lane.staged)
                .chain(behind)
                .copied()
                .collect();
            let mut later: Vec<(u64, Slot)> = later
                .into_iter()
                .map(|slot| self.messages.at(slot))
                .filter(|m| m.is_leased() && m.seq > first && !losses.gone.contains(&m.slot))
                .map(|m| (m.seq, m.slot))
                .collect();
            later.sort_unstable();
            let mut ids = loss.ids;
            if let Some(running) = self.lanes.at(id).running {
                let message = self.messages.at(running);
                if message.is_leased()
                    && message.seq > first
                    && message.state
                        == (State::Running {
                            lost: false,
                            cancelled: false,
                        })
                {
                    ids.push((message.seq, message.id));
                    self.lose_running(running);
                }
            }
            ids.extend(
                later
                    .iter()
                    .map(|(seq, slot)| (*seq, self.messages.at(*slot).id)),
            );
            self.release(later.iter().rev().map(|(_, slot)| *slot).collect());
            self.open_gap(id, ids);
        }
        for slot in losses.gone {
            let lane = self.messages.get(slot).and_then(|m| m.lane);
            self.forget(slot);
            if let Some(lane) = lane {
                self.maybe_ready(lane);
            }
        }
    }

    /// From now on, what comes for this key waits until these are back, for at most the time of a lease.
    pub(crate) fn open_gap(&mut self, id: LaneId, mut ids: Vec<(u64, MessageId)>) {
        if ids.is_empty() {
            return;
        }
        ids.sort_unstable();
        let until = self.now.plus(self.config.gap());
        let ids_max = self.config.policy.limits.window_messages_max as usize;
        let lane = self.lanes.at_mut(id);
        let gap = lane.gap.get_or_insert_with(|| Gap {
            ids: VecDeque::new(),
            behind: VecDeque::new(),
            until,
        });
        self.timers.cancel(gap.until, Alarm::Gap(id));
        gap.until = until;
        for (_, message) in ids {
            if !gap.ids.contains(&message) {
                gap.ids.push_back(message);
            }
        }
        while gap.ids.len() > ids_max {
            gap.ids.pop_front();
        }
        self.timers.set(until, Alarm::Gap(id));
    }

    /// The lost ones did not come back in time: they went elsewhere for good.
    pub(crate) fn gap_over(&mut self, id: LaneId) {
        if let Some(gap) = self.lanes.get_mut(id).and_then(|lane| lane.gap.as_mut()) {
            gap.ids.clear();
            self.close_gap_if_whole(id);
        }
    }

    /// All lost ones are back: what waited behind them goes on.
    pub(crate) fn close_gap_if_whole(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        if lane.gap.as_ref().is_none_or(|gap| !gap.ids.is_empty()) {
            return;
        }
        let Some(gap) = lane.gap.take() else { return };
        self.timers.cancel(gap.until, Alarm::Gap(id));
        lane.staged.extend(gap.behind);
        self.to_park.push_back(id);
        self.lanes.maybe_remove(id);
    }

    /// Takes a held message out of whatever it waits in.
    pub(crate) fn take_out(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        let backing_off = message.is_backing_off();
        if let Some(at) = message.retry_at.take() {
            self.timers.cancel(at, Alarm::Retry(slot));
        }
        let lane = message.lane;
        message.state = State::Queued;
        if let Some(lane) = lane {
            self.lanes.at_mut(lane).unlink(slot);
        }
        if backing_off {
            self.unblocked(slot, lane);
        }
        self.stop_extending(slot);
    }
}
