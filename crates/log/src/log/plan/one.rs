//! The commit that most are: one record for one stream of level `fsync`, and nothing else. It decides and writes what the general way
//! would, with nothing set up for what such a commit does not have. Streams below that level reserve offsets: they go the general way.

use std::sync::Arc;

use bytes::Bytes;

use super::publish::encode_body;
use super::{Log, check_record};
use crate::Error;
use crate::Level;
use crate::batch::Block;
use crate::entry::{DATA_HEAD, Entry, kind};
use crate::ids::{Now, Offset, StreamId};
use crate::tx::{Appended, Confirm, Expected, Publish, RecordIn, Ticket, TicketOfOne, Tx};
use crate::wal::{EntryBytes, Location, Lsn, Space, Sync};

/// More room than this is not kept for the next record.
const SCRATCH_BYTES_MAX: usize = 256 << 10;

/// The record of such a commit, and its stream. `None`: it is another.
pub(super) fn only(tx: &Tx) -> Option<(StreamId, &RecordIn)> {
    let Tx {
        publishes,
        settles,
        cancels,
        failures,
        offsets,
        crash_states,
        confirm: Confirm::Auto,
    } = tx
    else {
        return None;
    };
    let rest = settles.is_empty()
        && cancels.is_empty()
        && failures.is_empty()
        && offsets.is_empty()
        && crash_states.is_empty();
    match &publishes[..] {
        [
            Publish {
                stream,
                also,
                records,
                expect: Expected::Any,
            },
        ] if rest && also.is_empty() => match &records[..] {
            [record] => Some((*stream, record)),
            _ => None,
        },
        _ => None,
    }
}

impl From<TicketOfOne> for Ticket {
    fn from(one: TicketOfOne) -> Self {
        let TicketOfOne {
            lsn,
            level,
            told_at,
            appended,
        } = one;
        Ticket {
            lsn,
            level,
            told_at,
            appended: vec![vec![appended]],
            cancelled: Vec::new(),
            failures: Vec::new(),
        }
    }
}

impl Log {
    /// Appends one record to one stream, whatever the stream holds: a [`commit`](Self::commit) of that alone, and less work than one.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn publish_one(
        &mut self,
        stream: StreamId,
        record: &RecordIn,
        now: Now,
    ) -> Result<TicketOfOne, Error> {
        if self.state.stream(stream)?.config.level == Level::Fsync {
            self.forget_old_ids_of(stream, now);
            return self.commit_one(stream, record, now);
        }
        let publish = Publish {
            stream,
            records: vec![record.clone()],
            ..Publish::default()
        };
        let ticket = self.commit(
            Tx {
                publishes: vec![publish],
                ..Tx::default()
            },
            now,
        )?;
        let appended = ticket.appended.first().and_then(|records| records.first());
        Ok(TicketOfOne {
            lsn: ticket.lsn,
            level: ticket.level,
            told_at: ticket.told_at,
            appended: *appended.expect("one record was published"),
        })
    }

    /// Commits one record to a stream of level `fsync`.
    pub(super) fn commit_one(
        &mut self,
        id: StreamId,
        record: &RecordIn,
        now: Now,
    ) -> Result<TicketOfOne, Error> {
        check_record(record, &self.options.limits)?;
        let stream = self.state.stream(id)?;
        let ticket = |lsn, offset, duplicate| TicketOfOne {
            lsn,
            level: Level::Fsync,
            told_at: Level::Fsync,
            appended: Appended { offset, duplicate },
        };
        let dedupes = record.id != [0; 16] && !stream.config.dedupe.window.is_zero();
        let known = stream.dedupe.as_ref().filter(|_| dedupes);
        if let Some(first) = known.and_then(|dedupe| dedupe.find(record.id)) {
            // The first is in the last frame or before.
            return Ok(ticket(self.wal.last(), first, true));
        }
        let base = stream.next;
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        let appended = self.append_one(id, base, record, now, &mut body);
        if body.capacity() <= SCRATCH_BYTES_MAX {
            self.scratch = body;
        }
        Ok(ticket(appended?, base, false))
    }

    /// Appends a frame of one DATA entry, encoded into `body`, and applies it. On an error nothing has changed.
    fn append_one(
        &mut self,
        id: StreamId,
        base: Offset,
        record: &RecordIn,
        now: Now,
        body: &mut Vec<u8>,
    ) -> Result<Lsn, Error> {
        let positions = encode_body(body, id, base, now, &[record]);
        // Decoded before it is appended: what could not be replayed is never written.
        let entry = Entry::decode(kind::DATA, 0, body)?;
        let entry = entry.expect("no flag says that it may be skipped");
        let bytes = [EntryBytes {
            kind: kind::DATA,
            flags: 0,
            body: &[body],
        }];
        let mut at = Location::default();
        let lsn =
            (self.wal).append_each(&bytes, Sync::Now, Space::Common, |location| at = location)?;
        self.state
            .apply(lsn, &[(entry, at)], now)
            .expect("what was decided can be applied");
        // What nobody can read need not be kept for readers.
        if self.state.todo.kept.contains(&at) {
            let bytes = Bytes::copy_from_slice(body);
            let block = Block::encoded(bytes, DATA_HEAD, now.wall_ms, positions);
            self.cache.put(at, Arc::new(block));
        }
        self.after_apply();
        Ok(lsn)
    }
}
