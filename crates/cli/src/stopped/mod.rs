//! An engine directory that nobody runs: opened by this command, and asked through the same admin API, without a socket.
//!
//! Reads change nothing in it: the log is opened on a [disk that keeps its writes in memory](overlay), while the directory's lock is held. What
//! changes something opens it as a service would.

mod overlay;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use postrider::admin::Local;
use postrider::embedded::{Embedded, Options};
use postrider::{Bus, BusOptions, Code, Engine};

use crate::end::{Exit, Failure, Result};

/// The manifest of an engine directory.
const MANIFEST: &str = "CURRENT";
/// Its lock file.
const LOCK: &str = "postrider.lock";

/// Whether this is an engine directory.
pub(crate) fn is_engine_directory(dir: &Path) -> bool {
    dir.join(MANIFEST).is_file()
}

/// A directory that nobody runs, open.
pub(crate) struct Stopped {
    api: Local,
    /// Dropped last but for the lock: closing it writes.
    _bus: Bus,
    _lock: Option<File>,
    writes: bool,
}

impl std::fmt::Debug for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopped").finish_non_exhaustive()
    }
}

impl Stopped {
    /// Opens it, to look or to change something.
    pub(crate) async fn open(dir: &Path, writes: bool) -> Result<Self> {
        let bus_options = BusOptions::default();
        let mut options = Options::default();
        options.clock = bus_options.clock.clone();
        let mut lock = None;
        if !writes {
            lock = locked(dir)?;
            options.disk = Some(Arc::new(overlay::Overlay::new(dir)));
        }
        let directory = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Embedded::open(directory, options)).await;
        let engine = match opened {
            Ok(Ok(engine)) => Arc::new(engine) as Arc<dyn Engine>,
            Ok(Err(error)) => return Err(refused(dir, error.code(), error.to_string()).into()),
            Err(error) => return Err(refused(dir, Code::CLI_FAILED, error.to_string()).into()),
        };
        let bus = Bus::from_engine(engine, bus_options).await;
        let bus = bus.map_err(|error| refused(dir, error.code(), error.to_string()))?;
        Ok(Self {
            api: Local::new(&bus),
            _bus: bus,
            _lock: lock,
            writes,
        })
    }

    /// Whether what it is asked to change would be kept.
    pub(crate) fn writes(&self) -> bool {
        self.writes
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> std::result::Result<(StatusCode, Bytes), String> {
        let answer = self.api.ask(method, path, body).await;
        answer.map_err(|error| error.to_string())
    }
}

/// Keeps others from running the directory while it is read. Nothing is written into the lock file.
fn locked(dir: &Path) -> Result<Option<File>> {
    let failed = |error: &dyn std::fmt::Display| refused(dir, Code::LOG_IO, error.to_string());
    let file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        // A backup that nobody ever ran.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error).into()),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let why = "a process runs on the directory, and its admin socket does not answer";
            Err(refused(dir, Code::DIR_LOCKED, why.to_owned()).into())
        }
        Err(TryLockError::Error(error)) => Err(failed(&error).into()),
    }
}

fn refused(dir: &Path, code: Code, why: String) -> Failure {
    let exit = match code {
        Code::DIR_LOCKED => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let what = format!("{} cannot be opened", dir.display());
    Failure::new(exit, code, what).why(why)
}
