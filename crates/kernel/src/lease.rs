//! Leases: kept while a message is held or handled, and what is done when one is lost.

use std::collections::{BTreeMap, VecDeque};

use postrider_core::clock::Mono;
use postrider_core::id::MessageId;
use postrider_core::planted::{self, Plant};

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
                    .map_or(message.place, |first| first.min(message.place)),
            );
            loss.ids.push((message.place, message.id));
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
        if planted::is(Plant::LostLeaseGoesOn) {
            return;
        }
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
            let queued = lane.queue.iter().chain(&lane.staged).copied();
            let later: Vec<Slot> = queued.chain(lane.gap_slots()).collect();
            let mut later: Vec<(u64, Slot)> = later
                .into_iter()
                .map(|slot| self.messages.at(slot))
                .filter(|m| m.is_leased() && m.place > first && !losses.gone.contains(&m.slot))
                .map(|m| (m.place, m.slot))
                .collect();
            later.sort_unstable();
            let mut ids = loss.ids;
            if let Some(running) = self.lanes.at(id).running {
                let message = self.messages.at(running);
                if message.is_leased()
                    && message.place > first
                    && message.state
                        == (State::Running {
                            lost: false,
                            cancelled: false,
                        })
                {
                    ids.push((message.place, message.id));
                    self.lose_running(running);
                    self.messages.at_mut(running).recalled = true;
                }
            }
            ids.extend(
                later
                    .iter()
                    .map(|(place, slot)| (*place, self.messages.at(*slot).id)),
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
    /// Where deliveries are lost only together, they come again before anything newer of the key, here or at another member: nothing has to wait.
    pub(crate) fn open_gap(&mut self, id: LaneId, mut ids: Vec<(u64, MessageId)>) {
        if ids.is_empty() || self.config.loses_together {
            return;
        }
        ids.sort_unstable();
        let until = self.now.plus(self.config.gap());
        let ids_max = self.config.policy.limits.window_messages_max as usize;
        let lane = self.lanes.at_mut(id);
        let gap = lane.gap.get_or_insert_with(|| Gap {
            ids: BTreeMap::new(),
            behind: VecDeque::new(),
            until,
            lenient: false,
        });
        self.timers.cancel(gap.until, Alarm::Gap(id));
        gap.until = until;
        let last = ids.last().map_or(0, |(place, _)| *place);
        for (place, message) in ids {
            // The same message may have been lost twice: the earlier place is its own.
            let other = gap.ids.iter().find(|(_, (waited, _))| *waited == message);
            let other = other.map(|(place, (_, back))| (*place, *back));
            let back = match other {
                Some((other, _)) if other <= place => continue,
                Some((other, back)) => {
                    gap.ids.remove(&other);
                    back
                }
                None => None,
            };
            if let Some(slot) = back {
                self.messages.at_mut(slot).place = place;
            }
            gap.ids.insert(place, (message, back));
        }
        // ORDER: what waited behind the gap may be before what was lost now.
        for slot in std::mem::take(&mut gap.behind) {
            let message = self.messages.at(slot);
            if message.place < last {
                gap.ids.insert(message.place, (message.id, Some(slot)));
            } else {
                gap.behind.push_back(slot);
            }
        }
        while gap.ids.len() > ids_max
            && gap
                .ids
                .first_key_value()
                .is_some_and(|(_, (_, back))| back.is_none())
        {
            gap.ids.pop_first();
        }
        self.timers.set(until, Alarm::Gap(id));
    }

    /// The lost ones did not come back in time. If nothing waits behind them, they went elsewhere for good. What does wait goes back once, so that
    /// the engine says the order: it comes again behind those of the lost ones that are not settled.
    ///
    /// ORDER: time alone proves nothing while an answer of the engine is awaited for this key, nor to a process that slept past the time: what came
    /// meanwhile is not heard yet. Then it waits once more.
    pub(crate) fn gap_over(&mut self, id: LaneId) {
        let (now, wait) = (self.now, self.config.gap());
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        let mut waiting: Vec<Slot> = lane.gap_slots().collect();
        let awaits_answers = lane.messages as usize > waiting.len();
        let Some(gap) = lane.gap.as_mut() else { return };
        if awaits_answers || now.since(gap.until) > wait / 6 {
            gap.until = now.plus(wait);
            self.timers.set(gap.until, Alarm::Gap(id));
            return;
        }
        if waiting.is_empty() {
            gap.ids.clear();
            self.advance_gap(id);
            return;
        }
        gap.lenient = true;
        waiting.sort_unstable_by_key(|slot| std::cmp::Reverse(self.messages.at(*slot).place));
        let ids = waiting
            .iter()
            .map(|slot| self.messages.at(*slot))
            .map(|m| (m.place, m.id))
            .collect();
        self.release(waiting);
        self.open_gap(id, ids);
    }

    /// Lets go on what is back in order; when all are back, what waited behind them.
    pub(crate) fn advance_gap(&mut self, id: LaneId) {
        loop {
            let Some(gap) = self.lanes.get_mut(id).and_then(|lane| lane.gap.as_mut()) else {
                return;
            };
            let Some((_, &(_, back))) = gap.ids.first_key_value() else {
                break;
            };
            let Some(slot) = back else { return };
            gap.ids.pop_first();
            self.line_up(id, slot);
        }
        let Some(gap) = self.lanes.get_mut(id).and_then(|lane| lane.gap.take()) else {
            return;
        };
        self.timers.cancel(gap.until, Alarm::Gap(id));
        for slot in gap.behind {
            self.line_up(id, slot);
        }
        self.lanes.maybe_remove(id);
    }

    /// A message that is skipped is not waited for.
    pub(crate) fn skipped_in_gap(&mut self, lane: LaneId, slot: Slot) {
        let id = self.messages.at(slot).id;
        if let Some(gap) = self.lanes.at_mut(lane).gap.as_mut() {
            gap.ids
                .retain(|_, (waited, back)| *waited != id || back.is_some());
            self.advance_gap(lane);
        }
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
            self.unblocked(lane);
        }
        self.stop_extending(slot);
    }
}
