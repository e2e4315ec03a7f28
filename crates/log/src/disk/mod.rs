//! What the log needs of a disk: bare system calls, nothing more.
//!
//! Every decision about which file, which order and which directory to sync is made above this seam, in [`wal`](crate::wal), where the
//! simulator sees it. Three disks: [`FileDisk`] (a directory), [`MemDisk`] (`memory:`), [`SimDisk`] (a directory whose power can be cut).
//!
//! Paths are relative to the disk's root, with `/` between parts; the root itself is `""`.

mod file;
mod mem;
mod sim;

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use file::FileDisk;
pub use mem::MemDisk;
pub use sim::{Fault, SimDisk};

/// How [`Disk::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; an existing one is an error ([`io::ErrorKind::AlreadyExists`]).
    CreateNew,
}

/// What [`Disk::lock`] found.
#[derive(Debug)]
pub enum LockOutcome {
    /// The lock is ours until the guard is dropped.
    Held(LockGuard),
    /// Somebody else holds it.
    Busy {
        /// The holder's process id, if the file names it.
        pid: Option<u32>,
    },
}

/// Holds a directory's lock until dropped.
#[derive(Debug)]
pub struct LockGuard {
    _held: Box<dyn Held>,
}

impl LockGuard {
    /// A guard that releases when `held` is dropped.
    pub fn new(held: impl Any + Debug + Send + Sync) -> Self {
        LockGuard {
            _held: Box::new(held),
        }
    }
}

trait Held: Debug + Send + Sync {}
impl<T: Any + Debug + Send + Sync> Held for T {}

/// A directory tree of files.
///
/// Contract. MUST: each call is one system call or a short loop over one, and reports its error unchanged; an entry that was created,
/// renamed or unlinked is durable only after [`sync_dir`](Self::sync_dir) on its directory; bytes only after
/// [`DiskFile::sync_data`]. MUST NOT: retry a failed sync, cache, reorder, or sync on its own. MAY be called from several threads.
/// Nothing here panics on what the disk holds.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Moves a file over another name, atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Open files stay readable.
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Makes a directory. For the root (`""`) missing parents too, and their entries are made durable.
    fn mkdir(&self, path: &str) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Takes the lock file at `path` (made if missing) without waiting, and writes this process's id into it.
    fn lock(&self, path: &str) -> io::Result<LockOutcome>;
    /// 16 random bytes, asked for once in a directory's life.
    fn entropy(&self) -> io::Result<[u8; 16]>;
    /// Where this is, for people: a path, or `memory`.
    fn describe(&self) -> String;
    /// Whether files live in memory only: then nothing is filled ahead or kept for reuse.
    fn is_memory(&self) -> bool {
        false
    }
}

/// An open file.
///
/// Contract as for [`Disk`]. Positions and lengths are bytes. A write beyond the end extends the file with zeros.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads at `at`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `at`. After an error any part of them may be written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes the bytes and the length durable. After an error their state is unknown, and a second call proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reserves space and extends the file to `len` bytes; new bytes read as zero.
    fn allocate(&self, len: u64) -> io::Result<()>;
}
