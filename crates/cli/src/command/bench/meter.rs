//! A disk that says how much went through it, and how long its writer waited for it.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use postrider_log::disk::{Disk, DiskFile, FileDisk, LockOutcome, OpenMode};

/// The thread that writes and syncs what is confirmed; upkeep beside it is not counted.
pub(super) const WRITER: &str = "postrider-log";

thread_local! {
    static IS_WRITER: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Whether this is the thread that writes.
fn is_writer() -> bool {
    IS_WRITER.with(|known| {
        known.get().unwrap_or_else(|| {
            let is = std::thread::current().name() == Some(WRITER);
            known.set(Some(is));
            is
        })
    })
}

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Meter {
    syncs: AtomicU64,
    busy_ns: AtomicU64,
    written: AtomicU64,
    read: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// Syncs by the thread that writes.
    pub(super) syncs: u64,
    /// Its time within write and sync, in seconds.
    pub(super) busy_s: f64,
    /// Bytes that it wrote.
    pub(super) written: u64,
    /// Bytes read by anybody.
    pub(super) read: u64,
}

impl Meter {
    pub(super) fn counts(&self) -> Counts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            syncs: get(&self.syncs),
            busy_s: get(&self.busy_ns) as f64 / 1e9,
            written: get(&self.written),
            read: get(&self.read),
        }
    }

    fn timed<T>(&self, run: impl FnOnce() -> T) -> T {
        if !is_writer() {
            return run();
        }
        let start = Instant::now();
        let out = run();
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.busy_ns.fetch_add(ns, Ordering::Relaxed);
        out
    }
}

impl Counts {
    /// What came since then.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            syncs: self.syncs - before.syncs,
            busy_s: self.busy_s - before.busy_s,
            written: self.written - before.written,
            read: self.read - before.read,
        }
    }
}

/// A directory with a meter.
#[derive(Debug)]
pub(super) struct Metered {
    inner: FileDisk,
    meter: Arc<Meter>,
}

impl Metered {
    pub(super) fn new(root: impl Into<PathBuf>) -> (Arc<Self>, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        let disk = Self {
            inner: FileDisk::new(root),
            meter: Arc::clone(&meter),
        };
        (Arc::new(disk), meter)
    }
}

impl Disk for Metered {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, mode)?;
        let meter = Arc::clone(&self.meter);
        Ok(Arc::new(MeteredFile { inner, meter }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.inner.unlink(path)
    }

    fn mkdir(&self, path: &str) -> io::Result<()> {
        self.inner.mkdir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.inner.sync_dir(path)
    }

    fn lock(&self, path: &str) -> io::Result<LockOutcome> {
        self.inner.lock(path)
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        self.inner.entropy()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[derive(Debug)]
struct MeteredFile {
    inner: Arc<dyn DiskFile>,
    meter: Arc<Meter>,
}

impl DiskFile for MeteredFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buf, at)?;
        self.meter.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if is_writer() {
            let written = bytes.len() as u64;
            self.meter.written.fetch_add(written, Ordering::Relaxed);
        }
        self.meter.timed(|| self.inner.write_at(bytes, at))
    }

    fn sync_data(&self) -> io::Result<()> {
        if is_writer() {
            self.meter.syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.meter.timed(|| self.inner.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }
}
