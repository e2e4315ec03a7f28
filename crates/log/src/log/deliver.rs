//! Handing out: leases, their ends, and plain reads.

use std::sync::Arc;
use std::time::Duration;

use super::frame::Frame;
use super::{Log, MonoTimer, WallTimer};
use crate::batch::{Block, Meta};
use crate::cache::Cache;
use crate::codec::to_ranges;
use crate::entry::{Entry, Reason, Returned};
use crate::ids::{IntMap, LeaseToken, MemberId, Now, Offset, StreamId, SubId, millis};
use crate::tx::{LeaseBatch, Leased, Record};
use crate::view::dispatch::{Feed, Room};
use crate::view::settled::Settled;
use crate::view::stream::{BatchRef, Stream};
use crate::view::subscription::Mark;
use crate::wal::Wal;
use crate::{Error, Level};

/// What [`Log::read`] gave.
#[derive(Debug, Clone, Default)]
pub struct ReadBatch {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Where to read next.
    pub next: Offset,
    /// The end of what is visible now: equal to `next` when all was read.
    pub visible_end: Offset,
}

/// A subscription's view of its stream, for the dispatcher.
struct SubFeed<'a> {
    stream: &'a Stream,
    settled: &'a Settled,
    marks: &'a IntMap<Offset, Mark>,
    blocks: Blocks<'a>,
}

/// Reads records one by one, keeping the block of the last one at hand.
struct Blocks<'a> {
    wal: &'a Wal,
    cache: &'a mut Cache,
    current: Option<(BatchRef, Arc<Block>)>,
}

impl Blocks<'_> {
    /// The batch that holds `offset`, or `None` if there is no such record.
    fn at(&mut self, stream: &Stream, offset: Offset) -> Result<Option<(BatchRef, &Block)>, Error> {
        let hit = self
            .current
            .as_ref()
            .is_some_and(|(batch, _)| (batch.base..batch.end()).contains(&offset));
        if !hit {
            let Some(batch) = stream.find(offset).filter(|batch| batch.base <= offset) else {
                return Ok(None);
            };
            self.current = Some((*batch, self.cache.get(self.wal, batch.at)?));
        }
        Ok(self
            .current
            .as_ref()
            .map(|(batch, block)| (*batch, &**block)))
    }

    fn record(&mut self, stream: &Stream, offset: Offset) -> Result<Option<Record>, Error> {
        let Some((batch, block)) = self.at(stream, offset)? else {
            return Ok(None);
        };
        block
            .record((offset - batch.base) as u32, batch.base)
            .map(Some)
    }
}

impl Feed for SubFeed<'_> {
    fn visible_end(&self) -> Offset {
        self.stream.visible_end()
    }

    fn next_unsettled(&self, from: Offset) -> Offset {
        self.settled.next_unsettled(from)
    }

    fn meta(&mut self, offset: Offset) -> Result<Option<Meta>, Error> {
        let Some((batch, block)) = self.blocks.at(self.stream, offset)? else {
            return Ok(None);
        };
        block.meta((offset - batch.base) as u32).map(Some)
    }

    fn not_before_ms(&self, offset: Offset) -> u64 {
        self.marks.get(&offset).map_or(0, |mark| mark.not_before_ms)
    }
}

impl Log {
    /// Hands out messages of a subscription to `member`, each under a lease that ends at `now + lease`.
    ///
    /// In an ordered subscription a key is with one member at a time, and its messages come in order. At most `messages_max`
    /// and about `bytes_max` bytes (the first message always fits). Messages that expired are settled on the way.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`]; what reading a message failed with; those of [`Wal::append`]. Then nothing was handed out.
    pub fn lease(
        &mut self,
        sub: SubId,
        member: MemberId,
        messages_max: usize,
        bytes_max: usize,
        lease: Duration,
        now: Now,
    ) -> Result<LeaseBatch, Error> {
        let tokens = self.tokens;
        let State { streams, subs, .. } = &mut self.state;
        let unknown = || Error::UnknownSubscription {
            sub: sub.to_string(),
        };
        let view = subs.get_mut(&sub).ok_or_else(unknown)?;
        let stream = streams.get(&view.stream).ok_or_else(unknown)?;
        if view.paused || messages_max == 0 {
            return Ok(LeaseBatch {
                lsn: self.wal.last(),
                ..LeaseBatch::default()
            });
        }
        view.dispatch(tokens);
        let mut dispatch = view.dispatch.take().expect("it was just made");
        dispatch.set_tokens(tokens);
        let blocks = Blocks {
            wal: &self.wal,
            cache: &mut self.cache,
            current: None,
        };
        let (settled, marks) = (&view.settled, &view.marks);
        let mut feed = SubFeed {
            stream,
            settled,
            marks,
            blocks,
        };
        let until = now.mono + lease;
        let room = Room {
            messages: messages_max,
            bytes: bytes_max,
            until_ms: millis(until),
        };
        let outcome = dispatch.lease(member, room, now, &mut feed);
        let generation = dispatch.generation;
        self.tokens = dispatch.tokens();
        view.dispatch = Some(dispatch);
        let outcome = outcome?;
        for (due, offset) in &outcome.delayed {
            self.wall
                .insert(*due, WallTimer::Due(sub, generation, *offset));
        }
        for (due, offset) in &outcome.blocked {
            self.mono.insert(*due, MonoTimer::Retry(sub, *offset));
        }
        let mut batch = LeaseBatch {
            lsn: self.wal.last(),
            more: outcome.more,
            messages: Vec::new(),
        };
        if !outcome.picks.is_empty() || !outcome.expired.is_empty() {
            batch.lsn = self.mark(sub, member, &outcome.picks, &outcome.expired, now)?;
            batch.messages = self.leased(sub, &outcome.picks, until)?;
        }
        self.arm_leases(sub);
        Ok(batch)
    }

    /// Writes the attempt marks; if that fails, nothing was handed out.
    fn mark(
        &mut self,
        sub: SubId,
        member: MemberId,
        picks: &[(Offset, LeaseToken)],
        expired: &[Offset],
        now: Now,
    ) -> Result<crate::Lsn, Error> {
        let mut frame = Frame::freeing();
        let sorted = |mut offsets: Vec<Offset>| {
            offsets.sort_unstable();
            to_ranges(offsets)
        };
        if !expired.is_empty() {
            let ranges = sorted(expired.to_vec());
            frame.push(&Entry::Settle {
                sub,
                reason: Reason::Expired,
                ranges,
            });
        }
        if !picks.is_empty() {
            let ranges = sorted(picks.iter().map(|(offset, _)| *offset).collect());
            frame.push(&Entry::Lease {
                sub,
                member,
                ranges,
            });
            self.members.entry(member).or_default().insert(sub);
        }
        self.append(&frame, Level::Os, now).inspect_err(|_| {
            let dispatch = self
                .state
                .subs
                .get_mut(&sub)
                .and_then(|view| view.dispatch.as_mut());
            if let Some(dispatch) = dispatch {
                picks
                    .iter()
                    .for_each(|(offset, _)| dispatch.give_back(*offset, None));
                expired
                    .iter()
                    .for_each(|offset| dispatch.look_again(*offset));
            }
        })
    }

    fn leased(
        &mut self,
        sub: SubId,
        picks: &[(Offset, LeaseToken)],
        until: Duration,
    ) -> Result<Vec<Leased>, Error> {
        let (view, stream) = self.state.sub_and_stream(sub)?;
        let mut blocks = Blocks {
            wal: &self.wal,
            cache: &mut self.cache,
            current: None,
        };
        let mut messages = Vec::with_capacity(picks.len());
        for (offset, token) in picks {
            let record = blocks
                .record(stream, *offset)?
                .expect("what was picked is there");
            let attempt = view.marks.get(offset).map_or(1, |mark| mark.attempts);
            messages.push(Leased {
                record,
                token: *token,
                attempt,
                until,
            });
        }
        Ok(messages)
    }

    /// Sets the timer for the first lease that ends.
    pub(super) fn arm_leases(&mut self, sub: SubId) {
        let Some(dispatch) = self
            .state
            .subs
            .get_mut(&sub)
            .and_then(|view| view.dispatch.as_mut())
        else {
            return;
        };
        if let Some(due) = dispatch.arm() {
            self.mono.insert(due, MonoTimer::Leases(sub));
        }
    }

    /// Moves the end of leases to `now + lease`. Per lease: whether it still is one. Leases are volatile; nothing is written.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn extend(
        &mut self,
        sub: SubId,
        leases: &[(Offset, LeaseToken)],
        lease: Duration,
        now: Now,
    ) -> Result<Vec<bool>, Error> {
        let until_ms = millis(now.mono + lease);
        let view = self.state.sub_mut(sub)?;
        let Some(dispatch) = &mut view.dispatch else {
            return Ok(vec![false; leases.len()]);
        };
        let extended = leases
            .iter()
            .map(|(offset, token)| dispatch.extend(*offset, *token, until_ms))
            .collect();
        self.arm_leases(sub);
        Ok(extended)
    }

    /// Gives back everything a member has in flight, at once and without counting the attempt: it is gone. Gives the number of messages.
    ///
    /// # Errors
    /// Those of [`Wal::append`]: the messages are given back all the same, but their attempts count.
    pub fn release_member(&mut self, member: MemberId, now: Now) -> Result<usize, Error> {
        let mut released = 0;
        let mut result = Ok(());
        for sub in self.members.remove(&member).unwrap_or_default() {
            let Some(view) = self.state.subs.get_mut(&sub) else {
                continue;
            };
            let Some(dispatch) = &mut view.dispatch else {
                continue;
            };
            let held = dispatch.held_by(member);
            released += held.len();
            if held.is_empty() {
                continue;
            }
            let returned = held.iter().map(|offset| {
                let attempts = view
                    .marks
                    .get(offset)
                    .map_or(0, |mark| mark.attempts.saturating_sub(1));
                Returned {
                    offset: *offset,
                    attempts,
                    delay_ms: 0,
                }
            });
            let mut frame = Frame::freeing();
            frame.push(&Entry::Return {
                sub,
                at_ms: now.wall_ms,
                returned: returned.collect(),
            });
            if let Err(error) = self.append(&frame, Level::Os, now) {
                if let Some(dispatch) = self
                    .state
                    .subs
                    .get_mut(&sub)
                    .and_then(|view| view.dispatch.as_mut())
                {
                    held.iter()
                        .for_each(|offset| dispatch.give_back(*offset, None));
                }
                self.state.wake_if_ready(sub);
                result = Err(error);
            }
        }
        result.map(|()| released)
    }

    /// Reads what is visible of a stream, from `from` on: at most `messages_max` records and about `bytes_max` bytes (the first record
    /// always fits). Records that are gone are passed over.
    ///
    /// # Errors
    /// [`Error::UnknownStream`]; what reading failed with, when there is nothing before it.
    pub fn read(
        &mut self,
        stream: StreamId,
        from: Offset,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<ReadBatch, Error> {
        let stream = self.state.stream(stream)?;
        let visible_end = stream.visible_end();
        let mut blocks = Blocks {
            wal: &self.wal,
            cache: &mut self.cache,
            current: None,
        };
        let mut out = ReadBatch {
            records: Vec::new(),
            next: from,
            visible_end,
        };
        let mut bytes = 0;
        while out.records.len() < messages_max && out.next < visible_end {
            let Some(batch) = stream
                .find(out.next)
                .filter(|batch| batch.base < visible_end)
            else {
                out.next = visible_end;
                break;
            };
            let offset = out.next.max(batch.base);
            let record = match blocks.record(stream, offset) {
                Ok(record) => record.expect("the batch holds it"),
                Err(_) if !out.records.is_empty() => break,
                Err(error) => return Err(error),
            };
            bytes += record.value.as_ref().map_or(0, bytes::Bytes::len)
                + record.key.as_ref().map_or(0, bytes::Bytes::len);
            if bytes > bytes_max && !out.records.is_empty() {
                break;
            }
            out.next = offset + 1;
            out.records.push(record);
        }
        Ok(out)
    }
}

use super::State;
