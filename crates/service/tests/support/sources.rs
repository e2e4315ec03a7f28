//! Scripted sources: what they hand over is pushed by the test, what is settled is written down.
//!
//! Its waits are virtual: every test that uses it runs with `start_paused`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::carriage::{Carriage, Raw, write};
use postrider_core::clock::{Clock, Mono, Timestamp};
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::settle::{LeaseToken, Settle, SettleError, SettleOp};
use postrider_core::source::{
    Commit, Credit, LeaseSource, Leased, LogEvent, LogSource, Record, SeekTo, Settler, ShardEpoch,
};
use tokio::sync::Notify;

use super::failures::FakeFailures;

/// What was settled, in order, by position: `ack`, `release`, `retry`, `dead`, `park`, `commit`.
#[derive(Default)]
pub struct Settles {
    pub log: Mutex<Vec<(u64, &'static str)>>,
    lost: Mutex<HashSet<u64>>,
    /// The next settle calls fail as a whole with these.
    pub faults: Mutex<Vec<Fault>>,
    pub extended: Mutex<HashMap<u64, u32>>,
    /// Generations that ended and were not said yet.
    pub ended: Mutex<Vec<u64>>,
    /// Where `DeadLetter` and `Park` go.
    pub failures: Mutex<Option<Arc<FakeFailures>>>,
    changed: Notify,
}

impl Settles {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    pub fn lose(&self, position: u64) {
        self.lost.lock().insert(position);
    }
    /// All deliveries of the generation end by themselves.
    pub fn end(&self, generation: u64) {
        self.ended.lock().push(generation);
        self.changed.notify_waiters();
    }
    pub fn is_lost(&self, position: u64) -> bool {
        self.lost.lock().contains(&position)
    }
    pub fn note(&self, position: u64, what: &'static str) {
        self.log.lock().push((position, what));
        self.changed.notify_waiters();
    }
    pub fn of(&self, position: u64) -> Vec<&'static str> {
        let log = self.log.lock();
        log.iter()
            .filter(|(p, _)| *p == position)
            .map(|(_, w)| *w)
            .collect()
    }
    /// Waits (in virtual time) until as many settles were made.
    pub async fn wait_for(&self, count: usize) {
        let done = async {
            loop {
                let changed = self.changed.notified();
                if self.log.lock().len() >= count {
                    return;
                }
                changed.await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(3600), done).await;
        assert!(done.is_ok(), "after an hour: {:?}", self.log.lock());
    }
}

/// The queue between a test and its lease source.
#[derive(Default)]
pub struct Feed {
    queue: Mutex<VecDeque<Result<Leased, Fault>>>,
    wake: Notify,
    /// How much later than 1 the generation is of what is pushed.
    pub later: AtomicU64,
    /// The generation that ends at the moment of the next hand-over.
    pub ends_next: Mutex<Option<u64>>,
    /// The next hand-over panics.
    pub panics: AtomicBool,
}

impl Feed {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// Hands over a message at this position.
    pub fn push(&self, position: u64, message: &Outgoing) {
        self.push_raw(position, write(message, Carriage::Binary));
    }
    pub fn push_raw(&self, position: u64, raw: Raw) {
        self.push_leased(position, raw, Some(0), false, None);
    }
    pub fn push_leased(
        &self,
        position: u64,
        raw: Raw,
        deliveries: Option<u32>,
        key_parked: bool,
        until: Option<Mono>,
    ) {
        let leased = Leased {
            record: Record::read(raw, position, Some(Timestamp(1))),
            token: LeaseToken {
                position,
                generation: 1 + self.later.load(Ordering::SeqCst),
            },
            until,
            deliveries,
            key_parked,
        };
        self.queue.lock().push_back(Ok(leased));
        self.wake.notify_one();
    }
    pub fn push_fault(&self, fault: Fault) {
        self.queue.lock().push_back(Err(fault));
        self.wake.notify_one();
    }
    /// The source panics, as a driver with a defect would.
    pub fn panic(&self) {
        self.panics.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

/// A lease source over a [`Feed`].
pub struct FakeLease {
    pub feed: Arc<Feed>,
    pub settler: Arc<FakeSettler>,
}

pub struct FakeSettler {
    pub settles: Arc<Settles>,
    pub clock: Arc<dyn Clock>,
}

impl FakeLease {
    pub fn new(feed: Arc<Feed>, settles: Arc<Settles>, clock: Arc<dyn Clock>) -> Self {
        let settler = Arc::new(FakeSettler { settles, clock });
        Self { feed, settler }
    }
}

impl LeaseSource for FakeLease {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>> {
        Box::pin(async move {
            loop {
                let wake = self.feed.wake.notified();
                assert!(!self.feed.panics.load(Ordering::SeqCst), "a defect");
                {
                    let mut queue = self.feed.queue.lock();
                    let mut out = Vec::new();
                    while out.len() < room.messages as usize {
                        match queue.pop_front() {
                            Some(Ok(leased)) => out.push(leased),
                            Some(Err(fault)) if out.is_empty() => return Err(fault),
                            Some(Err(fault)) => {
                                queue.push_front(Err(fault));
                                break;
                            }
                            None => break,
                        }
                    }
                    if !out.is_empty() {
                        if let Some(generation) = self.feed.ends_next.lock().take() {
                            self.settler.settles.end(generation);
                        }
                        return Ok(out);
                    }
                }
                wake.await;
            }
        })
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

impl FakeSettler {
    fn settle_one(&self, op: SettleOp) -> Result<(), SettleError> {
        let position = op.token.position;
        let fail = |kind, op| {
            let fault = Fault::new(kind, Advice::Rebalance, "refused");
            Err(SettleError { fault, op })
        };
        if self.settles.is_lost(position) {
            return fail(FaultKind::LeaseLost, op);
        }
        let home = self.settles.failures.lock().clone();
        let what = match (&op.settle, home) {
            (Settle::Ack, _) => "ack",
            (Settle::Release, _) => "release",
            (Settle::RetryAfter { .. }, _) => "retry",
            (Settle::DeadLetter(draft), Some(home)) => {
                home.insert((**draft).clone(), false);
                "dead"
            }
            (Settle::Park(draft), Some(home)) => {
                let key = draft.key.clone().unwrap();
                if draft.is_follower() && !home.is_parked(&key) {
                    return fail(FaultKind::NotParked, op);
                }
                home.insert((**draft).clone(), true);
                "park"
            }
            (_, None) => panic!("the engine has no failure store"),
        };
        self.settles.note(position, what);
        Ok(())
    }
}

impl Settler for FakeSettler {
    fn lost(&self) -> Fut<'_, Vec<u64>> {
        Box::pin(async {
            loop {
                let changed = self.settles.changed.notified();
                let ended = std::mem::take(&mut *self.settles.ended.lock());
                if !ended.is_empty() {
                    return ended;
                }
                changed.await;
            }
        })
    }
    fn settle<'a>(&'a self, ops: Vec<SettleOp>) -> Fut<'a, Vec<Result<(), SettleError>>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let fault = self.settles.faults.lock().pop();
            if let Some(fault) = fault {
                let again = |f: &Fault| Fault::new(f.kind, f.advice, f.message.clone());
                let fail = |op| {
                    Err(SettleError {
                        fault: again(&fault),
                        op,
                    })
                };
                return ops.into_iter().map(fail).collect();
            }
            ops.into_iter().map(|op| self.settle_one(op)).collect()
        })
    }
    fn extend<'a>(
        &'a self,
        tokens: &'a [&'a LeaseToken],
        by: Duration,
    ) -> Fut<'a, Vec<Result<Mono, Fault>>> {
        Box::pin(async move {
            let until = self.clock.mono().plus(by);
            let extend = |token: &&LeaseToken| {
                if self.settles.is_lost(token.position) {
                    return Err(Fault::new(FaultKind::LeaseLost, Advice::Rebalance, "lost"));
                }
                *self
                    .settles
                    .extended
                    .lock()
                    .entry(token.position)
                    .or_default() += 1;
                Ok(until)
            };
            tokens.iter().map(extend).collect()
        })
    }
}

/// The queue between a test and its log source, and what was committed.
#[derive(Default)]
pub struct LogFeed {
    queue: Mutex<VecDeque<Result<LogEvent, Fault>>>,
    wake: Notify,
    pub commits: Mutex<Vec<(ShardEpoch, Commit)>>,
    pub revoked: Mutex<Vec<ShardEpoch>>,
    /// Epochs whose commits are fenced.
    pub fenced: Mutex<HashSet<ShardEpoch>>,
    changed: Notify,
}

impl LogFeed {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    pub fn push(&self, event: Result<LogEvent, Fault>) {
        self.queue.lock().push_back(event);
        self.wake.notify_one();
    }
    pub fn records(&self, at: ShardEpoch, messages: &[(u64, Outgoing)]) {
        let record = |(position, message): &(u64, Outgoing)| {
            Record::read(write(message, Carriage::Binary), *position, None)
        };
        let records = messages.iter().map(record).collect();
        self.push(Ok(LogEvent::Records { at, records }));
    }
    pub async fn wait_until(&self, what: impl Fn(&Self) -> bool) {
        let done = async {
            loop {
                let changed = self.changed.notified();
                if what(self) {
                    return;
                }
                changed.await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(3600), done).await;
        assert!(done.is_ok(), "after an hour: {:?}", self.commits.lock());
    }
}

/// A log source over a [`LogFeed`].
pub struct FakeLog(pub Arc<LogFeed>);

impl LogSource for FakeLog {
    fn next<'a>(&'a mut self, _: Credit) -> Fut<'a, Result<LogEvent, Fault>> {
        Box::pin(async move {
            loop {
                let wake = self.0.wake.notified();
                let event = self.0.queue.lock().pop_front();
                if let Some(event) = event {
                    return event;
                }
                wake.await;
            }
        })
    }
    fn commit(&mut self, commits: Vec<(ShardEpoch, Commit)>) {
        let store = |(at, commit)| {
            if self.0.fenced.lock().contains(&at) {
                let fenced = Fault::new(FaultKind::Fenced, Advice::Rebalance, "fenced");
                return (at, Err(fenced));
            }
            self.0.commits.lock().push((at, commit));
            (at, Ok(()))
        };
        let results = commits.into_iter().map(store).collect();
        let mut queue = self.0.queue.lock();
        queue.push_back(Ok(LogEvent::Committed(results)));
        drop(queue);
        self.0.changed.notify_waiters();
        self.0.wake.notify_one();
    }
    fn seek<'a>(&'a mut self, _: ShardEpoch, _: SeekTo) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    fn revoked<'a>(&'a mut self, at: ShardEpoch) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.0.revoked.lock().push(at);
            self.0.changed.notify_waiters();
            Ok(())
        })
    }
    fn done_bytes_max(&self) -> usize {
        4096
    }
}

/// A stored message without a readable envelope.
pub fn garbage(key: Option<&str>) -> Raw {
    Raw {
        key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
        headers: vec![(Bytes::from_static(b"x"), Bytes::from_static(&[0xff]))],
        body: Bytes::from_static(b"\x00\xffgarbage"),
    }
}
