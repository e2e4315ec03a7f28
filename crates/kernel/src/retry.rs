//! How long to wait before the next try, and the budget that all tries of a subscription share.
//!
//! Sources: AWS Architecture Blog, "Exponential Backoff And Jitter" (decorrelated jitter); Finagle's `RetryBudget` (tokens per success
//! and a floor per second).

use std::time::Duration;

use postrider_core::clock::{Mono, SplitMix64};
use postrider_core::policy::{Retry, RetryBudget};

/// `min(max, random(base, 3 × last))`.
pub(crate) fn decorrelated(
    rng: &mut SplitMix64,
    base: Duration,
    max: Duration,
    last: Duration,
) -> Duration {
    let base_ns = nanos(base);
    let top_ns = nanos(last.max(base)).saturating_mul(3).max(base_ns);
    let wait_ns = base_ns.saturating_add(rng.below(top_ns - base_ns + 1));
    Duration::from_nanos(wait_ns).min(max)
}

/// The wait that a message had before, as far as the number of its attempts tells: for messages that went back to the engine.
pub(crate) fn guess_last(rule: &Retry, used: u32) -> Duration {
    let doublings = used
        .saturating_sub(rule.immediate)
        .saturating_sub(1)
        .min(31);
    rule.base.saturating_mul(1 << doublings).min(rule.max)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos())
        .unwrap_or(u64::MAX / 4)
        .min(u64::MAX / 4)
}

const TOKEN: u64 = 1000;

/// Retries that the subscription may make: a token bucket, filled by successes (`ratio` each) and by time (`floor_per_s`). It starts with, and
/// holds at most, ten seconds of the floor plus the share of a thousand successes. In thousandths of a token.
#[derive(Debug)]
pub(crate) struct Budget {
    per_success: u64,
    floor_per_s: u64,
    max: u64,
    tokens: u64,
    /// Up to when time was counted, in whole milliseconds.
    at_ms: u64,
}

impl Budget {
    pub(crate) fn new(rule: RetryBudget) -> Self {
        let per_success = (f64::from(rule.ratio.max(0.0)) * 1000.0).min(1e9) as u64;
        let floor_per_s = u64::from(rule.floor_per_s);
        let floor = floor_per_s * 10 * TOKEN;
        Self {
            per_success,
            floor_per_s,
            max: (floor + per_success * 1000).max(TOKEN),
            tokens: floor.max(TOKEN),
            at_ms: 0,
        }
    }

    pub(crate) fn success(&mut self) {
        self.tokens = (self.tokens + self.per_success).min(self.max);
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Mono) -> bool {
        self.refill(now);
        if self.tokens < TOKEN {
            return false;
        }
        self.tokens -= TOKEN;
        true
    }

    /// When time alone will have brought the next token. `None`: never.
    pub(crate) fn next_at(&self) -> Option<Mono> {
        if self.floor_per_s == 0 {
            return None;
        }
        // One token per second is one thousandth per millisecond.
        let missing = TOKEN.saturating_sub(self.tokens);
        let wait_ms = missing.div_ceil(self.floor_per_s).max(1);
        Some(Mono(Duration::from_millis(self.at_ms + wait_ms)))
    }

    /// Whole tokens, and how many it holds at most.
    pub(crate) fn level(&self) -> (u64, u64) {
        (self.tokens / TOKEN, self.max / TOKEN)
    }

    fn refill(&mut self, now: Mono) {
        let now_ms = u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX);
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let grown = self
            .tokens
            .saturating_add(passed_ms.saturating_mul(self.floor_per_s));
        self.tokens = grown.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_wait_stays_between_base_and_three_times_the_last() {
        let mut rng = SplitMix64::new(7);
        let mut last = ms(200);
        for _ in 0..1000 {
            let wait = decorrelated(&mut rng, ms(200), ms(60_000), last);
            assert!(
                wait >= ms(200) && wait <= (last * 3).min(ms(60_000)),
                "{wait:?} after {last:?}"
            );
            last = wait;
        }
        assert_eq!(decorrelated(&mut rng, ms(5), ms(5), ms(5)), ms(5));
        assert_eq!(
            decorrelated(&mut rng, Duration::ZERO, Duration::ZERO, Duration::ZERO),
            Duration::ZERO
        );
        assert_eq!(
            decorrelated(&mut rng, Duration::MAX, ms(9), Duration::MAX),
            ms(9)
        );
    }

    #[test]
    fn an_empty_budget_fills_by_time_and_by_successes() {
        let mut budget = Budget::new(RetryBudget {
            ratio: 0.5,
            floor_per_s: 2,
        });
        let start = Mono(ms(10_000));
        let mut burst = 0;
        while budget.take(start) {
            burst += 1;
        }
        assert!((20..=40).contains(&burst), "{burst}");
        let next = budget.next_at().expect("the floor is not zero");
        assert!(next > start && next <= start.plus(ms(500)));
        assert!(!budget.take(start.plus(ms(400))));
        assert!(budget.take(next));
        assert!(!budget.take(next));
        budget.success();
        assert!(!budget.take(next));
        budget.success();
        assert!(budget.take(next));
    }

    #[test]
    fn a_budget_without_floor_waits_for_successes() {
        let mut budget = Budget::new(RetryBudget {
            ratio: 1.0,
            floor_per_s: 0,
        });
        assert!(budget.take(Mono(ms(0))));
        assert!(!budget.take(Mono(ms(1_000_000))));
        assert_eq!(budget.next_at(), None);
        budget.success();
        assert!(budget.take(Mono(ms(1_000_000))));
    }
}
