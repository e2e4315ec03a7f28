//! Failure records on their way in.

use bytes::Bytes;
use postrider_core::failure::{FailureDraft, FailureId, FailureState};
use postrider_core::id::BodyHash;
use postrider_core::name::SubscriptionId;
use rusqlite::{Connection, OptionalExtension, params};

use super::parked::Change;
use super::rows::{cause_text, state_number};
use crate::db::Db;
use crate::error::Error;
use crate::inbox::millis;
use crate::packed;

/// Appends records in order; with `key`, behind that parked key. `None`: it is not parked.
pub(super) fn append(
    db: &mut Db,
    subscription: &SubscriptionId,
    key: Option<&Bytes>,
    drafts: &[FailureDraft],
) -> Result<Option<Vec<FailureId>>, Error> {
    let number = db.number_of(subscription)?;
    // The state of the key's last record, where it is parked.
    let mut last = match key {
        Some(key) => last_state(&db.conn, number, key)?,
        None => None,
    };
    if let Some(key) = key {
        let follows_nothing = last.is_none() && drafts.iter().all(FailureDraft::is_follower);
        let change = match follows_nothing {
            true => Change::Freed(key.clone()),
            false => Change::Parked(key.clone()),
        };
        db.parked_changes.push((subscription.clone(), change));
        if follows_nothing {
            return Ok(None);
        }
    }
    let mut ids = Vec::with_capacity(drafts.len());
    for draft in drafts {
        // A follower of a key that is on its way back joins it, else the key would never become free.
        let joins = draft.is_follower() && last == Some(state_number(FailureState::Redriving));
        let state = state_number(if joins {
            FailureState::Redriving
        } else {
            FailureState::Waiting
        });
        let (id, added) = insert(&db.conn, number, key, state, draft)?;
        if added {
            last = Some(state);
        }
        ids.push(id);
    }
    Ok(Some(ids))
}

/// The state of the last record of a parked key; `None`: it is not parked.
pub(super) fn last_state(
    conn: &Connection,
    number: i64,
    key: &Bytes,
) -> Result<Option<i64>, Error> {
    conn.prepare_cached(
        "SELECT state FROM postrider_failure WHERE subscription = ?1 AND key = ?2 AND parked = 1 \
         ORDER BY id DESC LIMIT 1",
    )
    .and_then(|mut s| {
        s.query_row(params![number, &key[..]], |r| r.get(0))
            .optional()
    })
    .map_err(Error::sqlite("look at a parked key"))
}

/// Inserts a record, or finds the one that is there for the same (subscription, message, position).
fn insert(
    conn: &Connection,
    number: i64,
    park: Option<&Bytes>,
    state: i64,
    draft: &FailureDraft,
) -> Result<(FailureId, bool), Error> {
    let doing = "append a failure";
    let FailureDraft { key, facts, raw } = draft;
    let headers = packed::write(raw.headers.iter().map(|(n, v)| (&n[..], &v[..])));
    let identity = identity(draft, &headers);
    let position = facts.position.cast_signed();
    let text = serde_json::to_string(facts).expect("failure facts have a JSON form");
    let added = conn
        .prepare_cached(
            "INSERT INTO postrider_failure(subscription, state, parked, redrives, key, identity, position, \
             cause, cause_group, failed_at, claim_epoch, claim_member, claims, facts, raw_key, headers, body) \
             VALUES(?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, 0, 0, 0, ?10, ?11, ?12, ?13) \
             ON CONFLICT(subscription, identity, position) DO NOTHING",
        )
        .and_then(|mut s| {
            s.execute(params![
                number,
                state,
                park.is_some(),
                park.or(key.as_ref()).map(|k| &k[..]),
                identity,
                position,
                cause_text(facts.cause),
                facts.group,
                millis(facts.failed_at),
                text,
                raw.key.as_ref().map(|k| &k[..]),
                headers,
                &raw.body[..],
            ])
        })
        .map_err(Error::sqlite(doing))?;
    let id: i64 = if added == 1 {
        conn.last_insert_rowid()
    } else {
        conn.prepare_cached(
            "SELECT id FROM postrider_failure WHERE subscription = ?1 AND identity = ?2 AND position = ?3",
        )
        .and_then(|mut s| s.query_row(params![number, identity, position], |r| r.get(0)))
        .map_err(Error::sqlite(doing))?
    };
    Ok((FailureId(id.unsigned_abs()), added == 1))
}

/// What tells messages of one position apart: the id, or for one that has none a hash of all of it (two shards may both have something
/// unreadable at the same position).
fn identity(draft: &FailureDraft, headers: &[u8]) -> Vec<u8> {
    match draft.facts.message_id {
        Some(id) => id.as_bytes().to_vec(),
        None => {
            let mut identity = b"unreadable".to_vec();
            identity.extend_from_slice(&BodyHash::of(headers).0);
            identity.extend_from_slice(&BodyHash::of(&draft.raw.body).0);
            identity
        }
    }
}
