//! The write-ahead log: frames in, an LSN out, one sync for everyone.
//!
//! What it is: the physical layer under every view. It appends *frames* (one or more *entries*, opaque here, atomic together), writes
//! and syncs them in group commits, reads entries back, keeps checkpoints, frees segments, and recovers after a crash. What it is not: it
//! knows no stream, no queue, no clock, no thread. `docs/formats/log.md` draws every byte.
//!
//! **Decide, then do.** A [`Wal`] has one owner, and its methods decide without waiting for the disk; the slow part is handed out as a *job*
//! ([`WriteJob`], [`CheckpointJob`], [`PrepareJob`], [`ReadJob`]) that runs off the owner's lock, and comes back through `finish…`:
//!
//! ```
//! use postrider_log::disk::MemDisk;
//! use postrider_log::wal::{EntryBytes, NoReplay, Sync, Wal, WalOptions};
//!
//! # fn main() -> Result<(), postrider_log::Error> {
//! let disk = std::sync::Arc::new(MemDisk::new());
//! let (mut wal, _report) = Wal::open(disk, WalOptions::default(), &mut NoReplay)?;
//! let appended = wal.append(&[EntryBytes { kind: 1, flags: 0, body: &[b"hello, ", b"world"] }], Sync::Now)?;
//! if let Some(job) = wal.begin()? {
//!     let done = job.run(); // without a lock on `wal`
//!     wal.finish(done)?;
//! }
//! assert_eq!(wal.durable(), appended.lsn);
//! assert_eq!(&wal.read(appended.locations[0])?[..], b"hello, world");
//! wal.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! **Group commit without a timer**: a batch is what was staged while the batch before it was being written.
//!
//! **The host's loop**, in this order: [`Wal::begin`] → run → [`Wal::finish`] while there is something; [`Wal::prepare_step`] → run →
//! [`Wal::finish_prepare`] beside it (another thread may run it); [`Wal::checkpoint`] when [`Wal::needs_checkpoint`];
//! [`Wal::begin_idle`] when nothing came for a while.

mod backup;
mod checkpoint;
pub(crate) mod format;
mod inspect;
mod job;
mod manifest;
mod open;
mod options;
mod prepare;
mod read;
mod recover;
mod scan;
mod segment;
mod state;
mod transcribe;
mod walk;
mod window;
mod write;

use std::fmt;

pub use backup::BackupJob;
pub use checkpoint::{CheckpointDone, CheckpointJob};
pub use format::VERSION;
pub use job::{JobDone, WriteJob};
pub use open::{Cut, OpenReport};
pub use options::WalOptions;
pub use prepare::{PrepareDone, PrepareJob};
pub use read::{ReadJob, ReadSource};
pub use state::Wal;
pub use transcribe::BackupReport;
pub use walk::{Entries, EntryRef, FrameRef};

pub(crate) use inspect::Stopped;

use crate::Error;

/// Log sequence number: one per frame, growing, from 1. 0 means "none yet". After an unclean stop some are skipped, none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LSN {}", self.0)
    }
}

/// The number of a segment: growing, from 1, never used twice in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {:016x}", self.0)
    }
}

/// Where the body of one entry is. Final as soon as [`Wal::append`] returns, and good until the segment is freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// The first byte of the body in the segment.
    pub at: u32,
    /// Bytes of the body.
    pub len: u32,
}

/// One entry to append. The body is given in parts, which are concatenated.
#[derive(Debug, Clone, Copy)]
pub struct EntryBytes<'a> {
    /// What the body is; opaque to this layer.
    pub kind: u8,
    /// Flags of the kind; opaque to this layer.
    pub flags: u8,
    /// The body.
    pub body: &'a [&'a [u8]],
}

/// How soon a frame must be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// The next job that writes it also syncs it.
    Now,
    /// It is written with the next job, and durable with whatever sync comes next ([`Wal::begin_sync`] makes one).
    Lazy,
}

/// How much of the last space a frame may use where there is no room for another segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Space {
    /// None of it: it takes space.
    #[default]
    Common,
    /// The reserve: it frees space.
    Reserve,
    /// All of it: what is needed moves together, which is what everybody else then waits for.
    Last,
}

/// What [`Wal::append`] staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The frame's number.
    pub lsn: Lsn,
    /// Where each entry's body is, in the order given.
    pub locations: Vec<Location>,
}

/// How far the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Every frame up to here was written: it survives the end of this process, not a power cut.
    pub written: Lsn,
    /// Every frame up to here is durable.
    pub durable: Lsn,
}

/// A segment, as [`Wal::segments`] shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub id: SegmentId,
    /// No frame in it has a smaller LSN.
    pub base_lsn: Lsn,
    /// No frame in it has a larger LSN; `None` in the one being written.
    pub last_lsn: Option<Lsn>,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes used so far; the file's size in a segment that was not read at open.
    pub used: u64,
    /// Nothing is appended to it any more.
    pub sealed: bool,
}

/// Receives what a log holds when it is opened: first the checkpoint, section by section, then every frame after it, in order.
///
/// Everything passed in has its checksum verified. An error ends the opening, which changes nothing.
pub trait Visitor {
    /// A section of the checkpoint, in the order in which they were given.
    fn checkpoint(&mut self, section: &str, bytes: &[u8]) -> Result<(), Error>;
    /// A frame after the checkpoint.
    fn frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Error>;
}

/// A [`Visitor`] that looks at nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoReplay;

impl Visitor for NoReplay {
    fn checkpoint(&mut self, _section: &str, _bytes: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    fn frame(&mut self, _frame: &FrameRef<'_>) -> Result<(), Error> {
        Ok(())
    }
}
