//! A hierarchical timing wheel: 10 ms ticks, three levels of 64 slots (44 minutes), and a compact store for what is farther.
//!
//! Insert and fire are constant time whatever the number of timers; a jump of the clock skips empty slots by bitmap.
//! After Varghese and Lauck, *Hashed and Hierarchical Timing Wheels*, 1987; slot choice as in tokio's timer.

use std::collections::BTreeMap;

/// Milliseconds of one tick: nothing fires early, and at most this late.
pub(crate) const TICK_MS: u64 = 10;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 3;
const HORIZON_BITS: u32 = BITS * LEVELS as u32;

/// Timers of one piece of a slot: 12 KiB where a timer takes 24 bytes.
const PIECE: usize = 512;

#[derive(Debug)]
pub(crate) struct Wheel<T> {
    /// Everything due before this tick has fired.
    tick: u64,
    levels: [Level<T>; LEVELS],
    /// Beyond the horizon, by bucket of one horizon each: 8 bytes more than the timer itself.
    far: BTreeMap<u64, Slot<T>>,
    len: usize,
}

#[derive(Debug)]
struct Level<T> {
    occupied: u64,
    slots: Vec<Slot<T>>,
}

/// Timers in the order in which they came, in pieces: a million in one slot move down a level piece by piece, each freed as it goes, and
/// none of them is held twice.
#[derive(Debug)]
struct Slot<T>(Vec<Vec<(u64, T)>>);

impl<T> Slot<T> {
    const EMPTY: Self = Self(Vec::new());

    fn push(&mut self, timer: (u64, T)) {
        match self.0.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(timer),
            // The first piece grows as it must; where one was filled, the next will be.
            None => self.0.push(vec![timer]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(timer);
                self.0.push(piece);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

impl<T: Copy> Wheel<T> {
    pub(crate) fn new(now_ms: u64) -> Self {
        let level = || Level {
            occupied: 0,
            slots: (0..SLOTS).map(|_| Slot::EMPTY).collect(),
        };
        Wheel {
            tick: now_ms / TICK_MS,
            levels: [level(), level(), level()],
            far: BTreeMap::new(),
            len: 0,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }

    /// Fires at `due_ms`, rounded up to a tick; at the next advance when that has passed.
    pub(crate) fn insert(&mut self, due_ms: u64, item: T) {
        self.len += 1;
        self.place(due_ms.div_ceil(TICK_MS).max(self.tick), item);
    }

    fn place(&mut self, due: u64, item: T) {
        let differs = (due ^ self.tick) | 1;
        let level = ((63 - differs.leading_zeros()) / BITS) as usize;
        if level >= LEVELS {
            self.far
                .entry(due >> HORIZON_BITS)
                .or_insert(Slot::EMPTY)
                .push((due, item));
            return;
        }
        let slot = ((due >> (BITS * level as u32)) as usize) % SLOTS;
        self.levels[level].slots[slot].push((due, item));
        self.levels[level].occupied |= 1 << slot;
    }

    /// The first tick at which something fires or moves down a level.
    fn next_tick(&self) -> Option<u64> {
        for (index, level) in self.levels.iter().enumerate() {
            if level.occupied != 0 {
                let shift = BITS * index as u32;
                let slot = u64::from(level.occupied.trailing_zeros());
                let above = self.tick >> (shift + BITS) << (shift + BITS);
                return Some((above + (slot << shift)).max(self.tick));
            }
        }
        self.far
            .keys()
            .next()
            .map(|bucket| (bucket << HORIZON_BITS).max(self.tick))
    }

    /// When to advance next, in milliseconds; early rather than late.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.next_tick().map(|tick| tick.saturating_mul(TICK_MS))
    }

    /// Takes everything due at `now_ms`, in the order of ticks. A clock that went back takes nothing.
    pub(crate) fn advance(&mut self, now_ms: u64, fired: &mut Vec<T>) {
        let now = now_ms / TICK_MS;
        while let Some(tick) = self.next_tick().filter(|tick| *tick <= now) {
            self.tick = tick;
            for slot in self.take_at(tick) {
                for (due, item) in slot.0.into_iter().flatten() {
                    if due <= tick {
                        self.len -= 1;
                        fired.push(item);
                    } else {
                        self.place(due, item);
                    }
                }
            }
        }
        self.tick = self.tick.max(now);
    }

    /// Takes out the slots that begin at `tick`: the far one, then one of every level.
    fn take_at(&mut self, tick: u64) -> [Slot<T>; LEVELS + 1] {
        let mut taken = [const { Slot::EMPTY }; LEVELS + 1];
        if let Some(far) = self.far.remove(&(tick >> HORIZON_BITS)) {
            taken[0] = far;
        }
        for (index, level) in self.levels.iter_mut().enumerate() {
            let slot = ((tick >> (BITS * index as u32)) as usize) % SLOTS;
            if level.occupied & (1 << slot) != 0 {
                level.occupied &= !(1 << slot);
                taken[index + 1] = std::mem::replace(&mut level.slots[slot], Slot::EMPTY);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_a_year_away_waits_outside_the_slots_and_fires_after_a_jump() {
        let mut wheel = Wheel::new(1_000);
        let year = 365 * 86_400_000;
        wheel.insert(year, 1);
        wheel.insert(1_030, 2);
        assert_eq!(wheel.far.values().map(Slot::len).sum::<usize>(), 1);
        assert_eq!(wheel.next_ms(), Some(1_030));
        let mut fired = Vec::new();
        wheel.advance(year - 1, &mut fired);
        assert_eq!(fired, [2]);
        wheel.advance(year + 9, &mut fired);
        assert_eq!(fired, [2, 1]);
        assert_eq!((wheel.len(), wheel.next_ms()), (0, None));
    }

    #[test]
    fn a_clock_that_goes_back_fires_nothing_and_loses_nothing() {
        let mut wheel = Wheel::new(10_000);
        let mut fired = Vec::new();
        wheel.insert(5_000, 1);
        wheel.advance(4_000, &mut fired);
        assert_eq!(fired, [0; 0]);
        wheel.advance(10_000, &mut fired);
        assert_eq!(fired, [1]);
    }

    #[test]
    fn many_in_one_slot_fire_in_the_order_in_which_they_came() {
        let mut wheel = Wheel::new(0);
        let (count, due) = (3 * PIECE + 7, 3_000_000);
        (0..count).for_each(|n| wheel.insert(due, n));
        let mut fired = Vec::new();
        // A stop on each level.
        for now in [due - 1_000_000, due - 10_000, due - 10, due] {
            assert_eq!(fired.len(), 0);
            wheel.advance(now, &mut fired);
        }
        assert_eq!(fired, (0..count).collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn every_timer_fires_once_never_early_and_at_most_a_tick_late(
            start in 0u64..10_000_000_000,
            steps in proptest::collection::vec((proptest::collection::vec(0u64..12_000_000, 0..6), prop_oneof![0u64..50, 0u64..100_000, 0u64..9_000_000]), 1..40),
        ) {
            let mut wheel = Wheel::new(start);
            let mut model: Vec<u64> = Vec::new();
            let mut now = start;
            for (delays, step) in steps {
                for delay in delays {
                    wheel.insert(now + delay, now + delay);
                    model.push(now + delay);
                }
                now += step;
                let mut fired = Vec::new();
                wheel.advance(now, &mut fired);
                for due in &fired {
                    prop_assert!(*due <= now);
                    let at = model.iter().position(|d| d == due);
                    prop_assert!(at.is_some());
                    model.swap_remove(at.unwrap_or_default());
                }
                for due in &model {
                    prop_assert!(due + TICK_MS > now, "{due} did not fire at {now}");
                }
                prop_assert_eq!(wheel.len(), model.len());
                if let Some(first) = model.iter().min() {
                    prop_assert!(wheel.next_ms().is_some_and(|next| next <= first + TICK_MS));
                }
            }
        }
    }
}
