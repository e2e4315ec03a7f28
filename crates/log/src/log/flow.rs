//! Writing, confirming, checkpoints, freeing: what [`pump`](crate::pump) drives.

use super::{Growth, Log};
use crate::ids::{Now, StreamId, SubId};
use crate::planted::{self, Plant};
use crate::wal::{
    BackupJob, CheckpointDone, CheckpointJob, JobDone, Lsn, PrepareDone, PrepareJob, Progress,
    SegmentId, WriteJob,
};
use crate::{Error, checkpoint};

/// On a memory disk, where no time bounds recovery, a checkpoint is made once so many bytes can be freed by it.
const FREEABLE_BYTES: u64 = 4 << 20;

/// State taken at one frame, waiting until that frame is durable.
#[derive(Debug)]
pub(crate) struct Capture {
    sections: Vec<(String, Vec<u8>)>,
    upto: Lsn,
    free: Vec<SegmentId>,
}

/// Who may find something new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wakes {
    /// Subscriptions that may have something to lease.
    pub subscriptions: Vec<SubId>,
    /// Streams that have new visible records.
    pub streams: Vec<StreamId>,
}

impl Log {
    /// Who may find something new since the last call. May name one that then has nothing; never leaves one out.
    pub fn take_wakes(&mut self) -> Wakes {
        let subscriptions = std::mem::take(&mut self.state.todo.woken);
        let streams = std::mem::take(&mut self.state.todo.woken_streams);
        for sub in &subscriptions {
            if let Some(sub) = self.state.subs.get_mut(sub) {
                sub.woken = false;
            }
        }
        for stream in &streams {
            if let Some(stream) = self.state.streams.get_mut(stream) {
                stream.woken = false;
            }
        }
        Wakes {
            subscriptions,
            streams,
        }
    }

    /// Whether a write is wanted now: something is staged, or a sync is due.
    pub fn wants_write(&self, now: Now) -> bool {
        self.wal.staged_bytes() > 0 || self.sync_is_due(now)
    }

    fn sync_is_due(&self, now: Now) -> bool {
        let unsynced = self.wal.durable() < self.wal.last();
        let captured = self
            .capture
            .as_ref()
            .is_some_and(|capture| capture.upto > self.wal.durable());
        // What was freed leaves once a later segment is durable.
        let freed = self.wal.is_full() && self.wal.waits_to_free();
        let lazily = self.lazy_due.is_some_and(|due| due <= now.mono);
        unsynced && (captured || freed || lazily)
    }

    /// The next write, to be run without the lock and brought back with [`finish`](Self::finish). `None`: nothing to do, or one is
    /// outstanding.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn begin(&mut self, now: Now) -> Result<Option<WriteJob>, Error> {
        if self.sync_is_due(now) {
            self.wal.begin_sync()
        } else {
            self.wal.begin()
        }
    }

    /// A marker for a log that goes idle; see [`Wal::begin_idle`](crate::wal::Wal::begin_idle).
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_idle(&mut self) -> Result<Option<WriteJob>, Error> {
        self.wal.begin_idle()
    }

    /// Takes back a write: what it made safe becomes visible, and tickets up to there are safe.
    ///
    /// # Errors
    /// What the write or sync failed with. The log is poisoned: nothing of it is confirmed.
    pub fn finish(&mut self, done: JobDone) -> Result<Progress, Error> {
        let progress = self.wal.finish(done)?;
        while let Some(growth) = pop_upto(&mut self.when_written, progress.written) {
            self.grow_safe(&growth);
        }
        while let Some(growth) = pop_upto(&mut self.when_durable, progress.durable) {
            if let Some(stream) = self.state.streams.get_mut(&growth.stream) {
                let before = stream.visible_end();
                stream.reserved_durable = stream.reserved_durable.max(growth.reserved);
                if stream.visible_end() > before {
                    self.wake_stream(growth.stream);
                }
            }
            self.grow_safe(&growth);
        }
        if progress.durable == self.wal.last() {
            self.lazy_due = None;
        }
        Ok(progress)
    }

    /// The next slice of upkeep of segments, as [`Wal::prepare_step`](crate::wal::Wal::prepare_step).
    pub fn prepare(&mut self) -> Option<PrepareJob> {
        self.wal.prepare_step()
    }

    /// Takes back a slice of upkeep; `true` if there is more.
    ///
    /// # Errors
    /// As [`Wal::finish_prepare`](crate::wal::Wal::finish_prepare).
    pub fn finish_prepare(&mut self, done: PrepareDone) -> Result<bool, Error> {
        self.wal.finish_prepare(done)
    }

    /// The next checkpoint, when one is due: every [`checkpoint_bytes`](crate::wal::WalOptions::checkpoint_bytes) of log and every
    /// [`checkpoint_every`](crate::Options::checkpoint_every). The state is taken at one call, and the job given at a later one, once
    /// that state is durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn checkpoint(&mut self, now: Now) -> Result<Option<CheckpointJob>, Error> {
        if self.capture.is_none() && self.checkpointing.is_none() && self.checkpoint_is_due(now) {
            self.capture(now);
        }
        let durable = self.wal.durable();
        if self.checkpointing.is_some()
            || self
                .capture
                .as_ref()
                .is_none_or(|capture| capture.upto > durable)
        {
            return Ok(None);
        }
        let Some(Capture {
            sections,
            upto,
            free,
        }) = self.capture.take()
        else {
            return Ok(None);
        };
        let upto = if planted::is(Plant::CheckpointCoversTooMuch) {
            durable
        } else {
            upto
        };
        let job = self.wal.checkpoint(sections, upto)?;
        self.checkpointing = Some(free);
        Ok(Some(job))
    }

    fn checkpoint_is_due(&self, now: Now) -> bool {
        let dirty = self.wal.last() > self.wal.checkpoint_lsn();
        dirty
            && (self.wal.needs_checkpoint()
                || now.mono >= self.checkpoint_due
                || self.wal.is_full() && self.has_unneeded()
                || self.freeable_bytes() + self.mover.emptied_bytes() >= self.free_at())
    }

    /// Whether a step of upkeep would find something to do: a segment to make, fill, empty or free, or a checkpoint. `false` is sure.
    pub fn wants_upkeep(&self, now: Now) -> bool {
        let outstanding = self.capture.is_some() || self.mover.wants_step();
        outstanding || self.wal.wants_prepare() || self.checkpoint_is_due(now)
    }

    /// Whether space is being freed by something that waits for a write or a sync: what finds no space ([`Error::Full`]) may find it after
    /// that. Beyond it, what an idle [`pump::upkeep`](crate::pump::upkeep) does not free stays.
    pub fn is_freeing(&self) -> bool {
        let captured = self.capture.is_some() || self.checkpointing.is_some();
        captured || self.mover.waits(self.wal.durable()) || self.wal.waits_to_free()
    }

    /// Whether a checkpoint would free a segment.
    fn has_unneeded(&self) -> bool {
        let segments = self.wal.segments();
        let mut sealed = segments.iter().filter(|segment| segment.sealed);
        sealed.any(|segment| !self.state.segments.contains_key(&segment.id))
    }

    fn free_at(&self) -> u64 {
        FREEABLE_BYTES.max(self.wal.options().checkpoint_bytes / 16)
    }

    fn freeable_bytes(&self) -> u64 {
        let covered = self.wal.checkpoint_lsn();
        let fresh = self.wal.sealed().filter(|(_, last, _)| *last > covered);
        fresh
            .filter(|(id, ..)| !self.state.segments.contains_key(id))
            .map(|(.., size)| size)
            .sum()
    }

    fn capture(&mut self, now: Now) {
        self.checkpoint_due = now.mono + self.options.checkpoint_every;
        self.mover.captured();
        let sealed = self
            .wal
            .segments()
            .into_iter()
            .filter(|segment| segment.sealed);
        // What nobody needs now is needed by nobody later: entries never come back to life.
        let free = sealed
            .map(|segment| segment.id)
            .filter(|id| !self.state.segments.contains_key(id))
            .collect();
        self.capture = Some(Capture {
            sections: checkpoint::encode(&self.state),
            upto: self.wal.last(),
            free,
        });
    }

    /// Takes back a checkpoint and frees the segments that nobody needs any more.
    ///
    /// # Errors
    /// What writing it failed with. A full disk leaves the log as it was; anything else poisons it.
    pub fn finish_checkpoint(&mut self, done: CheckpointDone) -> Result<(), Error> {
        let free = self.checkpointing.take().unwrap_or_default();
        self.wal.finish_checkpoint(done)?;
        self.mover.look();
        let there: Vec<SegmentId> = self
            .wal
            .segments()
            .iter()
            .map(|segment| segment.id)
            .collect();
        let free: Vec<SegmentId> = free.into_iter().filter(|id| there.contains(id)).collect();
        self.wal.free(&free)
    }

    /// Takes the state for a checkpoint now, whatever is due: for a host that closes or wants a short recovery.
    pub fn request_checkpoint(&mut self, now: Now) {
        if self.capture.is_none() && self.wal.last() > self.wal.checkpoint_lsn() {
            self.capture(now);
        }
    }

    /// A copy of everything that is durable now, to be made without the lock; see [`BackupJob`]. For a copy of all that was
    /// confirmed, call it when that is durable.
    ///
    /// # Errors
    /// As [`Wal::backup`](crate::wal::Wal::backup).
    pub fn backup(&self) -> Result<BackupJob, Error> {
        self.wal.backup()
    }

    /// Closes the log in order: everything staged is written and synced, and the next open need not search for a torn tail. Waits
    /// for the disk. [`pump::close`](crate::pump::close) makes a checkpoint first.
    ///
    /// # Errors
    /// As [`Wal::close`](crate::wal::Wal::close).
    pub fn close(&mut self) -> Result<(), Error> {
        self.wal.close()
    }
}

fn pop_upto(queue: &mut std::collections::VecDeque<Growth>, lsn: Lsn) -> Option<Growth> {
    if queue.front()?.lsn <= lsn {
        queue.pop_front()
    } else {
        None
    }
}
