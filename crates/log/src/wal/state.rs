//! What the owner of a log holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::manifest::{ManifestStore, SegmentEntry};
use super::prepare::Upkeep;
use super::segment::SegmentFile;
use super::write::{Batch, InFlight, Planned};
use super::{Lsn, Progress, SegmentId, SegmentInfo, WalOptions};
use crate::Error;
use crate::disk::{Disk, LockGuard};

/// A write-ahead log, open. See the [module](super) for how to drive one.
///
/// One owner; not shared, but `Send`. Dropping it without [`close`](Self::close) is what a crash is: safe, and the next open recovers.
#[derive(Debug)]
pub struct Wal {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: WalOptions,
    pub(super) node: [u8; 16],
    pub(super) store: Arc<ManifestStore>,
    pub(super) segments: BTreeMap<SegmentId, Segment>,
    /// The segment that is appended to; always in `segments`.
    pub(super) active: Arc<SegmentFile>,
    /// The block in `active` where the next batch starts; the open batch, if any, starts before it is moved on.
    pub(super) tail: u64,
    /// The next segment, ready.
    pub(super) spare: Option<Arc<SegmentFile>>,
    pub(super) next_segment: u64,

    /// Sealed and not yet handed to a job, in order.
    pub(super) planned: VecDeque<Planned>,
    /// What is being staged.
    pub(super) open: Option<Batch>,
    pub(super) staged_bytes: u64,
    pub(super) wants_sync: bool,
    pub(super) in_flight: Option<InFlight>,
    /// Files with written bytes that no sync has covered, in the order of writing.
    pub(super) unsynced: Vec<Arc<SegmentFile>>,

    /// The LSN of the next frame.
    pub(super) next: u64,
    pub(super) last: u64,
    pub(super) written: u64,
    pub(super) durable: u64,
    /// The highest `synced_lsn` in a batch that was written.
    pub(super) proven: u64,

    /// Written or being written, for readers at the tail, in order.
    pub(super) recent: VecDeque<Recent>,
    pub(super) recent_bytes: u64,
    /// Buffers to use again.
    pub(super) buffers: Vec<Vec<u8>>,

    pub(super) checkpoint_lsn: u64,
    /// The number of that checkpoint; 0 = none.
    pub(super) checkpoint_id: u64,
    pub(super) checkpointing: bool,
    /// Bytes appended since the last checkpoint was taken.
    pub(super) since_checkpoint: u64,
    /// Bytes of the batches sealed since it was opened, with their padding.
    pub(super) sealed_bytes: u64,
    pub(super) upkeep: Upkeep,
    /// The segment made where others are refused, for what frees space.
    pub(super) last_resort: Option<SegmentId>,
    pub(super) poison: Option<String>,
    pub(super) closed: bool,
    /// Held for its drop: the directory is free for others once the log is closed or gone.
    pub(super) lock: Option<LockGuard>,
}

/// A segment of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<SegmentFile>,
    pub(super) base_lsn: u64,
    pub(super) prev_lsn: u64,
    /// Set when sealed.
    pub(super) last_lsn: Option<u64>,
    pub(super) used: u64,
    /// Its header is durable, and `CURRENT` says so or will.
    pub(super) noted: bool,
}

impl Segment {
    pub(super) fn entry(&self) -> SegmentEntry {
        SegmentEntry {
            id: self.file.id.0,
            generation: self.file.generation,
            size: self.file.size,
            used: Some((self.base_lsn, self.prev_lsn)),
        }
    }
}

/// A batch that readers may still want.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) segment: SegmentId,
    pub(super) at: u64,
    pub(super) last_lsn: u64,
    pub(super) bytes: Arc<Vec<u8>>,
}

impl Wal {
    /// The last frame appended: staged, written or durable.
    pub fn last(&self) -> Lsn {
        Lsn(self.last)
    }

    /// Every frame up to here was written, so it survives the end of this process, but not a power cut.
    pub fn written(&self) -> Lsn {
        Lsn(self.written)
    }

    /// Every frame up to here is durable.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable)
    }

    /// [`written`](Self::written) and [`durable`](Self::durable).
    pub fn progress(&self) -> Progress {
        Progress {
            written: Lsn(self.written),
            durable: Lsn(self.durable),
        }
    }

    /// The number that the next frame will have.
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.next)
    }

    /// The random id of this directory, the same for all its life.
    pub fn node(&self) -> [u8; 16] {
        self.node
    }

    /// The limits it was opened with.
    pub fn options(&self) -> &WalOptions {
        &self.options
    }

    /// Bytes of the log written since it was opened, or about to be, with their padding.
    pub fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    /// Bytes staged and not yet handed to a job.
    pub fn staged_bytes(&self) -> u64 {
        self.staged_bytes
    }

    /// The segments of the log, oldest first, the one being written last. A prepared spare and the pool are not listed.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |segment: &Segment| SegmentInfo {
            id: segment.file.id,
            base_lsn: Lsn(segment.base_lsn),
            last_lsn: segment.last_lsn.map(Lsn),
            size: segment.file.size,
            used: if segment.file.id == self.active.id {
                self.end()
            } else {
                segment.used
            },
            sealed: segment.last_lsn.is_some(),
        };
        self.segments.values().map(info).collect()
    }

    /// Bytes of all segment files: the log, what is prepared, and what is kept for reuse.
    pub fn disk_bytes(&self) -> u64 {
        let log: u64 = self.segments.values().map(|one| one.file.size).sum();
        let spare = self.spare.as_ref().map_or(0, |spare| spare.size);
        log + spare + self.upkeep.disk_bytes()
    }

    /// Whether the files may grow by `growth` bytes. Two segments of `size` bytes are left for what frees space: while it fills one, the one
    /// before, in which nothing is needed, goes.
    pub(super) fn may_grow(&self, growth: u64, size: u64, reserved: bool) -> bool {
        let kept = if reserved { 0 } else { 2 * size };
        self.options
            .disk_bytes_max
            .is_none_or(|max| self.disk_bytes() + growth + kept <= max)
    }

    /// The size of the next segment, which must hold one frame of `frame` bytes (0: any).
    pub(super) fn next_size(&self, frame: u64) -> u64 {
        let size = self.options.segment_size(self.next_segment, 0);
        let least = self.options.segment_size(0, frame);
        size.min(self.upkeep.most()).max(least)
    }

    /// Whether something is under way that frees space, beyond what the next slice of upkeep does: a write or sync that it waits for.
    pub(crate) fn waits_to_free(&self) -> bool {
        self.upkeep.waits_to_free() && self.durable < self.last
    }

    /// Whether the last attempt to get space for the next segment failed: only what frees is taken once the reserve is reached.
    pub fn is_full(&self) -> bool {
        self.upkeep.is_full()
    }

    /// The sealed segments of the log, oldest first: id, last frame, size in bytes.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = (SegmentId, Lsn, u64)> {
        let segments = self.segments.values();
        segments.filter_map(|segment| {
            let last = Lsn(segment.last_lsn?);
            Some((segment.file.id, last, segment.file.size))
        })
    }

    /// Whether nothing may be appended or confirmed any more, because a write or a sync failed.
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    /// Stops the log for good: every later append, begin and finish fails with [`Error::Poisoned`]. The first reason is kept.
    pub fn poison(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        self.poison.get_or_insert(reason);
    }

    /// The end of what is staged in the active segment.
    pub(super) fn end(&self) -> u64 {
        self.open
            .as_ref()
            .map_or(self.tail, |batch| batch.at + batch.bytes.len() as u64)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.poison {
            Some(reason) => Err(Error::Poisoned {
                reason: reason.clone(),
            }),
            None if self.closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Poisons the log with `error`, unless the disk was merely full, and returns it.
    pub(super) fn fatal(&mut self, error: Error) -> Error {
        if !error.is_no_space() {
            self.poison(error.to_string());
        }
        error
    }

    /// Syncs everything and marks a clean stop: the next open replays without a doubt about the end.
    ///
    /// Runs on the caller's thread and blocks for a few syncs. Afterwards every call that writes fails with [`Error::Closed`]; reads still
    /// work, until another log in the directory reuses the segments: its lock is released. A second call does nothing.
    ///
    /// # Errors
    /// [`Error::Busy`] while a job is outstanding (finish it first), [`Error::Poisoned`] and what a write or sync fails with: then the stop
    /// is not a clean one, and nothing that was confirmed is lost.
    pub fn close(&mut self) -> Result<(), Error> {
        if self.closed {
            return Ok(());
        }
        self.check()?;
        if self.in_flight.is_some() {
            return Err(Error::Busy { job: "write" });
        }
        if self.checkpointing || self.upkeep.is_busy() {
            return Err(Error::Busy {
                job: "checkpoint or prepare",
            });
        }
        if let Some(job) = self.begin_sync()? {
            let done = job.run();
            self.finish(done)?;
        }
        assert_eq!(
            self.durable, self.last,
            "a sync covers everything that was staged"
        );
        self.store
            .update(|manifest| manifest.clean = true)
            .map_err(|error| self.fatal(error))?;
        self.closed = true;
        self.lock = None;
        Ok(())
    }
}
