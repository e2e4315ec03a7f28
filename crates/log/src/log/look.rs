//! Looking at single messages, and a seek that says what it would do. For people: nothing here is on the way of a message.

use super::Log;
use super::frame::Frame;
use crate::definitions::Start;
use crate::entry::{Ddl, Entry};
use crate::ids::{FailureId, Now, Offset, StreamId, SubId};
use crate::tx::Record;
use crate::view::stream::BatchRef;
use crate::view::subscription::Subscription;
use crate::wal::Lsn;
use crate::{Error, FailureState, Level};

/// Where a record stands in a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is to be handed out.
    Waiting {
        /// Hand-overs that counted.
        attempts: u32,
    },
    /// A member has it.
    InFlight {
        /// Hand-overs that counted, this one included.
        attempts: u32,
    },
    /// It is kept back until this wall time, in ms.
    Delayed {
        /// Hand-overs that counted.
        attempts: u32,
        /// Until when.
        until_ms: u64,
    },
    /// It ended: acknowledged, expired, cancelled, given up, or older than the subscription.
    Settled,
    /// It ended as a failure record that is still there.
    Failed {
        /// The record.
        id: FailureId,
        /// Where that stands.
        state: FailureState,
        /// Whether it parks its key.
        parked: bool,
    },
}

/// What a seek does, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeekCount {
    /// Where it leads to, within what is kept.
    pub to: Offset,
    /// The oldest record that is kept, or the end.
    pub first: Offset,
    /// The next offset to be given.
    pub next: Offset,
    /// Unsettled records before it, which are settled by it.
    pub skipped: u64,
    /// Settled records that are still there from it on, which are delivered again.
    pub again: u64,
    /// Records in flight: their leases end with it.
    pub in_flight: usize,
}

impl Log {
    /// Where a record stands in a subscription. What was never there counts as settled.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn standing(&self, sub: SubId, record: &Record, now: Now) -> Result<Standing, Error> {
        let view = self.state.sub(sub)?;
        let offset = record.offset;
        if view.settled.contains(offset) {
            return Ok(settled(view, record));
        }
        let mark = view.marks.get(&offset).copied().unwrap_or_default();
        let attempts = mark.attempts;
        let dispatch = view.dispatch.as_ref();
        if dispatch.is_some_and(|dispatch| dispatch.lease_of(offset).is_some()) {
            return Ok(Standing::InFlight { attempts });
        }
        let returned = now.wall_ms.saturating_add(mark.waits_ms(now.wall_ms));
        let until_ms = record.deliver_at_ms.max(returned);
        Ok(match until_ms > now.wall_ms {
            true => Standing::Delayed { attempts, until_ms },
            false => Standing::Waiting { attempts },
        })
    }

    /// The oldest record that is there, or the end.
    ///
    /// # Errors
    /// [`Error::UnknownStream`].
    pub fn first_offset(&self, stream: StreamId) -> Result<Offset, Error> {
        Ok(self.state.stream(stream)?.first())
    }

    /// Visible records with an offset below `before`, the newest first: at most `messages_max` and about `bytes_max` bytes (the first record
    /// always fits).
    ///
    /// # Errors
    /// [`Error::UnknownStream`]; what reading failed with, when there is nothing before it.
    pub fn read_back(
        &mut self,
        stream: StreamId,
        before: Offset,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, Error> {
        let stream = self.state.stream(stream)?;
        let before = before.min(stream.visible_end());
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        for batch in stream.batches().rev().filter(|batch| batch.base < before) {
            let block = match self.cache.get(&self.wal, batch.at) {
                Ok(block) => block,
                Err(_) if !records.is_empty() => return Ok(records),
                Err(error) => return Err(error),
            };
            for offset in (batch.base..batch.end().min(before)).rev() {
                let record = block.record((offset - batch.base) as u32, batch.base)?;
                bytes += size(&record);
                if records.len() >= messages_max || (bytes > bytes_max && !records.is_empty()) {
                    return Ok(records);
                }
                records.push(record);
            }
        }
        Ok(records)
    }

    /// What [`Log::seek`] to there would do now. Takes time in proportion to the stream's batches.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn seek_count(&self, sub: SubId, to: Start) -> Result<SeekCount, Error> {
        let (sub, stream) = self.state.sub_and_stream(sub)?;
        let to = super::admin::start_of(stream, to);
        let (mut skipped, mut again) = (0, 0);
        for batch in stream.batches() {
            let (before, after) = halves(batch, to);
            skipped += before.1 - before.0 - sub.settled.count(before.0, before.1);
            again += sub.settled.count(after.0, after.1);
        }
        Ok(SeekCount {
            to,
            first: stream.first(),
            next: stream.next,
            skipped,
            again,
            in_flight: sub.dispatch.as_ref().map_or(0, |d| d.in_flight_len()),
        })
    }

    /// As [`Log::seek`], and keeps the reason in the list of decisions ([`Log::failure_audit`]), in the same frame.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn seek_because(
        &mut self,
        sub: SubId,
        to: Offset,
        reason: &str,
        now: Now,
    ) -> Result<Lsn, Error> {
        let (_, stream) = self.state.sub_and_stream(sub)?;
        let to = super::admin::start_of(stream, Start::At(to));
        let mut frame = Frame::synced();
        frame.push(&Entry::Ddl(Ddl::Seek { sub, to }));
        frame.push(&Entry::Audit {
            sub,
            at_ms: now.wall_ms,
            offset: to,
            reason,
        });
        self.append(&frame, Level::Fsync, now)
    }
}

impl Log {
    /// Puts something into the list of decisions of a subscription ([`Log::failure_audit`]), where it stands like a message given up
    /// without a record: what it was, its text says.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`], those of [`Wal::append`](crate::wal::Wal::append).
    pub fn note(&mut self, sub: SubId, offset: Offset, text: &str, now: Now) -> Result<Lsn, Error> {
        self.state.sub(sub)?;
        let mut frame = Frame::synced();
        frame.push(&Entry::Audit {
            sub,
            at_ms: now.wall_ms,
            offset,
            reason: text,
        });
        self.append(&frame, Level::Fsync, now)
    }
}

fn settled(view: &Subscription, record: &Record) -> Standing {
    let failures = view.failures.as_ref();
    let failed = failures.and_then(|failures| {
        let id = failures.of_origin(record.id, Some(record.offset))?;
        failures.info(id)
    });
    failed.map_or(Standing::Settled, |info| Standing::Failed {
        id: info.id,
        state: info.state,
        parked: info.parked,
    })
}

/// The parts of a batch before and from `at` on.
fn halves(batch: &BatchRef, at: Offset) -> ((Offset, Offset), (Offset, Offset)) {
    let cut = at.clamp(batch.base, batch.end());
    ((batch.base, cut), (cut, batch.end()))
}

fn size(record: &Record) -> usize {
    record.value.as_ref().map_or(0, bytes::Bytes::len)
        + record.key.as_ref().map_or(0, bytes::Bytes::len)
}
