//! What is added up over all lives of the services in one run.

use std::time::{Duration, Instant};

use crate::protocol::Progress;

/// How long a message may be on its way where the engine does not count those that are.
const UNSEEN_MAX: Duration = Duration::from_secs(1);

/// What is added up over all lives of the services.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The last report.
    pub(super) progress: Progress,
    /// Of the lives before this one.
    retries: u64,
    redriven: u64,
    duplicates: u64,
    handled: u64,
    /// Orders that had ended when the run began.
    ended_before: Option<u64>,
    first_report: Option<Instant>,
    last_end: Option<Instant>,
    /// Ended orders and handled messages of the last seconds.
    window: std::collections::VecDeque<(Instant, u64, u64)>,
    /// Since when reports are quiet with the same (handled, ended).
    quiet: Option<(Instant, (u64, u64))>,
    is_quiet: bool,
}

impl Tally {
    /// Takes a report in.
    pub(super) fn note(&mut self, progress: Progress, now: Instant) {
        let ended = progress.ended();
        self.first_report.get_or_insert(now);
        self.ended_before.get_or_insert(ended);
        if ended > self.progress.ended() && self.last_end.is_some() || self.last_end.is_none() {
            self.last_end = Some(now);
        }
        let handled = self.handled + progress.handled;
        self.window.push_back((now, ended, handled));
        while self.window.len() > 2
            && self
                .window
                .front()
                .is_some_and(|(at, ..)| now - *at > Duration::from_secs(1))
        {
            self.window.pop_front();
        }
        let mark = (progress.handled, ended);
        let is_still = progress.waiting == 0 && progress.intake_done;
        let since = self.quiet.filter(|(_, last)| is_still && *last == mark);
        let lasts = if progress.counts_all {
            Duration::ZERO
        } else {
            UNSEEN_MAX
        };
        self.is_quiet = since.is_some_and(|(since, _)| now - since >= lasts);
        self.quiet = is_still.then(|| since.unwrap_or((now, mark)));
        self.progress = progress;
    }

    /// The life ended: what it counted is kept.
    pub(super) fn next_life(&mut self) {
        let p = &mut self.progress;
        self.retries += std::mem::take(&mut p.retries);
        self.redriven += std::mem::take(&mut p.redriven);
        self.duplicates += std::mem::take(&mut p.duplicates);
        self.handled += std::mem::take(&mut p.handled);
        self.quiet = None;
        self.is_quiet = false;
    }

    /// Whether two reports had nothing that waits, the whole input placed, and nothing handled between them; a second apart where the engine does
    /// not count what is on its way.
    pub(super) const fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    pub(super) const fn retries(&self) -> u64 {
        self.retries + self.progress.retries
    }

    pub(super) const fn redriven(&self) -> u64 {
        self.redriven + self.progress.redriven
    }

    pub(super) const fn duplicates(&self) -> u64 {
        self.duplicates + self.progress.duplicates
    }

    /// When the last order ended; before any did, when the first report came.
    pub(super) const fn last_end(&self) -> Option<Instant> {
        self.last_end
    }

    /// Orders that ended and messages that were handled per second, lately.
    pub(super) fn rates(&self) -> (u64, u64) {
        let (Some(first), Some(last)) = (self.window.front(), self.window.back()) else {
            return (0, 0);
        };
        let ms = u64::try_from((last.0 - first.0).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let per_s = |from: u64, to: u64| to.saturating_sub(from) * 1000 / ms;
        (per_s(first.1, last.1), per_s(first.2, last.2))
    }

    /// Orders that ended per second, from the start of the services to the last end.
    pub(super) fn orders_per_s(&self, started: Instant) -> f64 {
        let ended =
            self.progress.ended() - self.ended_before.unwrap_or(0).min(self.progress.ended());
        let Some(last) = self.last_end.filter(|_| ended > 0) else {
            return 0.0;
        };
        let seconds = (last - started).as_secs_f64().max(0.001);
        (ended as f64 / seconds * 10.0).round() / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(shipped: u64, waiting: u64, retries: u64) -> Progress {
        Progress {
            shipped,
            waiting,
            retries,
            intake_done: true,
            counts_all: true,
            ..Progress::default()
        }
    }

    #[test]
    fn counts_of_a_life_that_was_killed_are_kept() {
        let now = Instant::now();
        let mut tally = Tally::default();
        tally.note(report(1, 5, 3), now);
        tally.next_life();
        tally.note(report(2, 5, 4), now);
        assert_eq!(tally.retries(), 7);
    }

    #[test]
    fn it_is_quiet_when_two_reports_in_a_row_are_the_same_and_nothing_waits() {
        let now = Instant::now();
        let mut tally = Tally::default();
        for (progress, quiet) in [
            (report(1, 0, 0), false),
            (report(2, 0, 0), false),
            (report(2, 0, 0), true),
            (report(2, 1, 0), false),
            (report(2, 0, 0), false),
        ] {
            tally.note(progress, now);
            assert_eq!(tally.is_quiet(), quiet);
        }
        let placing = Progress {
            intake_done: false,
            ..report(2, 0, 0)
        };
        tally.note(placing.clone(), now);
        tally.note(placing, now);
        assert!(!tally.is_quiet());
    }

    #[test]
    fn where_the_engine_does_not_count_what_is_on_its_way_it_must_be_still_for_a_while() {
        let begin = Instant::now();
        let mut tally = Tally::default();
        let unsure = Progress {
            counts_all: false,
            ..report(2, 0, 0)
        };
        for (ms, quiet) in [(0, false), (500, false), (1000, true)] {
            tally.note(unsure.clone(), begin + Duration::from_millis(ms));
            assert_eq!(tally.is_quiet(), quiet, "after {ms} ms");
        }
        let moved = Progress {
            handled: 1,
            ..unsure
        };
        tally.note(moved, begin + Duration::from_secs(2));
        assert!(!tally.is_quiet());
    }

    #[test]
    fn the_deadline_counts_from_the_last_order_that_ended() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut tally = Tally::default();
        tally.note(report(0, 1, 0), at(1));
        assert_eq!(tally.last_end(), Some(at(1)));
        tally.note(report(1, 1, 0), at(5));
        tally.note(report(1, 1, 0), at(9));
        assert_eq!(tally.last_end(), Some(at(5)));
        assert!((tally.orders_per_s(begin) - 0.2).abs() < 1e-9);
    }
}
