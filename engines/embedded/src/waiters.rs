//! Who waits for which frame to be written or synced.

use std::collections::VecDeque;

use postrider_log::{Level, Lsn};
use tokio::sync::oneshot;

/// How far the log is, and who waits for it to be further. Told by the host after each step; holds no lock of the log.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    written: Lsn,
    durable: Lsn,
    for_written: Queue,
    for_durable: Queue,
    /// Why nothing is confirmed any more.
    ended: Option<Ended>,
}

/// Why an engine stopped.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// It was closed in order.
    Closed,
    /// A write or a sync failed.
    Poisoned(String),
}

/// Whoever waits, by the frame that they wait for.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Lsn, oneshot::Sender<()>)>,
}

impl Queue {
    fn add(&mut self, lsn: Lsn) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        // Frames are staged one after the other, and waited for right after, so the end is near.
        let behind = self.waiting.iter().rev().position(|(at, _)| *at <= lsn);
        let at = behind.map_or(0, |behind| self.waiting.len() - behind);
        self.waiting.insert(at, (lsn, done));
        wait
    }

    fn release(&mut self, upto: Lsn, safe: &mut Safe) {
        let count = self.waiting.partition_point(|(lsn, _)| *lsn <= upto);
        safe.0
            .extend(self.waiting.drain(..count).map(|(_, done)| done));
    }
}

/// Those whose wait is over: to be told without a lock that they may want.
#[derive(Debug, Default)]
#[must_use = "nobody else tells them"]
pub(crate) struct Safe(Vec<oneshot::Sender<()>>);

impl Safe {
    pub(crate) fn tell(self) {
        for done in self.0 {
            // Whoever stopped waiting does not care.
            let _ = done.send(());
        }
    }
}

/// What a wait is at.
#[derive(Debug)]
pub(crate) enum Wait {
    /// It is so already.
    Done,
    /// Until this resolves. An error: the engine ended first.
    Pending(oneshot::Receiver<()>),
    /// The engine ended before.
    Ended(Ended),
}

impl Waiters {
    /// Waits until the frame is safe at this level.
    pub(crate) fn wait(&mut self, lsn: Lsn, level: Level) -> Wait {
        let (at, queue) = match level {
            Level::Memory => return Wait::Done,
            Level::Os | Level::Interval(_) => (self.written, &mut self.for_written),
            Level::Fsync => (self.durable, &mut self.for_durable),
        };
        if at >= lsn {
            return Wait::Done;
        }
        match &self.ended {
            Some(ended) => Wait::Ended(ended.clone()),
            None => Wait::Pending(queue.add(lsn)),
        }
    }

    /// The log is this far now: whose wait is over.
    pub(crate) fn progress(&mut self, written: Lsn, durable: Lsn) -> Safe {
        let mut safe = Safe::default();
        self.written = self.written.max(written);
        self.durable = self.durable.max(durable);
        self.for_written.release(self.written, &mut safe);
        self.for_durable.release(self.durable, &mut safe);
        safe
    }

    /// Nothing more is confirmed: everybody who waits is told. The first reason stays.
    pub(crate) fn end(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
        self.for_written.waiting.clear();
        self.for_durable.waiting.clear();
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pending(wait: Wait) -> oneshot::Receiver<()> {
        match wait {
            Wait::Pending(wait) => wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_waits_for_its_own_level_and_frame() {
        let mut waiters = Waiters::default();
        let mut written = pending(waiters.wait(Lsn(3), Level::Os));
        let mut durable = pending(waiters.wait(Lsn(3), Level::Fsync));
        let mut later = pending(waiters.wait(Lsn(4), Level::Os));
        waiters.progress(Lsn(3), Lsn(2)).tell();
        assert!(written.try_recv().is_ok());
        assert!(durable.try_recv().is_err() && later.try_recv().is_err());
        assert!(matches!(waiters.wait(Lsn(2), Level::Fsync), Wait::Done));
        waiters.progress(Lsn(3), Lsn(3)).tell();
        assert!(durable.try_recv().is_ok());
    }

    #[test]
    fn whoever_waits_for_an_earlier_frame_is_told_earlier_whenever_they_began_to_wait() {
        let mut waiters = Waiters::default();
        let lsns = [5, 3, 9, 4, 3, 9, 1];
        let wait = |lsn: &u64| (*lsn, pending(waiters.wait(Lsn(*lsn), Level::Fsync)));
        let mut waits: Vec<_> = lsns.iter().map(wait).collect();
        for durable in 1..=9 {
            waiters.progress(Lsn(durable), Lsn(durable)).tell();
            for (lsn, wait) in &mut waits {
                assert_eq!(
                    wait.try_recv().is_ok(),
                    *lsn == durable,
                    "{lsn} at {durable}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_confirmed_after_the_end() {
        let mut waiters = Waiters::default();
        let mut wait = pending(waiters.wait(Lsn(1), Level::Fsync));
        waiters.end(Ended::Poisoned("EIO".into()));
        waiters.end(Ended::Closed);
        assert_eq!(wait.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(matches!(
            waiters.wait(Lsn(1), Level::Os),
            Wait::Ended(Ended::Poisoned(_))
        ));
    }
}
