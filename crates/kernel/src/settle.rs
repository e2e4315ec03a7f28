//! What became of the settles.

use bytes::Bytes;

use crate::io::{Origin, Slot};
use crate::kernel::Kernel;
use crate::lane::LaneId;
use crate::lease::Losses;
use crate::message::{Settling, State};
use crate::watch::Watch;

impl Kernel {
    /// A settle is done.
    pub(crate) fn settled(&mut self, slot: Slot) {
        let Some(message) = self.messages.get(slot) else {
            return;
        };
        let State::Settling(settling) = message.state else {
            return;
        };
        let (lane, origin) = (message.lane, message.origin);
        let recorded = matches!(settling, Settling::Fail { .. } | Settling::Park);
        if message.watch == Watch::Condemned
            && matches!(
                settling,
                Settling::Fail { .. } | Settling::FinishRedrive { .. }
            )
        {
            self.set_aside_condemned(slot);
        }
        if let Origin::Log { at, position } = origin
            && recorded
        {
            self.position_done(at, position);
        }
        if let Some(lane) = lane {
            self.settled_in_lane(lane, slot, settling);
        }
        self.forget(slot);
        if let Some(lane) = lane {
            self.maybe_ready(lane);
        }
    }

    fn settled_in_lane(&mut self, id: LaneId, slot: Slot, settling: Settling) {
        let lane = self.lanes.at_mut(id);
        match settling {
            Settling::Fail { park } => {
                lane.failing = None;
                if park {
                    self.learn_parked(id);
                } else {
                    self.to_park.push_back(id);
                }
            }
            Settling::Park => {
                lane.parking.retain(|s| *s != slot);
                // A wrong "parked" is corrected by the next answer; a wrong "free" would break the order.
                let key = lane.key.clone();
                self.parked.insert(key);
                self.to_park.push_back(id);
            }
            Settling::FinishRedrive { back: true } => {
                lane.putting_back -= 1;
                self.window.putting_back -= 1;
            }
            Settling::Ack | Settling::GiveBack | Settling::FinishRedrive { back: false } => {}
        }
    }

    /// Settles that did not work: the deliveries belong to another. Later messages of their keys must not pass them.
    pub(crate) fn settle_lost(&mut self, slots: &[Slot]) {
        let mut losses = Losses::default();
        for &slot in slots {
            let Some(message) = self.messages.get(slot) else {
                continue;
            };
            let State::Settling(settling) = message.state else {
                continue;
            };
            if let Some(lane) = message.lane {
                if settling != Settling::GiveBack {
                    losses.add(lane, message);
                }
                let state = self.lanes.at_mut(lane);
                match settling {
                    Settling::Fail { .. } => state.failing = None,
                    Settling::Park => state.parking.retain(|s| *s != slot),
                    Settling::FinishRedrive { back: true } => {
                        state.putting_back -= 1;
                        self.window.putting_back -= 1;
                    }
                    _ => {}
                }
                self.to_park.push_back(lane);
            }
            self.forget_later(slot, &mut losses);
        }
        self.break_lanes(losses);
    }

    /// Followers that were refused, since their key is free: they are handled after all, before whatever came later.
    pub(crate) fn not_parked(&mut self, slots: &[Slot]) {
        let mut lanes = Vec::new();
        for &slot in slots.iter().rev() {
            let Some(message) = self.messages.get_mut(slot) else {
                continue;
            };
            let (State::Settling(Settling::Park), Some(id)) = (message.state, message.lane) else {
                continue;
            };
            message.state = State::Staged;
            let lane = self.lanes.at_mut(id);
            lane.parking.retain(|s| *s != slot);
            lane.staged.push_front(slot);
            self.parked.remove(&lane.key);
            self.arm_lease(slot);
            if !lanes.contains(&id) {
                lanes.push(id);
            }
        }
        if !self.is_accepting() {
            slots
                .iter()
                .rev()
                .for_each(|slot| self.give_back_one(*slot));
        }
        self.to_park.extend(lanes);
        slots.iter().for_each(|slot| self.drop_if_leaving(*slot));
    }

    /// The last record of a parked key is gone.
    pub(crate) fn key_free(&mut self, key: &Bytes) {
        self.parked.remove(key);
        if let Some(lane) = self.lanes.find(key) {
            self.to_park.push_back(lane);
        }
    }
}
