//! Rows of the failure tables, and everything that only looks.

use bytes::Bytes;
use postrider_core::carriage::Raw;
use postrider_core::clock::Timestamp;
use postrider_core::failure::{
    AuditEntry, Cause, CrashNote, CrashState, FailureDraft, FailureGroup, FailureId, FailureRecord,
    FailureState, OpenState, Reason,
};
use postrider_core::name::SubscriptionId;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::parked::Change;
use crate::db::{Db, find_number};
use crate::error::Error;
use crate::packed;

/// The most that one page of a listing holds.
const PAGE_MAX: u32 = 1000;

const WAITING: i64 = 0;
const REDRIVING: i64 = 1;

pub(super) const fn state_number(state: FailureState) -> i64 {
    match state {
        FailureState::Waiting => WAITING,
        FailureState::Redriving => REDRIVING,
    }
}

pub(super) fn id_number(id: FailureId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

pub(super) fn cause_text(cause: Cause) -> String {
    match serde_json::to_value(cause) {
        Ok(serde_json::Value::String(text)) => text,
        other => unreachable!("a cause is written as a text, not as {other:?}"),
    }
}

/// The number of a subscription that must be known.
pub(super) fn number_of(conn: &Connection, name: &str) -> Result<i64, Error> {
    find_number(conn, name)?.ok_or_else(|| Error::UnknownSubscription(name.to_owned()))
}

/// Whether anything is marked for redrive.
pub(super) fn any_redriving(conn: &Connection, name: &str) -> Result<bool, Error> {
    conn.prepare_cached(
        "SELECT EXISTS(SELECT 1 FROM postrider_failure f JOIN postrider_subscription s \
         ON s.no = f.subscription WHERE s.name = ?1 AND f.state = 1)",
    )
    .and_then(|mut s| s.query_row(params![name], |r| r.get(0)))
    .map_err(Error::sqlite("look for redriven failures"))
}

/// Whether a key has records that it is parked with.
pub(super) fn is_parked(conn: &Connection, name: &str, key: &Bytes) -> Result<bool, Error> {
    let Some(number) = find_number(conn, name)? else {
        return Ok(false);
    };
    conn.prepare_cached(
        "SELECT EXISTS(SELECT 1 FROM postrider_failure \
         WHERE subscription = ?1 AND key = ?2 AND parked = 1)",
    )
    .and_then(|mut s| s.query_row(params![number, &key[..]], |r| r.get(0)))
    .map_err(Error::sqlite("look whether a key is parked"))
}

/// Whether anybody may hold something: a claim marks its row for ever, so an answer may be too careful.
pub(super) fn any_held(conn: &Connection, name: &str) -> Result<bool, Error> {
    conn.prepare_cached(
        "SELECT EXISTS(SELECT 1 FROM postrider_failure f JOIN postrider_subscription s \
         ON s.no = f.subscription WHERE s.name = ?1 AND f.claim_epoch <> 0)",
    )
    .and_then(|mut s| s.query_row(params![name], |r| r.get(0)))
    .map_err(Error::sqlite("look for claimed failures"))
}

/// The columns that [`read`] takes, with the body or an empty one.
pub(super) const COLUMNS: &str = "id, state, parked, redrives, key, facts, raw_key, headers, body";
const COLUMNS_NO_BODY: &str = "id, state, parked, redrives, key, facts, raw_key, headers, x''";

/// Reads a record from [`COLUMNS`].
pub(super) fn read(row: &Row<'_>, subscription: &SubscriptionId) -> Result<FailureRecord, Error> {
    let id: i64 = row.get(0).map_err(Error::sqlite("read a failure"))?;
    let id = id.unsigned_abs();
    let broken = |why: String| Error::Row {
        table: "postrider_failure",
        number: id,
        why,
    };
    let columns = || -> rusqlite::Result<_> {
        Ok((
            row.get::<_, i64>(1)?,
            row.get::<_, bool>(2)?,
            row.get::<_, u32>(3)?,
            row.get::<_, Option<Vec<u8>>>(4)?,
            row.get::<_, String>(5)?,
            row.get::<_, Option<Vec<u8>>>(6)?,
            row.get::<_, Vec<u8>>(7)?,
            row.get::<_, Vec<u8>>(8)?,
        ))
    };
    let (state, parked, redrives, key, facts, raw_key, headers, body) =
        columns().map_err(|e| broken(e.to_string()))?;
    let headers = packed::read(Bytes::from(headers))
        .ok_or_else(|| broken("its headers are cut short".into()))?;
    Ok(FailureRecord {
        id: FailureId(id),
        subscription: subscription.clone(),
        state: match state {
            WAITING => FailureState::Waiting,
            REDRIVING => FailureState::Redriving,
            other => return Err(broken(format!("{other} is not a state"))),
        },
        parked,
        redrives,
        draft: FailureDraft {
            key: key.map(Bytes::from),
            facts: serde_json::from_str(&facts).map_err(|e| broken(e.to_string()))?,
            raw: Raw {
                key: raw_key.map(Bytes::from),
                headers,
                body: Bytes::from(body),
            },
        },
    })
}

pub(super) fn get(
    conn: &Connection,
    subscription: &SubscriptionId,
    number: i64,
    id: FailureId,
) -> Result<FailureRecord, Error> {
    let doing = "read a failure";
    let sql =
        format!("SELECT {COLUMNS} FROM postrider_failure WHERE subscription = ?1 AND id = ?2");
    let mut statement = conn.prepare_cached(&sql).map_err(Error::sqlite(doing))?;
    let mut rows = statement
        .query(params![number, id_number(id)])
        .map_err(Error::sqlite(doing))?;
    match rows.next().map_err(Error::sqlite(doing))? {
        Some(row) => read(row, subscription),
        None => Err(no_such(subscription, id)),
    }
}

pub(super) fn no_such(subscription: &SubscriptionId, id: FailureId) -> Error {
    Error::NoSuchFailure {
        subscription: subscription.to_string(),
        id: id.0,
    }
}

pub(super) fn list(
    conn: &Connection,
    subscription: &SubscriptionId,
    number: i64,
    group: Option<&str>,
    after: Option<FailureId>,
    limit: u32,
) -> Result<Vec<FailureRecord>, Error> {
    let doing = "list failures";
    let of_group = if group.is_some() {
        "cause_group = ?4"
    } else {
        "?4 IS NULL"
    };
    let sql = format!(
        "SELECT {COLUMNS_NO_BODY} FROM postrider_failure \
         WHERE subscription = ?1 AND id > ?2 AND {of_group} ORDER BY id LIMIT ?3"
    );
    let mut statement = conn.prepare_cached(&sql).map_err(Error::sqlite(doing))?;
    let after = after.map_or(0, id_number);
    let mut rows = statement
        .query(params![number, after, limit.min(PAGE_MAX), group])
        .map_err(Error::sqlite(doing))?;
    let mut page = Vec::new();
    while let Some(row) = rows.next().map_err(Error::sqlite(doing))? {
        page.push(read(row, subscription)?);
    }
    Ok(page)
}

pub(super) fn groups(conn: &Connection, name: Option<&str>) -> Result<Vec<FailureGroup>, Error> {
    let number = match name {
        Some(name) => match find_number(conn, name)? {
            Some(number) => Some(number),
            None => return Ok(Vec::new()),
        },
        None => None,
    };
    let doing = "group failures";
    let mut statement = conn
        .prepare_cached(
            "SELECT s.name, f.cause_group, f.cause, count(*), min(f.failed_at), max(f.failed_at), min(f.id) \
             FROM postrider_failure f JOIN postrider_subscription s ON s.no = f.subscription \
             WHERE ?1 IS NULL OR f.subscription = ?1 \
             GROUP BY f.subscription, f.cause_group, f.cause ORDER BY count(*) DESC, min(f.id) LIMIT ?2",
        )
        .map_err(Error::sqlite(doing))?;
    let rows = statement
        .query_map(params![number, PAGE_MAX], |r| {
            let numbers: [i64; 4] = [r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?];
            Ok((
                r.get::<_, String>(0)?,
                r.get::<_, String>(1)?,
                r.get::<_, String>(2)?,
                numbers.map(i64::unsigned_abs),
            ))
        })
        .map_err(Error::sqlite(doing))?;
    let mut groups = Vec::new();
    for row in rows {
        let (name, group, cause, [count, first, last, sample]) =
            row.map_err(Error::sqlite(doing))?;
        let broken = |why: String| Error::Row {
            table: "postrider_failure",
            number: sample,
            why,
        };
        groups.push(FailureGroup {
            subscription: SubscriptionId::parse(&name).map_err(|e| broken(e.to_string()))?,
            group,
            cause: serde_json::from_value(cause.into()).map_err(|e| broken(e.to_string()))?,
            count,
            first: Timestamp(first),
            last: Timestamp(last),
            sample: FailureId(sample),
        });
    }
    Ok(groups)
}

pub(super) fn audit(conn: &Connection, number: i64, limit: u32) -> Result<Vec<AuditEntry>, Error> {
    let doing = "read the audit";
    conn.prepare_cached(
        "SELECT action, count, by, reason, at FROM postrider_audit WHERE subscription = ?1 \
         ORDER BY number DESC LIMIT ?2",
    )
    .and_then(|mut s| {
        s.query_map(params![number, limit.min(PAGE_MAX)], |r| {
            Ok(AuditEntry {
                action: r.get(0)?,
                count: r.get::<_, i64>(1)?.unsigned_abs(),
                reason: Reason {
                    by: r.get(2)?,
                    text: r.get(3)?,
                    at: Timestamp(r.get::<_, i64>(4)?.unsigned_abs()),
                },
            })
        })?
        .collect()
    })
    .map_err(Error::sqlite(doing))
}

pub(super) fn open_state(db: &mut Db, subscription: &SubscriptionId) -> Result<OpenState, Error> {
    let doing = "open a subscription";
    let number = db.number_of(subscription)?;
    let crash = crash_state(db, number).map_err(Error::sqlite(doing))?;
    let parked: Vec<Vec<u8>> = db
        .conn
        .prepare_cached(
            "SELECT DISTINCT key FROM postrider_failure WHERE subscription = ?1 AND parked = 1",
        )
        .and_then(|mut s| s.query_map(params![number], |r| r.get(0))?.collect())
        .map_err(Error::sqlite(doing))?;
    let parked: Vec<Bytes> = parked.into_iter().map(Bytes::from).collect();
    let opened = Change::Opened(parked.clone());
    db.parked_changes.push((subscription.clone(), opened));
    Ok(OpenState { crash, parked })
}

/// A state that another release wrote otherwise counts as none: what kills a process is then found a few deaths later.
fn crash_state(db: &Db, number: i64) -> Result<CrashState, rusqlite::Error> {
    let text: Option<Option<String>> = db
        .conn
        .prepare_cached("SELECT crash FROM postrider_subscription WHERE no = ?1")?
        .query_row(params![number], |r| r.get(0))
        .optional()?;
    let state = text.flatten().map(|text| serde_json::from_str(&text));
    Ok(state.and_then(Result::ok).unwrap_or_default())
}

pub(super) fn note_crash(
    db: &mut Db,
    subscription: &SubscriptionId,
    note: &CrashNote,
) -> Result<CrashState, Error> {
    let doing = Error::sqlite("note what is known of crashes");
    let number = db.number_of(subscription)?;
    let noted = || {
        let mut state = crash_state(db, number)?;
        state.apply(note);
        let text = serde_json::to_string(&state).expect("a crash state has a JSON form");
        db.conn
            .prepare_cached("UPDATE postrider_subscription SET crash = ?2 WHERE no = ?1")
            .and_then(|mut s| s.execute(params![number, text]))?;
        Ok(state)
    };
    noted().map_err(doing)
}
