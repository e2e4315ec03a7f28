//! The connections: how they are opened and verified, and the one that writes with what it remembers.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use postrider_core::name::SubscriptionId;
use postrider_core::planted::{self, Plant};
use postrider_core::store::OutboxRow;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use tokio::sync::Notify;

use crate::error::Error;
use crate::failures::{ParkedChange, ParkedKeys, Wakers};
use crate::handoff::Handoff;
use crate::inbox::Hand;
use crate::options::Options;
use crate::removing::Removing;
use crate::schema;

/// How many prepared statements a connection keeps.
const STATEMENTS_MAX: usize = 64;

/// Keeps a handler's statements from ending the transaction that they share with other handlers, and from our tables.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    in_work: AtomicBool,
    refused: AtomicBool,
}

impl Guard {
    fn refuse(&self, action: &AuthAction<'_>) -> bool {
        let ours = |table: &str| table.starts_with("postrider_");
        match action {
            AuthAction::Transaction { .. }
            | AuthAction::Attach { .. }
            | AuthAction::Detach { .. } => true,
            AuthAction::Savepoint { savepoint_name, .. } => ours(savepoint_name),
            AuthAction::Insert { table_name }
            | AuthAction::Delete { table_name }
            | AuthAction::DropTable { table_name }
            | AuthAction::CreateTrigger { table_name, .. }
            | AuthAction::DropIndex { table_name, .. }
            | AuthAction::AlterTable { table_name, .. }
            | AuthAction::Update { table_name, .. } => ours(table_name),
            AuthAction::Pragma {
                pragma_name,
                pragma_value: Some(_),
            } => matches!(
                *pragma_name,
                "journal_mode" | "synchronous" | "locking_mode" | "query_only" | "writable_schema"
            ),
            _ => false,
        }
    }

    /// Runs a handler's statements under the guard. Gives what they gave, and whether one was refused.
    pub(crate) fn watch<T>(&self, work: impl FnOnce() -> T) -> (T, bool) {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.refused.store(false, Ordering::Relaxed);
        self.in_work.store(true, Ordering::Relaxed);
        let over = Over(&self.in_work);
        let value = work();
        drop(over);
        (value, self.refused.load(Ordering::Relaxed))
    }
}

/// What the store's handles and its writer share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Rows in the outbox, as of the last commit.
    pub(crate) outbox_depth: AtomicU64,
    /// A commit added outbox rows.
    pub(crate) outbox_changed: Notify,
    /// The latest rows, for the relay.
    pub(crate) handoff: Mutex<Handoff>,
    /// Rows on their way out.
    pub(crate) removing: Removing,
    pub(crate) failures_changed: Wakers,
    pub(crate) parked: ParkedKeys,
    /// How many of the next commits fail: for tests.
    #[cfg(test)]
    pub(crate) fail_commits: AtomicU64,
}

impl Shared {
    /// A commit added these.
    pub(crate) fn outbox_added(&self, rows: &mut Vec<OutboxRow>) {
        if !rows.is_empty() {
            let count = rows.len() as u64;
            self.outbox_depth.fetch_add(count, Ordering::Relaxed);
            let mut handoff = self.handoff.lock();
            // Whoever reads the table may have been faster, and have published and removed what was committed just now.
            let first = rows.first().map_or(u64::MAX, |row| row.number);
            let removed = self.removing.any_from(first);
            let waits = |row: &OutboxRow| !(removed && self.removing.contains(row.number));
            handoff.add(rows.drain(..).filter(waits));
            drop(handoff);
            self.outbox_changed.notify_one();
        }
    }

    /// A removal is about to be answered. Gives the numbers that were not on their way already.
    pub(crate) fn outbox_leaving(&self, numbers: Vec<u64>) -> Vec<u64> {
        let fresh = self.removing.begin(numbers);
        // ORDER: after they are on their way, so that a commit that adds them later knows.
        self.handoff.lock().forget(&fresh);
        fresh
    }

    /// A commit removed these; so many of them were there.
    pub(crate) fn outbox_removed(&self, numbers: &[u64], rows: u64) {
        // Only the writer changes it, so it cannot go below zero.
        self.outbox_depth.fetch_sub(rows, Ordering::Relaxed);
        self.removing.end(numbers);
    }

    #[cfg(test)]
    pub(crate) fn commit_is_to_fail(&self) -> bool {
        let left = |n: u64| n.checked_sub(1);
        self.fail_commits
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
            .is_ok()
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn commit_is_to_fail(&self) -> bool {
        false
    }
}

/// The writing connection and what it remembers.
pub(crate) struct Db {
    pub(crate) conn: Connection,
    pub(crate) guard: Arc<Guard>,
    pub(crate) shared: Arc<Shared>,
    /// This opening of the database: claims of earlier ones are void.
    pub(crate) epoch: i64,
    pub(crate) hand: Hand,
    /// Outbox rows added in the open transaction.
    pub(crate) outbox_added: Vec<OutboxRow>,
    /// Keys that the open transaction parks and frees.
    pub(crate) parked_changes: Vec<(SubscriptionId, ParkedChange)>,
    numbers: HashMap<SubscriptionId, i64>,
}

impl Db {
    /// Opens the writing connection of a file and makes or checks the tables.
    pub(crate) fn open_file(
        path: &Path,
        options: &Options,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn =
            Connection::open_with_flags(path, flags).map_err(at(path, "open the database"))?;
        conn.busy_timeout(options.busy)
            .map_err(at(path, "set the busy timeout"))?;
        // Look before anything is changed: a newer or a damaged database stays as it is.
        schema::check(&conn, path)?;
        make_durable(&conn, path, options)?;
        Self::set_up(conn, path, options, shared)
    }

    /// Opens a database in memory.
    pub(crate) fn open_memory(options: &Options, shared: Arc<Shared>) -> Result<Self, Error> {
        let path = Path::new(":memory:");
        let conn = Connection::open_in_memory().map_err(at(path, "open the database"))?;
        Self::set_up(conn, path, options, shared)
    }

    fn set_up(
        conn: Connection,
        path: &Path,
        options: &Options,
        shared: Arc<Shared>,
    ) -> Result<Self, Error> {
        let cache = format!("-{}", options.page_cache_bytes.div_ceil(1024).max(64));
        conn.pragma_update(None, "cache_size", cache)
            .and_then(|()| conn.pragma_update(None, "foreign_keys", true))
            .and_then(|()| conn.pragma_update(None, "temp_store", "MEMORY"))
            .map_err(at(path, "configure the connection"))?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let epoch = schema::set_up(&conn, path)?;
        let count = "SELECT count(*), coalesce(max(number), 0) FROM postrider_outbox";
        let (depth, last): (i64, i64) = conn
            .query_row(count, [], |r| Ok((r.get(0)?, r.get(1)?)))
            .map_err(at(path, "count the outbox"))?;
        shared.handoff.lock().begin(last.unsigned_abs());
        shared
            .outbox_depth
            .store(depth.unsigned_abs(), Ordering::Relaxed);
        let guard = Arc::new(Guard::default());
        let hook = guard.clone();
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            if hook.in_work.load(Ordering::Relaxed) && hook.refuse(&context.action) {
                hook.refused.store(true, Ordering::Relaxed);
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }))
        .map_err(at(path, "guard the connection"))?;
        Ok(Self {
            conn,
            guard,
            shared,
            epoch,
            hand: Hand::new(options.inbox_retention),
            outbox_added: Vec::new(),
            parked_changes: Vec::new(),
            numbers: HashMap::new(),
        })
    }

    /// Runs one of our own statements that takes nothing and gives nothing.
    pub(crate) fn run(&self, doing: &'static str, sql: &str) -> Result<(), Error> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut s| s.execute([]))
            .map(|_| ())
            .map_err(Error::sqlite(doing))
    }

    /// The small number that stands for a subscription in our tables.
    pub(crate) fn number_of(&mut self, subscription: &SubscriptionId) -> Result<i64, Error> {
        if let Some(number) = self.numbers.get(subscription) {
            return Ok(*number);
        }
        let name = subscription.to_string();
        let found = find_number(&self.conn, &name)?;
        let number = match found {
            Some(number) => number,
            None => self
                .conn
                .prepare_cached("INSERT INTO postrider_subscription(name) VALUES(?1)")
                .and_then(|mut s| s.insert(params![name]))
                .map_err(Error::sqlite("note a subscription"))?,
        };
        self.numbers.insert(subscription.clone(), number);
        Ok(number)
    }

    /// Forgets what may have been rolled back.
    pub(crate) fn forget_numbers(&mut self) {
        self.numbers.clear();
    }

    pub(crate) fn known_numbers(&self) -> usize {
        self.numbers.len()
    }
}

/// The number of a subscription, if it is known.
pub(crate) fn find_number(conn: &Connection, name: &str) -> Result<Option<i64>, Error> {
    conn.prepare_cached("SELECT no FROM postrider_subscription WHERE name = ?1")
        .and_then(|mut s| s.query_row(params![name], |r| r.get(0)).optional())
        .map_err(Error::sqlite("look up a subscription"))
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path, options: &Options) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(at(path, "open a reader"))?;
    let cache = format!("-{}", (options.page_cache_bytes / 4).div_ceil(1024).max(64));
    conn.busy_timeout(options.busy)
        .and_then(|()| conn.pragma_update(None, "cache_size", cache))
        .and_then(|()| conn.pragma_update(None, "query_only", true))
        .map_err(at(path, "configure a reader"))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(conn)
}

fn make_durable(conn: &Connection, path: &Path, options: &Options) -> Result<(), Error> {
    let not_durable = |what: String| Error::NotDurable {
        path: path.to_owned(),
        what,
    };
    let mode: String = conn
        .query_row("PRAGMA journal_mode=WAL", [], |r| r.get(0))
        .map_err(at(path, "switch to WAL"))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(not_durable(format!(
            "its journal mode stays `{mode}` instead of `wal`; use a local file system"
        )));
    }
    let (name, number) = match planted::is(Plant::SynchronousNormal) {
        true => ("NORMAL", 1),
        false => options.synchronous.pragma(),
    };
    conn.pragma_update(None, "synchronous", name)
        .and_then(|()| conn.pragma_update(None, "wal_autocheckpoint", options.wal_pages))
        .and_then(|()| conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024))
        .map_err(at(path, "set its durability"))?;
    let level: i64 = conn
        .pragma_query_value(None, "synchronous", |r| r.get(0))
        .map_err(at(path, "read its durability"))?;
    if level != number {
        return Err(not_durable(format!(
            "synchronous is {level} instead of {number} ({name})"
        )));
    }
    Ok(())
}

/// Turns an error at opening into one that names the file.
pub(crate) fn at(path: &Path, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    let path = path.to_owned();
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::Damaged {
            path,
            source: Arc::new(source),
        },
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            Error::NotUsable {
                path,
                why: format!("SQLite failed to {doing}: {source}; mend its permissions"),
                source: None,
            }
        }
        _ => Error::sqlite(doing)(source),
    }
}

/// Looks at a path before anything is opened or locked, and gives its canonical form.
pub(crate) fn inspect(path: &Path) -> Result<PathBuf, Error> {
    let unusable = |why: String, source: Option<std::io::Error>| Error::NotUsable {
        path: path.to_owned(),
        why,
        source: source.map(Arc::new),
    };
    let name = path
        .file_name()
        .ok_or_else(|| unusable("it names no file".into(), None))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent)
        .map_err(|e| unusable(format!("its directory: {e}; make it first"), Some(e)))?;
    let path = fs::canonicalize(parent.join(name)).unwrap_or_else(|_| parent.join(name));
    let meta = match fs::metadata(&path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(path),
        Err(e) => return Err(unusable(e.to_string(), Some(e))),
    };
    if meta.is_dir() {
        return Err(unusable(
            "it is a directory; name a file in it".into(),
            None,
        ));
    }
    if !meta.is_file() {
        return Err(unusable("it is not a regular file".into(), None));
    }
    if meta.permissions().readonly() {
        return Err(unusable(
            "it is read-only; mend its permissions".into(),
            None,
        ));
    }
    if meta.len() > 0 {
        let mut head = [0u8; 16];
        fs::File::open(&path)
            .and_then(|mut f| f.read_exact(&mut head))
            .map_err(|e| unusable(format!("it is not an SQLite database ({e})"), Some(e)))?;
        if &head != b"SQLite format 3\0" {
            return Err(unusable(
                "it is not an SQLite database; name another file".into(),
                None,
            ));
        }
    }
    Ok(path)
}
