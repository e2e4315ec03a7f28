//! What all entries so far amount to, and the one function that changes it: [`State::apply`].

use std::collections::HashMap;

use bytes::Bytes;

use crate::Error;
use crate::batch::Table;
use crate::codec::Reader;
use crate::entry::{Ddl, Entry, Moved, Owner, kind};
use crate::ids::{FailureId, IntMap, Now, Offset, StreamId, SubId, millis};
use crate::planted::{self, Plant};
use crate::view::failures::{Action, Audit, NewFailure, Pieces};
use crate::view::offsets::ReaderState;
use crate::view::stream::{Run, Stream};
use crate::view::subscription::Subscription;
use crate::wal::{Location, Lsn, SegmentId};

/// A timer on the monotonic wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MonoTimer {
    /// Leases of the subscription may end.
    Leases(SubId),
    /// A returned message may go again.
    Retry(SubId, Offset),
}

/// A timer on the wheel of wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WallTimer {
    /// A delayed message is due, for the dispatcher of this generation.
    Due(SubId, u16, Offset),
    /// All records of the run that starts here have expired.
    Expired(StreamId, Offset),
    /// Retention may let go of something.
    Retention(StreamId),
}

/// There may be a million of them.
const _: () = assert!(size_of::<WallTimer>() == 16);

/// What an apply leaves to be done by the live log; recovery throws most of it away.
#[derive(Debug, Default)]
pub(crate) struct Todo {
    pub(crate) mono: Vec<(u64, MonoTimer)>,
    pub(crate) wall: Vec<(u64, WallTimer)>,
    /// Streams that grew, were created, or reserved offsets.
    pub(crate) grown: Vec<(StreamId, Lsn)>,
    /// Streams over which retention by bytes should look.
    pub(crate) trim: Vec<StreamId>,
    pub(crate) woken: Vec<SubId>,
    pub(crate) woken_streams: Vec<StreamId>,
    /// Runs of this frame that somebody may still read.
    pub(crate) kept: Vec<Location>,
}

impl Todo {
    /// A stream grew: retention by bytes looks at once, retention by age when its timer fires.
    fn retain(&mut self, stream: &mut Stream, at_ms: u64) {
        let retention = stream.config.retention;
        if retention.bytes.is_some() {
            self.trim.push(stream.id);
        }
        if let Some(age) = retention.age.filter(|_| !stream.retention_armed) {
            stream.retention_armed = true;
            let due_ms = at_ms.saturating_add(millis(age));
            self.wall.push((due_ms, WallTimer::Retention(stream.id)));
        }
    }
}

/// What of a segment is still needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needed {
    /// Entries, each once for everyone who needs it.
    pub(crate) entries: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) streams: IntMap<StreamId, Stream>,
    pub(crate) names: HashMap<Box<str>, StreamId>,
    pub(crate) subs: IntMap<SubId, Subscription>,
    pub(crate) last_stream: u32,
    pub(crate) last_sub: u32,
    /// What of each segment is still needed for its bytes.
    pub(crate) segments: IntMap<SegmentId, Needed>,
    pub(crate) todo: Todo,
}

impl State {
    pub(crate) fn stream(&self, stream: StreamId) -> Result<&Stream, Error> {
        self.streams
            .get(&stream)
            .ok_or_else(|| Error::UnknownStream {
                stream: stream.to_string(),
            })
    }

    pub(crate) fn sub(&self, sub: SubId) -> Result<&Subscription, Error> {
        self.subs
            .get(&sub)
            .ok_or_else(|| Error::UnknownSubscription {
                sub: sub.to_string(),
            })
    }

    pub(crate) fn sub_mut(&mut self, sub: SubId) -> Result<&mut Subscription, Error> {
        self.subs
            .get_mut(&sub)
            .ok_or_else(|| Error::UnknownSubscription {
                sub: sub.to_string(),
            })
    }

    /// The subscription and its stream.
    pub(crate) fn sub_and_stream(&self, sub: SubId) -> Result<(&Subscription, &Stream), Error> {
        let sub = self.sub(sub)?;
        Ok((sub, self.stream(sub.stream)?))
    }

    pub(crate) fn wake(&mut self, sub: SubId) {
        if let Some(sub) = self.subs.get_mut(&sub).filter(|sub| !sub.woken) {
            sub.woken = true;
            self.todo.woken.push(sub.id);
        }
    }

    pub(crate) fn needed(&mut self, location: Location) {
        let needed = self.segments.entry(location.segment).or_default();
        needed.entries += 1;
        needed.bytes += u64::from(location.len);
    }

    pub(crate) fn freed(&mut self, locations: &[Location]) {
        for location in locations {
            let needed = self
                .segments
                .get_mut(&location.segment)
                .expect("what is freed was needed");
            needed.entries -= 1;
            needed.bytes = needed.bytes.saturating_sub(u64::from(location.len));
            if needed.entries == 0 {
                self.segments.remove(&location.segment);
            }
        }
    }

    /// Applies the entries of one frame. Entries of things that were deleted since are passed over.
    pub(crate) fn apply(
        &mut self,
        lsn: Lsn,
        entries: &[(Entry<'_>, Location)],
        now: Now,
    ) -> Result<(), Error> {
        for (index, (entry, location)) in entries.iter().enumerate() {
            match entry {
                Entry::Data {
                    stream,
                    base,
                    block,
                } => {
                    self.apply_data(lsn, *stream, *base, block, *location)?;
                }
                Entry::Ref {
                    stream,
                    base,
                    target,
                } => {
                    let target = entries
                        .get(usize::from(*target))
                        .filter(|_| usize::from(*target) < index);
                    let Some((Entry::Data { block, .. }, location)) = target else {
                        return Err(Error::Malformed {
                            what: "log entry",
                            why: "it refers to no data of its frame",
                        });
                    };
                    self.apply_data(lsn, *stream, *base, block, *location)?;
                }
                Entry::Skipped | Entry::Copy { .. } => {}
                Entry::Move { moves } => self.apply_moves(moves, &entries[..index])?,
                Entry::Ddl(ddl) => self.apply_ddl(lsn, ddl),
                Entry::Reserve { stream, upto } => {
                    if let Some(stream) = self.streams.get_mut(stream) {
                        stream.reserved = stream.reserved.max(*upto);
                        self.todo.grown.push((stream.id, lsn));
                    }
                }
                Entry::Trim { stream, before } => self.apply_trim(*stream, *before),
                Entry::Offset {
                    stream,
                    group,
                    epoch,
                    watermark,
                    done,
                    meta,
                } => {
                    if let Some(stream) = self.streams.get_mut(stream) {
                        let (done, meta) = (done.clone(), meta.to_vec());
                        let state = ReaderState {
                            epoch: *epoch,
                            watermark: *watermark,
                            done,
                            meta,
                        };
                        stream.readers.insert((*group).into(), state);
                    }
                }
                entry => self.apply_delivery(entry, *location, now)?,
            }
        }
        Ok(())
    }

    /// What their owners had at one place they have in this frame from now on.
    fn apply_moves(
        &mut self,
        moves: &[Moved],
        before: &[(Entry<'_>, Location)],
    ) -> Result<(), Error> {
        for Moved {
            from,
            target,
            owners,
        } in moves
        {
            let copy = before.get(usize::from(*target));
            let Some((Entry::Copy { .. }, to)) = copy.filter(|(_, to)| to.len == from.len) else {
                return Err(Error::Malformed {
                    what: "log entry",
                    why: "it moves something to where there is no copy of it",
                });
            };
            for owner in owners {
                if self.relocate(*owner, *from, *to) {
                    self.needed(*to);
                    self.freed(&[*from]);
                }
            }
        }
        Ok(())
    }

    fn relocate(&mut self, owner: Owner, from: Location, to: Location) -> bool {
        match owner {
            Owner::Run(stream, base) => {
                let stream = self.streams.get_mut(&stream);
                stream.is_some_and(|stream| stream.relocate(base, from, to))
            }
            Owner::Record(sub, id) | Owner::Cause(sub, id) => {
                let sub = self.subs.get_mut(&sub);
                let failures = sub.and_then(|sub| sub.failures.as_mut());
                failures.is_some_and(|failures| failures.relocate(id, from, to))
            }
        }
    }

    /// Where an owner has its entry now.
    pub(crate) fn location_of(&self, owner: Owner) -> Option<Location> {
        match owner {
            Owner::Run(stream, base) => self.streams.get(&stream)?.location_of(base),
            Owner::Record(sub, id) => Some(self.pieces(sub, id)?.payload),
            Owner::Cause(sub, id) => self.pieces(sub, id)?.meta,
        }
    }

    fn pieces(&self, sub: SubId, id: FailureId) -> Option<Pieces> {
        self.subs.get(&sub)?.failures.as_ref()?.pieces(id)
    }

    fn apply_data(
        &mut self,
        lsn: Lsn,
        id: StreamId,
        base: Offset,
        block: &[u8],
        at: Location,
    ) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let mut reader = Reader::new(block, "record batch");
        let table = Table::read(&mut reader)?;
        let at_ms = crate::batch::peek_at_ms(reader.rest());
        let end = base.checked_add(u64::from(table.count));
        let (Some(end), true) = (end, base >= stream.end) else {
            return Err(Error::Malformed {
                what: "log entry",
                why: "its offsets were used before",
            });
        };
        remember_ids(stream, &table, base, at_ms);
        let gap = (stream.end, base);
        let expires_ms = table.expires_last_ms();
        let kept = stream.push(Run {
            base,
            at,
            count: table.count,
            at_ms,
            expires_ms,
        });
        self.todo.retain(stream, at_ms);
        for sub in &stream.subs {
            let Some(sub) = self.subs.get_mut(sub) else {
                continue;
            };
            if gap.0 < gap.1 {
                sub.settle(gap.0, gap.1, |_, _| {});
            }
            sub.depth += end - base;
        }
        self.todo.grown.push((id, lsn));
        if kept {
            self.todo.kept.push(at);
            self.needed(at);
            if expires_ms != 0 {
                self.todo
                    .wall
                    .push((expires_ms, WallTimer::Expired(id, base)));
            }
        }
        Ok(())
    }

    fn apply_trim(&mut self, id: StreamId, before: Offset) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let mut freed = Vec::new();
        stream.trim(before, &mut freed);
        if stream.config.kind == crate::Kind::Events {
            // What is gone is nobody's any more. Runs are trimmed whole.
            let first = stream.first();
            for sub in &stream.subs {
                if let Some(sub) = self.subs.get_mut(sub) {
                    let mut gone = 0;
                    sub.settle(0, first, |from, to| gone += to - from);
                    sub.depth = sub.depth.saturating_sub(gone);
                }
            }
        }
        self.freed(&freed);
    }

    /// Settles ranges of a subscription that hold records.
    fn settle(&mut self, id: SubId, ranges: &[(Offset, Offset)]) {
        let Some(sub) = self.subs.get_mut(&id) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&sub.stream) else {
            return;
        };
        let mut freed = Vec::new();
        let mut settled = 0;
        for &(from, to) in ranges {
            sub.settle(from, to, |from, to| {
                settled += to - from;
                stream.settled(from, to, &mut freed);
            });
        }
        sub.depth = sub.depth.saturating_sub(settled);
        self.freed(&freed);
        self.wake_if_ready(id);
    }

    pub(crate) fn wake_if_ready(&mut self, id: SubId) {
        let Some(sub) = self.subs.get(&id) else {
            return;
        };
        let Some(stream) = self.streams.get(&sub.stream) else {
            return;
        };
        let ready = match &sub.dispatch {
            Some(dispatch) => dispatch.is_ready(stream.visible_end()),
            None => sub.settled.next_unsettled(0) < stream.visible_end(),
        };
        if ready && !sub.paused {
            self.wake(id);
        }
    }

    fn apply_delivery(
        &mut self,
        entry: &Entry<'_>,
        location: Location,
        now: Now,
    ) -> Result<(), Error> {
        match entry {
            Entry::Settle { sub, ranges, .. } => self.settle(*sub, ranges),
            Entry::Lease { sub, ranges, .. } => {
                let Some(sub) = self.subs.get_mut(sub) else {
                    return Ok(());
                };
                for offset in ranges.iter().flat_map(|(from, to)| *from..*to) {
                    if !sub.settled.contains(offset) {
                        let mark = sub.marks.entry(offset).or_default();
                        mark.attempts = mark.attempts.saturating_add(1);
                        (mark.delay_ms, mark.not_before_ms) = (0, 0);
                    }
                }
            }
            Entry::Return {
                sub: id,
                at_ms,
                returned,
            } => {
                let Some(sub) = self.subs.get_mut(id) else {
                    return Ok(());
                };
                for one in returned
                    .iter()
                    .filter(|one| !sub.settled.contains(one.offset))
                {
                    let mark = sub.marks.entry(one.offset).or_default();
                    (mark.attempts, mark.returned_ms, mark.delay_ms) =
                        (one.attempts, *at_ms, one.delay_ms);
                    mark.wait_from(now);
                    let due_ms =
                        (one.delay_ms > 0).then(|| millis(now.mono).saturating_add(one.delay_ms));
                    if let Some(dispatch) = &mut sub.dispatch {
                        dispatch.give_back(one.offset, due_ms);
                        self.todo
                            .mono
                            .extend(due_ms.map(|due| (due, MonoTimer::Retry(*id, one.offset))));
                    }
                }
                self.wake_if_ready(*id);
            }
            Entry::Crash { sub, state } => {
                if let Some(sub) = self.subs.get_mut(sub) {
                    sub.crash = Bytes::copy_from_slice(state);
                }
            }
            entry => self.apply_failure(entry, location)?,
        }
        Ok(())
    }

    fn apply_failure(&mut self, entry: &Entry<'_>, location: Location) -> Result<(), Error> {
        match entry {
            Entry::Failure { .. } => self.apply_new_failure(entry, location)?,
            Entry::Reopen {
                sub,
                id,
                at_ms,
                group,
                ..
            } => self.apply_reopen(*sub, (*id, *at_ms, group), location),
            Entry::Redrive {
                sub,
                at_ms,
                ids,
                reason,
            } => self.apply_redrive(*sub, *at_ms, ids, reason),
            Entry::Remove {
                sub,
                at_ms,
                ids,
                reason,
            } => self.apply_remove(*sub, *at_ms, ids, *reason),
            Entry::Audit {
                sub,
                at_ms,
                offset,
                reason,
            } => self.apply_audit(*sub, *at_ms, *offset, reason),
            _ => unreachable!("apply and apply_delivery take the others"),
        }
        Ok(())
    }

    fn apply_new_failure(&mut self, entry: &Entry<'_>, payload: Location) -> Result<(), Error> {
        let &Entry::Failure {
            sub,
            id,
            at_ms,
            source,
            key,
            parked,
            group,
            block,
            ..
        } = entry
        else {
            unreachable!("apply_failure hands over new failure records");
        };
        let Some(sub) = self.subs.get_mut(&sub) else {
            return Ok(());
        };
        if id.0 < sub.failures().next_id() {
            return Err(Error::Malformed {
                what: "log entry",
                why: "the number of a failure record was used before",
            });
        }
        let message_id = Table::read(&mut Reader::new(block, "record batch"))?.id(0);
        sub.failures().apply_new(&NewFailure {
            id,
            at_ms,
            source,
            group,
            key,
            parked,
            message_id,
            payload,
        });
        self.needed(payload);
        Ok(())
    }

    fn apply_reopen(
        &mut self,
        sub: SubId,
        (id, at_ms, group): (FailureId, u64, &str),
        meta: Location,
    ) {
        let Some(sub) = self.subs.get_mut(&sub) else {
            return;
        };
        if !sub.failures().contains(id) {
            return;
        }
        let freed = sub.failures().apply_reopen(id, at_ms, group, meta);
        self.needed(meta);
        self.freed(freed.as_slice());
    }

    fn apply_redrive(&mut self, sub: SubId, at_ms: u64, ids: &[(u64, u64)], reason: &str) {
        let Some(sub) = self.subs.get_mut(&sub) else {
            return;
        };
        let there = sub.failures().among(ids);
        sub.failures().apply_redrive(there.into_iter(), at_ms);
        sub.failures()
            .note(decision(Action::Redrive, at_ms, ids, reason));
    }

    fn apply_remove(&mut self, sub: SubId, at_ms: u64, ids: &[(u64, u64)], reason: Option<&str>) {
        let Some(sub) = self.subs.get_mut(&sub) else {
            return;
        };
        let failures = sub.failures();
        let gone = failures
            .among(ids)
            .into_iter()
            .filter_map(|id| failures.apply_remove(id))
            .flat_map(|pieces| pieces.all());
        let freed: Vec<Location> = gone.collect();
        if let Some(reason) = reason {
            failures.note(decision(Action::Discard, at_ms, ids, reason));
        }
        self.freed(&freed);
    }

    fn apply_audit(&mut self, sub: SubId, at_ms: u64, offset: Offset, reason: &str) {
        if let Some(sub) = self.subs.get_mut(&sub) {
            sub.failures().note(Audit {
                at_ms,
                action: Action::DiscardMessage(offset),
                count: 1,
                reason: reason.to_owned(),
            });
        }
    }

    fn apply_ddl(&mut self, lsn: Lsn, ddl: &Ddl<'_>) {
        match ddl {
            Ddl::Stream {
                stream: id,
                name,
                config,
            } => {
                self.last_stream = self.last_stream.max(id.0);
                match self.streams.get_mut(id) {
                    Some(stream) => {
                        stream.config = *config;
                        stream.retention_armed = config.retention.age.is_some();
                        if stream.retention_armed {
                            self.todo.wall.push((0, WallTimer::Retention(*id)));
                        }
                        self.todo.trim.push(*id);
                        self.sweep(*id);
                    }
                    None => {
                        self.streams.insert(*id, Stream::new(*id, name, *config));
                        self.names.insert((*name).into(), *id);
                    }
                }
                self.todo.grown.push((*id, lsn));
            }
            Ddl::DropStream { stream } => self.drop_stream(*stream),
            Ddl::Subscription {
                sub: id,
                stream,
                name,
                config,
                from,
            } => {
                self.last_sub = self.last_sub.max(id.0);
                if let Some(sub) = self.subs.get_mut(id) {
                    sub.config = *config;
                    if let Some(dispatch) = &mut sub.dispatch {
                        dispatch.set_look_ahead(config.look_ahead_max);
                    }
                } else if let Some(holder) = self.streams.get_mut(stream) {
                    holder.subs.push(*id);
                    self.subs
                        .insert(*id, Subscription::new(*id, *stream, name, *config));
                    self.position(*id, *from);
                    self.sweep(*stream);
                }
                self.wake_if_ready(*id);
            }
            Ddl::DropSubscription { sub } => self.drop_sub(*sub),
            Ddl::Seek { sub: id, to } => {
                self.unposition(*id);
                self.position(*id, *to);
                if let Some(stream) = self.subs.get(id).map(|sub| sub.stream) {
                    self.sweep(stream);
                }
                self.wake_if_ready(*id);
            }
            Ddl::Pause { sub: id, paused } => {
                if let Some(sub) = self.subs.get_mut(id) {
                    sub.paused = *paused;
                }
                self.wake_if_ready(*id);
            }
        }
    }

    /// Starts a subscription at `from`: what is there from then on is to be delivered, holes are settled.
    fn position(&mut self, id: SubId, from: Offset) {
        let Some(sub) = self.subs.get_mut(&id) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&sub.stream) else {
            return;
        };
        sub.reset(from);
        let mut at = from;
        let mut depth = 0;
        for batch in stream.batches().filter(|batch| batch.end() > from) {
            sub.settled.insert(at, batch.base.max(at), |_, _| {});
            depth += batch.end() - batch.base.max(at);
            at = batch.end();
        }
        sub.settled.insert(at, stream.end.max(at), |_, _| {});
        sub.depth = depth;
        stream.recount(|base, end| end - base - sub.settled.count(base, end));
    }

    /// Takes what a subscription still wants out of the counts of its stream.
    fn unposition(&mut self, id: SubId) {
        let Some(sub) = self.subs.get(&id) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&sub.stream) else {
            return;
        };
        stream.uncount(|base, end| end - base - sub.settled.count(base, end));
    }

    fn sweep(&mut self, id: StreamId) {
        let mut freed = Vec::new();
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.sweep(&mut freed);
        }
        self.freed(&freed);
    }

    fn drop_sub(&mut self, id: SubId) {
        self.unposition(id);
        let Some(sub) = self.subs.remove(&id) else {
            return;
        };
        if let Some(stream) = self.streams.get_mut(&sub.stream) {
            stream.subs.retain(|other| *other != id);
        }
        let records = sub.failures.iter();
        let pieces = records.flat_map(|failures| failures.all_pieces());
        let pieces: Vec<Location> = pieces.flat_map(|pieces| pieces.all()).collect();
        self.freed(&pieces);
        self.sweep(sub.stream);
    }

    fn drop_stream(&mut self, id: StreamId) {
        let subs = self
            .streams
            .get(&id)
            .map(|stream| stream.subs.clone())
            .unwrap_or_default();
        for sub in subs {
            self.drop_sub(sub);
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.names.remove(&stream.name);
            let freed: Vec<Location> = stream.batches().map(|batch| batch.at).collect();
            self.freed(&freed);
        }
    }

    /// After a checkpoint and the frames behind it were read: what is counted rather than stored, and what a restart changes.
    pub(crate) fn recovered(&mut self, clean: bool) {
        self.todo = Todo::default();
        self.subs.values_mut().for_each(|sub| sub.woken = false);
        for stream in self.streams.values_mut() {
            stream.safe = stream.end;
            stream.woken = false;
            stream.reserved_durable = stream.reserved;
            if !clean && !planted::is(Plant::OffsetsReused) {
                // Offsets up to here may have been seen, even if their records are gone.
                stream.next = stream.next.max(stream.reserved);
            }
            for batch in stream.batches().filter(|batch| batch.expires_ms != 0) {
                self.todo
                    .wall
                    .push((batch.expires_ms, WallTimer::Expired(stream.id, batch.base)));
            }
            stream.retention_armed = stream.config.retention.age.is_some();
            if stream.retention_armed {
                self.todo.wall.push((0, WallTimer::Retention(stream.id)));
            }
            if stream.config.retention.bytes.is_some() {
                self.todo.trim.push(stream.id);
            }
        }
    }

    /// Every entry whose bytes are still needed: its kind, and where it is. One that several streams share comes once for each.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u8, Location)> + '_ {
        let runs = self.streams.values().flat_map(Stream::batches);
        let records = self.subs.values().filter_map(|sub| sub.failures.as_ref());
        let pieces = records.flat_map(|failures| failures.all_pieces());
        let pieces = pieces.flat_map(|pieces| {
            let meta = pieces.meta.map(|meta| (kind::REOPEN, meta));
            [Some((kind::FAILURE, pieces.payload)), meta]
        });
        runs.map(|run| (kind::DATA, run.at)).chain(pieces.flatten())
    }

    /// Counts what a checkpoint leaves out: what is pending, how deep subscriptions are, which segments are needed.
    pub(crate) fn count_after_checkpoint(&mut self) -> Result<(), Error> {
        for sub in self.subs.values_mut() {
            let Some(stream) = self.streams.get_mut(&sub.stream) else {
                return Err(Error::Replay {
                    reason: format!("subscription {} has no stream", sub.id),
                });
            };
            stream.subs.push(sub.id);
            let settled = &sub.settled;
            let mut depth = 0;
            stream.recount(|base, end| {
                let wants = end - base - settled.count(base, end);
                depth += wants;
                wants
            });
            sub.depth = depth;
        }
        let live: Vec<Location> = self.live().map(|(_, at)| at).collect();
        live.into_iter().for_each(|at| self.needed(at));
        for stream in self.streams.values_mut() {
            stream.subs.sort_unstable();
        }
        Ok(())
    }
}

/// Notes the message ids of a run, for the dedupe window.
fn remember_ids(stream: &mut Stream, table: &Table<'_>, base: Offset, at_ms: u64) {
    let window = stream.config.dedupe;
    for index in 0..table.count {
        let id = table.id(index);
        if id != [0; 16] {
            let dedupe = stream.dedupe.get_or_insert_default();
            dedupe.insert(window, id, base + u64::from(index), at_ms);
        }
    }
}

fn decision(action: Action, at_ms: u64, ids: &[(u64, u64)], reason: &str) -> Audit {
    let count = ids.iter().map(|(from, to)| to - from).sum();
    Audit {
        at_ms,
        action,
        count,
        reason: reason.to_owned(),
    }
}
