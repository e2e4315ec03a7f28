//! Bugs on purpose: each is one line where such a bug would be, and a test must find it.
//!
//! Without the feature `planted`, which only tests turn on, [`is`] is a constant and nothing of this is in a program.
//! `cargo xtask floors` checks that no crate's dependencies turn it on.

/// A bug that can be planted, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// Kernel: a message that failed is tried again behind the others of its key.
    RetryBehindItsKey = 1,
    /// Kernel: messages are set aside behind their parked key in the wrong order.
    ParkOutOfOrder,
    /// Kernel: a failure does not count as an attempt.
    AttemptNotCounted,
    /// Kernel: a handler that panicked has handled its message.
    PanicAcknowledges,
    /// Driver: the last acknowledgement of several is not passed on.
    SettleLost,
    /// Driver: a delivery is acknowledged before its effects are published.
    AckBeforePublish,
    /// Relay: rows are removed from the outbox before they are published.
    RelayRemovesFirst,
    /// Service: the id of an outgoing message is drawn, not derived.
    IdNotDerived,
    /// Engine: a lease is not extended, and so given to another while the handler runs.
    LeaseNotExtended,
    /// Engine: a publish is confirmed when it is staged.
    ConfirmBeforeSync,
    /// Driver: the record of a failure and the settle of its message are two commits, though the engine can do both in one.
    DeadLetterInTwo,
    /// SQLite: `synchronous=NORMAL`.
    SynchronousNormal,
    /// SQLite: the transaction of a handler that sends something has no inbox row.
    InboxForgotten,
    /// SQLite: the fence is not looked at before the commit.
    FenceUnchecked,
    /// SQLite: an outbox row whose removal was answered and is not committed yet is given again.
    RemovedRowGivenAgain,
    /// Relay: a row that was removed while rows were read is taken for a new one.
    RelayForgetsRemoved,
    /// Kernel: what it is told, or sees by its clock, of leases that are over is not heeded.
    LostLeaseGoesOn,
    /// Driver: a settle whose answer never came counts as done.
    CutSettleCounts,
    /// Relay: a publish whose answer never came counts as confirmed.
    CutPublishCounts,
    /// Driver: a failure record that the store beside the engine did not take is not kept again, and its message acknowledged.
    RecordNotKept,
    /// Driver: the store beside the engine is not asked whether a key is parked, which another member may have done.
    ParkedNotAsked,
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub const fn is(_: Plant) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use switch::{Planted, is, none, plant};

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::Plant;

    static IN_FORCE: AtomicU8 = AtomicU8::new(0);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Whether this bug is planted.
    #[inline]
    #[must_use]
    pub fn is(plant: Plant) -> bool {
        IN_FORCE.load(Ordering::Relaxed) == plant as u8
    }

    /// A bug is in force, in the whole process, until this is dropped. Others who plant wait for that.
    #[must_use = "the bug is there while this is held"]
    #[derive(Debug)]
    pub struct Planted(#[expect(dead_code, reason = "it is held")] MutexGuard<'static, ()>);

    /// Plants a bug.
    pub fn plant(plant: Plant) -> Planted {
        let planted = none();
        IN_FORCE.store(plant as u8, Ordering::SeqCst);
        planted
    }

    /// Holds the ground without a bug: a test that shares a process with those that plant.
    pub fn none() -> Planted {
        let guard = ONE_AT_A_TIME.lock();
        // Who panicked with a bug planted has taken it away.
        Planted(guard.unwrap_or_else(PoisonError::into_inner))
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            IN_FORCE.store(0, Ordering::SeqCst);
        }
    }
}
