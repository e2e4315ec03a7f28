//! What happens later. One entry per backing-off message, per lease, per gap and per shard that is being revoked.

use std::collections::BTreeSet;

use postrider_core::clock::Mono;

use crate::io::Slot;
use crate::lane::LaneId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// The backoff of a message is over.
    Retry(Slot),
    /// The lost messages of a key went elsewhere.
    Gap(LaneId),
    /// A shard is taken away.
    Shard(u32),
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    alarms: BTreeSet<(Mono, Alarm)>,
    /// When leases are to be extended.
    pub(crate) leases: BTreeSet<(Mono, Slot)>,
    /// What the driver was told.
    pub(crate) armed: Option<Mono>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Mono, alarm: Alarm) {
        self.alarms.insert((at, alarm));
    }

    pub(crate) fn cancel(&mut self, at: Mono, alarm: Alarm) {
        self.alarms.remove(&(at, alarm));
    }

    /// The next alarm that is due.
    pub(crate) fn pop(&mut self, now: Mono) -> Option<Alarm> {
        let (at, _) = self.alarms.first()?;
        if *at > now {
            return None;
        }
        self.alarms.pop_first().map(|(_, alarm)| alarm)
    }

    pub(crate) fn next(&self) -> Option<Mono> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let lease = self.leases.first().map(|(at, _)| *at);
        [alarm, lease].into_iter().flatten().min()
    }
}
