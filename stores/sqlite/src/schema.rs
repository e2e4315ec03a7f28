//! Our tables (drawn in `docs/formats/sqlite.md`) and the service's own, by numbered migrations.

use std::path::Path;

use postrider_core::id::BodyHash;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::db::{Db, at};
use crate::error::Error;

/// The version of our tables that this program writes.
pub const SCHEMA_VERSION: i64 = 2;

const TABLES: &str = "
CREATE TABLE postrider_meta(
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE postrider_subscription(
  no    INTEGER PRIMARY KEY,
  name  TEXT NOT NULL UNIQUE,
  crash TEXT
) STRICT;
CREATE TABLE postrider_inbox(
  subscription INTEGER NOT NULL,
  message_id   BLOB NOT NULL,
  body         BLOB NOT NULL,
  received_at  INTEGER NOT NULL,
  PRIMARY KEY(subscription, message_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE postrider_outbox(
  number      INTEGER PRIMARY KEY AUTOINCREMENT,
  destination TEXT NOT NULL,
  key         BLOB,
  envelope    TEXT NOT NULL,
  headers     BLOB,
  payload     BLOB NOT NULL
) STRICT;
CREATE TABLE postrider_failure(
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  subscription INTEGER NOT NULL,
  state        INTEGER NOT NULL,
  parked       INTEGER NOT NULL,
  redrives     INTEGER NOT NULL,
  key          BLOB,
  identity     BLOB NOT NULL,
  position     INTEGER NOT NULL,
  cause        TEXT NOT NULL,
  cause_group  TEXT NOT NULL,
  failed_at    INTEGER NOT NULL,
  claim_epoch  INTEGER NOT NULL,
  claim_member INTEGER NOT NULL,
  claims       INTEGER NOT NULL,
  facts        TEXT NOT NULL,
  raw_key      BLOB,
  headers      BLOB NOT NULL,
  body         BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX postrider_failure_identity ON postrider_failure(subscription, identity, position);
CREATE INDEX postrider_failure_group ON postrider_failure(subscription, cause_group, cause, failed_at);
CREATE INDEX postrider_failure_state ON postrider_failure(subscription, state);
CREATE INDEX postrider_failure_key ON postrider_failure(subscription, key, parked);
CREATE TABLE postrider_audit(
  number       INTEGER PRIMARY KEY AUTOINCREMENT,
  subscription INTEGER NOT NULL,
  action       TEXT NOT NULL,
  count        INTEGER NOT NULL,
  by           TEXT NOT NULL,
  reason       TEXT NOT NULL,
  at           INTEGER NOT NULL
) STRICT;
CREATE INDEX postrider_audit_subscription ON postrider_audit(subscription);
CREATE TABLE postrider_migration(
  number INTEGER PRIMARY KEY,
  text   BLOB NOT NULL
) STRICT;
INSERT INTO postrider_meta(name, value) VALUES('schema', 1), ('epoch', 0);
";

/// Version 2: what failures held before they were edited, as long as they are there.
const EDITS: &str = "
CREATE TABLE postrider_original(
  failure INTEGER PRIMARY KEY,
  headers BLOB NOT NULL,
  body    BLOB NOT NULL,
  by      TEXT NOT NULL,
  reason  TEXT NOT NULL,
  at      INTEGER NOT NULL
) STRICT;
CREATE TRIGGER postrider_original_goes AFTER DELETE ON postrider_failure BEGIN
  DELETE FROM postrider_original WHERE failure = OLD.id;
END;
UPDATE postrider_meta SET value = 2 WHERE name = 'schema';
";

fn version(conn: &Connection, path: &Path) -> Result<Option<i64>, Error> {
    let ours: bool = conn
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'postrider_meta'",
            [],
            |r| r.get(0),
        )
        .map_err(at(path, "read its tables"))?;
    if !ours {
        return Ok(None);
    }
    conn.query_row(
        "SELECT value FROM postrider_meta WHERE name = 'schema'",
        [],
        |r| r.get(0),
    )
    .optional()
    .map_err(at(path, "read its version"))
}

/// Refuses a database of a newer version, before anything is changed.
pub(crate) fn check(conn: &Connection, path: &Path) -> Result<(), Error> {
    match version(conn, path)? {
        Some(found) if found > SCHEMA_VERSION => Err(Error::Newer {
            path: path.to_owned(),
            what: format!("its tables have version {found}, this program knows {SCHEMA_VERSION}"),
        }),
        _ => Ok(()),
    }
}

/// Makes our tables where they are not there, and counts this opening. Gives its epoch.
pub(crate) fn set_up(conn: &Connection, path: &Path) -> Result<i64, Error> {
    let tx = rusqlite::Transaction::new_unchecked(conn, TransactionBehavior::Immediate)
        .map_err(at(path, "begin"))?;
    let found = version(&tx, path)?;
    if found.is_none() {
        tx.execute_batch(TABLES)
            .map_err(at(path, "make its tables"))?;
    }
    if found.is_none_or(|version| version < 2) {
        tx.execute_batch(EDITS)
            .map_err(at(path, "make the table of what was edited"))?;
    }
    let epoch = tx
        .query_row(
            "UPDATE postrider_meta SET value = value + 1 WHERE name = 'epoch' RETURNING value",
            [],
            |r| r.get(0),
        )
        .map_err(at(path, "count its openings"))?;
    tx.commit().map_err(at(path, "commit its tables"))?;
    Ok(epoch)
}

/// Runs the service's migrations that have not run yet, in order.
pub(crate) fn migrate(db: &mut Db, migrations: &[String]) -> Result<(), Error> {
    let applied: Vec<Vec<u8>> = db
        .conn
        .prepare("SELECT text FROM postrider_migration ORDER BY number")
        .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
        .map_err(Error::sqlite("read the migrations"))?;
    if applied.len() > migrations.len() {
        return Err(Error::Newer {
            path: db.conn.path().unwrap_or(":memory:").into(),
            what: format!(
                "{} migrations were applied and this program has {}",
                applied.len(),
                migrations.len()
            ),
        });
    }
    for (index, sql) in migrations.iter().enumerate() {
        let failed = |why: String| Error::Migration {
            number: index + 1,
            why,
        };
        let hash = BodyHash::of(sql.as_bytes());
        if let Some(text) = applied.get(index) {
            if text != &hash.0 {
                return Err(failed(
                    "its text is not the one that was applied; leave it as it was and add another"
                        .into(),
                ));
            }
            continue;
        }
        let (ran, refused) = db.guard.watch(|| db.conn.execute_batch(sql));
        ran.map_err(|e| failed(e.to_string()))?;
        if refused {
            return Err(failed(
                "it has a statement that a migration must not have".into(),
            ));
        }
        db.conn
            .execute(
                "INSERT INTO postrider_migration(number, text) VALUES(?1, ?2)",
                params![i64::try_from(index + 1).unwrap_or(i64::MAX), hash.0],
            )
            .map_err(Error::sqlite("note a migration"))?;
    }
    Ok(())
}
