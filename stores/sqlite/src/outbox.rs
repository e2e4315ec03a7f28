//! The outbox: messages committed with a handler's effects, in the order of their commits.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use postrider_core::Fut;
use postrider_core::carriage::{self, Carriage, PACKED_HEADER, Raw};
use postrider_core::clock::Timestamp;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::fault::{Fault, HandlerError};
use postrider_core::name::Destination;
use postrider_core::planted::{self, Plant};
use postrider_core::store::{CommitFailure, Outbox, OutboxRow};
use postrider_core::text::Text;
use rusqlite::{Connection, Row, params};

use crate::db::Db;
use crate::error::Error;
use crate::packed;
use crate::store::Sqlite;

/// At most about this many bytes of messages in one answer of `take`; one message is always given.
const TAKE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// 9999-12-31: the last time that the text form of an envelope holds.
const TIME_MAX: u64 = 253_402_300_799_999;

/// The outbox of one database.
pub(crate) struct SqliteOutbox(pub(crate) Sqlite);

impl Outbox for SqliteOutbox {
    fn take<'a>(&'a self, after: u64, limit: u32) -> Fut<'a, Result<Vec<OutboxRow>, Fault>> {
        let rows = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut handoff = self.0.shared().handoff.lock();
        let latest = handoff.take(after, rows, TAKE_BYTES_MAX);
        drop(handoff);
        Box::pin(async move {
            if let Some(latest) = latest {
                return Ok(latest);
            }
            let leaving = match planted::is(Plant::RemovedRowGivenAgain) {
                true => Vec::new(),
                false => self.0.shared().removing.above(after),
            };
            let taken = self
                .0
                .look_outbox(move |conn| take(conn, after, rows, &leaving))
                .await;
            taken.map_err(Fault::from)
        })
    }

    fn remove<'a>(&'a self, numbers: Vec<u64>) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move { self.0.remove_outgoing(numbers).map_err(Fault::from) })
    }

    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.0.shared().outbox_changed.notified())
    }

    fn depth(&self) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async move {
            self.0.flush_removals().await?;
            Ok(self.0.shared().outbox_depth.load(Ordering::Relaxed))
        })
    }
}

/// Inserts the messages of one unit, in order.
pub(crate) fn insert(db: &mut Db, messages: Vec<Outgoing>) -> Result<u32, CommitFailure> {
    let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
    for message in messages {
        insert_one(&db.conn, &message)?;
        let number = db.conn.last_insert_rowid().unsigned_abs();
        db.outbox_added.push(OutboxRow { number, message });
    }
    Ok(count)
}

fn insert_one(conn: &Connection, message: &Outgoing) -> Result<(), CommitFailure> {
    let Outgoing {
        destination,
        envelope,
        payload,
    } = message;
    let times = [
        Some(envelope.time),
        envelope.expires_at,
        envelope.deliver_at,
    ];
    if times.into_iter().flatten().any(|t| t > Timestamp(TIME_MAX)) {
        let why = format!("message {} has a time after the year 9999", envelope.id);
        return Err(CommitFailure::Handler(HandlerError::Permanent(why.into())));
    }
    let raw = carriage::write(message, Carriage::Packed);
    let fields = raw
        .headers
        .first()
        .map(|(_, fields)| String::from_utf8_lossy(fields))
        .unwrap_or_default();
    let headers = (!envelope.headers.is_empty())
        .then(|| packed::write(envelope.headers.iter().map(|(n, v)| (n.as_bytes(), &v[..]))));
    conn.prepare_cached(
        "INSERT INTO postrider_outbox(destination, key, envelope, headers, payload) \
         VALUES(?1, ?2, ?3, ?4, ?5)",
    )
    .and_then(|mut s| {
        s.execute(params![
            destination.to_string(),
            envelope.key.as_ref().map(|k| &k.as_bytes()[..]),
            fields,
            headers,
            &payload[..],
        ])
    })
    .map_err(Error::sqlite("insert an outbox row"))?;
    Ok(())
}

/// Removes rows within the open transaction. Gives how many were there.
pub(crate) fn remove(conn: &Connection, numbers: &[u64]) -> Result<u64, Error> {
    let doing = "remove outbox rows";
    let mut statement = conn
        .prepare_cached("DELETE FROM postrider_outbox WHERE number = ?1")
        .map_err(Error::sqlite(doing))?;
    let mut removed = 0;
    for number in numbers {
        let number = i64::try_from(*number).unwrap_or(i64::MAX);
        removed += statement
            .execute(params![number])
            .map_err(Error::sqlite(doing))?;
    }
    Ok(removed as u64)
}

/// At most `limit` rows above `after`, without those on their way out (`leaving`, in order).
fn take(
    conn: &Connection,
    after: u64,
    limit: usize,
    leaving: &[u64],
) -> Result<Vec<OutboxRow>, Error> {
    let doing = "read the outbox";
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut statement = conn
        .prepare_cached(
            "SELECT number, destination, key, envelope, headers, payload FROM postrider_outbox \
             WHERE number > ?1 ORDER BY number",
        )
        .map_err(Error::sqlite(doing))?;
    let mut rows = statement
        .query(params![after])
        .map_err(Error::sqlite(doing))?;
    let mut taken = Vec::new();
    let mut bytes = 0;
    while taken.len() < limit && bytes < TAKE_BYTES_MAX {
        let Some(row) = rows.next().map_err(Error::sqlite(doing))? else {
            break;
        };
        let number: i64 = row.get(0).map_err(Error::sqlite(doing))?;
        if leaving.binary_search(&number.unsigned_abs()).is_ok() {
            continue;
        }
        let row = read_row(row)?;
        bytes += row.message.payload.len();
        taken.push(row);
    }
    Ok(taken)
}

fn read_row(row: &Row<'_>) -> Result<OutboxRow, Error> {
    let number: i64 = row.get(0).map_err(Error::sqlite("read the outbox"))?;
    let number = number.unsigned_abs();
    let broken = |why: String| Error::Row {
        table: "postrider_outbox",
        number,
        why,
    };
    let columns = || -> rusqlite::Result<_> {
        Ok((
            row.get::<_, String>(1)?,
            row.get::<_, Option<Vec<u8>>>(2)?,
            row.get::<_, String>(3)?,
            row.get::<_, Option<Vec<u8>>>(4)?,
            row.get::<_, Vec<u8>>(5)?,
        ))
    };
    let (destination, key, fields, headers, payload) =
        columns().map_err(|e| broken(e.to_string()))?;
    let destination = Destination::parse(&destination).map_err(|e| broken(e.to_string()))?;
    // The application's headers stay apart from the fields, so that none of them can be taken for one.
    let raw = Raw {
        key: key.map(Bytes::from),
        headers: vec![(
            Bytes::from_static(PACKED_HEADER.as_bytes()),
            Bytes::from(fields),
        )],
        body: Bytes::from(payload),
    };
    let (mut envelope, payload) = carriage::read(&raw).map_err(|e| broken(e.to_string()))?;
    if let Some(headers) = headers {
        let list = packed::read(Bytes::from(headers))
            .ok_or_else(|| broken("its headers are cut short".into()))?;
        add_headers(&mut envelope, list).map_err(|e| broken(e.to_string()))?;
    }
    Ok(OutboxRow {
        number,
        message: Outgoing {
            destination,
            envelope,
            payload,
        },
    })
}

fn add_headers(
    envelope: &mut Envelope,
    list: Vec<(Bytes, Bytes)>,
) -> Result<(), std::str::Utf8Error> {
    for (name, value) in list {
        envelope.headers.push(Text::from_utf8(name)?, value);
    }
    Ok(())
}
