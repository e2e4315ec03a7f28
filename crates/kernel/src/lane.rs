//! Lanes: the messages of one key in order, one of them in the handler at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use postrider_core::clock::Mono;
use postrider_core::id::MessageId;
use postrider_core::policy::Limits;

use crate::io::Slot;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneId(pub(crate) u32);

/// Messages of a key that were lost or given back while later ones may still be on their way to us: those wait until the lost ones are back,
/// or until it is clear that they went elsewhere.
#[derive(Debug)]
pub(crate) struct Gap {
    /// By place; with the message where it is back but one before it is not.
    pub(crate) ids: BTreeMap<u64, (MessageId, Option<Slot>)>,
    pub(crate) behind: VecDeque<Slot>,
    pub(crate) until: Mono,
    /// The lost ones were waited for long enough: when one is back, those before it are known to be settled elsewhere.
    pub(crate) lenient: bool,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) key: Bytes,
    /// To be handled, in order. The first may be backing off.
    pub(crate) queue: VecDeque<Slot>,
    pub(crate) running: Option<Slot>,
    /// Its failure is being recorded: nothing else of the key moves.
    pub(crate) failing: Option<Slot>,
    /// Following their parked key; one `Park` at a time, so that a repeated one cannot be overtaken.
    pub(crate) parking: VecDeque<Slot>,
    /// To follow once `parking` is through.
    pub(crate) staged: VecDeque<Slot>,
    /// Redriven records that are being put back: what was claimed behind them goes back as well.
    pub(crate) putting_back: u32,
    pub(crate) gap: Option<Gap>,
    /// It has an entry in the ready queue (or among the stalled).
    pub(crate) ready: bool,
    /// All of its messages that are not forgotten.
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
    /// Its weight among the blocked, and its messages and bytes then, when its first message is backing off.
    blocked: Option<(u64, u32, u64)>,
}

impl Lane {
    fn new(key: Bytes) -> Self {
        Self {
            key,
            queue: VecDeque::new(),
            running: None,
            failing: None,
            parking: VecDeque::new(),
            staged: VecDeque::new(),
            putting_back: 0,
            gap: None,
            ready: false,
            messages: 0,
            bytes: 0,
            blocked: None,
        }
    }

    pub(crate) const fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Removes a held message from wherever it waits; from behind, since those are given back first.
    pub(crate) fn unlink(&mut self, slot: Slot) {
        if let Some(gap) = self.gap.as_mut()
            && let Some(back) = gap.ids.values_mut().find(|(_, s)| *s == Some(slot))
        {
            back.1 = None;
            return;
        }
        let behind = self.gap.as_mut().map(|gap| &mut gap.behind);
        let queues = [Some(&mut self.queue), Some(&mut self.staged), behind];
        for queue in queues.into_iter().flatten() {
            if let Some(index) = queue.iter().rposition(|s| *s == slot) {
                queue.remove(index);
                return;
            }
        }
    }

    /// What waits for the lost ones, in no order.
    pub(crate) fn gap_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        let gap = self.gap.iter();
        gap.flat_map(|gap| {
            gap.ids
                .values()
                .filter_map(|(_, slot)| *slot)
                .chain(gap.behind.iter().copied())
        })
    }
}

/// All lanes that hold something. Bounded by the window.
#[derive(Debug)]
pub(crate) struct Lanes {
    by_key: HashMap<Bytes, LaneId>,
    lanes: Vec<Option<Lane>>,
    free: Vec<LaneId>,
    /// Blocked lanes by their share of the window.
    blocked: BTreeSet<(u64, LaneId)>,
    pub(crate) blocked_messages: u32,
    pub(crate) blocked_bytes: u64,
    window_messages_max: u64,
    window_bytes_max: u64,
}

impl Lanes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            by_key: HashMap::new(),
            lanes: Vec::new(),
            free: Vec::new(),
            blocked: BTreeSet::new(),
            blocked_messages: 0,
            blocked_bytes: 0,
            window_messages_max: u64::from(limits.window_messages_max.max(1)),
            window_bytes_max: limits.window_bytes_max.max(1),
        }
    }

    pub(crate) fn find(&self, key: &Bytes) -> Option<LaneId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn of(&mut self, key: Bytes) -> LaneId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            LaneId(u32::try_from(self.lanes.len() - 1).expect("lanes are bounded by the window"))
        });
        self.by_key.insert(key.clone(), id);
        self.lanes[id.0 as usize] = Some(Lane::new(key));
        id
    }

    pub(crate) fn get(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(id.0 as usize)?.as_mut()
    }

    /// The lane of a message that is in the kernel.
    pub(crate) fn at(&self, id: LaneId) -> &Lane {
        self.get(id).expect("a lane lives as long as its messages")
    }

    /// As [`Lanes::at`].
    pub(crate) fn at_mut(&mut self, id: LaneId) -> &mut Lane {
        self.get_mut(id)
            .expect("a lane lives as long as its messages")
    }

    pub(crate) fn enter(&mut self, id: LaneId, size: u64) {
        let lane = self.at_mut(id);
        lane.messages += 1;
        lane.bytes += size;
        if lane.is_blocked() {
            self.set_blocked(id, true);
        }
    }

    pub(crate) fn leave(&mut self, id: LaneId, size: u64) {
        let lane = self.at_mut(id);
        lane.messages -= 1;
        lane.bytes -= size;
        if lane.is_blocked() {
            self.set_blocked(id, true);
        }
        self.maybe_remove(id);
    }

    /// Removes a lane that holds nothing.
    pub(crate) fn maybe_remove(&mut self, id: LaneId) {
        if self
            .get(id)
            .is_some_and(|lane| lane.messages == 0 && lane.gap.is_none())
        {
            self.set_blocked(id, false);
            let lane = self.lanes[id.0 as usize].take().expect("it was there");
            self.by_key.remove(&lane.key);
            self.free.push(id);
        }
    }

    /// Says whether the first message of a lane is backing off; keeps its weight up to date.
    pub(crate) fn set_blocked(&mut self, id: LaneId, blocked: bool) {
        let (messages_max, bytes_max) = (self.window_messages_max, self.window_bytes_max);
        let lane = self.lanes[id.0 as usize]
            .as_mut()
            .expect("a lane lives as long as its messages");
        let now = blocked.then(|| {
            let share = |part: u64, whole: u64| part.saturating_mul(1 << 20) / whole;
            let weight =
                share(u64::from(lane.messages), messages_max).max(share(lane.bytes, bytes_max));
            (weight, lane.messages, lane.bytes)
        });
        if let Some((weight, messages, bytes)) = std::mem::replace(&mut lane.blocked, now) {
            self.blocked.remove(&(weight, id));
            self.blocked_messages -= messages;
            self.blocked_bytes -= bytes;
        }
        if let Some((weight, messages, bytes)) = now {
            self.blocked.insert((weight, id));
            self.blocked_messages += messages;
            self.blocked_bytes += bytes;
        }
    }

    /// The blocked lane with the largest share of the window.
    pub(crate) fn largest_blocked(&self) -> Option<LaneId> {
        self.blocked.last().map(|(_, id)| *id)
    }

    pub(crate) fn blocked_len(&self) -> usize {
        self.blocked.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// All lanes, in the order of their numbers.
    pub(crate) fn ids(&self) -> impl Iterator<Item = LaneId> + '_ {
        let used = self
            .lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| lane.is_some());
        used.map(|(index, _)| LaneId(index as u32))
    }
}
