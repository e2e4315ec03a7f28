//! The commit that most are: one record for one stream of level `fsync`, and nothing else. It decides and writes what the general way
//! would, with nothing set up for what such a commit does not have. Streams below that level reserve offsets: they go the general way.

use super::publish::encode_data;
use super::{Log, check_record};
use crate::Error;
use crate::Level;
use crate::entry::kind;
use crate::ids::{Now, StreamId};
use crate::log::frame::Frame;
use crate::tx::{Appended, Confirm, Expected, Publish, RecordIn, Ticket, Tx};

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

impl Log {
    /// Commits one record.
    pub(super) fn commit_one(
        &mut self,
        id: StreamId,
        record: &RecordIn,
        now: Now,
    ) -> Result<Ticket, Error> {
        check_record(record, &self.options.limits)?;
        let stream = self.state.stream(id)?;
        let ticket = |lsn, offset, duplicate| Ticket {
            lsn,
            level: Level::Fsync,
            told_at: Level::Fsync,
            appended: vec![vec![Appended { offset, duplicate }]],
            cancelled: Vec::new(),
            failures: Vec::new(),
        };
        let dedupes = record.id != [0; 16] && !stream.config.dedupe.window.is_zero();
        let known = stream.dedupe.as_ref().filter(|_| dedupes);
        if let Some(first) = known.and_then(|dedupe| dedupe.find(record.id)) {
            // The first is in the last frame or before.
            return Ok(ticket(self.wal.last(), first, true));
        }
        let base = stream.next;
        let (body, block) = encode_data(id, base, now, &[record]);
        let mut frame = Frame::default();
        frame.push_block(kind::DATA, body, block);
        let lsn = self.append(&frame, Level::Fsync, now)?;
        Ok(ticket(lsn, base, false))
    }
}
