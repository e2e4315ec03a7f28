//! SplitMix64 (Steele, Lea, Flood 2014): a seed gives the same orders and the same kills everywhere.

/// A small seeded generator. Not for secrets.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `low` up to and without `high`. The bias of the remainder does not matter here.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low < high, "an empty range has no member");
        low + self.next() % (high - low)
    }

    /// True in `parts` of `whole` cases.
    pub(crate) fn chance(&mut self, parts: u64, whole: u64) -> bool {
        self.range(0, whole) < parts
    }
}
