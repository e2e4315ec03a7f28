//! Who gets which message of a subscription next. Volatile: after a restart it begins anew at the floor.
//!
//! ```text
//!            cursor                       due in time            settled ─▶ gone
//!  stream ──────────▶ scan ─┬─ delayed ───────────────┐             ▲
//!                           ├─ key busy ─▶ lane queue ─┤ head        │
//!                           └─ free ───────────────────┴─▶ in flight ┴─ returned, expired ─▶ lane queue
//! ```
//!
//! In an ordered subscription a *lane* holds the messages of one key that were looked at and are neither settled nor in flight.
//! Only the head of a lane can be handed out: to the member that has others of the key in flight, or to anyone when nobody has. Heads
//! that may go are indexed by offset (`loose`, `owned`), so a blocked key is never scanned again, and other keys pass it.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;
use crate::batch::Meta;
use crate::ids::{IntMap, KeyHash, LeaseToken, MemberId, Now, Offset};
use crate::planted::{self, Plant};

/// Lease deadlines are counted in buckets of this many milliseconds: a lease ends up to one bucket late, never early.
const DEADLINE_BUCKET_MS: u64 = 50;
/// Records looked at in one call before it gives back control.
const SCAN_MAX: usize = 20_000;

/// What the dispatcher asks about the stream and about what is durable of the subscription.
pub(crate) trait Feed {
    /// Offsets from here on must not be seen.
    fn visible_end(&self) -> Offset;
    /// The first offset from `from` on that is not settled; may lie beyond the visible end.
    fn next_unsettled(&self, from: Offset) -> Offset;
    /// What the record is; `None` if there is none at this offset.
    fn meta(&mut self, offset: Offset) -> Result<Option<Meta>, Error>;
    /// The monotonic time in ms before which a returned message must not be handed out; 0 is none.
    fn not_before_ms(&self, offset: Offset) -> u64;
}

/// What a lease call may give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// When the leases end, monotonic ms.
    pub(crate) until_ms: u64,
}

/// What a lease call did. Timers are for the caller to set; expired messages for the caller to settle.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) picks: Vec<(Offset, LeaseToken)>,
    pub(crate) expired: Vec<Offset>,
    /// Due at a wall time in ms.
    pub(crate) delayed: Vec<(u64, Offset)>,
    /// Blocked until a monotonic time in ms.
    pub(crate) blocked: Vec<(u64, Offset)>,
    /// Stopped for its budget: there may be more.
    pub(crate) more: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) token: LeaseToken,
    pub(crate) member: MemberId,
    pub(crate) until_ms: u64,
    key: Option<KeyHash>,
}

/// The messages of one key.
#[derive(Debug, Default)]
struct Lane {
    /// Who has messages of the key in flight. Means something only while `in_flight` is not 0.
    member: MemberId,
    in_flight: u32,
    queue: BTreeSet<Offset>,
}

#[derive(Debug)]
pub(crate) struct Dispatch {
    ordered: bool,
    look_ahead_max: usize,
    /// Tells timers of this dispatcher from those of the one before a seek.
    pub(crate) generation: u16,
    cursor: Offset,
    in_flight: IntMap<Offset, InFlight>,
    lanes: IntMap<KeyHash, Lane>,
    /// May be handed to anyone.
    loose: BTreeMap<Offset, Option<KeyHash>>,
    /// May be handed to the member that has others of the key.
    owned: IntMap<MemberId, BTreeMap<Offset, KeyHash>>,
    /// Not before a monotonic time in ms.
    blocked: IntMap<Offset, (u64, Option<KeyHash>)>,
    /// Delayed messages that are due and were not looked at again yet.
    due: BTreeSet<Offset>,
    /// Put aside until a wall time, and not due yet. One that is settled meanwhile counts until then.
    delayed: usize,
    /// Looked at, not settled, not in flight, not delayed.
    waiting: usize,
    deadlines: BTreeMap<u64, u32>,
    armed_ms: Option<u64>,
    tokens: u64,
}

impl Dispatch {
    pub(crate) fn new(
        ordered: bool,
        look_ahead_max: u32,
        generation: u16,
        cursor: Offset,
        tokens: u64,
    ) -> Self {
        Dispatch {
            ordered,
            look_ahead_max: look_ahead_max.max(1) as usize,
            generation,
            cursor,
            in_flight: IntMap::default(),
            lanes: IntMap::default(),
            loose: BTreeMap::new(),
            owned: IntMap::default(),
            blocked: IntMap::default(),
            due: BTreeSet::new(),
            delayed: 0,
            waiting: 0,
            deadlines: BTreeMap::new(),
            armed_ms: None,
            tokens,
        }
    }

    pub(crate) fn set_look_ahead(&mut self, look_ahead_max: u32) {
        self.look_ahead_max = look_ahead_max.max(1) as usize;
    }

    /// Tokens are minted by the log: no two subscriptions give the same one.
    pub(crate) fn set_tokens(&mut self, tokens: u64) {
        self.tokens = tokens;
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// When to set a timer for the first lease that ends, if none is set for as early; monotonic ms.
    pub(crate) fn arm(&mut self) -> Option<u64> {
        let due = self.next_deadline_ms()?;
        if self.armed_ms.is_some_and(|armed| armed <= due) {
            return None;
        }
        self.armed_ms = Some(due);
        Some(due)
    }

    /// The timer fired.
    pub(crate) fn disarm(&mut self) {
        self.armed_ms = None;
    }

    pub(crate) fn in_flight_len(&self) -> usize {
        self.in_flight.len()
    }

    /// Messages that are kept back until a time.
    pub(crate) fn delayed_len(&self) -> usize {
        self.delayed + self.blocked.len()
    }

    pub(crate) fn waiting_len(&self) -> usize {
        self.waiting
    }

    pub(crate) fn lease_of(&self, offset: Offset) -> Option<&InFlight> {
        self.in_flight.get(&offset)
    }

    /// Whether a lease call could give something, to some member at least.
    pub(crate) fn is_ready(&self, visible_end: Offset) -> bool {
        !self.loose.is_empty()
            || !self.owned.is_empty()
            || !self.due.is_empty()
            || (self.cursor < visible_end && self.waiting < self.look_ahead_max)
    }

    /// When the first lease ends, monotonic ms.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines
            .keys()
            .next()
            .map(|bucket| bucket * DEADLINE_BUCKET_MS)
    }

    /// Hands out what `member` may have: first what was looked at before, in order of offsets, then what is new.
    pub(crate) fn lease(
        &mut self,
        member: MemberId,
        room: Room,
        now: Now,
        feed: &mut dyn Feed,
    ) -> Result<Outcome, Error> {
        let mut call = Call {
            member,
            room,
            now,
            bytes: 0,
            looked: 0,
            out: Outcome::default(),
        };
        let result = self
            .look_at_due(&mut call, feed)
            .and_then(|()| self.take_ready(&mut call, feed))
            .and_then(|open| {
                if open {
                    self.scan(&mut call, feed)
                } else {
                    Ok(())
                }
            });
        let out = call.out;
        self.delayed += out.delayed.len();
        let nothing = out.picks.is_empty()
            && out.expired.is_empty()
            && out.delayed.is_empty()
            && out.blocked.is_empty();
        match result {
            Err(error) if nothing => Err(error),
            // What was done before the error counts; the error comes back with the next call.
            Err(_) => Ok(Outcome { more: true, ..out }),
            Ok(()) => Ok(out),
        }
    }

    fn look_at_due(&mut self, call: &mut Call, feed: &mut dyn Feed) -> Result<(), Error> {
        while let Some(&offset) = self.due.first() {
            if call.looked >= SCAN_MAX {
                call.out.more = true;
                return Ok(());
            }
            call.looked += 1;
            let known =
                self.in_flight.contains_key(&offset) || feed.next_unsettled(offset) != offset;
            let meta = if known { None } else { feed.meta(offset)? };
            self.due.pop_first();
            let Some(meta) = meta else { continue };
            if call.sort_out(offset, &meta) {
                continue;
            }
            self.hold_back(offset, self.lane_key(&meta), call, feed);
        }
        Ok(())
    }

    /// `Ok(false)`: no room is left.
    fn take_ready(&mut self, call: &mut Call, feed: &mut dyn Feed) -> Result<bool, Error> {
        loop {
            let loose = self
                .loose
                .first_key_value()
                .map(|(offset, key)| (*offset, *key));
            let owned = self
                .owned
                .get(&call.member)
                .and_then(|heads| heads.first_key_value());
            let owned = owned.map(|(offset, key)| (*offset, Some(*key)));
            let first = match (loose, owned) {
                (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
                (a, b) => a.or(b),
            };
            let Some((offset, key)) = first else {
                return Ok(true);
            };
            if call.is_full() {
                return Ok(false);
            }
            if feed.next_unsettled(offset) != offset {
                self.drop_head(offset, key);
                continue;
            }
            let Some(meta) = feed.meta(offset)? else {
                self.drop_head(offset, key);
                continue;
            };
            if call.sort_out(offset, &meta) {
                self.drop_head(offset, key);
                continue;
            }
            if !call.fits(&meta) {
                return Ok(false);
            }
            self.drop_head(offset, key);
            self.hand_out(offset, key, call, &meta);
        }
    }

    fn scan(&mut self, call: &mut Call, feed: &mut dyn Feed) -> Result<(), Error> {
        loop {
            let offset = feed.next_unsettled(self.cursor);
            if offset >= feed.visible_end() {
                self.cursor = self.cursor.max(offset.min(feed.visible_end()));
                return Ok(());
            }
            if call.is_full() || self.waiting >= self.look_ahead_max {
                return Ok(());
            }
            if call.looked >= SCAN_MAX {
                call.out.more = true;
                return Ok(());
            }
            call.looked += 1;
            let Some(meta) = feed.meta(offset)? else {
                self.cursor = offset + 1;
                continue;
            };
            if call.sort_out(offset, &meta) {
                self.cursor = offset + 1;
                continue;
            }
            let key = self.lane_key(&meta);
            if self.must_wait(offset, key, call, feed) {
                self.cursor = offset + 1;
                self.hold_back(offset, key, call, feed);
                continue;
            }
            if !call.fits(&meta) {
                return Ok(());
            }
            self.cursor = offset + 1;
            self.hand_out(offset, key, call, &meta);
        }
    }

    fn lane_key(&self, meta: &Meta) -> Option<KeyHash> {
        if self.ordered { meta.key } else { None }
    }

    fn must_wait(
        &self,
        offset: Offset,
        key: Option<KeyHash>,
        call: &Call,
        feed: &dyn Feed,
    ) -> bool {
        let busy = key
            .and_then(|key| self.lanes.get(&key))
            .is_some_and(|lane| {
                (!lane.queue.is_empty() && !planted::is(Plant::KeyPassesItself))
                    || (lane.in_flight > 0 && lane.member != call.member)
            });
        busy || feed.not_before_ms(offset) > call.now.mono_ms()
    }

    /// Puts a message that may not go now where it waits.
    fn hold_back(
        &mut self,
        offset: Offset,
        key: Option<KeyHash>,
        call: &mut Call,
        feed: &dyn Feed,
    ) {
        let until_ms = feed.not_before_ms(offset);
        if until_ms > call.now.mono_ms() {
            call.out.blocked.push((until_ms, offset));
            self.wait(offset, key, Some(until_ms));
        } else {
            self.wait(offset, key, None);
        }
    }

    fn hand_out(&mut self, offset: Offset, key: Option<KeyHash>, call: &mut Call, meta: &Meta) {
        self.tokens += 1;
        let token = LeaseToken(self.tokens);
        let until_ms = call.room.until_ms;
        if let Some(key) = key {
            self.change_lane(key, |lane| {
                assert!(
                    lane.in_flight == 0 || lane.member == call.member,
                    "a key is with one member at a time"
                );
                lane.member = call.member;
                lane.in_flight += 1;
            });
        }
        let before = self.in_flight.insert(
            offset,
            InFlight {
                token,
                member: call.member,
                until_ms,
                key,
            },
        );
        assert!(before.is_none(), "a message is in flight once");
        *self.deadlines.entry(bucket(until_ms)).or_default() += 1;
        call.bytes = call.bytes.saturating_add(meta.size as usize);
        call.out.picks.push((offset, token));
    }

    /// Adds a message to those that wait.
    fn wait(&mut self, offset: Offset, key: Option<KeyHash>, until_ms: Option<u64>) {
        self.waiting += 1;
        if let Some(until_ms) = until_ms {
            self.blocked.insert(offset, (until_ms, key));
        }
        match key {
            Some(key) => self.change_lane(key, |lane| {
                lane.queue.insert(offset);
            }),
            None if until_ms.is_none() => {
                self.loose.insert(offset, None);
            }
            None => {}
        }
    }

    /// Takes a message that could be handed out from those that wait.
    fn drop_head(&mut self, offset: Offset, key: Option<KeyHash>) {
        self.waiting -= 1;
        match key {
            Some(key) => self.change_lane(key, |lane| {
                lane.queue.remove(&offset);
            }),
            None => {
                self.loose.remove(&offset);
            }
        }
    }

    /// Every change of a lane goes through here: its head leaves the index before, and is put where it belongs after.
    fn change_lane(&mut self, key: KeyHash, change: impl FnOnce(&mut Lane)) {
        let lane = self.lanes.entry(key).or_default();
        if let Some(head) = lane.queue.first() {
            self.loose.remove(head);
            if let Some(heads) = self.owned.get_mut(&lane.member) {
                heads.remove(head);
                if heads.is_empty() {
                    self.owned.remove(&lane.member);
                }
            }
        }
        change(lane);
        match lane.queue.first() {
            None if lane.in_flight == 0 => {
                self.lanes.remove(&key);
            }
            Some(head) if !self.blocked.contains_key(head) => {
                if lane.in_flight == 0 {
                    self.loose.insert(*head, Some(key));
                } else {
                    self.owned
                        .entry(lane.member)
                        .or_default()
                        .insert(*head, key);
                }
            }
            _ => {}
        }
    }

    fn end_lease(&mut self, offset: Offset) -> Option<InFlight> {
        let lease = self.in_flight.remove(&offset)?;
        let bucket = bucket(lease.until_ms);
        let count = self
            .deadlines
            .get_mut(&bucket)
            .expect("every lease is counted in its bucket");
        *count -= 1;
        if *count == 0 {
            self.deadlines.remove(&bucket);
        }
        Some(lease)
    }

    /// The message is settled. One that is not in flight is found to be settled when its turn comes.
    pub(crate) fn settle(&mut self, offset: Offset) {
        let Some(lease) = self.end_lease(offset) else {
            return;
        };
        if let Some(key) = lease.key {
            self.change_lane(key, |lane| lane.in_flight -= 1);
        }
    }

    /// All of `[from, to)` is settled.
    pub(crate) fn settle_range(&mut self, from: Offset, to: Offset) {
        if to - from <= self.in_flight.len() as u64 {
            (from..to).for_each(|offset| self.settle(offset));
        } else {
            let range = from..to;
            let held: Vec<Offset> = self
                .in_flight
                .keys()
                .filter(|o| range.contains(o))
                .copied()
                .collect();
            held.into_iter().for_each(|offset| self.settle(offset));
        }
    }

    /// The lease ends without a settle. With `until_ms` the caller sets a timer that calls [`unblock`](Self::unblock).
    pub(crate) fn give_back(&mut self, offset: Offset, until_ms: Option<u64>) {
        let Some(lease) = self.end_lease(offset) else {
            return;
        };
        // First it waits, then its key is released: nothing of the key can pass it.
        self.wait(offset, lease.key, until_ms);
        if let Some(key) = lease.key {
            self.change_lane(key, |lane| lane.in_flight -= 1);
        }
    }

    /// A message that was put aside as expired was not settled after all.
    pub(crate) fn look_again(&mut self, offset: Offset) {
        self.due.insert(offset);
    }

    /// A delayed message is due.
    pub(crate) fn delay_over(&mut self, generation: u16, offset: Offset) {
        if generation == self.generation {
            self.delayed = self.delayed.saturating_sub(1);
            self.due.insert(offset);
        }
    }

    /// A back-off may be over.
    pub(crate) fn unblock(&mut self, offset: Offset, now_ms: u64) {
        let Some(&(until_ms, key)) = self.blocked.get(&offset) else {
            return;
        };
        if until_ms > now_ms {
            return;
        }
        match key {
            // The head is indexed anew once it is no longer blocked.
            Some(key) => {
                self.blocked.remove(&offset);
                self.change_lane(key, |_| {});
            }
            None => {
                self.blocked.remove(&offset);
                self.loose.insert(offset, None);
            }
        }
    }

    /// Ends the leases whose time is over; gives their offsets in order.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<Offset> {
        if self.next_deadline_ms().is_none_or(|first| first > now_ms) {
            return Vec::new();
        }
        let over = |lease: &InFlight| bucket(lease.until_ms) * DEADLINE_BUCKET_MS <= now_ms;
        self.give_back_where(over)
    }

    /// The offsets that a member has in flight, in order.
    pub(crate) fn held_by(&self, member: MemberId) -> Vec<Offset> {
        let held = self
            .in_flight
            .iter()
            .filter(|(_, lease)| lease.member == member);
        let mut offsets: Vec<Offset> = held.map(|(offset, _)| *offset).collect();
        offsets.sort_unstable();
        offsets
    }

    fn give_back_where(&mut self, which: impl Fn(&InFlight) -> bool) -> Vec<Offset> {
        let matching = self.in_flight.iter().filter(|(_, lease)| which(lease));
        let mut offsets: Vec<Offset> = matching.map(|(offset, _)| *offset).collect();
        offsets.sort_unstable();
        for offset in &offsets {
            self.give_back(*offset, None);
        }
        offsets
    }

    /// Moves the end of a lease. `false`: there is no such lease.
    pub(crate) fn extend(&mut self, offset: Offset, token: LeaseToken, until_ms: u64) -> bool {
        let Some(lease) = self
            .in_flight
            .get_mut(&offset)
            .filter(|lease| lease.token == token)
        else {
            return false;
        };
        let before = bucket(std::mem::replace(&mut lease.until_ms, until_ms));
        let count = self
            .deadlines
            .get_mut(&before)
            .expect("every lease is counted in its bucket");
        *count -= 1;
        if *count == 0 {
            self.deadlines.remove(&before);
        }
        *self.deadlines.entry(bucket(until_ms)).or_default() += 1;
        true
    }
}

fn bucket(until_ms: u64) -> u64 {
    until_ms.div_ceil(DEADLINE_BUCKET_MS)
}

/// One lease call on its way.
struct Call {
    member: MemberId,
    room: Room,
    now: Now,
    bytes: usize,
    looked: usize,
    out: Outcome,
}

impl Call {
    fn is_full(&self) -> bool {
        self.out.picks.len() >= self.room.messages
    }

    /// The first message always fits.
    fn fits(&self, meta: &Meta) -> bool {
        self.out.picks.is_empty()
            || self.bytes.saturating_add(meta.size as usize) <= self.room.bytes
    }

    /// Puts aside what has expired or is not due. `true`: it was.
    fn sort_out(&mut self, offset: Offset, meta: &Meta) -> bool {
        if meta.expires_at_ms != 0 && meta.expires_at_ms <= self.now.wall_ms {
            self.out.expired.push(offset);
            return true;
        }
        if meta.deliver_at_ms > self.now.wall_ms {
            self.out.delayed.push((meta.deliver_at_ms, offset));
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests;
