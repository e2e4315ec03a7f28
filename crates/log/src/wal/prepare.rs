//! Upkeep beside the commits: the next segment is made ready, freed ones leave.

use std::sync::Arc;

use super::format::BLOCK;
use super::manifest::{ManifestStore, SegmentEntry};
use super::segment::{self, LOG_DIR, SegmentFile};
use super::state::Wal;
use super::{Lsn, SegmentId, WalOptions};
use crate::Error;
use crate::disk::{Disk, OpenMode};
use crate::planted::{self, Plant};

/// What upkeep has to do.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Out of the log, still listed and on the disk.
    retired: Vec<Arc<SegmentFile>>,
    /// Freed, and still what recovery would start from: it goes when a later segment is surely there.
    freed: Vec<Arc<SegmentFile>>,
    /// The same, but never wholly filled: not to be used again.
    unfinished: Vec<Arc<SegmentFile>>,
    /// Unlisted files that may be used again.
    pool: Vec<SegmentEntry>,
    /// The next segment while it is being filled, and up to where it is.
    preparing: Option<(Arc<SegmentFile>, u64)>,
    busy: bool,
    /// The last attempt to get space failed.
    full: bool,
    /// The disk had no room for a larger segment than this when one was last made.
    most: Option<u64>,
    /// What `preparing` is has been passed by a segment with a larger id.
    outrun: bool,
}

impl Upkeep {
    pub(super) fn new(pool: Vec<SegmentEntry>) -> Upkeep {
        Upkeep {
            pool,
            ..Upkeep::default()
        }
    }

    /// Bytes of the files that are not part of the log, or not any more.
    pub(super) fn disk_bytes(&self) -> u64 {
        let leaving = self
            .retired
            .iter()
            .chain(&self.freed)
            .chain(&self.unfinished);
        let leaving: u64 = leaving.map(|file| file.size).sum();
        let pool: u64 = self.pool.iter().map(|entry| entry.size).sum();
        let preparing = self.preparing.as_ref().map_or(0, |(file, _)| file.size);
        leaving + pool + preparing
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// The most that the next segment may have.
    pub(super) fn most(&self) -> u64 {
        self.most.unwrap_or(u64::MAX)
    }

    /// The disk had no room for a segment of that many bytes: the next one is tried at half of it, and at the least size it is full.
    pub(super) fn too_large(&mut self, size: u64, options: &WalOptions) {
        let least = options.segment_bytes[0];
        self.full = size <= least;
        self.most = Some((size / 2).next_multiple_of(BLOCK).max(least));
    }

    /// A segment of that many bytes was made: the next one may be twice as large.
    pub(super) fn fitted(&mut self, size: u64, options: &WalOptions) {
        self.full = false;
        let twice = self.most.map(|_| size.saturating_mul(2));
        self.most = twice.filter(|most| *most < options.segment_bytes[2]);
    }

    /// Whether freed segments are still there.
    pub(super) fn waits_to_free(&self) -> bool {
        !self.freed.is_empty()
    }

    pub(super) fn retire(&mut self, file: Arc<SegmentFile>) {
        self.retired.push(file);
    }

    /// A segment with a larger id went into use: what is being prepared comes too late.
    pub(super) fn forget_preparing(&mut self) {
        if let Some((file, _)) = self.preparing.take() {
            self.unfinished.push(file);
        }
        self.outrun = self.busy;
    }
}

/// One slice of upkeep, off the owner's lock. Made by [`Wal::prepare_step`].
#[derive(Debug)]
#[must_use = "no further upkeep is done until this job is run and finished"]
pub struct PrepareJob {
    disk: Arc<dyn Disk>,
    store: Arc<ManifestStore>,
    task: Task,
}

#[derive(Debug)]
enum Task {
    /// Unlist these, then keep or remove each.
    Retire {
        files: Vec<(Arc<SegmentFile>, bool)>,
    },
    /// Make the file of the next segment, from one of the pool if given.
    Make {
        entry: SegmentEntry,
        pooled: Option<u64>,
        node: [u8; 16],
        in_memory: bool,
        /// So many times its size must be free.
        of: u64,
    },
    /// Write zeros.
    Fill {
        file: Arc<SegmentFile>,
        from: u64,
        to: u64,
    },
}

#[derive(Debug)]
enum Outcome {
    Retired(Vec<SegmentEntry>),
    /// Up to this byte the file is filled; at its end it is listed.
    Prepared(Arc<SegmentFile>, u64),
}

/// What came of a [`PrepareJob`]; hand it to [`Wal::finish_prepare`].
#[derive(Debug)]
#[must_use = "the prepared space counts once the job is finished"]
pub struct PrepareDone {
    result: Result<Outcome, Error>,
    /// What it was, for when that failed.
    task: Task,
}

impl Wal {
    /// Takes sealed segments out of the log: their entries can no longer be read. Their files are reused or removed by the next
    /// [`prepare_step`](Self::prepare_step)s. Does not touch the disk.
    ///
    /// # Errors
    /// [`Error::UnknownSegment`]; [`Error::Refused`] if one is not sealed, or holds frames that the newest checkpoint does not cover. Then none is
    /// freed.
    pub fn free(&mut self, ids: &[SegmentId]) -> Result<(), Error> {
        self.check()?;
        for id in ids {
            let segment = self
                .segments
                .get(id)
                .ok_or(Error::UnknownSegment { segment: *id })?;
            match segment.last_lsn {
                None => {
                    return Err(Error::Refused {
                        reason: format!("{id} is being written"),
                    });
                }
                Some(last) if last > self.checkpoint_lsn => {
                    let (last, covered) = (Lsn(last), Lsn(self.checkpoint_lsn));
                    return Err(Error::Refused {
                        reason: format!("{id} ends at {last}, the checkpoint covers {covered}"),
                    });
                }
                Some(_) => {}
            }
        }
        for id in ids {
            // An id given twice is freed once.
            if let Some(segment) = self.segments.remove(id) {
                self.upkeep.freed.push(segment.file);
            }
        }
        Ok(())
    }

    /// The next slice of upkeep, or `None` if there is none to do now (or one is outstanding). Call it off the path of commits, and again after
    /// each [`finish_prepare`](Self::finish_prepare); a slice writes at most
    /// [`fill_bytes`](super::WalOptions::fill_bytes) and a few syncs.
    pub fn prepare_step(&mut self) -> Option<PrepareJob> {
        if self.check().is_err() || self.upkeep.busy {
            return None;
        }
        let task = self.next_task()?;
        self.upkeep.busy = true;
        Some(PrepareJob {
            disk: Arc::clone(&self.disk),
            store: Arc::clone(&self.store),
            task,
        })
    }

    /// Whether [`prepare_step`](Self::prepare_step) may have something to do. `false` is sure.
    pub(crate) fn wants_prepare(&self) -> bool {
        let upkeep = &self.upkeep;
        let leaves = !upkeep.retired.is_empty() || !upkeep.freed.is_empty();
        let makes = self.spare.is_none() && (upkeep.full || self.end() >= self.active.size / 2);
        leaves || makes || !upkeep.unfinished.is_empty() || upkeep.preparing.is_some()
    }

    fn next_task(&mut self) -> Option<Task> {
        // DURABILITY: the header of the segment that recovery is to start in must be durable before the one before it goes.
        let noted = (self.segments.values().rev())
            .find(|segment| segment.noted || planted::is(Plant::FreedTooEarly));
        let first = noted.map_or(SegmentId(0), |segment| segment.file.id);
        self.upkeep
            .retired
            .extend(self.upkeep.freed.extract_if(.., |file| file.id < first));
        if !self.upkeep.retired.is_empty() || !self.upkeep.unfinished.is_empty() {
            let mut room = self
                .options
                .pool_segments_max
                .saturating_sub(self.upkeep.pool.len());
            let largest = self.options.segment_bytes[2];
            let grows = self.may_grow(largest, largest, false);
            let retired = std::mem::take(&mut self.upkeep.retired);
            let files = retired.into_iter().map(|file| {
                let reusable = file.size == self.options.segment_bytes[2] && !self.disk.is_memory();
                let keep = reusable && room > 0 && grows;
                room -= usize::from(keep);
                (file, keep)
            });
            let unfinished = std::mem::take(&mut self.upkeep.unfinished);
            let unfinished = unfinished.into_iter().map(|file| (file, false));
            return Some(Task::Retire {
                files: files.chain(unfinished).collect(),
            });
        }
        if let Some((file, from)) = self.upkeep.preparing.take() {
            let to = (from + self.options.fill_bytes).min(file.size);
            return Some(Task::Fill { file, from, to });
        }
        let half_full = self.end() >= self.active.size / 2;
        if self.spare.is_some() || !(half_full || self.upkeep.full) {
            return None;
        }
        self.next_segment_task()
    }

    /// The file of the next segment, where there may be one.
    fn next_segment_task(&mut self) -> Option<Task> {
        let id = self.next_segment;
        // What is there takes no room, so it may be the larger one.
        let sizes = [self.options.segment_size(id, 0), self.next_size(0)];
        let fits = |size: u64| {
            let pool = &self.upkeep.pool;
            pool.iter()
                .position(|pooled| pooled.size == size && pooled.generation < u32::MAX)
        };
        let pooled = fits(sizes[0]).or_else(|| fits(sizes[1]));
        let size = pooled.map_or(sizes[1], |at| self.upkeep.pool[at].size);
        let growth = if pooled.is_some() { 0 } else { size };
        if !self.may_grow(growth, size, false) {
            self.upkeep.full = true;
            return None;
        }
        self.next_segment += 1;
        let pooled = pooled.map(|at| self.upkeep.pool.swap_remove(at));
        let generation = pooled.map_or(1, |pooled| pooled.generation + 1);
        let entry = SegmentEntry {
            id,
            generation,
            size,
            used: None,
        };
        let (pooled, node, in_memory) = (
            pooled.map(|pooled| pooled.id),
            self.node,
            self.disk.is_memory(),
        );
        let of = self.room_for(&entry);
        Some(Task::Make {
            entry,
            pooled,
            node,
            in_memory,
            of,
        })
    }

    /// Takes back a slice of upkeep. `true` if there may be more to do at once.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no space for the next segment: the log stays usable as far as its space goes; call
    /// [`prepare_step`](Self::prepare_step) again after a while. Anything else poisons the log.
    pub fn finish_prepare(&mut self, done: PrepareDone) -> Result<bool, Error> {
        assert!(
            self.upkeep.busy,
            "a prepare job is finished once, on the log that began it"
        );
        self.upkeep.busy = false;
        let outrun = std::mem::take(&mut self.upkeep.outrun);
        match done.result {
            Ok(Outcome::Retired(kept)) => self.upkeep.pool.extend(kept),
            // While this was being made, a larger segment was needed at once: too late for this one.
            Ok(Outcome::Prepared(file, _)) if outrun => self.upkeep.unfinished.push(file),
            Ok(Outcome::Prepared(file, filled)) if filled < file.size => {
                self.upkeep.preparing = Some((file, filled))
            }
            Ok(Outcome::Prepared(file, _)) => {
                self.upkeep.fitted(file.size, &self.options);
                self.spare = Some(file);
            }
            Err(error) if error.is_no_space() => {
                self.no_room_for(done.task);
                if self.upkeep.full {
                    let needed = self.next_size(0);
                    return Err(Error::Full { needed });
                }
            }
            Err(error) => return Err(self.fatal(error)),
        }
        Ok(true)
    }

    /// The disk had no room for a slice of upkeep: a segment is tried at a smaller size, what leaves is tried again.
    fn no_room_for(&mut self, task: Task) {
        match task {
            Task::Make { entry, .. } => self.upkeep.too_large(entry.size, &self.options),
            Task::Fill { file, .. } => {
                self.upkeep.too_large(file.size, &self.options);
                self.upkeep.unfinished.push(file);
            }
            Task::Retire { files } => {
                self.upkeep.full = true;
                for (file, keep) in files {
                    match keep {
                        true => self.upkeep.retired.push(file),
                        false => self.upkeep.unfinished.push(file),
                    }
                }
            }
        }
    }
}

impl PrepareJob {
    /// Does the slice. Blocks for the disk.
    pub fn run(self) -> PrepareDone {
        let result = match &self.task {
            Task::Retire { files } => self.retire(files),
            Task::Make {
                entry,
                pooled,
                node,
                in_memory,
                of,
            } => match pooled {
                Some(old) => self.reuse(*entry, *old, node),
                None => self.make(*entry, node, *in_memory, *of),
            },
            Task::Fill { file, from, to } => self.fill(file, *from, *to),
        };
        let task = self.task;
        PrepareDone { result, task }
    }

    fn retire(&self, files: &[(Arc<SegmentFile>, bool)]) -> Result<Outcome, Error> {
        // DURABILITY: first out of CURRENT, then gone: a file that CURRENT lists is never missing.
        self.store.update(|manifest| {
            manifest
                .segments
                .retain(|entry| files.iter().all(|(file, _)| file.id.0 != entry.id));
        })?;
        let mut kept = Vec::new();
        for (file, keep) in files {
            // One more holder than this job is a reader, who must not see the file's next use.
            if *keep && Arc::strong_count(file) == 1 {
                kept.push(SegmentEntry {
                    id: file.id.0,
                    generation: file.generation,
                    size: file.size,
                    used: None,
                });
                continue;
            }
            match self.disk.unlink(&file.path()) {
                // An earlier try ended after it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(Error::io("removing", file.path()))?,
            }
        }
        self.disk
            .sync_dir(LOG_DIR)
            .map_err(Error::io("syncing", LOG_DIR))?;
        Ok(Outcome::Retired(kept))
    }

    fn make(
        &self,
        entry: SegmentEntry,
        node: &[u8; 16],
        in_memory: bool,
        of: u64,
    ) -> Result<Outcome, Error> {
        let file = segment::create_leaving(&*self.disk, entry.id, entry.size, false, of)?;
        let file = SegmentFile::new(node, &entry, file);
        if in_memory {
            self.list(file)
        } else {
            Ok(Outcome::Prepared(file, 0))
        }
    }

    fn reuse(&self, entry: SegmentEntry, old: u64, node: &[u8; 16]) -> Result<Outcome, Error> {
        let name = segment::path(entry.id);
        self.disk
            .rename(&segment::path(old), &name)
            .map_err(Error::io("renaming", segment::path(old)))?;
        self.disk
            .sync_dir(LOG_DIR)
            .map_err(Error::io("syncing", LOG_DIR))?;
        let file = self
            .disk
            .open(&name, OpenMode::Write)
            .map_err(Error::io("opening", &name))?;
        self.list(SegmentFile::new(node, &entry, file))
    }

    fn fill(&self, file: &Arc<SegmentFile>, from: u64, to: u64) -> Result<Outcome, Error> {
        segment::zero(&*file.file, from, to).map_err(Error::io("writing", file.path()))?;
        file.sync()?;
        if to < file.size {
            return Ok(Outcome::Prepared(Arc::clone(file), to));
        }
        self.list(Arc::clone(file))
    }

    /// The file is ready: lists it, so that recovery misses it if it is gone.
    fn list(&self, file: Arc<SegmentFile>) -> Result<Outcome, Error> {
        let entry = SegmentEntry {
            id: file.id.0,
            generation: file.generation,
            size: file.size,
            used: None,
        };
        self.store.update(|manifest| manifest.list(entry))?;
        let size = file.size;
        Ok(Outcome::Prepared(file, size))
    }
}
