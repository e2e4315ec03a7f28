//! Time and randomness as arguments. `at` is wall time; delays, leases and backoff are monotonic.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Wall time: milliseconds since 1970-01-01T00:00:00Z. Never used for ordering or for measuring how long something took.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// This time plus `by`, saturating.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero where it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Reads an RFC 3339 time, as CloudEvents writes it. `None` where it is not one, or before 1970.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000)
            .ok()
            .map(Self)
    }

    /// The time as RFC 3339 in UTC with milliseconds.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let nanos = i128::from(self.0) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok())
            .unwrap_or_else(|| format!("@{}ms", self.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_rfc3339())
    }
}

/// Monotonic time: how long since an origin that the clock chose at its start. Means nothing in another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub Duration);

impl Mono {
    /// This time plus `by`, saturating.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// How long after `earlier` this is; zero where it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where time comes from. The host owns one; a test owns a virtual one.
pub trait Clock: Send + Sync + 'static {
    /// Wall time. MAY jump in either direction.
    fn wall(&self) -> Timestamp;
    /// Monotonic time. MUST never go backwards.
    fn mono(&self) -> Mono;
}

/// Where randomness comes from (ids, jitter). A test owns a seeded one.
pub trait Entropy: Send + Sync + 'static {
    /// The next 64 random bits. Need not be secret.
    fn next_u64(&self) -> u64;
}

/// The wait before try number `tries` (from 1) of something that is tried until it works, where a caller is not asked how: 100 ms, doubled with each
/// try up to 30 s, and of that between half and all by chance (`random`, of an [`Entropy`]), so that those that failed together do not
/// come again together.
#[must_use]
pub fn backoff(tries: u32, random: u64) -> Duration {
    backoff_up_to(BACKOFF_MAX, tries, random)
}

/// [`backoff`] with another longest wait.
#[must_use]
pub fn backoff_up_to(max: Duration, tries: u32, random: u64) -> Duration {
    let full = BACKOFF_MIN
        .saturating_mul(1 << tries.saturating_sub(1).min(16))
        .min(max);
    let half = full / 2;
    half + half.mul_f64(random as f64 / u64::MAX as f64)
}

/// The first wait of [`backoff`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Its longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A small seeded generator (SplitMix64): for jitter and tests, never for secrets.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator that always gives the same sequence for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.next_u64() % bound
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_survive_their_text_form() {
        let at = Timestamp(1_763_735_534_123);
        assert_eq!(Timestamp::parse_rfc3339(&at.to_rfc3339()).unwrap(), at);
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        assert_eq!(Timestamp::parse_rfc3339("1969-12-31T23:59:59Z"), None);
    }

    #[test]
    fn backoff_doubles_to_its_limit_and_half_of_it_is_chance() {
        let millis = |tries, random| backoff(tries, random).as_millis();
        assert_eq!([millis(1, 0), millis(1, u64::MAX)], [50, 100]);
        assert_eq!([millis(4, 0), millis(4, u64::MAX)], [400, 800]);
        for tries in [10, 17, 18, u32::MAX] {
            assert_eq!(
                [millis(tries, 0), millis(tries, u64::MAX)],
                [15_000, 30_000]
            );
        }
        assert_eq!(backoff(0, 0), backoff(1, 0));
    }
}
