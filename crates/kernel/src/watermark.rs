//! The progress of one shard: the lowest position that is not done, and what above it is done.
//!
//! Kept as the set of *open* positions. All between two open ones that was ever received is done, and what was never received there does
//! not exist (compaction, transaction markers): gaps cost nothing and never stall the watermark.

use std::collections::{BTreeMap, VecDeque};

use postrider_core::source::{Commit, Position, ResumeState};

use crate::io::Slot;

/// The progress of one shard in one ownership.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Received, not done. Bounded by the window.
    open: BTreeMap<u64, Slot>,
    /// Behind the last position received.
    next: u64,
    /// Done by an earlier owner, not received yet: (first, behind the last), ascending, not touching.
    resume: VecDeque<(u64, u64)>,
    /// Done ranges between open positions, and the bytes of their counts as varints.
    ranges: usize,
    count_bytes: usize,
    /// Bytes of the distance between two ranges at most: open positions are at most a window.
    distance_bytes: usize,
}

impl Progress {
    pub(crate) fn new(resume: &ResumeState, window_messages_max: u32) -> Self {
        let mut ranges: Vec<(u64, u64)> = resume
            .done_above
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(first, count)| (first.0, first.0.saturating_add(*count)))
            .collect();
        ranges.sort_unstable();
        let mut merged: VecDeque<(u64, u64)> = VecDeque::with_capacity(ranges.len());
        for (first, end) in ranges {
            match merged.back_mut() {
                Some(last) if last.1 >= first => last.1 = last.1.max(end),
                _ => merged.push_back((first, end)),
            }
        }
        Self {
            open: BTreeMap::new(),
            next: resume.watermark.0,
            resume: merged,
            ranges: 0,
            count_bytes: 0,
            distance_bytes: varint_len(u64::from(window_messages_max)),
        }
    }

    /// A record came in. `false`: it is done already (or was received before): forget it.
    pub(crate) fn receive(&mut self, position: Position, slot: Slot) -> bool {
        let at = position.0;
        if at < self.next {
            return false;
        }
        while self.resume.front().is_some_and(|range| range.1 <= at) {
            self.resume.pop_front();
        }
        let done = self.resume.front().is_some_and(|range| range.0 <= at);
        // What lies between the last position and this one does not exist: it joins the range before.
        if let Some((&last, _)) = self.open.last_key_value() {
            self.remove_range(last + 1, self.next);
            self.add_range(last + 1, if done { at + 1 } else { at });
        }
        self.next = at + 1;
        if !done {
            self.open.insert(at, slot);
        }
        !done
    }

    /// A position is done. Gives whether the watermark moved.
    pub(crate) fn done(&mut self, position: Position) -> bool {
        let at = position.0;
        if self.open.remove(&at).is_none() {
            return false;
        }
        let before = self.open.range(..at).next_back().map(|(p, _)| *p);
        let after = self.open.range(at..).next().map_or(self.next, |(p, _)| *p);
        if let Some(before) = before {
            self.remove_range(before + 1, at);
        }
        self.remove_range(at + 1, after);
        match before {
            Some(before) => self.add_range(before + 1, after),
            None => return true,
        }
        false
    }

    /// The lowest position that is not done, and who holds it.
    pub(crate) fn lowest(&self) -> Option<(u64, Slot)> {
        self.open.first_key_value().map(|(p, s)| (*p, *s))
    }

    /// An upper bound of the bytes that `done_above` takes as distances and counts in varints.
    pub(crate) fn bytes(&self) -> usize {
        let resumed = self.resume.len() * 2 * varint_len(u64::MAX);
        self.count_bytes + self.ranges * self.distance_bytes + resumed
    }

    /// The progress to store, with as much of the done ranges, the lowest first, as fits into `bytes_max`.
    pub(crate) fn commit(&self, bytes_max: usize) -> Commit {
        let mut watermark = self.open.first_key_value().map_or(self.next, |(p, _)| *p);
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut push = |first: u64, end: u64| match ranges.last_mut() {
            _ if end <= first => {}
            Some(last) if last.1 >= first => last.1 = end,
            _ => ranges.push((first, end)),
        };
        let mut opens = self.open.keys().copied().peekable();
        while let Some(at) = opens.next() {
            push(at + 1, opens.peek().copied().unwrap_or(self.next));
        }
        for &(first, end) in &self.resume {
            push(first.max(self.next), end);
        }
        if self.open.is_empty() {
            // All that came is done: what an earlier owner did right behind it moves the watermark.
            if let Some(&(first, end)) = ranges.first()
                && first <= watermark
            {
                watermark = end;
                ranges.remove(0);
            }
        }
        let mut done_above = Vec::new();
        let (mut used, mut from) = (0, watermark);
        for (first, end) in ranges {
            used += varint_len(first - from) + varint_len(end - first);
            if used > bytes_max {
                break;
            }
            done_above.push((Position(first), end - first));
            from = end;
        }
        Commit {
            watermark: Position(watermark),
            done_above,
        }
    }

    fn add_range(&mut self, first: u64, end: u64) {
        if end > first {
            self.ranges += 1;
            self.count_bytes += varint_len(end - first);
        }
    }

    fn remove_range(&mut self, first: u64, end: u64) {
        if end > first {
            assert!(self.ranges > 0, "a done range is removed once");
            self.ranges -= 1;
            self.count_bytes -= varint_len(end - first);
        }
    }
}

const fn varint_len(n: u64) -> usize {
    let bits = 64 - (n | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(watermark: u64, done: &[(u64, u64)]) -> Progress {
        let done_above = done.iter().map(|(p, n)| (Position(*p), *n)).collect();
        Progress::new(
            &ResumeState {
                watermark: Position(watermark),
                done_above,
            },
            4096,
        )
    }

    fn text(p: &Progress) -> String {
        let commit = p.commit(4096);
        let mut text = commit.watermark.0.to_string();
        for (first, count) in commit.done_above {
            text += &format!(" {}+{count}", first.0);
        }
        text
    }

    #[test]
    fn missing_positions_do_not_stall_the_watermark() {
        let mut p = progress(0, &[]);
        for at in [3, 7, 8, 20] {
            assert!(p.receive(Position(at), Slot(at as u32)));
        }
        assert_eq!(text(&p), "3 4+3 9+11");
        assert!(!p.done(Position(8)));
        assert_eq!(text(&p), "3 4+3 8+12");
        assert!(p.done(Position(3)));
        assert_eq!(text(&p), "7 8+12");
        assert!(p.done(Position(7)));
        assert!(p.done(Position(20)));
        assert_eq!(text(&p), "21");
        assert_eq!((p.ranges, p.count_bytes), (0, 0));
    }

    #[test]
    fn what_an_earlier_owner_did_is_kept_by_a_commit_without_progress() {
        let mut p = progress(5, &[(7, 13), (30, 2)]);
        assert_eq!(text(&p), "5 7+13 30+2");
        assert!(p.receive(Position(5), Slot(5)));
        assert_eq!(text(&p), "5 7+13 30+2");
        assert!(p.receive(Position(6), Slot(6)));
        for at in 7..20 {
            assert!(!p.receive(Position(at), Slot(99)));
        }
        assert_eq!(text(&p), "5 7+13 30+2");
        assert!(p.done(Position(5)));
        assert!(p.done(Position(6)));
        assert_eq!(text(&p), "20 30+2");
        assert!(!p.receive(Position(6), Slot(1)), "received before");
    }

    #[test]
    fn done_ranges_right_behind_the_watermark_move_it() {
        let mut p = progress(5, &[(6, 4)]);
        assert!(p.receive(Position(5), Slot(5)));
        assert!(p.done(Position(5)));
        assert_eq!(text(&p), "10");
    }

    #[test]
    fn a_commit_carries_no_more_bytes_than_the_engine_takes() {
        let mut p = progress(0, &[]);
        for at in 0..1000 {
            p.receive(Position(at), Slot(0));
        }
        for at in (1..1000).step_by(2) {
            p.done(Position(at));
        }
        assert!(p.bytes() >= 1000);
        assert_eq!(p.commit(100).done_above.len(), 50);
        assert_eq!(p.commit(0).done_above.len(), 0);
    }

    #[test]
    fn the_set_agrees_with_a_naive_one_for_random_orders() {
        let mut rng = postrider_core::clock::SplitMix64::new(11);
        for _ in 0..200 {
            let (mut p, mut next) = (progress(0, &[]), 0u64);
            let (mut seen, mut done) = (Vec::new(), std::collections::BTreeSet::new());
            for _ in 0..60 {
                if rng.below(2) == 0 || done.len() == seen.len() {
                    next += 1 + rng.below(3);
                    assert!(p.receive(Position(next), Slot(0)));
                    seen.push(next);
                } else {
                    let open: Vec<u64> =
                        seen.iter().copied().filter(|s| !done.contains(s)).collect();
                    let at = open[rng.below(open.len() as u64) as usize];
                    p.done(Position(at));
                    done.insert(at);
                }
                let commit = p.commit(usize::MAX);
                let covered = |at: u64| {
                    at < commit.watermark.0
                        || commit
                            .done_above
                            .iter()
                            .any(|(f, n)| at >= f.0 && at < f.0 + n)
                };
                for at in &seen {
                    assert_eq!(covered(*at), done.contains(at), "{at} in {commit:?}");
                }
                assert_eq!(p.ranges, commit.done_above.len());
                assert!(commit.watermark.0 <= next + 1);
            }
        }
    }
}
