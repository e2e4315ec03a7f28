//! How a database is opened.

use std::path::Path;
use std::time::Duration;

use crate::error::Error;
use crate::store::Sqlite;

/// How a commit is synced. There is no weaker level: one would lose commits that were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// The WAL is synced at each commit.
    #[default]
    Full,
    /// As `Full`, and directories too where SQLite removes a journal.
    Extra,
}

impl Synchronous {
    pub(crate) const fn pragma(self) -> (&'static str, i64) {
        match self {
            Self::Full => ("FULL", 2),
            Self::Extra => ("EXTRA", 3),
        }
    }
}

/// How a database is opened. Every limit has a default.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) inbox_retention: Duration,
    pub(crate) busy: Duration,
    pub(crate) synchronous: Synchronous,
    pub(crate) page_cache_bytes: u32,
    pub(crate) readers: usize,
    pub(crate) group_jobs_max: usize,
    pub(crate) group_time_max: Duration,
    pub(crate) queue_jobs_max: usize,
    pub(crate) wal_pages: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inbox_retention: Duration::from_secs(7 * 24 * 60 * 60),
            busy: Duration::from_secs(5),
            synchronous: Synchronous::Full,
            page_cache_bytes: 8 * 1024 * 1024,
            readers: 2,
            group_jobs_max: 512,
            group_time_max: Duration::from_millis(20),
            queue_jobs_max: 4096,
            wal_pages: 2000,
        }
    }
}

impl Options {
    /// How long an inbox row is kept after its message came; 7 days by default. Keep it longer than the longest distance of a redelivery:
    /// the retention of the topic, the age of failures that may be redriven. Rows that are older go in small steps that
    /// ride on other commits: eight rows are looked at for each that is added, so the table holds at most about a seventh more than
    /// the rule says. Time is that of the newest message received, so an idle service removes nothing.
    #[must_use]
    pub const fn inbox_retention(mut self, keep: Duration) -> Self {
        self.inbox_retention = keep;
        self
    }

    /// How long a commit waits for a writer of another process (the `sqlite3` shell); 5 s by default.
    #[must_use]
    pub const fn busy(mut self, wait: Duration) -> Self {
        self.busy = wait;
        self
    }

    /// How a commit is synced; `Full` by default.
    #[must_use]
    pub const fn synchronous(mut self, level: Synchronous) -> Self {
        self.synchronous = level;
        self
    }

    /// Memory for pages of the writing connection, in bytes; 8 MiB by default. Each reading connection takes at most a quarter of it.
    #[must_use]
    pub const fn page_cache_bytes(mut self, bytes: u32) -> Self {
        self.page_cache_bytes = bytes;
        self
    }

    /// How many reads run at once; 2 by default, at least 1.
    #[must_use]
    pub const fn readers(mut self, count: usize) -> Self {
        self.readers = if count == 0 { 1 } else { count };
        self
    }

    /// The bounds of one group commit: jobs (512 by default, at least 1) and time spent on them before the sync (20 ms by default).
    #[must_use]
    pub const fn group(mut self, jobs_max: usize, time_max: Duration) -> Self {
        self.group_jobs_max = if jobs_max == 0 { 1 } else { jobs_max };
        self.group_time_max = time_max;
        self
    }

    /// Opens or makes the database. See [`Sqlite::open`].
    ///
    /// # Errors
    /// See [`Sqlite::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Sqlite, Error> {
        Sqlite::open_with(path.as_ref(), self)
    }

    /// A database in memory. See [`Sqlite::in_memory`].
    ///
    /// # Errors
    /// See [`Sqlite::in_memory`].
    pub fn in_memory(self) -> Result<Sqlite, Error> {
        Sqlite::in_memory_with(self)
    }
}
