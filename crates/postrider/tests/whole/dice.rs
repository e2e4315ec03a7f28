//! Chance from a seed, shared by everything in one run.

use std::sync::{Arc, Mutex};

use postrider::contract::clock::{Clock, Entropy, Mono, SplitMix64, Timestamp};
use tokio::time::Instant;

#[derive(Clone)]
pub struct Dice(Arc<Mutex<SplitMix64>>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(SplitMix64::new(seed))))
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().unwrap().below(bound)
    }

    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }
}

impl Entropy for Dice {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap().next_u64()
    }
}

/// Time that follows tokio's paused clock.
pub struct VirtualClock(Instant);

impl VirtualClock {
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for VirtualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(1_767_225_600_000).plus(self.0.elapsed())
    }

    fn mono(&self) -> Mono {
        Mono(self.0.elapsed())
    }
}
