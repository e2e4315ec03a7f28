//! Staging frames and handing out the jobs that write them.

use std::sync::Arc;

use super::format::{self, BATCH_HEADER, BLOCK, BatchHeader, block_up};
use super::job::{JobDone, Write, WriteJob};
use super::manifest::SegmentEntry;
use super::segment::{self, SegmentFile};
use super::state::{Recent, Segment, Wal};
use super::{Appended, EntryBytes, Location, Lsn, Progress, Space, Sync};
use crate::Error;
use crate::planted::{self, Plant};

/// Buffers kept for reuse, and the largest of them.
const BUFFERS_MAX: usize = 2;
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// A new segment up to this size is filled with zeros even when it could not be prepared ahead.
const FILL_INLINE_MAX: u64 = 8 << 20;

/// A segment made for what frees space leaves as much again for checkpoints.
const LAST_RESORT_OF: u64 = 2;
/// A segment that is small for want of space leaves room for two of those, and as much for checkpoints.
const SMALLER_OF: u64 = 4;

/// A commit batch while it is staged.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) file: Arc<SegmentFile>,
    pub(super) at: u64,
    pub(super) prev_lsn: u64,
    pub(super) first_lsn: u64,
    pub(super) frames: u32,
    /// Starts with room for the header, which is written when the batch is handed to a job.
    pub(super) bytes: Vec<u8>,
}

/// Something sealed that waits for the next job.
#[derive(Debug)]
pub(super) enum Planned {
    Header {
        file: Arc<SegmentFile>,
        bytes: Vec<u8>,
    },
    Batch(Batch),
}

/// What the outstanding job will have done.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) upto: u64,
    pub(super) syncs: bool,
    pub(super) proves: u64,
    /// What it writes and does not sync.
    pub(super) unsynced: Vec<Arc<SegmentFile>>,
}

impl Wal {
    /// Stages one frame in memory: its entries are atomic together. Nothing is written before the next [`begin`](Self::begin).
    ///
    /// The locations returned are final. Rarely (when the next segment was not prepared in time, see
    /// [`prepare_step`](Self::prepare_step)) this makes a file.
    ///
    /// # Errors
    /// [`Error::FrameTooLarge`], [`Error::Overloaded`] and [`Error::Full`] stage nothing and leave the log usable; [`Error::Poisoned`] and
    /// [`Error::Closed`] do not.
    pub fn append(&mut self, entries: &[EntryBytes<'_>], sync: Sync) -> Result<Appended, Error> {
        self.append_with(entries, sync, Space::Common)
    }

    /// Like [`append`](Self::append), and may use the reserve of the segment when the disk is full: for what makes space, settles
    /// above all, so that consumers go on while publishers are refused.
    pub fn append_reserved(
        &mut self,
        entries: &[EntryBytes<'_>],
        sync: Sync,
    ) -> Result<Appended, Error> {
        self.append_with(entries, sync, Space::Reserve)
    }

    pub(crate) fn append_with(
        &mut self,
        entries: &[EntryBytes<'_>],
        sync: Sync,
        space: Space,
    ) -> Result<Appended, Error> {
        let mut locations = Vec::with_capacity(entries.len());
        let lsn = self.append_each(entries, sync, space, |location| locations.push(location))?;
        Ok(Appended { lsn, locations })
    }

    /// Like [`append`](Self::append); `place` gets where each entry's body is, in the order given.
    pub(crate) fn append_each(
        &mut self,
        entries: &[EntryBytes<'_>],
        sync: Sync,
        space: Space,
        mut place: impl FnMut(Location),
    ) -> Result<Lsn, Error> {
        self.check()?;
        if entries.is_empty() {
            return Err(Error::Refused {
                reason: "a frame needs at least one entry".to_owned(),
            });
        }
        let size = format::frame_size(entries);
        if size > self.options.frame_bytes_max {
            return Err(Error::FrameTooLarge {
                bytes: size,
                max: self.options.frame_bytes_max,
            });
        }
        if self.staged_bytes > 0 && self.staged_bytes + size > self.options.staged_bytes_max {
            return Err(Error::Overloaded {
                staged: self.staged_bytes,
                max: self.options.staged_bytes_max,
            });
        }
        self.make_room(size, space)?;

        let lsn = self.next;
        let batch = self.open_batch(size);
        let (at, segment) = (batch.at, batch.file.id);
        format::encode_frame(
            &mut batch.bytes,
            entries,
            lsn,
            batch.file.key(),
            |offset, len| {
                let at = u32::try_from(at + offset as u64).expect("a segment has at most 2 GiB");
                place(Location { segment, at, len });
            },
        );
        batch.frames += 1;
        assert!(
            batch.at + batch.bytes.len() as u64 <= batch.file.size,
            "room was made for this frame"
        );
        self.next = lsn + 1;
        self.last = lsn;
        self.staged_bytes += size;
        self.since_checkpoint += size;
        self.wants_sync |= sync == Sync::Now;
        Ok(Lsn(lsn))
    }

    /// The batch being staged, with room in memory for `size` more bytes.
    fn open_batch(&mut self, size: u64) -> &mut Batch {
        if self.open.is_none() {
            let wanted = (BATCH_HEADER + size).max(BLOCK) as usize;
            let fits = |buffer: &Vec<u8>| buffer.capacity() <= wanted.max(BUFFER_BYTES_MAX);
            let mut bytes = match self.buffers.iter().position(fits) {
                Some(at) => self.buffers.swap_remove(at),
                None => Vec::with_capacity(wanted),
            };
            bytes.clear();
            bytes.resize(BATCH_HEADER as usize, 0);
            self.open = Some(Batch {
                file: Arc::clone(&self.active),
                at: self.tail,
                prev_lsn: self.last,
                first_lsn: self.next,
                frames: 0,
                bytes,
            });
        }
        self.open.as_mut().expect("just opened")
    }

    /// Makes sure that a frame of `size` bytes fits into the active segment, taking the next one if need be.
    fn make_room(&mut self, size: u64, space: Space) -> Result<(), Error> {
        let start = match &self.open {
            Some(batch) => batch.at + batch.bytes.len() as u64,
            None => self.tail + BATCH_HEADER,
        };
        let reserved = space != Space::Common;
        if start + size <= self.active.size - self.options.reserve(self.active.size) {
            if !reserved && self.is_last_resort() {
                return Err(Error::Full {
                    needed: self.next_size(size),
                });
            }
            return Ok(());
        }
        let fits_reserve = start + size <= self.active.size;
        let kept = match space {
            Space::Last => 0,
            Space::Common | Space::Reserve => self.kept_for_moves(),
        };
        let may_use_reserve = reserved && start + size + kept <= self.active.size;
        // What frees space uses up the reserve before it takes the last segment that there may be.
        if may_use_reserve && self.upkeep.is_full() {
            return Ok(());
        }
        // With the next segment at hand, or in memory, the reserve has no purpose.
        if fits_reserve && (self.spare.is_some() || self.disk.is_memory()) {
            return Ok(());
        }
        match self.next_file(size, reserved) {
            Ok(file) => {
                self.roll(file);
                Ok(())
            }
            Err(error) if error.is_no_space() => match may_use_reserve {
                true => Ok(()),
                false => Err(error),
            },
            Err(error) => Err(self.fatal(error)),
        }
    }

    /// The end of the active segment that settles leave to what empties other segments.
    fn kept_for_moves(&self) -> u64 {
        let reserve = self.options.reserve(self.active.size);
        match self.last_resort == Some(self.active.id) {
            true => reserve,
            false => (reserve / 4) & !(BLOCK - 1),
        }
    }

    /// Bytes that may still be written while no other segment can be made, but the one that is kept for what frees space.
    pub(crate) fn room_left(&self) -> u64 {
        let size = self.next_size(0);
        let bounded = self.options.disk_bytes_max.is_some();
        let last = bounded && self.may_grow(size, size, true);
        self.active.size - self.end() + if last { size - BLOCK } else { 0 }
    }

    /// Whether this segment was made for what frees space, and there is no room for another one yet.
    fn is_last_resort(&self) -> bool {
        self.last_resort == Some(self.active.id) && self.spare.is_none() && self.upkeep.is_full()
    }

    /// The spare if it is large enough for a frame of `size`, else a new file.
    fn next_file(&mut self, size: u64, reserved: bool) -> Result<Arc<SegmentFile>, Error> {
        if let Some(spare) = self
            .spare
            .take_if(|spare| spare.size >= BLOCK + BATCH_HEADER + size)
        {
            return Ok(spare);
        }
        let bytes = self.next_size(size);
        let ordinary = self.may_grow(bytes, bytes, false);
        if !(ordinary || reserved && self.may_grow(bytes, bytes, true)) {
            self.upkeep.set_full(true);
            return Err(Error::Full { needed: bytes });
        }
        let ordinary = ordinary && !self.upkeep.is_full();
        if !ordinary && !reserved {
            return Err(Error::Full { needed: bytes });
        }
        self.upkeep.set_full(!ordinary);
        let file = self.make_smaller_and_smaller(bytes, size, ordinary)?;
        if ordinary {
            self.upkeep.fitted(file.size, &self.options);
        }
        self.last_resort = (!ordinary).then_some(file.id);
        // A spare that is too small has a smaller id, so it could not follow: it goes to the pool.
        if let Some(small) = self.spare.take() {
            self.upkeep.retire(small);
        }
        self.upkeep.forget_preparing();
        Ok(file)
    }

    /// A new segment of `bytes` bytes, or of as many as the disk has room for, for a frame of `size`.
    fn make_smaller_and_smaller(
        &mut self,
        mut bytes: u64,
        size: u64,
        ordinary: bool,
    ) -> Result<Arc<SegmentFile>, Error> {
        loop {
            let error = match self.make_now(bytes, ordinary) {
                Ok(file) => return Ok(file),
                Err(error) => error,
            };
            if !error.is_no_space() {
                return Err(error);
            }
            self.upkeep.too_large(bytes, &self.options);
            let smaller = self.next_size(size);
            if smaller >= bytes {
                self.upkeep.set_full(true);
                return Err(Error::Full { needed: bytes });
            }
            bytes = smaller;
        }
    }

    fn make_now(&mut self, bytes: u64, ordinary: bool) -> Result<Arc<SegmentFile>, Error> {
        let entry = SegmentEntry {
            id: self.next_segment,
            generation: 1,
            size: bytes,
            used: None,
        };
        let fill = bytes <= FILL_INLINE_MAX && !self.disk.is_memory();
        let of = match ordinary {
            true => self.room_for(&entry),
            false => LAST_RESORT_OF,
        };
        // The id is spent even if making the file fails: what is left of it must not be taken for the next one.
        self.next_segment += 1;
        let file = segment::create_leaving(&*self.disk, entry.id, bytes, fill, of)?;
        let file = SegmentFile::new(&self.node, &entry, file);
        // DURABILITY: listed before its first use, so that recovery misses it if it is gone. After an error it may be listed too, so it
        // stays, or leaves as any other.
        let listed = self.store.update(|manifest| manifest.list(entry));
        if listed.as_ref().is_err_and(Error::is_no_space) {
            self.upkeep.retire(Arc::clone(&file));
        }
        listed.map(|()| file)
    }

    /// How many times its size must be free for this segment: one that is small for want of space leaves some for what frees.
    pub(super) fn room_for(&self, entry: &SegmentEntry) -> u64 {
        match entry.size < self.options.segment_size(entry.id, 0) {
            true => SMALLER_OF,
            false => 1,
        }
    }

    /// Seals the active segment and goes on in `file`.
    fn roll(&mut self, file: Arc<SegmentFile>) {
        self.seal();
        let used = self.tail;
        let active = self
            .segments
            .get_mut(&self.active.id)
            .expect("the active segment is listed");
        active.last_lsn = Some(self.last);
        active.used = used;
        assert!(
            file.id > self.active.id,
            "segments are used in the order of their ids"
        );
        let (base_lsn, prev_lsn) = (self.next, self.last);
        let bytes = file.new_header(&self.node, base_lsn, prev_lsn);
        self.planned.push_back(Planned::Header {
            file: Arc::clone(&file),
            bytes,
        });
        let segment = Segment {
            file: Arc::clone(&file),
            base_lsn,
            prev_lsn,
            last_lsn: None,
            used: BLOCK,
            noted: false,
        };
        self.segments.insert(file.id, segment);
        self.active = file;
        self.tail = BLOCK;
    }

    /// Closes the batch being staged.
    fn seal(&mut self) {
        if let Some(batch) = self.open.take() {
            self.tail = block_up(batch.at + batch.bytes.len() as u64);
            self.sealed_bytes += self.tail - batch.at;
            self.planned.push_back(Planned::Batch(batch));
        }
    }

    /// The job that writes everything staged, and syncs it if a frame in it was appended with [`Sync::Now`]. `None` if nothing is staged or
    /// a job is outstanding (one at a time).
    ///
    /// The job must be run and brought back with [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn begin(&mut self) -> Result<Option<WriteJob>, Error> {
        self.check()?;
        if self.in_flight.is_some() || self.staged_bytes == 0 {
            return Ok(None);
        }
        Ok(Some(self.job(self.wants_sync)))
    }

    /// Like [`begin`](Self::begin), but always with a sync, also of what was written before without one. `None` if everything is durable or a
    /// job is outstanding.
    pub fn begin_sync(&mut self) -> Result<Option<WriteJob>, Error> {
        self.check()?;
        if self.in_flight.is_some() || self.durable == self.last {
            return Ok(None);
        }
        Ok(Some(self.job(true)))
    }

    /// The job that writes a marker batch, one block without a sync, so that the last confirmed batch is provably so. For a host that goes
    /// idle; `None` if there is something to write, or the proof exists, or there is no space for it.
    pub fn begin_idle(&mut self) -> Result<Option<WriteJob>, Error> {
        self.check()?;
        let idle = self.in_flight.is_none() && self.staged_bytes == 0;
        // On a full disk the last blocks are for what frees space; that proves as much.
        let kept = match self.upkeep.is_full() {
            true => self.options.reserve(self.active.size),
            false => 0,
        };
        if !idle
            || self.proven >= self.durable
            || self.disk.is_memory()
            || self.tail + BLOCK > self.active.size - kept
        {
            return Ok(None);
        }
        let batch = Batch {
            file: Arc::clone(&self.active),
            at: self.tail,
            prev_lsn: self.last,
            first_lsn: self.next,
            frames: 0,
            bytes: vec![0; BATCH_HEADER as usize],
        };
        self.tail += BLOCK;
        self.planned.push_back(Planned::Batch(batch));
        Ok(Some(self.job(false)))
    }

    fn job(&mut self, syncs: bool) -> WriteJob {
        self.seal();
        let mut writes = Vec::with_capacity(self.planned.len());
        let mut files = std::mem::take(&mut self.unsynced);
        while let Some(planned) = self.planned.pop_front() {
            let write = match planned {
                Planned::Header { file, bytes } => Write {
                    file,
                    at: 0,
                    bytes: Arc::new(bytes),
                },
                Planned::Batch(batch) => self.complete(batch),
            };
            if files.last().is_none_or(|file| file.id != write.file.id) {
                files.push(Arc::clone(&write.file));
            }
            writes.push(write);
        }
        self.staged_bytes = 0;
        self.wants_sync = false;
        // DURABILITY: older files first, so that a sync that fails half way leaves a shorter log, not one with a hole.
        let (synced, unsynced) = match syncs {
            true => (files, Vec::new()),
            false => (Vec::new(), files),
        };
        self.in_flight = Some(InFlight {
            upto: self.last,
            syncs,
            proves: self.durable,
            unsynced,
        });
        WriteJob {
            writes,
            syncs: synced,
        }
    }

    /// Fills in the batch's header, and keeps its bytes for readers.
    fn complete(&mut self, mut batch: Batch) -> Write {
        let header = BatchHeader {
            generation: batch.file.generation,
            length: u32::try_from(batch.bytes.len()).expect("a batch fits into a segment"),
            block: u32::try_from(batch.at / BLOCK).expect("a segment has at most 2 GiB"),
            frames: batch.frames,
            prev_lsn: batch.prev_lsn,
            first_lsn: batch.first_lsn,
            synced_lsn: match planted::is(Plant::SyncedLsnTooHigh) {
                true => self.last,
                false => self.durable,
            },
        };
        batch.bytes[..BATCH_HEADER as usize].copy_from_slice(&header.encode(batch.file.seed));
        let bytes = Arc::new(batch.bytes);
        if batch.frames > 0 {
            self.recent_bytes += bytes.capacity() as u64;
            let (segment, last_lsn) = (batch.file.id, header.last_lsn());
            self.recent.push_back(Recent {
                segment,
                at: batch.at,
                last_lsn,
                bytes: Arc::clone(&bytes),
            });
        }
        Write {
            file: batch.file,
            at: batch.at,
            bytes,
        }
    }

    /// Takes back the job that was run: only now are its frames written, or durable.
    ///
    /// # Errors
    /// What the write or the sync failed with; the log is poisoned, and nothing of this job counts as written or durable.
    ///
    /// # Panics
    /// If `done` is not of the outstanding job of this log.
    pub fn finish(&mut self, done: JobDone) -> Result<Progress, Error> {
        let job = self
            .in_flight
            .take()
            .expect("a job is finished once, on the log that began it");
        if let Err(error) = done.result {
            // A full disk under a segment whose space was reserved is a failure like any other.
            self.poison(error.to_string());
            return Err(error);
        }
        self.check()?;
        assert!(job.upto >= self.written, "jobs are finished in order");
        self.written = job.upto;
        self.proven = self.proven.max(job.proves);
        if job.syncs {
            self.durable = job.upto;
            self.store.set_durable(self.durable);
            self.note_used();
        } else {
            self.unsynced = job.unsynced;
        }
        self.trim_recent();
        Ok(self.progress())
    }

    /// From now on `CURRENT` says of these segments that their header must be there.
    fn note_used(&mut self) {
        for segment in self
            .segments
            .values_mut()
            .rev()
            .take_while(|segment| !segment.noted)
        {
            segment.noted = segment.base_lsn <= self.durable;
            if segment.noted {
                self.store.note_used(segment.entry());
            }
        }
    }

    /// Forgets the oldest written batches beyond the limit, and keeps a few of their buffers.
    pub(super) fn trim_recent(&mut self) {
        // What is in memory anyway need not be there twice.
        let max = if self.disk.is_memory() {
            0
        } else {
            self.options.tail_bytes_max
        };
        while self.recent_bytes > max {
            let Some(batch) = self
                .recent
                .pop_front_if(|batch| batch.last_lsn <= self.written)
            else {
                return;
            };
            self.recent_bytes -= batch.bytes.capacity() as u64;
            if let (true, Ok(buffer)) = (
                self.buffers.len() < BUFFERS_MAX,
                Arc::try_unwrap(batch.bytes),
            ) {
                self.buffers.push(buffer);
            }
        }
    }
}
