//! What subjects on a server share: a prefix of their own, and a failure store beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use postrider::contract::Fut;
use postrider::contract::failure::FailureStore;
use postrider::sqlite::SqliteFailures;
use postrider::{Bus, Result, connect};
use tempfile::TempDir;

/// A fresh prefix on a server, a failure store on SQLite beside it, and the URL with which members connect to it.
pub struct Namespace {
    url: String,
    prefix: String,
    failures: SqliteFailures,
    _directory: TempDir,
}

impl Namespace {
    /// A namespace on the server of `url`, whose engine takes the option `prefix`.
    ///
    /// # Errors
    /// The failure store cannot be made.
    pub fn new(url: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("conf-{}-{}-{count}.", now.as_micros(), std::process::id());
        let joint = if url.contains('?') { '&' } else { '?' };
        let directory = tempfile::tempdir()?;
        Ok(Self {
            url: format!("{url}{joint}prefix={prefix}"),
            failures: SqliteFailures::open(directory.path().join("failures.db"))?,
            prefix,
            _directory: directory,
        })
    }

    /// What every name on the server begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A connection of its own.
    #[must_use]
    pub fn connect(&self) -> Fut<'static, Result<Bus>> {
        let url = self.url.clone();
        Box::pin(async move { connect(&url).await })
    }

    /// The failure store, shared by all members.
    #[must_use]
    pub fn failures(&self) -> Arc<dyn FailureStore> {
        Arc::new(self.failures.clone())
    }
}
