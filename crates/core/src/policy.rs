//! What a subscription does when a handler fails: retries, what comes after them, and the bounds of everything.

use std::time::Duration;

use serde::Serialize;

/// How a failed message is tried again: some retries at once, then backoff with decorrelated jitter,
/// `min(max, random(base, 3 × the last))` (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Retries at once.
    pub immediate: u32,
    /// The shortest wait of the backoff.
    pub base: Duration,
    /// The longest wait of the backoff.
    pub max: Duration,
    /// Retries in all, the immediate ones included. 0: none. `u32::MAX`: without end.
    pub times: u32,
}

impl Default for Retry {
    /// Two at once, then backoff from 200 ms to 5 min, ten in all.
    fn default() -> Self {
        Self {
            immediate: 2,
            base: Duration::from_millis(200),
            max: Duration::from_secs(300),
            times: 10,
        }
    }
}

impl Retry {
    /// No retry: the first failure is for good.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            immediate: 0,
            base: Duration::from_millis(200),
            max: Duration::from_millis(200),
            times: 0,
        }
    }

    /// Backoff between `waits.start` and `waits.end`, ten retries; see [`Retry::times`] and [`Retry::immediately`].
    #[must_use]
    pub fn backoff(waits: std::ops::Range<Duration>) -> Self {
        Self {
            immediate: 0,
            base: waits.start,
            max: waits.end.max(waits.start),
            times: 10,
        }
    }

    /// This many retries in all.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// The first `n` of them at once.
    #[must_use]
    pub const fn immediately(mut self, n: u32) -> Self {
        self.immediate = n;
        self
    }

    /// Retries without end: the key stays blocked until it works.
    #[must_use]
    pub const fn forever(mut self) -> Self {
        self.times = u32::MAX;
        self
    }
}

/// What happens to a message that failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenExhausted {
    /// A failure record, and its key is parked: the rest of the key follows it, in order. The default of an ordered subscription.
    ParkKey,
    /// A failure record, and the key goes on. The default of an unordered subscription; on an ordered one it gives up order for that key.
    DeadLetterAndContinue,
    /// The subscription stops and says so; nothing is settled.
    Stop,
}

/// Retries per success: an empty budget slows consumption down instead of burning attempts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RetryBudget {
    /// Retries per success, for example 0.2.
    pub ratio: f32,
    /// Retries per second that are always allowed.
    pub floor_per_s: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            floor_per_s: 10,
        }
    }
}

/// The bounds of one subscription. Every queue in the kernel has one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Handlers that run at once.
    pub concurrency: u32,
    /// Messages taken from the source and not settled.
    pub window_messages_max: u32,
    /// Bytes of these.
    pub window_bytes_max: u64,
    /// Messages of one key among these; more than that behind a blocked key parks the key at once.
    pub lane_messages_max: u32,
    /// Bytes of one key among these; likewise.
    pub lane_bytes_max: u64,
    /// The longest time that a message is held in all: then its key is parked.
    pub hold_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 64,
            window_messages_max: 4096,
            window_bytes_max: 64 << 20,
            lane_messages_max: 512,
            lane_bytes_max: 16 << 20,
            hold_max: Duration::from_secs(24 * 3600),
        }
    }
}

/// The policy of one subscription. Retries are per message type: [`Policy::retries`] holds one per handler.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// Handle messages of one key in order, one at a time.
    pub ordered: bool,
    /// Retry rules; a message names its rule by its index. Never empty.
    pub retries: Vec<Retry>,
    /// What comes after the retries.
    pub when_exhausted: WhenExhausted,
    /// Retries per success.
    pub budget: RetryBudget,
    /// Bounds.
    pub limits: Limits,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ordered: true,
            retries: vec![Retry::default()],
            when_exhausted: WhenExhausted::ParkKey,
            budget: RetryBudget::default(),
            limits: Limits::default(),
        }
    }
}
