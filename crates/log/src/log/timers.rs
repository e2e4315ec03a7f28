//! Time passing: leases that end, messages that become due or expire, retention.

use std::collections::BTreeSet;
use std::time::Duration;

use super::frame::Frame;
use super::{Log, MonoTimer, WallTimer};
use crate::entry::{Entry, Reason};
use crate::ids::{Now, Offset, StreamId, SubId};
use crate::{Error, Level};

/// What a tick did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Leases that ended; their messages are to be handed out again, and the attempt counts.
    pub leases_ended: usize,
    /// Delayed and returned messages that became due.
    pub due: usize,
    /// Messages that expired before anyone took them, over all subscriptions.
    pub expired: u64,
    /// Streams from which retention let something go.
    pub trimmed: usize,
}

impl Log {
    /// Lets time pass: call it when [`next_timer`](Self::next_timer) says so, late rather than not at all. Clocks that went back do no harm.
    ///
    /// # Errors
    /// Those of [`Wal::append`](crate::wal::Wal::append); what was due stays due.
    pub fn tick(&mut self, now: Now) -> Result<Ticked, Error> {
        let mut ticked = Ticked::default();
        let mut fired = Vec::new();
        self.mono.advance(now.mono_ms(), &mut fired);
        for timer in fired {
            self.fire_mono(timer, now, &mut ticked);
        }
        let mut fired = Vec::new();
        self.wall.advance(now.wall_ms, &mut fired);
        let mut result = Ok(());
        for timer in fired {
            if let Err(error) = self.fire_wall(timer, now, &mut ticked) {
                // Once more in a while: space may come back.
                self.wall.insert(now.wall_ms.saturating_add(1_000), timer);
                result = Err(error);
            }
        }
        let mut trims = std::mem::take(&mut self.trim_soon);
        while let Some(stream) = trims.pop_first() {
            if let Err(error) = self.retain(stream, now, &mut ticked) {
                self.trim_soon = trims;
                self.trim_soon.insert(stream);
                return Err(error);
            }
        }
        result.map(|()| ticked)
    }

    /// How long until [`tick`](Self::tick) or a sync ([`begin`](Self::begin)) has something to do; `None`: nothing is pending.
    pub fn next_timer(&self, now: Now) -> Option<Duration> {
        if !self.trim_soon.is_empty() {
            return Some(Duration::ZERO);
        }
        let until = |due_ms: Option<u64>, now_ms: u64| {
            due_ms.map(|due| Duration::from_millis(due.saturating_sub(now_ms)))
        };
        let mono = until(self.mono.next_ms(), now.mono_ms());
        let wall = until(self.wall.next_ms(), now.wall_ms);
        let lazy = self.lazy_due.map(|due| due.saturating_sub(now.mono));
        let dirty = self.wal.last() > self.wal.checkpoint_lsn();
        let checkpoint = dirty.then(|| self.checkpoint_due.saturating_sub(now.mono));
        [mono, wall, lazy, checkpoint].into_iter().flatten().min()
    }

    fn fire_mono(&mut self, timer: MonoTimer, now: Now, ticked: &mut Ticked) {
        match timer {
            MonoTimer::Leases(id) => {
                let dispatch = self
                    .state
                    .subs
                    .get_mut(&id)
                    .and_then(|sub| sub.dispatch.as_mut());
                let Some(dispatch) = dispatch else { return };
                dispatch.disarm();
                let ended = dispatch.expire(now.mono_ms());
                ticked.leases_ended += ended.len();
                self.arm_leases(id);
                if !ended.is_empty() {
                    self.state.wake_if_ready(id);
                    self.after_apply();
                }
            }
            MonoTimer::Retry(id, offset) => {
                let dispatch = self
                    .state
                    .subs
                    .get_mut(&id)
                    .and_then(|sub| sub.dispatch.as_mut());
                if let Some(dispatch) = dispatch {
                    dispatch.unblock(offset, now.mono_ms());
                    ticked.due += 1;
                    self.state.wake_if_ready(id);
                }
            }
        }
    }

    fn fire_wall(&mut self, timer: WallTimer, now: Now, ticked: &mut Ticked) -> Result<(), Error> {
        match timer {
            WallTimer::Due(id, generation, offset) => {
                let dispatch = self
                    .state
                    .subs
                    .get_mut(&id)
                    .and_then(|sub| sub.dispatch.as_mut());
                if let Some(dispatch) = dispatch {
                    dispatch.delay_over(generation, offset);
                    ticked.due += 1;
                    self.state.wake_if_ready(id);
                }
                Ok(())
            }
            WallTimer::Expired(stream, base) => self.expire_run(stream, base, now, ticked),
            WallTimer::Retention(id) => {
                if let Some(stream) = self.state.streams.get_mut(&id) {
                    stream.retention_armed = false;
                }
                self.retain(id, now, ticked)?;
                let Some(stream) = self.state.streams.get_mut(&id) else {
                    return Ok(());
                };
                let Some(age) = stream.config.retention.age else {
                    return Ok(());
                };
                if stream.bytes() > 0 && !stream.retention_armed {
                    stream.retention_armed = true;
                    // What is unsettled keeps its place; look again no sooner than a part of the age.
                    let soon = now.wall_ms + (crate::ids::millis(age) / 16).clamp(10, 60_000);
                    let due = stream.next_trim_ms().unwrap_or(0).max(soon);
                    self.wall.insert(due, WallTimer::Retention(id));
                }
                Ok(())
            }
        }
    }

    /// All records of a run have expired: they are settled where nobody has them in flight.
    fn expire_run(
        &mut self,
        stream: StreamId,
        base: Offset,
        now: Now,
        ticked: &mut Ticked,
    ) -> Result<(), Error> {
        let Some(view) = self.state.streams.get(&stream) else {
            return Ok(());
        };
        let Some(run) = view.find(base).filter(|run| run.base == base) else {
            return Ok(());
        };
        let mut frame = Frame::freeing();
        let mut expired = 0;
        for id in &view.subs {
            let Some(sub) = self.state.subs.get(id) else {
                continue;
            };
            let held = |offset| {
                sub.dispatch
                    .as_ref()
                    .is_some_and(|dispatch| dispatch.lease_of(offset).is_some())
            };
            let offsets =
                (base..run.end()).filter(|offset| !sub.settled.contains(*offset) && !held(*offset));
            let ranges = crate::codec::to_ranges(offsets);
            if !ranges.is_empty() {
                expired += ranges.iter().map(|(from, to)| to - from).sum::<u64>();
                frame.push(&Entry::Settle {
                    sub: *id,
                    reason: Reason::Expired,
                    ranges,
                });
            }
        }
        if !frame.is_empty() {
            self.append(&frame, Level::Os, now)?;
        }
        ticked.expired += expired;
        Ok(())
    }

    fn retain(&mut self, id: StreamId, now: Now, ticked: &mut Ticked) -> Result<(), Error> {
        let Some(stream) = self.state.streams.get(&id) else {
            return Ok(());
        };
        let Some(before) = stream.trim_point(now.wall_ms) else {
            return Ok(());
        };
        let mut frame = Frame::freeing();
        frame.push(&Entry::Trim { stream: id, before });
        self.append(&frame, Level::Os, now)?;
        ticked.trimmed += 1;
        Ok(())
    }

    /// Subscriptions in which a member has something in flight.
    pub fn members_of(&self, member: crate::MemberId) -> Vec<SubId> {
        let subs: Option<&BTreeSet<SubId>> = self.members.get(&member);
        subs.into_iter().flatten().copied().collect()
    }
}
