//! The numbers of the log, each with its own type where two of them could meet.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

/// The position of a record in its stream: 0, 1, 2, …, never minted twice.
///
/// Offsets of a stream rise but may leave gaps (after a crash of a stream whose level is below `fsync`).
pub type Offset = u64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A stream of one log: given at creation, never reused in that log.
    StreamId(u32)
}
id! {
    /// A subscription of one log: given at creation, never reused in that log.
    SubId(u32)
}
id! {
    /// Whoever holds leases: an opened source. Chosen by the host, unique among the members that live now.
    MemberId(u64)
}
id! {
    /// One lease of one message. A token of a lease that ended is refused with [`Error::LeaseLost`](crate::Error).
    LeaseToken(u64)
}
id! {
    /// A failure record within its subscription, 1, 2, 3, …
    FailureId(u64)
}
id! {
    /// The hash of a key, by which a subscription keeps keys apart. Two keys that collide share one order, which is
    /// safe: it only makes them wait for each other.
    KeyHash(u64)
}

impl KeyHash {
    /// Hashes a key. Stable within a process only; never written to disk.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        const K: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut hash: u64 = K ^ (key.len() as u64);
        let mut chunks = key.chunks_exact(8);
        for chunk in &mut chunks {
            let word = u64::from_le_bytes(chunk.try_into().expect("chunks_exact gives 8 bytes"));
            hash = mix(hash ^ word);
        }
        let mut last = [0u8; 8];
        let rest = chunks.remainder();
        last[..rest.len()].copy_from_slice(rest);
        KeyHash(mix(hash ^ u64::from_le_bytes(last)))
    }
}

fn mix(value: u64) -> u64 {
    const M: u128 = 0xD6E8_FEB8_6659_FD93_A076_1D64_78BD_642F;
    let wide = u128::from(value ^ 0x8EBC_6AF0_9C88_C6E3).wrapping_mul(M);
    ((wide >> 64) as u64) ^ (wide as u64) ^ ((wide >> 32) as u64)
}

/// The time at one call, given by the host: nothing in this crate reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall time in milliseconds since 1970: deliver-at, expiry and retention are measured by it. It may jump.
    pub wall_ms: u64,
    /// Monotonic time since any fixed point of this process: leases and delays are measured by it.
    pub mono: Duration,
}

impl Now {
    /// Both clocks, from milliseconds.
    #[must_use]
    pub fn from_millis(wall_ms: u64, mono_ms: u64) -> Self {
        Now {
            wall_ms,
            mono: Duration::from_millis(mono_ms),
        }
    }

    pub(crate) fn mono_ms(&self) -> u64 {
        millis(self.mono)
    }
}

/// A duration in whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A hasher for integers that are ids, offsets or hashes already: one multiplication, and the same order in each run.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct IntHasher(u64);

impl Hasher for IntHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let folded = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = folded ^ (folded >> 29);
    }
}

/// A hash map from integers, iterated in the same order in every run that did the same.
pub(crate) type IntMap<K, V> = HashMap<K, V, BuildHasherDefault<IntHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_in_length_or_order_of_bytes_hash_apart() {
        let keys: [&[u8]; 8] = [
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"ab",
            b"ba",
            b"order-0000001",
            b"order-0000002",
        ];
        let hashes: std::collections::BTreeSet<_> =
            keys.iter().map(|key| KeyHash::of(key)).collect();
        assert_eq!(hashes.len(), keys.len());
        assert_eq!(KeyHash::of(b"order-1"), KeyHash::of(b"order-1"));
    }
}
