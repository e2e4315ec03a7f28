//! Shards of a log source: owned, revoked, lost, and their progress committed.

use std::collections::BTreeMap;

use postrider_core::clock::Mono;
use postrider_core::source::{Position, ResumeState, ShardEpoch};

use crate::dispatch::Entry;
use crate::io::{Origin, Output, Slot};
use crate::kernel::{Kernel, Phase};
use crate::message::State;
use crate::timers::Alarm;
use crate::watermark::Progress;

/// One shard in one ownership.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) at: ShardEpoch,
    progress: Progress,
    /// Progress was made that no commit carries.
    dirty: bool,
    committing: bool,
    revoking: Option<Mono>,
    /// What is settled no longer counts: the shard is being taken away now.
    overdue: bool,
    /// Messages that came in this ownership.
    pub(crate) received: u32,
    /// Turns that wait until the done ranges fit into a commit again, by position.
    stalled: BTreeMap<u64, Entry>,
}

impl Shard {
    pub(crate) fn receive(&mut self, position: Position, slot: Slot) -> bool {
        self.progress.receive(position, slot)
    }

    pub(crate) const fn is_revoking(&self) -> bool {
        self.revoking.is_some()
    }

    /// Sets a turn aside while the done ranges take more than 75 % of a commit, unless it is the one that moves the watermark.
    pub(crate) fn maybe_stall(
        &mut self,
        position: Position,
        entry: Entry,
        bytes_max: usize,
    ) -> bool {
        let lowest = self
            .progress
            .lowest()
            .is_some_and(|(at, _)| at == position.0);
        if lowest || !self.is_full(bytes_max) {
            return false;
        }
        self.stalled.insert(position.0, entry);
        true
    }

    pub(crate) fn done_bytes(&self) -> usize {
        self.progress.bytes()
    }

    fn is_full(&self, bytes_max: usize) -> bool {
        bytes_max > 0 && self.progress.bytes() > bytes_max / 4 * 3
    }

    /// The turns that may be taken again.
    fn unstall(&mut self, bytes_max: usize) -> Vec<Entry> {
        if self.stalled.is_empty() {
            return Vec::new();
        }
        if !self.is_full(bytes_max) {
            return std::mem::take(&mut self.stalled).into_values().collect();
        }
        let lowest = self.progress.lowest().map(|(at, _)| at);
        lowest
            .and_then(|at| self.stalled.remove(&at))
            .into_iter()
            .collect()
    }
}

impl Kernel {
    pub(crate) fn assigned(&mut self, at: ShardEpoch, resume: &ResumeState) {
        if let Some(old) = self.shards.get(&at.shard) {
            let old = old.at;
            self.shard_lost(old);
        }
        let window = self.config.policy.limits.window_messages_max;
        let shard = Shard {
            at,
            progress: Progress::new(resume, window),
            dirty: false,
            committing: false,
            revoking: None,
            overdue: false,
            received: 0,
            stalled: BTreeMap::new(),
        };
        self.shards.insert(at.shard, shard);
    }

    /// A position is done. Of an ownership that is over: nothing.
    pub(crate) fn position_done(&mut self, at: ShardEpoch, position: Position) {
        let bytes_max = self.config.done_bytes_max;
        let Some(shard) = self
            .shards
            .get_mut(&at.shard)
            .filter(|s| s.at == at && !s.overdue)
        else {
            return;
        };
        let moved = shard.progress.done(position);
        shard.dirty |= moved || bytes_max > 0;
        let entries = shard.unstall(bytes_max);
        for entry in entries.into_iter().rev() {
            self.ready.push_front(entry);
        }
    }

    pub(crate) fn revoking(&mut self, at: ShardEpoch, deadline: Mono) {
        let Some(shard) = self
            .shards
            .get_mut(&at.shard)
            .filter(|s| s.at == at && s.revoking.is_none())
        else {
            return;
        };
        shard.revoking = Some(deadline);
        self.timers.set(deadline, Alarm::Shard(at.shard));
        self.drop_held_of(at);
    }

    /// Time is up: what runs is cancelled, what is done is committed.
    pub(crate) fn revoke_deadline(&mut self, shard: u32) {
        let now = self.now;
        let Some(state) = self.shards.get_mut(&shard) else {
            return;
        };
        if state.revoking.is_none_or(|deadline| deadline > now) {
            return;
        }
        state.overdue = true;
        let at = state.at;
        for slot in self.slots_of(at) {
            self.lose_running(slot);
        }
    }

    /// The shard is gone: its work is dropped, a commit would be fenced.
    pub(crate) fn shard_lost(&mut self, at: ShardEpoch) {
        if self
            .shards
            .get(&at.shard)
            .is_none_or(|shard| shard.at != at)
        {
            return;
        }
        for slot in self.slots_of(at) {
            self.lose_running(slot);
        }
        self.drop_held_of(at);
        self.remove_shard(at.shard);
    }

    pub(crate) fn committed(&mut self, at: ShardEpoch, stored: bool) {
        let Some(shard) = self.shards.get_mut(&at.shard).filter(|s| s.at == at) else {
            return;
        };
        shard.committing = false;
        if !stored {
            self.shard_lost(at);
        }
    }

    /// Commits what is new, one commit per shard at a time: a batch is what was done during the last one. Ends revocations.
    pub(crate) fn commit_shards(&mut self) {
        let bytes_max = self.config.done_bytes_max;
        let mut finished = Vec::new();
        for shard in self.shards.values_mut() {
            if shard.dirty && !shard.committing {
                shard.dirty = false;
                shard.committing = true;
                let commit = shard.progress.commit(bytes_max);
                self.out.push(Output::Commit {
                    at: shard.at,
                    commit,
                });
            }
            if shard.is_revoking() && !shard.committing {
                finished.push((shard.at, shard.overdue));
            }
        }
        for (at, overdue) in finished {
            if overdue || self.slots_of(at).is_empty() {
                self.out.push(Output::Revoked { at });
                self.remove_shard(at.shard);
            }
        }
    }

    /// Every shard's progress is stored.
    pub(crate) fn all_committed(&self) -> bool {
        self.shards
            .values()
            .all(|shard| !shard.dirty && !shard.committing)
    }

    fn remove_shard(&mut self, shard: u32) {
        let Some(state) = self.shards.remove(&shard) else {
            return;
        };
        if let Some(deadline) = state.revoking {
            self.timers.cancel(deadline, Alarm::Shard(shard));
        }
        // Their lanes may have gone on with another shard: they are looked at when their turn comes.
        self.ready.extend(state.stalled.into_values());
    }

    fn slots_of(&self, shard: ShardEpoch) -> Vec<Slot> {
        let of = |slot: &Slot| matches!(self.messages.at(*slot).origin, Origin::Log { at, .. } if at == shard);
        self.messages.slots().filter(of).collect()
    }

    /// Drops what is neither in the handler nor being settled: its positions stay open, the next owner reads them again.
    fn drop_held_of(&mut self, at: ShardEpoch) {
        for slot in self.slots_of(at) {
            if self.messages.at(slot).is_held() {
                self.drop_held(slot);
            }
        }
    }

    /// Drops a message that is held again though its shard goes, or went, to another: that one tries it again.
    pub(crate) fn drop_if_leaving(&mut self, slot: Slot) {
        let Some(message) = self.messages.get(slot).filter(|m| m.is_held()) else {
            return;
        };
        if let Origin::Log { at, .. } = message.origin
            && self
                .shards
                .get(&at.shard)
                .is_none_or(|shard| shard.at != at || shard.is_revoking())
        {
            self.drop_held(slot);
        }
    }

    /// Drops a held message of a log source.
    pub(crate) fn drop_held(&mut self, slot: Slot) {
        let lane = self.messages.at(slot).lane;
        self.take_out(slot);
        self.forget(slot);
        if let Some(lane) = lane {
            self.maybe_ready(lane);
        }
    }

    /// What runs is told to stop; its outcome still counts.
    pub(crate) fn cancel_running(&mut self) {
        let running: Vec<Slot> = self.messages.slots().collect();
        for slot in running {
            let message = self.messages.at_mut(slot);
            if let State::Running {
                lost,
                cancelled: false,
            } = message.state
            {
                message.state = State::Running {
                    lost,
                    cancelled: true,
                };
                self.out.push(Output::Cancel(slot));
            }
        }
    }

    pub(crate) const fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }
}
