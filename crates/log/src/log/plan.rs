//! Deciding a commit: everything is looked at before anything is written.

mod one;
mod publish;

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::frame::Frame;
use super::{Limits, Log};
use crate::batch::{Producer, encode_block, record_size};
use crate::cache::Cache;
use crate::entry::{Entry, FailureState, Reason, Returned};
use crate::ids::{FailureId, IntMap, Now, Offset, StreamId, SubId, millis};
use crate::log::State;
use crate::planted::{self, Plant};
use crate::tx::{
    Cancel, Confirm, FailureIn, FailureOp, OffsetCommit, Park, Publish, Record, RecordIn, Settle,
    SettleOp, Ticket, Tx,
};
use crate::view::offsets::check_done;
use crate::wal::{Space, Wal};
use crate::{Error, Level};

impl Log {
    /// Commits a transaction: one frame, wholly there or not there, also after a crash.
    ///
    /// On an error nothing has changed. On success everything in it is staged and in effect for later calls; consumers see its
    /// records, and it may be confirmed, once the ticket is safe.
    ///
    /// # Errors
    /// [`Error::UnknownStream`], [`Error::UnknownSubscription`], [`Error::Conflict`], [`Error::LeaseLost`], [`Error::Fenced`],
    /// [`Error::UnknownFailure`], [`Error::NotParked`], [`Error::TooLarge`], [`Error::Invalid`], and those of
    /// [`Wal::append`].
    pub fn commit(&mut self, tx: Tx, now: Now) -> Result<Ticket, Error> {
        self.forget_old_ids(&tx.publishes, now);
        if let Some((stream, record)) = one::only(&tx)
            && self.state.stream(stream)?.config.level == Level::Fsync
        {
            return self.commit_one(stream, record, now).map(Ticket::from);
        }
        let mut plan = Plan::new(
            &self.state,
            &self.wal,
            &mut self.cache,
            self.options.limits,
            now,
        );
        let appended = plan.publishes(&tx.publishes)?;
        plan.settles(&tx.settles)?;
        let cancelled = plan.cancels(&tx.cancels)?;
        plan.failure_ops(&tx.failures)?;
        plan.offsets(&tx.offsets)?;
        plan.crash_states(&tx.crash_states)?;
        plan.emit_settles()?;
        if tx.confirm == Confirm::Durable {
            plan.level = Level::Fsync;
        }
        let Plan {
            mut frame,
            level,
            unreserved,
            failures,
            ..
        } = plan;
        frame.space = match tx.publishes.is_empty() {
            true => Space::Reserve,
            false => Space::Common,
        };
        // Of a commit that changes nothing the last frame is what must be safe: a duplicate's first is in it or before.
        let lsn = if frame.is_empty() {
            self.wal.last()
        } else {
            self.append(&frame, level, now)?
        };
        Ok(Ticket {
            lsn,
            level,
            told_at: if unreserved { Level::Fsync } else { level },
            appended,
            cancelled,
            failures,
        })
    }

    fn forget_old_ids(&mut self, publishes: &[Publish], now: Now) {
        for id in publishes
            .iter()
            .flat_map(|publish| publish.also.iter().chain([&publish.stream]))
        {
            self.forget_old_ids_of(*id, now);
        }
    }

    fn forget_old_ids_of(&mut self, id: StreamId, now: Now) {
        let Some(stream) = self.state.streams.get_mut(&id) else {
            return;
        };
        if let Some(dedupe) = &mut stream.dedupe {
            dedupe.age(stream.config.dedupe, now.wall_ms);
        }
    }
}

/// Records that go into one batch, for one or more streams.
struct Group<'a> {
    targets: Vec<(StreamId, Offset)>,
    records: Vec<&'a RecordIn>,
}

/// A stream as this commit leaves it.
#[derive(Debug, Clone, Copy)]
struct Tail {
    next: Offset,
    written: bool,
    group: usize,
}

/// What is settled in one subscription.
#[derive(Debug, Default)]
struct SubPlan {
    settled: Vec<(Offset, Reason)>,
    returned: Vec<Returned>,
}

pub(super) struct Plan<'s, 'a> {
    state: &'s State,
    wal: &'s Wal,
    cache: &'s mut Cache,
    limits: Limits,
    now: Now,
    pub(super) frame: Frame,
    pub(super) level: Level,
    /// Offsets are given whose reserve is not durable yet.
    unreserved: bool,
    failures: Vec<FailureId>,
    groups: Vec<Group<'a>>,
    tails: IntMap<StreamId, Tail>,
    ids: HashMap<(StreamId, [u8; 16]), Offset>,
    subs: IntMap<SubId, SubPlan>,
    next_failure: IntMap<SubId, u64>,
    /// Records that this commit decided about.
    decided: HashSet<(SubId, FailureId)>,
    /// Records that this commit stores, by message and source.
    failure_ids: HashMap<(SubId, [u8; 16], Option<Offset>), FailureId>,
    /// Keys that this commit parks.
    parks: HashSet<(SubId, Bytes)>,
}

impl<'s, 'a> Plan<'s, 'a> {
    fn new(state: &'s State, wal: &'s Wal, cache: &'s mut Cache, limits: Limits, now: Now) -> Self {
        Plan {
            state,
            wal,
            cache,
            limits,
            now,
            frame: Frame::default(),
            level: Level::Memory,
            unreserved: false,
            failures: Vec::new(),
            groups: Vec::new(),
            tails: IntMap::default(),
            ids: HashMap::new(),
            subs: IntMap::default(),
            next_failure: IntMap::default(),
            decided: HashSet::new(),
            failure_ids: HashMap::new(),
            parks: HashSet::new(),
        }
    }

    fn raise(&mut self, level: Level) {
        let stronger = match (self.level, level) {
            (Level::Interval(a), Level::Interval(b)) => b < a,
            (before, level) => level.rank() > before.rank(),
        };
        if stronger {
            self.level = level;
        }
    }

    fn check_record(&self, record: &RecordIn) -> Result<(), Error> {
        check_record(record, &self.limits)
    }

    fn check_failure(&self, failure: &FailureIn) -> Result<(), Error> {
        self.check_reason(&failure.group)?;
        self.check_meta(&failure.meta)
    }

    fn check_reason(&self, reason: &str) -> Result<(), Error> {
        too_large(
            "a reason",
            reason.len(),
            self.limits.reason_bytes_max,
            "reason_bytes_max",
        )
    }

    fn check_meta(&self, meta: &[u8]) -> Result<(), Error> {
        too_large(
            "what is stored with it",
            meta.len(),
            self.limits.meta_bytes_max,
            "meta_bytes_max",
        )
    }

    fn settles(&mut self, settles: &'a [SettleOp]) -> Result<(), Error> {
        for op in settles {
            self.check_lease(op)?;
            let (sub, offset) = (op.sub, op.offset);
            let reason = match &op.how {
                Settle::Ack => Reason::Ack,
                Settle::Expired => Reason::Expired,
                Settle::Return { delay, count } => {
                    let one = self.give_back(sub, offset, millis(*delay), *count)?;
                    self.subs.entry(sub).or_default().returned.push(one);
                    continue;
                }
                Settle::Discard { reason } => self.discard(sub, offset, reason)?,
                Settle::Dead(failure) => self.dead(sub, offset, failure)?,
            };
            let plan = self.subs.entry(sub).or_default();
            plan.settled.push((offset, reason));
        }
        Ok(())
    }

    fn check_lease(&self, op: &SettleOp) -> Result<(), Error> {
        let dispatch = self.state.sub(op.sub)?.dispatch.as_ref();
        let lease = dispatch.and_then(|dispatch| dispatch.lease_of(op.offset));
        if lease
            .is_none_or(|lease| lease.token != op.token && !planted::is(Plant::StaleLeaseSettles))
        {
            return Err(Error::LeaseLost {
                sub: op.sub,
                offset: op.offset,
            });
        }
        Ok(())
    }

    fn give_back(
        &self,
        sub: SubId,
        offset: Offset,
        delay_ms: u64,
        count: bool,
    ) -> Result<Returned, Error> {
        let mark = self.state.sub(sub)?.marks.get(&offset);
        let attempts = mark.map_or(0, |mark| mark.attempts);
        Ok(Returned {
            offset,
            attempts: attempts.saturating_sub(u32::from(!count)),
            delay_ms,
        })
    }

    fn discard(&mut self, sub: SubId, offset: Offset, reason: &str) -> Result<Reason, Error> {
        self.check_reason(reason)?;
        let at_ms = self.now.wall_ms;
        self.frame.push(&Entry::Audit {
            sub,
            at_ms,
            offset,
            reason,
        });
        self.raise(Level::Fsync);
        Ok(Reason::Discarded)
    }

    fn dead(&mut self, sub: SubId, offset: Offset, failure: &FailureIn) -> Result<Reason, Error> {
        if failure.park == Park::Behind && !self.is_parked(sub, failure.key.as_ref()) {
            return Err(Error::NotParked {
                sub,
                offset: Some(offset),
            });
        }
        let record = self.read(sub, offset)?.to_input();
        self.new_failure(sub, failure, &record, Some(offset))?;
        Ok(match failure.park {
            Park::No => Reason::Dead,
            Park::Key | Park::Behind => Reason::Parked,
        })
    }

    /// A record that a subscription has in flight.
    fn read(&mut self, sub: SubId, offset: Offset) -> Result<Record, Error> {
        let (_, stream) = self.state.sub_and_stream(sub)?;
        let batch = stream.find(offset).filter(|batch| batch.base <= offset);
        let batch = batch.expect("what is in flight is not settled, so it is there");
        let block = self.cache.get(self.wal, batch.at)?;
        block.record((offset - batch.base) as u32, batch.base)
    }

    fn cancels(&mut self, cancels: &[Cancel]) -> Result<Vec<bool>, Error> {
        let mut cancelled = Vec::with_capacity(cancels.len());
        for Cancel { stream, offset } in cancels {
            let stream = self.state.stream(*stream)?;
            let there = stream
                .find(*offset)
                .is_some_and(|batch| batch.base <= *offset);
            let mut any = false;
            for id in stream.subs.iter().filter(|_| there) {
                let sub = self.state.sub(*id)?;
                let held = sub
                    .dispatch
                    .as_ref()
                    .is_some_and(|dispatch| dispatch.lease_of(*offset).is_some());
                if !held && !sub.settled.contains(*offset) {
                    self.subs
                        .entry(*id)
                        .or_default()
                        .settled
                        .push((*offset, Reason::Cancelled));
                    any = true;
                }
            }
            if any {
                self.raise(Level::Fsync);
            }
            cancelled.push(any);
        }
        Ok(cancelled)
    }

    fn emit_settles(&mut self) -> Result<(), Error> {
        let mut subs: Vec<_> = std::mem::take(&mut self.subs).into_iter().collect();
        subs.sort_unstable_by_key(|(id, _)| *id);
        for (id, mut plan) in subs {
            self.raise(Level::Os);
            plan.settled.sort_unstable();
            plan.returned.sort_unstable_by_key(|one| one.offset);
            let mut all: Vec<Offset> = plan.settled.iter().map(|(offset, _)| *offset).collect();
            all.extend(plan.returned.iter().map(|one| one.offset));
            all.sort_unstable();
            if all.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Error::Invalid {
                    what: "commit",
                    why: "it settles a message twice",
                });
            }
            for reason in [
                Reason::Ack,
                Reason::Expired,
                Reason::Dead,
                Reason::Parked,
                Reason::Discarded,
                Reason::Cancelled,
            ] {
                let offsets = plan
                    .settled
                    .iter()
                    .filter(|(_, r)| *r == reason)
                    .map(|(offset, _)| *offset);
                let ranges = crate::codec::to_ranges(offsets);
                if !ranges.is_empty() {
                    self.frame.push(&Entry::Settle {
                        sub: id,
                        reason,
                        ranges,
                    });
                }
            }
            if !plan.returned.is_empty() {
                let at_ms = self.now.wall_ms;
                self.frame.push(&Entry::Return {
                    sub: id,
                    at_ms,
                    returned: plan.returned,
                });
            }
        }
        Ok(())
    }

    fn is_parked(&self, sub: SubId, key: Option<&Bytes>) -> bool {
        let Some(key) = key else { return false };
        let stored = self
            .state
            .subs
            .get(&sub)
            .and_then(|sub| sub.failures.as_ref());
        stored.is_some_and(|failures| failures.is_parked(key))
            || self.parks.contains(&(sub, key.clone()))
    }

    fn new_failure(
        &mut self,
        sub: SubId,
        failure: &FailureIn,
        record: &RecordIn,
        source: Option<Offset>,
    ) -> Result<(), Error> {
        self.check_failure(failure)?;
        let key = failure.key.as_deref().filter(|key| !key.is_empty());
        let parked = failure.park != Park::No;
        match &failure.key {
            Some(key) if parked && !key.is_empty() => {
                self.parks.insert((sub, key.clone()));
            }
            _ if parked => {
                return Err(Error::Invalid {
                    what: "park",
                    why: "there is no key: store a failure record that does not park",
                });
            }
            _ => {}
        }
        let known = self.state.sub(sub)?.failures.as_ref();
        let id = *self
            .next_failure
            .entry(sub)
            .or_insert_with(|| known.map_or(1, |failures| failures.next_id()));
        self.next_failure.insert(sub, id + 1);
        let id = FailureId(id);
        self.failures.push(id);
        self.failure_ids.insert((sub, record.id, source), id);
        let block = single(record, self.now.wall_ms);
        let (at_ms, group, meta) = (self.now.wall_ms, failure.group.as_str(), &failure.meta);
        self.frame.push(&Entry::Failure {
            sub,
            id,
            at_ms,
            source,
            key,
            parked,
            group,
            meta,
            block: &block,
        });
        self.raise(Level::Fsync);
        Ok(())
    }

    fn failure_ops(&mut self, ops: &[FailureOp]) -> Result<(), Error> {
        for op in ops {
            self.raise(Level::Fsync);
            match op {
                FailureOp::Append {
                    sub,
                    failure,
                    record,
                    source,
                } => self.append_failure(*sub, failure, record, *source)?,
                FailureOp::Redrive { sub, ids, reason } => self.redrive(*sub, ids, reason)?,
                FailureOp::Reopen { sub, id, failure } => self.reopen(*sub, *id, failure)?,
                FailureOp::Resolve { sub, id } => self.remove(*sub, &[*id], None)?,
                FailureOp::Discard { sub, ids, reason } => {
                    self.check_reason(reason)?;
                    self.remove(*sub, ids, Some(reason))?;
                }
            }
        }
        Ok(())
    }

    fn append_failure(
        &mut self,
        sub: SubId,
        failure: &FailureIn,
        record: &RecordIn,
        source: Option<Offset>,
    ) -> Result<(), Error> {
        self.check_record(record)?;
        if let Some(id) = self.known_failure(sub, record.id, source)? {
            self.failures.push(id);
            return Ok(());
        }
        if failure.park == Park::Behind && !self.is_parked(sub, failure.key.as_ref()) {
            return Err(Error::NotParked { sub, offset: None });
        }
        self.new_failure(sub, failure, record, source)
    }

    fn redrive(&mut self, sub: SubId, ids: &[FailureId], reason: &str) -> Result<(), Error> {
        self.check_reason(reason)?;
        let ids = self.decide(sub, ids, &[FailureState::Open])?;
        let at_ms = self.now.wall_ms;
        self.frame.push(&Entry::Redrive {
            sub,
            at_ms,
            ids,
            reason,
        });
        Ok(())
    }

    fn reopen(&mut self, sub: SubId, id: FailureId, failure: &FailureIn) -> Result<(), Error> {
        self.check_failure(failure)?;
        self.decide(sub, &[id], &[FailureState::Redriving, FailureState::Open])?;
        let (at_ms, group, meta) = (self.now.wall_ms, failure.group.as_str(), &failure.meta);
        self.frame.push(&Entry::Reopen {
            sub,
            id,
            at_ms,
            group,
            meta,
        });
        Ok(())
    }

    /// Ends records: without a reason because their redrive succeeded.
    fn remove(&mut self, sub: SubId, ids: &[FailureId], reason: Option<&str>) -> Result<(), Error> {
        let ids = self.decide(sub, ids, &[FailureState::Redriving, FailureState::Open])?;
        let at_ms = self.now.wall_ms;
        self.frame.push(&Entry::Remove {
            sub,
            at_ms,
            ids,
            reason,
        });
        Ok(())
    }

    /// The record of this message from this place. What has neither id nor source is never known.
    fn known_failure(
        &self,
        sub: SubId,
        id: [u8; 16],
        source: Option<Offset>,
    ) -> Result<Option<FailureId>, Error> {
        if id == [0; 16] && source.is_none() {
            return Ok(None);
        }
        let stored = self
            .state
            .sub(sub)?
            .failures
            .as_ref()
            .and_then(|failures| failures.of_origin(id, source));
        Ok(stored.or_else(|| self.failure_ids.get(&(sub, id, source)).copied()))
    }

    /// Checks that these records are there, in one of these states, and not decided about twice. Gives their numbers as ranges.
    fn decide(
        &mut self,
        sub: SubId,
        ids: &[FailureId],
        from: &[FailureState],
    ) -> Result<Vec<(u64, u64)>, Error> {
        let stored = self.state.sub(sub)?.failures.as_ref();
        for &id in ids {
            let state = stored
                .and_then(|failures| failures.info(id))
                .map(|info| info.state);
            let found = match state {
                Some(_) if !self.decided.insert((sub, id)) => "decided about twice",
                Some(state) if from.contains(&state) => continue,
                Some(FailureState::Open) => "open",
                Some(FailureState::Redriving) => "being redriven already",
                None => "not there (any more)",
            };
            return Err(Error::UnknownFailure { sub, id, found });
        }
        if ids.is_empty() || !ids.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(Error::Invalid {
                what: "list of failure records",
                why: "it must rise, and hold at least one",
            });
        }
        Ok(crate::codec::to_ranges(ids.iter().map(|id| id.0)))
    }

    fn offsets(&mut self, commits: &[OffsetCommit]) -> Result<(), Error> {
        let mut epochs: HashMap<(StreamId, &str), u64> = HashMap::new();
        for commit in commits {
            let OffsetCommit {
                stream,
                group,
                epoch,
                watermark,
                done,
                meta,
            } = commit;
            let stored = self.state.stream(*stream)?.readers.get(group.as_str());
            crate::definitions::check_name(group)?;
            check_done(*watermark, done)?;
            self.check_meta(meta)?;
            let before = epochs.get(&(*stream, group.as_str())).copied();
            let actual = before
                .or_else(|| stored.map(|reader| reader.epoch))
                .unwrap_or(0);
            if *epoch < actual {
                return Err(Error::Fenced {
                    group: group.clone(),
                    epoch: *epoch,
                    actual,
                });
            }
            epochs.insert((*stream, group), *epoch);
            self.frame.push(&Entry::Offset {
                stream: *stream,
                group,
                epoch: *epoch,
                watermark: *watermark,
                done: done.clone(),
                meta,
            });
            self.raise(Level::Fsync);
        }
        Ok(())
    }

    fn crash_states(&mut self, states: &[(SubId, Bytes)]) -> Result<(), Error> {
        for (sub, state) in states {
            self.state.sub(*sub)?;
            self.check_meta(state)?;
            self.frame.push(&Entry::Crash { sub: *sub, state });
            self.raise(Level::Os);
        }
        Ok(())
    }
}

/// A block with one record.
fn single(record: &RecordIn, at_ms: u64) -> Vec<u8> {
    let mut block = Vec::with_capacity(record_size(record) + 128);
    encode_block(&mut block, 0, at_ms, Producer::NONE, &[record]);
    block
}

fn check_record(record: &RecordIn, limits: &Limits) -> Result<(), Error> {
    let key = record.key.as_ref().map_or(0, Bytes::len);
    too_large("a key", key, limits.key_bytes_max, "key_bytes_max")?;
    too_large(
        "a record",
        record_size(record),
        limits.record_bytes_max,
        "record_bytes_max",
    )
}

pub(super) fn too_large(
    what: &'static str,
    size: usize,
    max: usize,
    limit: &'static str,
) -> Result<(), Error> {
    if size <= max {
        return Ok(());
    }
    Err(Error::TooLarge {
        what,
        size: size as u64,
        max: max as u64,
        limit,
    })
}
