//! Virtual time that outlives a process: wall time that jumps, monotonic time that begins anew with each life.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use postrider::contract::clock::{Clock, Mono, Timestamp};
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// The time of the world: it goes on over all lives.
#[derive(Default)]
pub struct Time {
    /// When the life that is now began, in milliseconds.
    base: AtomicU64,
    /// How far the wall clock is off, in milliseconds.
    jumped: AtomicI64,
}

impl Time {
    /// A life is over; until the next one begins, this much passes.
    pub fn over(&self, lasted: Duration, down: Duration) {
        let ms = (lasted + down).as_millis() as u64;
        self.base.fetch_add(ms, Ordering::SeqCst);
    }

    /// The wall clock is set, by at most a day either way.
    pub fn jump(&self, by_ms: i64) {
        let by = by_ms.clamp(-DAY_MS, DAY_MS);
        let jumped = |now: i64| Some((now + by).clamp(-3 * DAY_MS, 3 * DAY_MS));
        let set = self
            .jumped
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, jumped);
        assert!(set.is_ok(), "a jump always gives a time");
    }
}

/// The clock of one life.
pub struct LifeClock {
    time: Arc<Time>,
    began: Instant,
}

impl LifeClock {
    pub fn new(time: Arc<Time>) -> Self {
        let began = Instant::now();
        Self { time, began }
    }

    /// How long the life has lasted.
    pub fn lasted(&self) -> Duration {
        self.began.elapsed()
    }

    /// Milliseconds since the world began, whatever the wall clock says.
    pub fn world_ms(&self) -> u64 {
        self.time.base.load(Ordering::SeqCst) + self.lasted().as_millis() as u64
    }
}

impl Clock for LifeClock {
    fn wall(&self) -> Timestamp {
        let ms = EPOCH_MS + self.world_ms() as i64 + self.time.jumped.load(Ordering::SeqCst);
        Timestamp(ms as u64)
    }

    fn mono(&self) -> Mono {
        Mono(self.lasted())
    }
}
