//! Time and randomness that a test owns.

use std::sync::atomic::{AtomicU64, Ordering};

use postrider::contract::clock::{Clock, Entropy, Mono, SplitMix64, Timestamp};
use tokio::time::Instant;

/// Wall and monotonic time that follow tokio's clock: paused, they move only when everything waits.
pub struct VirtualClock {
    origin: Instant,
    wall: Timestamp,
}

impl VirtualClock {
    /// Where wall time begins: 2026-01-01T00:00:00Z.
    pub const EPOCH: Timestamp = Timestamp(1_767_225_600_000);

    /// A clock that begins now, at [`VirtualClock::EPOCH`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            wall: Self::EPOCH,
        }
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for VirtualClock {
    fn wall(&self) -> Timestamp {
        self.wall.plus(self.origin.elapsed())
    }

    fn mono(&self) -> Mono {
        Mono(self.origin.elapsed())
    }
}

/// Randomness from a seed: the same test makes the same ids and the same jitter.
pub struct SeededEntropy {
    seed: u64,
    count: AtomicU64,
}

impl SeededEntropy {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            count: AtomicU64::new(0),
        }
    }
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        let nth = self.count.fetch_add(1, Ordering::Relaxed);
        SplitMix64::new(self.seed ^ nth.wrapping_mul(0x2545_f491_4f6c_dd1d)).next_u64()
    }
}
