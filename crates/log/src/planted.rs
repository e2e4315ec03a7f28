//! Bugs on purpose: each is a line where such a bug would be, and a test must find it (`tests/planted.rs`).
//!
//! Without the feature `planted`, which only tests turn on, [`is`] is a constant and nothing of this is in a program.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// A write that should end with a sync ends without one, and is confirmed.
    AckBeforeSync = 1,
    /// Of the files of one write only the first is synced.
    SyncOfWrongFile,
    /// A failed sync is tried again, and believed.
    FailedSyncBelieved,
    /// The name of a new segment is not made durable.
    SegmentDirectoryNotSynced,
    /// The new name of a manifest or a checkpoint is not made durable.
    RenameNotSynced,
    /// The bytes of a manifest or a checkpoint are not synced before it gets its name.
    TmpFileNotSynced,
    /// `CURRENT` names a checkpoint before it is written.
    CurrentBeforeCheckpoint,
    /// A checkpoint says that it holds more than it does.
    CheckpointCoversTooMuch,
    /// A checkpoint forgets what is settled above the first hole.
    SettleLost,
    /// A checkpoint forgets how often a message was handed out.
    LeaseMarkLost,
    /// The checksum of a body is not looked at when the log is opened.
    CrcNotCheckedAtOpen,
    /// The checksum of a body is not looked at when it is read.
    CrcNotCheckedOnRead,
    /// A batch says that frames are durable which are not.
    SyncedLsnTooHigh,
    /// Frames of an earlier use of a segment, or of a lost end, count.
    StaleFramesAccepted,
    /// After a crash the numbers of lost frames are given out again.
    LsnReused,
    /// What may be in the page cache alone is not written again when the log is opened.
    PageCacheBelieved,
    /// After a crash the offsets of lost records are given out again, though they were seen.
    OffsetsReused,
    /// Records are seen before the reserve of their offsets is durable.
    ReserveNotDurable,
    /// Publishers are told offsets whose reserve is not durable.
    ToldUnreserved,
    /// Records of a stream that syncs are seen before that.
    SeenBeforeDurable,
    /// A segment goes while recovery may still need to start in it.
    FreedTooEarly,
    /// Of a transaction that is replayed only the first entry counts.
    HalfATransaction,
    /// A lease that another one followed may still settle.
    StaleLeaseSettles,
    /// A message passes others of its key that wait.
    KeyPassesItself,
    /// A delay found at open is as long as the clock on the wall makes it.
    DelayNotClamped,
    /// A delay found at open is over at once.
    DelayForgotten,
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub(crate) const fn is(_: Plant) -> bool {
    false
}

#[cfg(feature = "planted")]
pub(crate) use switch::is;
#[cfg(feature = "planted")]
pub use switch::{Planted, none, plant};

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use parking_lot::{Mutex, MutexGuard};

    use super::Plant;

    static IN_FORCE: AtomicU8 = AtomicU8::new(0);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Whether this bug is planted.
    #[inline]
    #[must_use]
    pub(crate) fn is(plant: Plant) -> bool {
        IN_FORCE.load(Ordering::Relaxed) == plant as u8
    }

    /// A bug is in force, in the whole process, until this is dropped. Others who plant wait for that.
    #[must_use = "the bug is there while this is held"]
    #[derive(Debug)]
    pub struct Planted {
        _turn: MutexGuard<'static, ()>,
    }

    /// Plants a bug.
    pub fn plant(plant: Plant) -> Planted {
        let planted = none();
        IN_FORCE.store(plant as u8, Ordering::SeqCst);
        planted
    }

    /// Holds the ground without a bug: for a test that shares a process with those that plant.
    pub fn none() -> Planted {
        Planted {
            _turn: ONE_AT_A_TIME.lock(),
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            IN_FORCE.store(0, Ordering::SeqCst);
        }
    }
}
