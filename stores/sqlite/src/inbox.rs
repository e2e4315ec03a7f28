//! The inbox: which messages a subscription has handled, and the hand that removes what is old.

use std::time::Duration;

use postrider_core::clock::Timestamp;
use postrider_core::store::{InboxEntry, Seen};
use rusqlite::{Connection, OptionalExtension, params};

use crate::db::{Db, find_number};
use crate::error::Error;

/// How many rows the hand looks at for each that is added.
const LOOKS_PER_ROW: u64 = 8;
/// The hand moves when it owes at least this many looks.
const STEP_MIN: u64 = 512;
/// At most this many at once.
const STEP_MAX: u64 = 4096;

pub(crate) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.millis()).unwrap_or(i64::MAX)
}

/// Inserts the row of a delivery. Anything but `New`: it was there.
pub(crate) fn insert(db: &mut Db, entry: &InboxEntry) -> Result<Seen, Error> {
    let number = db.number_of(&entry.subscription)?;
    let inserted = db
        .conn
        .prepare_cached(
            "INSERT INTO postrider_inbox(subscription, message_id, body, received_at) \
             VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )
        .and_then(|mut s| {
            s.execute(params![
                number,
                entry.message.as_bytes(),
                entry.body.0,
                millis(entry.received_at)
            ])
        })
        .map_err(Error::sqlite("insert an inbox row"))?;
    if inserted == 1 {
        db.hand.note(entry.received_at);
        return Ok(Seen::New);
    }
    look(&db.conn, number, entry)
}

/// Takes the row of a delivery away: for a bug on purpose.
pub(crate) fn forget(db: &mut Db, entry: &InboxEntry) -> Result<(), Error> {
    let number = db.number_of(&entry.subscription)?;
    let sql = "DELETE FROM postrider_inbox WHERE subscription = ?1 AND message_id = ?2";
    db.conn
        .execute(sql, params![number, entry.message.as_bytes()])
        .map(drop)
        .map_err(Error::sqlite("forget an inbox row"))
}

/// What the inbox knows of a delivery.
pub(crate) fn seen(conn: &Connection, entry: &InboxEntry) -> Result<Seen, Error> {
    match find_number(conn, &entry.subscription.to_string())? {
        Some(number) => look(conn, number, entry),
        None => Ok(Seen::New),
    }
}

fn look(conn: &Connection, number: i64, entry: &InboxEntry) -> Result<Seen, Error> {
    let body: Option<Vec<u8>> = conn
        .prepare_cached(
            "SELECT body FROM postrider_inbox WHERE subscription = ?1 AND message_id = ?2",
        )
        .and_then(|mut s| {
            s.query_row(params![number, entry.message.as_bytes()], |r| r.get(0))
                .optional()
        })
        .map_err(Error::sqlite("look into the inbox"))?;
    Ok(match body {
        None => Seen::New,
        Some(body) if body == entry.body.0 => Seen::Done,
        Some(_) => Seen::Conflict,
    })
}

/// Where a walk through the inbox stands: the last row looked at.
pub(crate) type Cursor = (i64, Vec<u8>);

struct Slice {
    looked: u64,
    removed: u64,
    /// The oldest row that was left.
    oldest: u64,
    last: Option<Cursor>,
}

/// Looks at `limit` rows after the cursor and removes those received before `before`. An index by time would cost a second random write
/// for each message; the walk costs reads.
fn sweep(
    conn: &Connection,
    after: Option<&Cursor>,
    before: i64,
    limit: u64,
) -> Result<Slice, Error> {
    let start: Cursor = after.cloned().unwrap_or((i64::MIN, Vec::new()));
    let rows: Vec<(i64, Vec<u8>, i64)> = conn
        .prepare_cached(
            "SELECT subscription, message_id, received_at FROM postrider_inbox \
             WHERE (subscription, message_id) > (?1, ?2) ORDER BY subscription, message_id LIMIT ?3",
        )
        .and_then(|mut s| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            s.query_map(params![start.0, start.1, limit], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?
            .collect()
        })
        .map_err(Error::sqlite("walk the inbox"))?;
    let mut slice = Slice {
        looked: rows.len() as u64,
        removed: 0,
        oldest: u64::MAX,
        last: None,
    };
    let mut delete = conn
        .prepare_cached("DELETE FROM postrider_inbox WHERE subscription = ?1 AND message_id = ?2")
        .map_err(Error::sqlite("prune the inbox"))?;
    for (number, id, received_at) in rows {
        if received_at < before {
            delete
                .execute(params![number, id])
                .map_err(Error::sqlite("prune the inbox"))?;
            slice.removed += 1;
        } else {
            slice.oldest = slice.oldest.min(received_at.unsigned_abs());
        }
        slice.last = Some((number, id));
    }
    Ok(slice)
}

/// One step of a walk on request. Gives how many rows went, and where to go on.
pub(crate) fn prune_step(
    db: &Db,
    after: Option<&Cursor>,
    before: Timestamp,
) -> Result<(u64, Option<Cursor>), Error> {
    let slice = sweep(&db.conn, after, millis(before), STEP_MAX)?;
    let more = (slice.looked == STEP_MAX).then_some(slice.last).flatten();
    Ok((slice.removed, more))
}

/// Walks round and round the inbox like a clock's hand and removes rows older than the retention, a few for each row that is
/// added. After a round it rests until the oldest row that it left is due, so a young table costs nothing.
#[derive(Debug)]
pub(crate) struct Hand {
    retention_ms: u64,
    newest: u64,
    rests_until: u64,
    cursor: Option<Cursor>,
    oldest: u64,
    owed: u64,
}

impl Hand {
    pub(crate) fn new(retention: Duration) -> Self {
        Self {
            retention_ms: u64::try_from(retention.as_millis()).unwrap_or(u64::MAX),
            newest: 0,
            rests_until: 0,
            cursor: None,
            oldest: u64::MAX,
            owed: 0,
        }
    }

    fn note(&mut self, received_at: Timestamp) {
        self.newest = self.newest.max(received_at.millis());
        self.owed += LOOKS_PER_ROW;
    }

    /// Starts the round again: what it did was rolled back.
    pub(crate) fn reset(&mut self) {
        self.cursor = None;
        self.oldest = u64::MAX;
        self.rests_until = 0;
    }

    /// Moves as far as it owes, within the open transaction. Gives how many rows went.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<u64, Error> {
        if self.newest < self.rests_until {
            self.owed = 0;
            return Ok(0);
        }
        if self.owed < STEP_MIN {
            return Ok(0);
        }
        let limit = self.owed.min(STEP_MAX);
        self.owed = 0;
        let before = self.newest.saturating_sub(self.retention_ms);
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let slice = sweep(conn, self.cursor.as_ref(), before, limit)?;
        self.oldest = self.oldest.min(slice.oldest);
        if slice.looked < limit {
            let oldest = if self.oldest == u64::MAX {
                self.newest
            } else {
                self.oldest
            };
            self.reset();
            self.rests_until = oldest.saturating_add(self.retention_ms);
        } else {
            self.cursor = slice.last;
        }
        Ok(slice.removed)
    }
}
