//! What publishers, members and operators do.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use postrider_log::{
    Error, Expected, FailureId, FailureIn, FailureOp, FailureState, Kind, Lsn, Offset,
    OffsetCommit, Park, Publish, RecordIn, Settle, SettleOp, Ticket, Tx,
};

use super::model::Did;
use super::{
    EVENTS, Held, KEYS, LEASE, MEMBERS, Record, UnderWay, WEAK, Waiting, World, key_bytes, member,
};
use crate::harness::tell;

/// What one publish brings: stream, also these, messages with their keys.
type Published = (usize, Vec<usize>, Vec<(u64, u64, RecordIn)>);

impl World {
    /// A few records of one key each, for one stream.
    pub(super) fn records(&mut self) -> Vec<(u64, u64, RecordIn)> {
        let count = 1 + self.rng.below(4);
        let ttl_percent = if self.rng.chance(10) { 100 } else { 4 };
        let make = |_| {
            let (id, key) = (self.next_id, self.rng.below(KEYS + 1));
            self.next_id += 1;
            let deliver_at_ms = if self.rng.chance(5) {
                self.wall_ms + self.rng.below(3_000)
            } else {
                0
            };
            let expires_at_ms = if self.rng.chance(ttl_percent) {
                self.wall_ms + self.rng.below(3_000)
            } else {
                0
            };
            let value = vec![id as u8; self.rng.below(300) as usize];
            let record = RecordIn {
                id: u128::from(id).to_le_bytes(),
                key: key_bytes(key),
                value: Some(Bytes::from(value)),
                deliver_at_ms,
                expires_at_ms,
                ..RecordIn::default()
            };
            (id, key, record)
        };
        (0..count).map(make).collect()
    }

    /// A transaction: publishes to up to two streams, settles in any way what members hold.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        let mut tx = Tx::default();
        let mut dids = Vec::new();
        let mut published = Vec::new();
        for _ in 0..self.rng.below(3) {
            let from = if self.quiet { WEAK } else { 0 };
            let stream = from + self.rng.below((self.streams.len() - from) as u64) as usize;
            let records = self.records();
            let mut also = Vec::new();
            if self.rng.chance(20) {
                let next = (stream + 1) % self.streams.len();
                also.push(next.max(from));
            }
            let expect = match self.streams[stream].kind {
                Kind::Events if tx.publishes.is_empty() => {
                    Expected::Next(self.log.lock().next_offset(self.streams[stream].id)?)
                }
                _ => Expected::Any,
            };
            tx.publishes.push(Publish {
                stream: self.streams[stream].id,
                also: also.iter().map(|other| self.streams[*other].id).collect(),
                records: records.iter().map(|(.., record)| record.clone()).collect(),
                expect,
            });
            published.push((stream, also, records));
        }
        let (mut settled, mut tokens) = (BTreeSet::new(), Vec::new());
        for _ in 0..self.rng.below(4) {
            if self.held.is_empty() || self.quiet {
                break;
            }
            let index = self.rng.below(self.held.len() as u64) as usize;
            let held = self.held[index].clone();
            if settled.insert((held.sub, held.leased.record.offset)) {
                let how = self.how(&held, &mut dids);
                let (offset, token) = (held.leased.record.offset, held.leased.token);
                tell(|| format!("   settles {offset} of sub {}: {how:?}", held.sub));
                tokens.push((held.sub, offset, token));
                tx.settles.push(SettleOp {
                    sub: self.subs[held.sub].id,
                    offset,
                    token,
                    how,
                });
            }
        }
        let before: Vec<Offset> = self
            .streams
            .iter()
            .map(|stream| self.log.lock().next_offset(stream.id).unwrap())
            .collect();
        let now = self.now();
        let result = self.log.lock().commit(tx, now);
        let ticket = match result {
            Ok(ticket) => ticket,
            // A lease that ended: nothing of the transaction may have happened, which the next comparison shows.
            Err(Error::LeaseLost { .. }) => {
                tell(|| "   refused: a lease has ended".to_owned());
                let held = std::mem::take(&mut self.held);
                self.held = held.into_iter().filter(|held| self.is_held(held)).collect();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (sub, offset, token) in tokens {
            let last = self.tokens.get(&(sub, offset));
            assert_eq!(last, Some(&token), "a lease that another one followed");
        }
        let placed = self.note_published(&ticket, before, published);
        let mut failures = ticket.failures.iter();
        for did in dids {
            let did = match did {
                Did::Failed {
                    sub,
                    id,
                    key,
                    parks,
                    ..
                } => Did::Failed {
                    sub,
                    id,
                    key,
                    parks,
                    failure: failures.next().unwrap().0,
                },
                other => other,
            };
            self.did(ticket.lsn, did);
        }
        tell(|| {
            let places: Vec<String> = placed
                .iter()
                .map(|(s, o, _)| format!("{o} of stream {s}"))
                .collect();
            format!(
                "commits {} at {:?}: publishes [{}]",
                ticket.lsn,
                ticket.level,
                places.join(", ")
            )
        });
        let published = placed;
        self.waiting.push(Waiting { ticket, published });
        settled
            .iter()
            .for_each(|(sub, offset)| self.drop_lease(*sub, *offset));
        Ok(())
    }

    /// Notes where the records of a commit went: in order, in each stream.
    fn note_published(
        &mut self,
        ticket: &Ticket,
        mut next: Vec<Offset>,
        published: Vec<Published>,
    ) -> Vec<(usize, Offset, u64)> {
        let mut placed = Vec::new();
        for (appended, (stream, also, records)) in ticket.appended.iter().zip(published) {
            for (appended, (id, key, record)) in appended.iter().zip(records) {
                assert!(!appended.duplicate);
                assert_eq!(appended.offset, next[stream], "offsets are given in order");
                for stream in [&[stream][..], &also].concat() {
                    let offset = next[stream];
                    next[stream] += 1;
                    self.note_times(stream, offset, &record);
                    placed.push((stream, offset, id));
                    let lsn = ticket.lsn;
                    let known = self.published.entry((stream, offset)).or_default();
                    known.push(Record { id, key, lsn });
                    self.did(
                        lsn,
                        Did::Published {
                            stream,
                            offset,
                            id,
                            key,
                        },
                    );
                }
            }
        }
        placed
    }

    /// Notes when a record is due and when it ends. What a crash took of its offset before is forgotten.
    pub(super) fn note_times(&mut self, stream: usize, offset: Offset, record: &RecordIn) {
        let place = (stream, offset);
        self.delayed.remove(&place);
        self.expiring.remove(&place);
        if record.deliver_at_ms > 0 {
            self.delayed.insert(place);
        }
        if record.expires_at_ms > 0 {
            self.expiring.insert(place, record.expires_at_ms);
        }
    }

    /// Lets go of events by hand.
    pub(super) fn trim(&mut self) -> Result<(), Error> {
        let id = self.streams[EVENTS].id;
        let next = self.log.lock().next_offset(id)?;
        let before = self.rng.below(next + 1);
        tell(|| format!("lets go of events before {before}"));
        let kept = self
            .model
            .records
            .range((EVENTS, before.max(self.model.first))..(EVENTS + 1, 0));
        let kept = kept.map(|((_, offset), _)| *offset).next();
        let lsn = self.log.lock().trim(id, before)?;
        let (first, _) = self.first_event();
        assert!(
            kept.is_none_or(|kept| first <= kept),
            "trimmed before {before}, and {kept:?} is gone"
        );
        self.did_trim(lsn, first);
        Ok(())
    }

    pub(super) fn drop_lease(&mut self, sub: usize, offset: Offset) {
        self.held
            .retain(|held| (held.sub, held.leased.record.offset) != (sub, offset));
    }

    /// How a delivery ends, and what that does.
    pub(super) fn how(&mut self, held: &Held, dids: &mut Vec<Did>) -> Settle {
        let (sub, offset) = (held.sub, held.leased.record.offset);
        let (id, key) = self.model.records[&(self.subs[sub].stream, offset)];
        let choice = self.rng.below(10);
        if choice == 0 {
            let count = self.rng.chance(50);
            let attempts = self.model.attempts[&(sub, offset)] - u32::from(!count);
            let delay_ms = self.rng.below(400);
            dids.push(Did::Returned {
                sub,
                offset,
                attempts,
                waits_ms: (self.wall_ms, delay_ms),
            });
            return Settle::Return {
                delay: Duration::from_millis(delay_ms),
                count,
            };
        }
        dids.push(Did::Settled { sub, offset });
        match choice {
            1..4 => {
                let parks = key > 0 && choice > 1;
                dids.push(Did::Failed {
                    sub,
                    failure: 0,
                    id,
                    key,
                    parks,
                });
                Settle::Dead(FailureIn {
                    group: format!("cause {}", id % 3),
                    meta: Bytes::from(id.to_string()),
                    key: key_bytes(key),
                    park: if parks { Park::Key } else { Park::No },
                })
            }
            4 => Settle::Discard {
                reason: "by chance".to_owned(),
            },
            _ => Settle::Ack,
        }
    }

    pub(super) fn lease(&mut self) -> Result<(), Error> {
        let sub = self.rng.below(self.subs.len() as u64) as usize;
        let who = self.rng.below(MEMBERS);
        let (messages, now) = (1 + self.rng.below(6) as usize, self.now());
        let mut log = self.log.lock();
        let batch = log.lease(self.subs[sub].id, member(who), messages, 4_000, LEASE, now)?;
        let (written, durable) = (log.written(), log.durable());
        drop(log);
        self.absorb_expired();
        assert!(batch.messages.len() <= messages);
        for leased in batch.messages {
            self.check_delivery(sub, who, &leased, written, durable);
            let offset = leased.record.offset;
            tell(|| {
                format!(
                    "member {who} takes {offset} of sub {sub}, attempt {}",
                    leased.attempt
                )
            });
            self.did(batch.lsn, Did::Leased { sub, offset });
            self.tokens.insert((sub, offset), leased.token);
            self.not_before.remove(&(sub, offset));
            let attempts = self.model.attempts[&(sub, offset)];
            assert_eq!(
                leased.attempt, attempts,
                "attempts are counted, also over a crash"
            );
            self.held.push(Held {
                sub,
                member: who,
                leased,
            });
        }
        Ok(())
    }

    pub(super) fn pass_time(&mut self) -> Result<(), Error> {
        let ms = self.rng.below(if self.rng.0.is_multiple_of(7) {
            25_000
        } else {
            200
        });
        tell(|| format!("{ms} ms pass"));
        self.mono_ms += ms;
        self.wall_ms += ms;
        self.tick()
    }

    pub(super) fn release(&mut self) -> Result<(), Error> {
        if self.full {
            // Whose attempts count then is not told.
            return Ok(());
        }
        let who = self.rng.below(MEMBERS);
        tell(|| format!("member {who} is gone, and gives back what it holds"));
        let now = self.now();
        // What ended by time was given back before, and counted.
        let mine = self
            .held
            .iter()
            .filter(|held| held.member == who && self.is_held(held));
        let mut given: Vec<(usize, Offset)> = mine
            .map(|held| (held.sub, held.leased.record.offset))
            .collect();
        given.sort_unstable();
        let before = self.log.lock().last();
        self.log.lock().release_member(member(who), now)?;
        let mut subs: Vec<usize> = given.iter().map(|(sub, _)| *sub).collect();
        subs.dedup();
        for (sub, offset) in given {
            let nth = subs.iter().position(|other| *other == sub).unwrap() as u64;
            let attempts = self.model.attempts[&(sub, offset)] - 1;
            self.did(
                Lsn(before.0 + 1 + nth),
                Did::Returned {
                    sub,
                    offset,
                    attempts,
                    waits_ms: (self.wall_ms, 0),
                },
            );
        }
        assert_eq!(self.log.lock().last().0, before.0 + subs.len() as u64);
        self.held.retain(|held| held.member != who);
        Ok(())
    }

    /// Whether the log still counts this lease.
    pub(super) fn is_held(&self, held: &Held) -> bool {
        let lease = (held.leased.record.offset, held.leased.token);
        let left = held
            .leased
            .until
            .saturating_sub(Duration::from_millis(self.mono_ms));
        self.log
            .lock()
            .extend(self.subs[held.sub].id, &[lease], left, self.now())
            .unwrap()[0]
    }

    pub(super) fn operate(&mut self) -> Result<(), Error> {
        if self.rng.chance(10) {
            return self.trim();
        }
        let now = self.now();
        let sub = self.rng.below(self.subs.len() as u64) as usize;
        let id = self.subs[sub].id;
        let mut tx = Tx::default();
        let mut dids = Vec::new();
        let failures: Vec<u64> = self
            .model
            .failures
            .keys()
            .filter(|(s, _)| *s == sub)
            .map(|(_, failure)| *failure)
            .collect();
        match self.rng.below(4) {
            0 => {
                if let Some(failure) = self.rng.pick(&failures).copied() {
                    let info = self
                        .log
                        .lock()
                        .failure_info(id, FailureId(failure))?
                        .unwrap();
                    if info.state == FailureState::Open && self.rng.chance(50) {
                        let ids = vec![FailureId(failure)];
                        let reason = "mended".to_owned();
                        let redrive = FailureOp::Redrive {
                            sub: id,
                            ids,
                            reason,
                        };
                        tx.failures.push(redrive);
                        self.log.lock().commit(tx, now)?;
                        return Ok(());
                    }
                    tx.failures.push(FailureOp::Resolve {
                        sub: id,
                        id: FailureId(failure),
                    });
                    dids.push(Did::FailureEnded { sub, failure });
                }
            }
            1 => {
                let ids: Vec<FailureId> =
                    failures.iter().take(2).map(|id| FailureId(*id)).collect();
                if !ids.is_empty() {
                    let ended = ids
                        .iter()
                        .map(|id| Did::FailureEnded { sub, failure: id.0 });
                    dids.extend(ended);
                    let reason = "given up".to_owned();
                    tx.failures.push(FailureOp::Discard {
                        sub: id,
                        ids,
                        reason,
                    });
                }
            }
            2 => {
                let state = self.rng.next();
                tx.crash_states.push((id, Bytes::from(state.to_string())));
                dids.push(Did::Crash { sub, state });
            }
            _ => {
                let (stream, watermark) = (
                    self.streams[EVENTS].id,
                    self.model.reader.1 + self.rng.below(5),
                );
                let (group, epoch) = ("projection".to_owned(), self.epoch);
                if epoch == 0 || self.rng.chance(20) {
                    let (state, lsn) = self.log.lock().claim_reader(stream, &group)?;
                    assert_eq!(state.epoch, self.model.reader.0 + 1);
                    self.epoch = state.epoch;
                    self.did(
                        lsn,
                        Did::Reader {
                            epoch: state.epoch,
                            watermark: self.model.reader.1,
                        },
                    );
                    return Ok(());
                }
                let (done, meta) = (vec![(watermark + 2, watermark + 4)], Bytes::new());
                tx.offsets.push(OffsetCommit {
                    stream,
                    group,
                    epoch,
                    watermark,
                    done,
                    meta,
                });
                dids.push(Did::Reader { epoch, watermark });
            }
        }
        tell(|| format!("an operator, on sub {sub}: {dids:?}"));
        let ticket = self.log.lock().commit(tx, now)?;
        dids.into_iter().for_each(|did| self.did(ticket.lsn, did));
        Ok(())
    }

    /// A write is begun: it is done at once and the answer comes late, or it is done late.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        let now = self.now();
        let Some(job) = self.log.lock().begin(now)? else {
            return Ok(());
        };
        self.count("slow writes");
        self.under_way = Some(if self.rng.chance(50) {
            tell(|| "a write is begun, and hangs".to_owned());
            UnderWay::Begun(job)
        } else {
            tell(|| "a write is done, and its end is not noticed yet".to_owned());
            UnderWay::Done(job.run())
        });
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let done = match self.under_way.take() {
            None => return Ok(()),
            Some(UnderWay::Begun(job)) => job.run(),
            Some(UnderWay::Done(done)) => done,
        };
        let progress = self.log.lock().finish(done)?;
        tell(|| {
            format!(
                "the slow write is over: written up to {}, synced up to {}",
                progress.written, progress.durable
            )
        });
        Ok(())
    }

    /// The clock on the wall jumps. Whoever holds a lease still holds it.
    pub(super) fn jump(&mut self, ms: i64) -> Result<(), Error> {
        tell(|| format!("the clock on the wall jumps by {ms} ms"));
        self.count("clock jumps");
        let alive = |world: &World| world.held.iter().filter(|held| world.is_held(held)).count();
        let before = alive(self);
        self.wall_ms = self.wall_ms.saturating_add_signed(ms);
        self.tick()?;
        assert_eq!(alive(self), before, "a jump of the clock ended a lease");
        Ok(())
    }
}
