//! Messages come in.

use postrider_core::clock::Mono;

use crate::io::{Incoming, Origin, Output, Slot};
use crate::kernel::Kernel;
use crate::lane::LaneId;
use crate::message::{Message, State};

impl Kernel {
    pub(crate) fn receive(&mut self, incoming: Incoming) {
        let slot = incoming.slot;
        assert!(
            !self.messages.contains(slot),
            "a slot is used again only after the kernel forgot it"
        );
        if let Origin::Log { at, position } = incoming.origin {
            let shard = self
                .shards
                .get_mut(&at.shard)
                .filter(|shard| shard.at == at && !shard.is_revoking());
            if !shard.is_some_and(|shard| shard.receive(position, slot)) {
                // Of an ownership that is over, or done before. It used credit all the same.
                self.window.pass(incoming.size);
                self.out.push(Output::Forget(slot));
                return;
            }
        }
        let (key_parked, skip, key) = (incoming.key_parked, incoming.skip, incoming.key.clone());
        let keyed = key.filter(|_| self.config.policy.ordered);
        let lane = keyed.map(|key| self.lanes.of(key));
        let message = self.admit_message(incoming);
        self.window.enter(message.size, message.is_redriven());
        if let Some(lane) = lane {
            self.lanes.enter(lane, message.size);
        }
        let seq = message.seq;
        self.messages.insert(Message { lane, ..message });
        if skip {
            if let Some(lane) = lane {
                self.skipped_in_gap(lane, slot);
            }
            self.handled(slot);
            return;
        }
        self.arm_lease(slot);
        match lane {
            Some(lane) => self.join_lane(lane, slot, key_parked),
            None => self
                .ready
                .push_back(crate::dispatch::Entry::Free(seq, slot)),
        }
        if !self.is_accepting() {
            self.give_back_one(slot);
        }
    }

    fn admit_message(&mut self, incoming: Incoming) -> Message {
        let watch = self.watch_of(&incoming);
        let seq = self.messages.next_seq();
        Message {
            slot: incoming.slot,
            seq,
            place: seq,
            lease_until: match incoming.origin {
                Origin::Lease { until } => until,
                _ => None,
            },
            origin: incoming.origin,
            id: incoming.id,
            lane: None,
            size: incoming.size,
            retry: incoming.retry,
            deliveries: incoming.deliveries.unwrap_or(0),
            unreadable: incoming.unreadable,
            received: self.now,
            state: State::Queued,
            failures: 0,
            panics: 0,
            last_wait: std::time::Duration::ZERO,
            lease_at: None,
            retry_at: None,
            recalled: false,
            watch,
        }
    }

    fn join_lane(&mut self, lane: LaneId, slot: Slot, key_parked: bool) {
        let redriven = self.messages.at(slot).is_redriven();
        if key_parked {
            self.learn_parked(lane);
        }
        if redriven {
            if self.lanes.at(lane).putting_back > 0 {
                // ORDER: a record before it goes back to waiting, and the whole key with it.
                self.finish_redrive_released(slot);
                return;
            }
            self.lanes.at_mut(lane).queue.push_back(slot);
            self.maybe_ready(lane);
            return;
        }
        if self.lanes.at(lane).gap.is_some() {
            self.join_gap(lane, slot);
        } else {
            self.line_up(lane, slot);
        }
        self.relieve_lane(lane);
    }

    /// Puts a message at the end of its lane, or behind its parked key.
    pub(crate) fn line_up(&mut self, lane: LaneId, slot: Slot) {
        let parked = self.parked.contains(&self.lanes.at(lane).key);
        let state = self.lanes.at_mut(lane);
        if parked || !state.parking.is_empty() || !state.staged.is_empty() {
            state.staged.push_back(slot);
            self.messages.at_mut(slot).state = State::Staged;
            self.to_park.push_back(lane);
        } else {
            state.queue.push_back(slot);
            self.messages.at_mut(slot).state = State::Queued;
            self.maybe_ready(lane);
        }
    }

    /// ORDER: messages of its key were lost and are not all back: it waits for those before it.
    fn join_gap(&mut self, lane: LaneId, slot: Slot) {
        let id = self.messages.at(slot).id;
        self.messages.at_mut(slot).state = State::Staged;
        let Some(gap) = self.lanes.at_mut(lane).gap.as_mut() else {
            return;
        };
        let lost = gap.ids.iter_mut().find(|(_, (waited, _))| *waited == id);
        let Some((&place, (_, back))) = lost else {
            gap.behind.push_back(slot);
            return;
        };
        let older = back.replace(slot);
        if gap.lenient {
            gap.ids.retain(|p, (_, back)| *p >= place || back.is_some());
        }
        self.messages.at_mut(slot).place = place;
        if let Some(older) = older {
            // It was handed out again: the older hand-over is void.
            self.release(vec![older]);
        }
        self.advance_gap(lane);
    }

    /// Puts the lease of a message under the extension timer: when a third of it has passed.
    pub(crate) fn arm_lease(&mut self, slot: Slot) {
        let now = self.now;
        let lease = self.config.lease;
        let message = self.messages.at_mut(slot);
        if let Some(at) = message.lease_at.take() {
            self.timers.leases.remove(&(at, slot));
        }
        let Some(until) = message.lease_until else {
            return;
        };
        let lease = lease.unwrap_or_else(|| until.since(message.received));
        let third_left = Mono(until.0.saturating_sub(lease * 2 / 3));
        let at = third_left.max(now).min(until);
        message.lease_at = Some(at);
        self.timers.leases.insert((at, slot));
    }
}
