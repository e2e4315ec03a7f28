//! Whose turn it is: round robin over the lanes that are ready and the free messages, first in first out within a lane.

use postrider_core::failure::Cause;

use crate::io::{Origin, Output, Slot};
use crate::kernel::{Kernel, Phase};
use crate::lane::LaneId;
use crate::message::State;
use crate::watch::Watch;

/// A turn. Entries may be stale: they are looked at when their turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Lane(LaneId),
    /// A free message; its sequence tells a stale entry.
    Free(u64, Slot),
}

impl Kernel {
    /// Gives a lane its turn, if its first message may be handled.
    pub(crate) fn maybe_ready(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get(id) else {
            return;
        };
        if lane.ready || self.head(id).is_none() {
            return;
        }
        self.lanes.at_mut(id).ready = true;
        self.ready.push_back(Entry::Lane(id));
    }

    /// The message of a lane that may be handled now.
    pub(crate) fn head(&self, id: LaneId) -> Option<Slot> {
        let lane = self.lanes.get(id)?;
        if lane.running.is_some() || lane.failing.is_some() {
            return None;
        }
        let slot = *lane.queue.front()?;
        let message = self.messages.at(slot);
        if message.state != State::Queued || message.watch == Watch::Asked {
            return None;
        }
        // ORDER: what is still on its way behind the parked key came earlier.
        let undecided = !lane.parking.is_empty() || !lane.staged.is_empty();
        (message.is_redriven() || !undecided).then_some(slot)
    }

    /// The message of an entry, if the entry is not stale.
    pub(crate) fn resolve(&self, entry: Entry) -> Option<Slot> {
        match entry {
            Entry::Lane(id) => self
                .lanes
                .get(id)
                .filter(|lane| lane.ready)
                .and_then(|_| self.head(id)),
            Entry::Free(seq, slot) => {
                let message = self.messages.get(slot)?;
                let waits = message.state == State::Queued && message.watch != Watch::Asked;
                (message.seq == seq && waits).then_some(slot)
            }
        }
    }

    pub(crate) fn dispatch(&mut self) {
        self.compact_ready();
        if self.phase != Phase::Open || self.paused || self.stopped {
            return;
        }
        if self.outages.is_empty() {
            while self.has_free_handler() && !self.stopped {
                if !self.dispatch_next() {
                    return;
                }
            }
        } else {
            self.probe();
        }
    }

    /// Starts, or sets aside, the next message. `false`: there is none, or it has to wait.
    fn dispatch_next(&mut self) -> bool {
        let Some(entry) = self.ready.pop_front() else {
            return false;
        };
        let Some(slot) = self.resolve(entry) else {
            self.unready(entry);
            return true;
        };
        if self.maybe_stall(entry, slot) {
            return true;
        }
        self.unready(entry);
        if self.must_ask(slot) {
            self.ask(slot);
        } else {
            self.start(slot);
        }
        true
    }

    /// What was asked for has its place already.
    pub(crate) fn has_free_handler(&self) -> bool {
        self.running + self.asking < self.config.policy.limits.concurrency
    }

    /// It is set aside without a handler.
    pub(crate) fn unfit(&self, slot: Slot) -> bool {
        let message = self.messages.at(slot);
        message.unreadable || message.watch == Watch::Condemned || self.is_held_too_long(slot)
    }

    /// A message that has failed and was held as long as the policy allows.
    pub(crate) fn is_held_too_long(&self, slot: Slot) -> bool {
        let message = self.messages.at(slot);
        message.failures > 0
            && !message.is_redriven()
            && self.now.since(message.received) >= self.config.policy.limits.hold_max
            && self.can_set_aside(message.lane.is_some())
    }

    /// Starts a message that is the first of its lane, or sets it aside.
    pub(crate) fn start(&mut self, slot: Slot) {
        let unfit = self.unfit(slot);
        let message = self.messages.at_mut(slot);
        if let Some(lane) = message.lane {
            let lane = self.lanes.at_mut(lane);
            let first = lane.queue.pop_front();
            assert!(first == Some(slot), "the first of a lane goes first");
            assert!(
                lane.running.is_none(),
                "one message of a key is in the handler at a time"
            );
            if !unfit {
                lane.running = Some(slot);
            }
        }
        if unfit {
            let cause = if message.unreadable {
                Cause::Unreadable
            } else if message.watch == Watch::Condemned {
                Cause::CrashLoop
            } else {
                Cause::BlockedTooLong
            };
            self.end_of_retries(slot, cause);
            return;
        }
        message.state = State::Running {
            lost: false,
            cancelled: false,
        };
        self.running += 1;
        let attempt = message.attempts().saturating_add(1);
        self.out.push(Output::Dispatch { slot, attempt });
    }

    fn unready(&mut self, entry: Entry) {
        if let Entry::Lane(id) = entry
            && let Some(lane) = self.lanes.get_mut(id)
        {
            lane.ready = false;
        }
    }

    /// A shard whose done ranges hardly fit into a commit gets only what moves its watermark.
    fn maybe_stall(&mut self, entry: Entry, slot: Slot) -> bool {
        let Origin::Log { at, position } = self.messages.at(slot).origin else {
            return false;
        };
        let bytes_max = self.config.done_bytes_max;
        match self.shards.get_mut(&at.shard) {
            Some(shard) => shard.maybe_stall(position, entry, bytes_max),
            None => false,
        }
    }

    /// Stale entries are dropped when they are more than what can be alive.
    fn compact_ready(&mut self) {
        if self.ready.len() <= 2 * (self.messages.len() + self.lanes.len()) + 64 {
            return;
        }
        let ready = std::mem::take(&mut self.ready);
        for entry in ready {
            if self.resolve(entry).is_some() {
                self.ready.push_back(entry);
            } else {
                self.unready(entry);
            }
        }
        // A lane may have had two entries, of which the first keeps its flag: the second is dropped when its turn comes.
    }
}
