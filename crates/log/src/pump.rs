//! What a host does over and over: write and sync, keep segments ready, make checkpoints.
//!
//! The host's thread, an inline commit on a memory disk and the simulator all call the same [`step`], with nothing but a lock
//! around the [`Log`]: what is tested is what runs. A step takes the lock for moments; disks are waited for without it.

use parking_lot::Mutex;

use crate::ids::Now;
use crate::wal::Progress;
use crate::{Error, Log};

/// What a step did. With all of it empty the log is idle: wait for new work, or for [`Log::next_timer`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Frames were written: tickets and wakes are to be looked at.
    pub progress: Option<Progress>,
    /// Segments were filled ahead, reused or removed.
    pub upkeep: bool,
    /// A slice of a segment in which little is needed was looked at or written anew.
    pub moved: bool,
    /// A checkpoint was made.
    pub checkpoint: bool,
    /// A checkpoint is due, and not one block is left for it on the disk. The log goes on: until there is room no segment is freed, and a start reads
    /// more. It is no work that was done: beside it the log may be idle.
    pub checkpoint_waits: bool,
}

impl Step {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let done = Step {
            checkpoint_waits: false,
            ..*self
        };
        done == Step::default()
    }
}

/// One round: at most one write, one slice of upkeep, one slice of a move, one checkpoint.
///
/// # Errors
/// As [`write()`] and [`upkeep`].
pub fn step(log: &Mutex<Log>, now: Now) -> Result<Step, Error> {
    let progress = write(log, now)?;
    let rest = upkeep(log, now)?;
    Ok(Step { progress, ..rest })
}

/// Writes, and syncs, what was staged: the group commit. One thread calls this.
///
/// # Errors
/// What the write or sync failed with; the log is poisoned then. [`Error::Closed`].
pub fn write(log: &Mutex<Log>, now: Now) -> Result<Option<Progress>, Error> {
    write_between(log, now, |_| {}, |_| {}).0
}

/// As [`write()`], with something to do at the log just before, and a look at it just after, each without taking the lock once more. The look
/// comes in any case.
///
/// # Errors
/// The first of the pair is what [`write()`] gives.
pub fn write_between<T>(
    log: &Mutex<Log>,
    now: Now,
    before: impl FnOnce(&mut Log),
    after: impl FnOnce(&mut Log) -> T,
) -> (Result<Option<Progress>, Error>, T) {
    let job = {
        let mut log = log.lock();
        before(&mut log);
        match log.begin(now) {
            Ok(Some(job)) => job,
            Ok(None) => return (Ok(None), after(&mut log)),
            Err(error) => return (Err(error), after(&mut log)),
        }
    };
    // DURABILITY: the lock is not held here; what is staged meanwhile is the next batch.
    let done = job.run();
    let mut log = log.lock();
    let progress = log.finish(done).map(Some);
    (progress, after(&mut log))
}

/// One slice of upkeep, one of a move, and one checkpoint, if due. The thread that writes may call it, or another one.
///
/// A full disk is no error here: publishes say so ([`Error::Full`]), and the next call tries again.
///
/// # Errors
/// What it failed with; the log is poisoned then. [`Error::Closed`].
pub fn upkeep(log: &Mutex<Log>, now: Now) -> Result<Step, Error> {
    let mut step = Step::default();
    let job = log.lock().prepare();
    if let Some(job) = job {
        let done = job.run();
        step.upkeep = match log.lock().finish_prepare(done) {
            Err(error) if error.is_no_space() => false,
            other => other?,
        };
    }
    let job = log.lock().relocate(now);
    if let Some(job) = job {
        let done = job.run();
        step.moved = log.lock().finish_relocate(done, now)?;
    }
    let job = log.lock().checkpoint(now)?;
    if let Some(job) = job {
        let done = job.run();
        match log.lock().finish_checkpoint(done) {
            Err(error) if error.is_no_space() => step.checkpoint_waits = true,
            other => step.checkpoint = other.map(|()| true)?,
        }
    }
    Ok(step)
}

/// Steps until everything staged is written, synced where its level says so, and nothing is due.
///
/// # Errors
/// As [`step`].
pub fn run_until_idle(log: &Mutex<Log>, now: Now) -> Result<(), Error> {
    while !step(log, now)?.is_idle() {}
    Ok(())
}

/// Writes everything staged, on a disk that is memory: there is nothing to wait for, so the lock is held throughout, and upkeep comes only
/// where there is some.
///
/// # Errors
/// As [`step`].
pub fn write_inline(log: &Mutex<Log>, now: Now) -> Result<(), Error> {
    {
        let mut log = log.lock();
        while let Some(job) = log.begin(now)? {
            let done = job.run();
            log.finish(done)?;
        }
        if !log.wants_upkeep(now) {
            return Ok(());
        }
    }
    run_until_idle(log, now)
}

/// Writes a marker by which the last confirmed batch is provably so. For a host that has had nothing to do for a while.
///
/// # Errors
/// As [`write()`].
pub fn idle(log: &Mutex<Log>) -> Result<(), Error> {
    let Some(job) = log.lock().begin_idle()? else {
        return Ok(());
    };
    let done = job.run();
    log.lock().finish(done).map(drop)
}

/// Closes the log in order: everything is synced, a checkpoint is made, the stop is marked as a clean one.
///
/// # Errors
/// As [`step`] and [`Log::close`]. What was confirmed is safe all the same.
pub fn close(log: &Mutex<Log>, now: Now) -> Result<(), Error> {
    log.lock().request_checkpoint(now);
    run_until_idle(log, now)?;
    log.lock().close()
}
