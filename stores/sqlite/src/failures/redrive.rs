//! Redrive, discard, claims and their end.
//!
//! The records of a parked key are, in order, some that are on their way back and then some that wait; a change keeps that shape.

use std::collections::HashMap;

use bytes::Bytes;
use postrider_core::failure::{
    FailureFacts, KeyState, Reason, RedriveOutcome, RedriveToken, Redriven, Selection,
};
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};

use super::parked;
use super::rows::{self, COLUMNS, cause_text, id_number};
use crate::db::{Db, find_number};
use crate::error::Error;
use crate::inbox::millis;

/// How many marked records one claim looks at.
const CLAIM_LOOKS_MAX: u32 = 10_000;

/// What a person does to failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Redrive,
    Discard,
}

/// Each selection as conditions on `?2`.
fn conditions(which: &Selection) -> Vec<(&'static str, Value)> {
    match which {
        Selection::Ids(ids) => ids
            .iter()
            .map(|id| ("id = ?2", Value::Integer(id_number(*id))))
            .collect(),
        Selection::Group(group) => vec![("cause_group = ?2", Value::Text(group.clone()))],
        Selection::Key(key) => vec![("key = ?2", Value::Blob(key.to_vec()))],
        Selection::All => vec![("?2 IS NULL", Value::Null)],
    }
}

/// Redrives or discards, and keeps the reason. Gives how many records it changed.
pub(super) fn change(
    db: &mut Db,
    number: i64,
    which: &Selection,
    reason: &Reason,
    change: Change,
) -> Result<u64, Error> {
    let mut count = 0;
    for (condition, value) in conditions(which) {
        count += match change {
            Change::Redrive => mark(&db.conn, number, condition, &value)?,
            Change::Discard => discard(&db.conn, number, condition, &value, db.epoch)?,
        };
    }
    if count > 0 {
        let action = match change {
            Change::Redrive => "redrive",
            Change::Discard => "discard",
        };
        note(&db.conn, number, action, count, reason)?;
    }
    Ok(count)
}

/// Keeps what was done, by whom and why.
pub(super) fn note(
    conn: &Connection,
    number: i64,
    action: &str,
    count: u64,
    reason: &Reason,
) -> Result<(), Error> {
    conn.prepare_cached(
        "INSERT INTO postrider_audit(subscription, action, count, by, reason, at) \
         VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .and_then(|mut s| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let Reason { by, text, at } = reason;
        s.execute(params![number, action, count, by, text, millis(*at)])
    })
    .map(drop)
    .map_err(Error::sqlite("keep a reason"))
}

fn mark(conn: &Connection, number: i64, condition: &str, value: &Value) -> Result<u64, Error> {
    // A parked key goes whole, whichever of its records was meant.
    let keys = format!(
        "UPDATE postrider_failure SET state = 1 WHERE subscription = ?1 AND parked = 1 AND state = 0 \
         AND key IN (SELECT key FROM postrider_failure WHERE subscription = ?1 AND parked = 1 AND {condition})"
    );
    let others = format!(
        "UPDATE postrider_failure SET state = 1 \
         WHERE subscription = ?1 AND parked = 0 AND state = 0 AND {condition}"
    );
    let mut count = 0;
    for sql in [keys, others] {
        count += conn
            .prepare_cached(&sql)
            .and_then(|mut s| s.execute(params![number, value]))
            .map_err(Error::sqlite("redrive failures"))?;
    }
    Ok(count as u64)
}

fn discard(
    conn: &Connection,
    number: i64,
    condition: &str,
    value: &Value,
    epoch: i64,
) -> Result<u64, Error> {
    let sql = format!(
        "DELETE FROM postrider_failure \
         WHERE subscription = ?1 AND state = 0 AND claim_epoch <> ?3 AND {condition}"
    );
    let count = conn
        .prepare_cached(&sql)
        .and_then(|mut s| s.execute(params![number, value, epoch]))
        .map_err(Error::sqlite("discard failures"))?;
    Ok(count as u64)
}

/// Whether the next record of a key may be taken.
struct Gate {
    /// The last of its records that is held.
    held_to: i64,
    /// Another member holds some, or one before was passed over.
    closed: bool,
}

/// Takes records that are marked, in key order.
pub(super) fn claim(
    db: &mut Db,
    subscription: &SubscriptionId,
    member: InstanceId,
    room: u32,
) -> Result<Vec<Redriven>, Error> {
    let doing = "claim redriven failures";
    let number = db.number_of(subscription)?;
    let member = member.0.cast_signed();
    let candidates: Vec<(i64, Option<Vec<u8>>, bool)> = db
        .conn
        .prepare_cached(
            "SELECT id, key, parked FROM postrider_failure \
             WHERE subscription = ?1 AND state = 1 AND claim_epoch <> ?2 ORDER BY id LIMIT ?3",
        )
        .and_then(|mut s| {
            s.query_map(params![number, db.epoch, CLAIM_LOOKS_MAX], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })?
            .collect()
        })
        .map_err(Error::sqlite(doing))?;
    let mut gates: HashMap<Vec<u8>, Gate> = HashMap::new();
    let mut taken = Vec::new();
    for (id, key, parked) in candidates {
        if taken.len() >= room as usize {
            break;
        }
        if let (true, Some(key)) = (parked, key) {
            if !gates.contains_key(&key) {
                let gate = gate_of(db, number, &key, member)?;
                gates.insert(key.clone(), gate);
            }
            let gate = gates.get_mut(&key).expect("it was inserted above");
            // ORDER: one that was given back is not passed by those after it.
            if gate.closed || id < gate.held_to {
                gate.closed = true;
                continue;
            }
            gate.held_to = id;
        }
        taken.push(take(db, subscription, id, member)?);
    }
    Ok(taken)
}

fn gate_of(db: &Db, number: i64, key: &[u8], member: i64) -> Result<Gate, Error> {
    db.conn
        .prepare_cached(
            "SELECT ifnull(max(id), 0), ifnull(sum(claim_member <> ?4), 0) > 0 FROM postrider_failure \
             WHERE subscription = ?1 AND key = ?2 AND parked = 1 AND claim_epoch = ?3",
        )
        .and_then(|mut s| {
            s.query_row(params![number, key, db.epoch, member], |r| {
                Ok(Gate {
                    held_to: r.get(0)?,
                    closed: r.get(1)?,
                })
            })
        })
        .map_err(Error::sqlite("look at a parked key"))
}

fn take(db: &Db, subscription: &SubscriptionId, id: i64, member: i64) -> Result<Redriven, Error> {
    let doing = "claim a failure";
    let sql = format!(
        "UPDATE postrider_failure SET claim_epoch = ?2, claim_member = ?3, claims = claims + 1 \
         WHERE id = ?1 RETURNING {COLUMNS}, claims"
    );
    let mut statement = db.conn.prepare_cached(&sql).map_err(Error::sqlite(doing))?;
    let mut rows = statement
        .query(params![id, db.epoch, member])
        .map_err(Error::sqlite(doing))?;
    let row = rows
        .next()
        .map_err(Error::sqlite(doing))?
        .ok_or(Error::ClaimLost(id.unsigned_abs()))?;
    let record = rows::read(row, subscription)?;
    let generation: i64 = row.get(9).map_err(Error::sqlite(doing))?;
    Ok(Redriven {
        token: RedriveToken {
            id: record.id,
            generation: generation.unsigned_abs(),
        },
        record,
    })
}

/// Ends a claim.
pub(super) fn finish(
    db: &mut Db,
    subscription: &SubscriptionId,
    token: &RedriveToken,
    outcome: &RedriveOutcome,
) -> Result<KeyState, Error> {
    let doing = "finish a redrive";
    let number = rows::number_of(&db.conn, &subscription.to_string())?;
    let id = id_number(token.id);
    let held: Option<(Option<Vec<u8>>, bool)> = db
        .conn
        .prepare_cached(
            "SELECT key, parked FROM postrider_failure \
             WHERE subscription = ?1 AND id = ?2 AND claim_epoch = ?3 AND claims = ?4",
        )
        .and_then(|mut s| {
            let claims = token.generation.cast_signed();
            s.query_row(params![number, id, db.epoch, claims], |r| {
                Ok((r.get(0)?, r.get(1)?))
            })
            .optional()
        })
        .map_err(Error::sqlite(doing))?;
    let (key, is_parked) = held.ok_or(Error::ClaimLost(token.id.0))?;
    let parked_key = key.filter(|_| is_parked);
    match outcome {
        RedriveOutcome::Done => {
            db.conn
                .prepare_cached("DELETE FROM postrider_failure WHERE id = ?1")
                .and_then(|mut s| s.execute(params![id]))
                .map_err(Error::sqlite(doing))?;
        }
        RedriveOutcome::Failed(facts) => {
            fail_again(&db.conn, number, id, facts, parked_key.as_deref())?
        }
        RedriveOutcome::Released => {
            db.conn
                .prepare_cached("UPDATE postrider_failure SET claim_epoch = 0 WHERE id = ?1")
                .and_then(|mut s| s.execute(params![id]))
                .map_err(Error::sqlite(doing))?;
        }
    }
    let Some(key) = parked_key else {
        return Ok(KeyState::Free);
    };
    let key = Bytes::from(key);
    if super::append::last_state(&db.conn, number, &key)?.is_some() {
        return Ok(KeyState::Parked);
    }
    db.parked_changes
        .push((subscription.clone(), parked::Change::Freed(key)));
    Ok(KeyState::Free)
}

fn fail_again(
    conn: &Connection,
    number: i64,
    id: i64,
    facts: &FailureFacts,
    parked_key: Option<&[u8]>,
) -> Result<(), Error> {
    let doing = "note a failed redrive";
    let text = serde_json::to_string(facts).expect("failure facts have a JSON form");
    conn.prepare_cached(
        "UPDATE postrider_failure SET state = 0, claim_epoch = 0, redrives = redrives + 1, \
         facts = ?2, cause = ?3, cause_group = ?4, failed_at = ?5 WHERE id = ?1",
    )
    .and_then(|mut s| {
        let cause = cause_text(facts.cause);
        s.execute(params![
            id,
            text,
            cause,
            facts.group,
            millis(facts.failed_at)
        ])
    })
    .map_err(Error::sqlite(doing))?;
    if let Some(key) = parked_key {
        // What the member holds of them stays held until it gives them back, and waits then.
        conn.prepare_cached(
            "UPDATE postrider_failure SET state = 0 WHERE subscription = ?1 AND key = ?2 AND parked = 1",
        )
        .and_then(|mut s| s.execute(params![number, key]))
        .map_err(Error::sqlite(doing))?;
    }
    Ok(())
}

/// Gives up what a member holds of a subscription.
pub(super) fn release(db: &mut Db, name: &str, member: InstanceId) -> Result<(), Error> {
    let Some(number) = find_number(&db.conn, name)? else {
        return Ok(());
    };
    db.conn
        .prepare_cached(
            "UPDATE postrider_failure SET claim_epoch = 0 \
             WHERE subscription = ?1 AND claim_epoch = ?2 AND claim_member = ?3",
        )
        .and_then(|mut s| s.execute(params![number, db.epoch, member.0.cast_signed()]))
        .map_err(Error::sqlite("give up claims"))?;
    Ok(())
}
