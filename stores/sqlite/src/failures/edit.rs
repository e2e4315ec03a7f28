//! Edited failures: the record holds what the handler gets next, `postrider_original` what it held when it failed.

use bytes::Bytes;
use postrider_core::carriage::Raw;
use postrider_core::clock::Timestamp;
use postrider_core::failure::{FailureId, FailureState, Original, Reason};
use postrider_core::name::SubscriptionId;
use rusqlite::{Connection, OptionalExtension, params};

use super::redrive::note;
use super::rows::{self, id_number, state_number};
use crate::db::Db;
use crate::error::Error;
use crate::inbox::millis;
use crate::packed;

/// Headers and body of an edited message, in bytes.
const EDIT_BYTES_MAX: usize = 16 << 20;

/// What a person puts in place of headers and body.
pub(super) struct Edit {
    pub(super) headers: Vec<(Bytes, Bytes)>,
    pub(super) body: Bytes,
    pub(super) reason: Reason,
}

impl Edit {
    /// # Errors
    /// It is too large.
    pub(super) fn check(&self) -> Result<(), Error> {
        let headers = self.headers.iter().map(|(n, v)| n.len() + v.len());
        let bytes = headers.sum::<usize>() + self.body.len();
        if bytes > EDIT_BYTES_MAX {
            return Err(Error::EditTooLarge {
                bytes,
                max: EDIT_BYTES_MAX,
            });
        }
        Ok(())
    }
}

/// Replaces headers and body of a record that waits. The original stays, also when it is edited again.
pub(super) fn edit(
    db: &mut Db,
    subscription: &SubscriptionId,
    number: i64,
    id: FailureId,
    edit: &Edit,
) -> Result<(), Error> {
    let doing = "edit a failure";
    let waits: Option<bool> = db
        .conn
        .prepare_cached(
            "SELECT state = ?3 AND claim_epoch <> ?4 FROM postrider_failure \
             WHERE subscription = ?1 AND id = ?2",
        )
        .and_then(|mut s| {
            let waiting = state_number(FailureState::Waiting);
            s.query_row(params![number, id_number(id), waiting, db.epoch], |r| {
                r.get(0)
            })
            .optional()
        })
        .map_err(Error::sqlite(doing))?;
    match waits {
        None => return Err(rows::no_such(subscription, id)),
        Some(false) => {
            return Err(Error::OnItsWay {
                subscription: subscription.to_string(),
                id: id.0,
            });
        }
        Some(true) => {}
    }
    let Reason { by, text, at } = &edit.reason;
    let headers = packed::write(edit.headers.iter().map(|(n, v)| (&n[..], &v[..])));
    // The last edit's reason; the first one's original.
    db.conn
        .prepare_cached(
            "INSERT INTO postrider_original(failure, headers, body, by, reason, at) \
             SELECT id, headers, body, ?2, ?3, ?4 FROM postrider_failure WHERE id = ?1 \
             ON CONFLICT(failure) DO UPDATE SET by = excluded.by, reason = excluded.reason, at = excluded.at",
        )
        .and_then(|mut s| s.execute(params![id_number(id), by, text, millis(*at)]))
        .map_err(Error::sqlite(doing))?;
    db.conn
        .prepare_cached("UPDATE postrider_failure SET headers = ?2, body = ?3 WHERE id = ?1")
        .and_then(|mut s| s.execute(params![id_number(id), headers, &edit.body[..]]))
        .map_err(Error::sqlite(doing))?;
    note(&db.conn, number, "edit", 1, &edit.reason)
}

/// What a record held before it was edited.
pub(super) fn original(
    conn: &Connection,
    subscription: &SubscriptionId,
    number: i64,
    id: FailureId,
) -> Result<Option<Original>, Error> {
    type Row = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>, Reason)>);
    let row: Option<Row> = conn
        .prepare_cached(
            "SELECT f.raw_key, o.headers, o.body, o.by, o.reason, o.at FROM postrider_failure f \
             LEFT JOIN postrider_original o ON o.failure = f.id WHERE f.subscription = ?1 AND f.id = ?2",
        )
        .and_then(|mut s| {
            s.query_row(params![number, id_number(id)], |r| {
                let Some(headers) = r.get(1)? else {
                    return Ok((r.get(0)?, None));
                };
                let reason = Reason {
                    by: r.get(3)?,
                    text: r.get(4)?,
                    at: Timestamp(r.get::<_, i64>(5)?.unsigned_abs()),
                };
                Ok((r.get(0)?, Some((headers, r.get(2)?, reason))))
            })
            .optional()
        })
        .map_err(Error::sqlite("read what was edited"))?;
    let (key, edited) = row.ok_or_else(|| rows::no_such(subscription, id))?;
    let Some((headers, body, reason)) = edited else {
        return Ok(None);
    };
    let headers = packed::read(Bytes::from(headers)).ok_or_else(|| Error::Row {
        table: "postrider_original",
        number: id.0,
        why: "its headers are cut short".into(),
    })?;
    let raw = Raw {
        key: key.map(Bytes::from),
        headers,
        body: Bytes::from(body),
    };
    Ok(Some(Original { raw, reason }))
}
