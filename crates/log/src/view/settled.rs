//! Which offsets of a subscription are settled: all below a floor, and a compressed bitmap above it.
//!
//! Fifty million acknowledgements behind one stuck message are a few kilobytes, and the floor passes them in one jump.

use roaring::RoaringTreemap;

use crate::Error;
use crate::codec::{Put, Reader};
use crate::ids::Offset;
use crate::planted::{self, Plant};

/// How far the floor walks bit by bit before it measures the run instead.
const WALK_MAX: u64 = 64;

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Settled {
    floor: Offset,
    above: RoaringTreemap,
}

impl Settled {
    /// Everything below `floor` is settled.
    pub(crate) fn below(floor: Offset) -> Self {
        Settled {
            floor,
            above: RoaringTreemap::new(),
        }
    }

    pub(crate) fn floor(&self) -> Offset {
        self.floor
    }

    pub(crate) fn contains(&self, offset: Offset) -> bool {
        offset < self.floor || (!self.above.is_empty() && self.above.contains(offset))
    }

    /// The first offset from `from` on that is not settled.
    pub(crate) fn next_unsettled(&self, from: Offset) -> Offset {
        let from = from.max(self.floor);
        if self.above.is_empty() {
            from
        } else {
            from + self.run_from(from)
        }
    }

    /// How many offsets of `[from, to)` are settled.
    pub(crate) fn count(&self, from: Offset, to: Offset) -> u64 {
        let below = self.floor.clamp(from, to.max(from)) - from;
        let from = from.max(self.floor);
        if from >= to || self.above.is_empty() {
            below
        } else {
            below + self.above.range_cardinality(from..to)
        }
    }

    /// Settles `[from, to)` and calls `new` for each part that was not settled before.
    pub(crate) fn insert(&mut self, from: Offset, to: Offset, mut new: impl FnMut(Offset, Offset)) {
        let from = from.max(self.floor);
        if from >= to {
            return;
        }
        if self.count(from, to) == 0 {
            new(from, to);
        } else {
            let mut at = from;
            while at < to {
                let hole = self.next_unsettled(at);
                if hole >= to {
                    break;
                }
                let end = self.next_above(hole).map_or(to, |next| next.min(to));
                new(hole, end);
                at = end;
            }
        }
        if from == self.floor {
            self.floor = to;
            self.advance();
        } else {
            self.above.insert_range(from..to);
        }
    }

    /// The first offset in the bitmap after `hole`, which is not in it.
    fn next_above(&self, hole: Offset) -> Option<Offset> {
        self.above.select(self.above.rank(hole))
    }

    /// Moves the floor over what is settled above it.
    fn advance(&mut self) {
        if self.above.is_empty() {
            return;
        }
        let to = self.floor + self.run_from(self.floor);
        self.floor = to;
        self.above.remove_range(..to);
    }

    /// The length of the settled run that starts at `from`, which is not below the floor.
    fn run_from(&self, from: Offset) -> u64 {
        for walked in 0..WALK_MAX {
            if !self.above.contains(from + walked) {
                return walked;
            }
        }
        // A run of n from `from` is n set bits among n offsets: search for the largest such n.
        let full = |n: u64| self.above.range_cardinality(from..from.saturating_add(n)) == n;
        let mut good = WALK_MAX;
        let mut step = WALK_MAX;
        while full(good + step) {
            good += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if full(good + step) {
                good += step;
            }
        }
        good
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.floor);
        let none = RoaringTreemap::new();
        let above = if planted::is(Plant::SettleLost) {
            &none
        } else {
            &self.above
        };
        let mut bitmap = Vec::with_capacity(above.serialized_size());
        above
            .serialize_into(&mut bitmap)
            .expect("writing to memory does not fail");
        out.put_bytes(&bitmap);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let floor = reader.u64()?;
        let bitmap = reader.bytes()?;
        let above = RoaringTreemap::deserialize_from(bitmap)
            .map_err(|_| reader.malformed("a bitmap of settled offsets cannot be read"))?;
        Ok(Settled { floor, above })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fifty_million_acks_behind_a_stuck_message_are_a_few_kilobytes_and_one_jump() {
        let mut settled = Settled::below(0);
        settled.insert(1, 50_000_001, |_, _| {});
        let mut out = Vec::new();
        settled.encode(&mut out);
        assert!(out.len() < 16 * 1024, "{}", out.len());
        assert_eq!(settled.next_unsettled(1), 50_000_001);
        settled.insert(0, 1, |_, _| {});
        assert_eq!(settled.floor(), 50_000_001);
        assert!(settled.above.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn it_agrees_with_a_plain_set(ranges in proptest::collection::vec((0u64..600, 1u64..200), 1..40), start in 0u64..20) {
            let mut settled = Settled::below(start);
            let mut model: BTreeSet<u64> = (0..start).collect();
            for (from, length) in ranges {
                let mut seen = BTreeSet::new();
                settled.insert(from, from + length, |a, b| seen.extend(a..b));
                let new: BTreeSet<u64> = (from..from + length).filter(|o| !model.contains(o)).collect();
                prop_assert_eq!(&seen, &new);
                model.extend(new);
                let floor = (0..).find(|o| !model.contains(o)).unwrap();
                prop_assert_eq!(settled.floor(), floor);
                for probe in [0, floor, from, from + length, 399] {
                    let next = (probe..).find(|o| !model.contains(o)).unwrap();
                    prop_assert_eq!(settled.next_unsettled(probe), next);
                    prop_assert_eq!(settled.contains(probe), model.contains(&probe));
                    prop_assert_eq!(settled.count(probe, probe + 77), model.range(probe..probe + 77).count() as u64);
                }
            }
            let mut out = Vec::new();
            settled.encode(&mut out);
            prop_assert_eq!(Settled::decode(&mut Reader::new(&out, "test")).unwrap(), settled);
        }
    }
}
