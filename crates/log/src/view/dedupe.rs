//! The dedupe window of a stream: message ids of the last while, in two generations.
//!
//! An id is remembered for at least the window and at most twice as long, or less when there are more ids than allowed.

use crate::Error;
use crate::codec::{Put, Reader};
use crate::definitions::DedupeWindow;
use crate::ids::{IntMap, Offset, millis};

/// An id as two words: as one of 16 bytes it would make each entry a third larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Id(u64, u64);

impl Id {
    fn of(id: [u8; 16]) -> Self {
        let id = u128::from_le_bytes(id);
        Id(id as u64, (id >> 64) as u64)
    }

    fn bytes(self) -> [u8; 16] {
        (u128::from(self.1) << 64 | u128::from(self.0)).to_le_bytes()
    }
}

/// Ids of one generation at most. A power of two is cut by an eighth: that many fill a table, and one more would double it.
fn generation_max(ids_max: u32) -> usize {
    let half = (ids_max as usize).div_ceil(2);
    let full = half.checked_ilog2().map_or(0, |bits| (1 << bits) / 8 * 7);
    if half - full <= half / 8 { full } else { half }
}

#[derive(Debug, Default)]
pub(crate) struct Dedupe {
    current: IntMap<Id, Offset>,
    previous: IntMap<Id, Offset>,
    /// When the current generation began, wall time in ms.
    since_ms: u64,
}

impl Dedupe {
    /// Where the record of this id went.
    pub(crate) fn find(&self, id: [u8; 16]) -> Option<Offset> {
        let id = Id::of(id);
        self.current
            .get(&id)
            .or_else(|| self.previous.get(&id))
            .copied()
    }

    /// Forgets what is too old.
    pub(crate) fn age(&mut self, window: DedupeWindow, now_ms: u64) {
        let window_ms = millis(window.window);
        let age = now_ms.saturating_sub(self.since_ms);
        if age >= window_ms.saturating_mul(2) {
            self.current.clear();
            self.previous.clear();
            self.since_ms = now_ms;
        } else if age >= window_ms || self.current.len() >= generation_max(window.ids_max) {
            self.previous = std::mem::take(&mut self.current);
            self.since_ms = now_ms;
        }
    }

    pub(crate) fn insert(
        &mut self,
        window: DedupeWindow,
        id: [u8; 16],
        offset: Offset,
        at_ms: u64,
    ) {
        if window.window.is_zero() || window.ids_max == 0 {
            return;
        }
        self.age(window, at_ms);
        self.current.insert(Id::of(id), offset);
    }

    pub(crate) fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.len() * 24 + 28);
        out.put_u64(self.since_ms);
        for generation in [&self.previous, &self.current] {
            out.put_varint(generation.len() as u64);
            for (id, offset) in generation {
                out.put(&id.bytes());
                out.put_u64(*offset);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let since_ms = reader.u64()?;
        let mut generation = || -> Result<IntMap<Id, Offset>, Error> {
            let count = reader.count(24)?;
            let mut ids = IntMap::default();
            ids.reserve(count);
            for _ in 0..count {
                ids.insert(Id::of(reader.id()?), reader.u64()?);
            }
            Ok(ids)
        };
        let previous = generation()?;
        let current = generation()?;
        Ok(Dedupe {
            current,
            previous,
            since_ms,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WINDOW: DedupeWindow = DedupeWindow {
        window: Duration::from_secs(120),
        ids_max: 100,
    };

    #[test]
    fn an_id_is_known_for_the_window_and_forgotten_after_twice_the_window() {
        let mut dedupe = Dedupe::default();
        dedupe.insert(WINDOW, [1; 16], 5, 1_000_000);
        dedupe.insert(WINDOW, [2; 16], 6, 1_110_000);
        dedupe.age(WINDOW, 1_119_999);
        assert_eq!(dedupe.find([1; 16]), Some(5));
        dedupe.age(WINDOW, 1_229_999);
        assert_eq!(dedupe.find([2; 16]), Some(6), "119.999 s old");
        dedupe.age(WINDOW, 1_480_000);
        assert_eq!((dedupe.find([1; 16]), dedupe.find([2; 16])), (None, None));
    }

    #[test]
    fn more_ids_than_allowed_push_out_the_oldest() {
        let mut dedupe = Dedupe::default();
        for n in 0..1_000u64 {
            dedupe.insert(WINDOW, u128::from(n + 1).to_le_bytes(), n, 1_000);
            assert!(dedupe.len() <= 100);
        }
        assert_eq!(dedupe.find(1000u128.to_le_bytes()), Some(999));
        assert_eq!(dedupe.find(1u128.to_le_bytes()), None);
    }

    #[test]
    fn a_generation_fills_its_table_and_is_at_most_an_eighth_smaller_than_allowed() {
        assert_eq!(generation_max(1 << 20), 458_752);
        for ids_max in 1..5_000 {
            let (max, half) = (generation_max(ids_max), ids_max.div_ceil(2) as usize);
            assert!(
                max >= 1 && max <= half && half - max <= half / 8,
                "{ids_max}"
            );
        }
        let id = std::array::from_fn(|at| at as u8);
        assert_eq!(Id::of(id).bytes(), id);
    }

    #[test]
    fn it_survives_the_round_trip() {
        let mut dedupe = Dedupe::default();
        dedupe.insert(WINDOW, [1; 16], 5, 1_000_000);
        dedupe.insert(WINDOW, [2; 16], 6, 1_120_000);
        let mut out = Vec::new();
        dedupe.encode(&mut out);
        let read = Dedupe::decode(&mut Reader::new(&out, "test")).unwrap();
        assert_eq!(
            (read.find([1; 16]), read.find([2; 16]), read.since_ms),
            (Some(5), Some(6), dedupe.since_ms)
        );
    }
}
