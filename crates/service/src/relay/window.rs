//! Which rows may be published now: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::Mono;
use postrider_core::envelope::Outgoing;
use postrider_core::name::Destination;
use postrider_core::planted::{self, Plant};
use postrider_core::store::OutboxRow;

use super::{BATCH_BYTES_MAX, BATCH_ROWS_MAX, LANES_MAX, WINDOW_BYTES_MAX, WINDOW_ROWS_MAX};

/// Rows of blocked lanes that stay in memory; of further ones only the place is kept, and they are read again when the lane goes on.
const BLOCKED_ROWS_MAX: usize = WINDOW_ROWS_MAX / 2;

/// A lane whose rows must be read again waits this much longer: reading costs more than keeping.
const EVICTED_WAIT: Duration = Duration::from_secs(5);

/// What is published in order: a key of a destination, or a row without a key by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LaneId {
    Key(Destination, Bytes),
    Row(u64),
}

impl LaneId {
    pub(super) fn of(number: u64, message: &Outgoing) -> Self {
        match &message.envelope.key {
            Some(key) => Self::Key(message.destination.clone(), key.as_bytes().clone()),
            None => Self::Row(number),
        }
    }
}

#[derive(Debug, Default)]
struct Lane {
    rows: BTreeSet<u64>,
    in_flight: usize,
    blocked: Option<Blocked>,
    /// The first of its rows that is not in memory although it was read.
    skipped_from: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Blocked {
    until: Mono,
    tries: u32,
    stuck: bool,
}

struct Waiting {
    message: Outgoing,
    in_flight: bool,
}

/// The rows in memory and the lanes that they belong to.
#[derive(Default)]
pub(super) struct Window {
    rows: BTreeMap<u64, Waiting>,
    lanes: HashMap<LaneId, Lane>,
    /// Published and not yet removed: not published again when they are read again.
    done: BTreeSet<u64>,
    /// Removed since the last take began, which may have read them before.
    gone: BTreeSet<u64>,
    cursor: Cursor,
    bytes: usize,
}

/// Where the next take begins, and how often it was set back: rows of a take that began before that are void, since they could
/// come before the rows for which it was set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) after: u64,
    turn: u64,
}

impl Cursor {
    fn back_to(&mut self, first: u64) {
        self.after = self.after.min(first.saturating_sub(1));
        self.turn += 1;
    }
}

impl Window {
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// A take begins: the outbox gives it nothing of what was removed before.
    pub(super) fn take_begins(&mut self) -> Cursor {
        self.gone.clear();
        self.cursor
    }

    /// Reads from the beginning again: rows that are known are skipped.
    pub(super) fn rewind(&mut self) {
        self.cursor.back_to(0);
    }

    pub(super) fn has_room(&self) -> bool {
        self.rows.len() < WINDOW_ROWS_MAX
            && self.bytes < WINDOW_BYTES_MAX
            && self.done.len() < WINDOW_ROWS_MAX
            && self.lanes.len() < LANES_MAX
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn blocked(&self) -> usize {
        self.lanes.values().filter(|l| l.blocked.is_some()).count()
    }

    pub(super) fn stuck(&self) -> usize {
        let stuck = |l: &&Lane| l.blocked.is_some_and(|b| b.stuck);
        self.lanes.values().filter(stuck).count()
    }

    /// Rows that were taken at this cursor, in order. Gives whether there may be more.
    pub(super) fn admit(&mut self, taken_at: Cursor, rows: Vec<OutboxRow>) -> bool {
        if taken_at != self.cursor {
            return true;
        }
        let more = !rows.is_empty();
        let mut blocked_rows = self.blocked_rows();
        for OutboxRow { number, message } in rows {
            self.cursor.after = self.cursor.after.max(number);
            if self.is_known(number) {
                continue;
            }
            let lane = self.lanes.entry(LaneId::of(number, &message)).or_default();
            if lane.skipped_from.is_some()
                || (lane.blocked.is_some() && blocked_rows >= BLOCKED_ROWS_MAX)
            {
                lane.skipped_from = Some(lane.skipped_from.map_or(number, |n| n.min(number)));
                continue;
            }
            blocked_rows += usize::from(lane.blocked.is_some());
            lane.rows.insert(number);
            self.bytes += message.payload.len();
            let in_flight = false;
            self.rows.insert(number, Waiting { message, in_flight });
        }
        more
    }

    fn is_known(&self, number: u64) -> bool {
        let gone = self.gone.contains(&number) && !planted::is(Plant::RelayForgetsRemoved);
        gone || self.rows.contains_key(&number) || self.done.contains(&number)
    }

    /// The next rows to publish in one call, in order. A lane with a call outstanding waits; one that failed before sends its first row alone.
    pub(super) fn next_batch(&mut self, now: Mono) -> Vec<OutboxRow> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut own: HashSet<LaneId> = HashSet::new();
        for (number, waiting) in &mut self.rows {
            if batch.len() == BATCH_ROWS_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            if waiting.in_flight {
                continue;
            }
            let id = LaneId::of(*number, &waiting.message);
            let lane = self
                .lanes
                .get_mut(&id)
                .expect("each row in memory has a lane");
            let waits = lane
                .blocked
                .is_some_and(|b| b.until > now || lane.in_flight > 0);
            if waits || (lane.in_flight > 0 && !own.contains(&id)) {
                continue;
            }
            lane.in_flight += 1;
            waiting.in_flight = true;
            bytes += waiting.message.payload.len();
            own.insert(id);
            batch.push(OutboxRow {
                number: *number,
                message: waiting.message.clone(),
            });
        }
        batch
    }

    /// The engine confirmed the row. `heal`: no earlier row of its lane failed in the same call.
    pub(super) fn published(&mut self, number: u64, heal: bool) {
        let Some(waiting) = self.rows.remove(&number) else {
            return;
        };
        self.bytes -= waiting.message.payload.len();
        self.done.insert(number);
        let id = LaneId::of(number, &waiting.message);
        let lane = self
            .lanes
            .get_mut(&id)
            .expect("each row in memory has a lane");
        lane.rows.remove(&number);
        lane.in_flight -= 1;
        if heal {
            lane.blocked = None;
        }
        if lane.rows.is_empty()
            && let Some(from) = lane.skipped_from.take()
        {
            self.cursor.back_to(from);
        }
        self.forget_if_idle(&id);
    }

    /// The row goes back to its place and is tried again; its lane is not to blame.
    pub(super) fn returned(&mut self, number: u64) {
        let Some(waiting) = self.rows.get_mut(&number) else {
            return;
        };
        waiting.in_flight = false;
        let id = LaneId::of(number, &waiting.message);
        let lane = self
            .lanes
            .get_mut(&id)
            .expect("each row in memory has a lane");
        lane.in_flight -= 1;
    }

    /// The row failed and was returned: its lane waits until then. Gives how often in a row it has failed.
    pub(super) fn block(
        &mut self,
        id: &LaneId,
        stuck: bool,
        until: impl FnOnce(u32) -> Mono,
    ) -> u32 {
        let lane = self.lanes.entry(id.clone()).or_default();
        let tries = lane.blocked.map_or(0, |b| b.tries).saturating_add(1);
        lane.blocked = Some(Blocked {
            until: until(tries),
            tries,
            stuck,
        });
        if self.blocked_rows() > BLOCKED_ROWS_MAX {
            self.evict(id);
        }
        tries
    }

    /// Whether the lane's first row was refused for good before: said once.
    pub(super) fn is_stuck(&self, id: &LaneId) -> bool {
        let lane = self.lanes.get(id);
        lane.and_then(|l| l.blocked).is_some_and(|b| b.stuck)
    }

    /// Removed from the outbox.
    pub(super) fn removed(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.done.remove(number);
            self.gone.insert(*number);
        }
    }

    /// Published rows that wait to be removed, at most `limit`.
    pub(super) fn to_remove(&self, limit: usize) -> Vec<u64> {
        self.done.iter().take(limit).copied().collect()
    }

    /// Lanes whose wait is over and whose rows are not in memory are read again. Gives when the next wait is over.
    pub(super) fn wake(&mut self, now: Mono) -> Option<Mono> {
        let mut next: Option<Mono> = None;
        let mut woken = Vec::new();
        for (id, lane) in &mut self.lanes {
            let Some(blocked) = lane.blocked else {
                continue;
            };
            if blocked.until > now {
                next = Some(next.map_or(blocked.until, |n| n.min(blocked.until)));
            } else if lane.rows.is_empty() {
                if let Some(from) = lane.skipped_from.take() {
                    self.cursor.back_to(from);
                }
                lane.blocked = None;
                woken.push(id.clone());
            }
        }
        for id in woken {
            self.forget_if_idle(&id);
        }
        next
    }

    fn blocked_rows(&self) -> usize {
        let blocked = self.lanes.values().filter(|l| l.blocked.is_some());
        blocked.map(|l| l.rows.len()).sum()
    }

    /// Drops the rows of a blocked lane from memory; the outbox still has them.
    fn evict(&mut self, id: &LaneId) {
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        if lane.in_flight > 0 {
            return;
        }
        if let Some(blocked) = &mut lane.blocked {
            blocked.until = blocked.until.plus(EVICTED_WAIT);
        }
        for number in std::mem::take(&mut lane.rows) {
            lane.skipped_from = Some(lane.skipped_from.map_or(number, |n| n.min(number)));
            if let Some(waiting) = self.rows.remove(&number) {
                self.bytes -= waiting.message.payload.len();
            }
        }
    }

    fn forget_if_idle(&mut self, id: &LaneId) {
        let idle = |l: &Lane| {
            l.rows.is_empty() && l.in_flight == 0 && l.blocked.is_none() && l.skipped_from.is_none()
        };
        if self.lanes.get(id).is_some_and(idle) {
            self.lanes.remove(id);
        }
    }
}
