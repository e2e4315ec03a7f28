//! An outbox in memory that removes late: what was removed is given to nobody, and is there again after a crash until the next removal.
//!
//! Its waits are virtual: every test that uses them runs with `start_paused`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::envelope::Outgoing;
use postrider_core::fault::Fault;
use postrider_core::store::{Outbox, OutboxRow};
use tokio::sync::Notify;

type Delay = Box<dyn FnMut() -> Duration + Send>;

#[derive(Default)]
pub struct FakeOutbox {
    rows: Mutex<BTreeMap<u64, Outgoing>>,
    /// Removed, and not yet durably so.
    removed: Mutex<BTreeMap<u64, Outgoing>>,
    changed: Notify,
    /// The next calls fail, in order.
    pub faults: Mutex<Vec<Fault>>,
    /// How long a take needs to answer, after it has looked.
    pub delay: Mutex<Option<Delay>>,
    /// How long a count takes, in virtual time.
    pub counts_take: Mutex<Duration>,
    /// Counts that run, and the most that ran at once.
    counts: Mutex<(u32, u32)>,
}

impl FakeOutbox {
    pub fn new(rows: impl IntoIterator<Item = (u64, Outgoing)>) -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::new(rows.into_iter().collect()),
            ..Self::default()
        })
    }
    pub fn push(&self, number: u64, message: Outgoing) {
        self.rows.lock().insert(number, message);
        self.changed.notify_one();
    }
    pub fn numbers(&self) -> Vec<u64> {
        self.rows.lock().keys().copied().collect()
    }
    pub fn delay(&self, delay: impl FnMut() -> Duration + Send + 'static) {
        *self.delay.lock() = Some(Box::new(delay));
    }
    /// The process died: what was removed last may be there again.
    pub fn crash(&self, mut is_back: impl FnMut() -> bool) {
        let removed = std::mem::take(&mut *self.removed.lock());
        let back = removed.into_iter().filter(|_| is_back());
        self.rows.lock().extend(back);
    }
    pub fn counts_max(&self) -> u32 {
        self.counts.lock().1
    }
    fn fault(&self) -> Option<Fault> {
        self.faults.lock().pop()
    }
}

impl Outbox for FakeOutbox {
    fn take<'a>(&'a self, after: u64, limit: u32) -> Fut<'a, Result<Vec<OutboxRow>, Fault>> {
        Box::pin(async move {
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            let row = |(number, message): (&u64, &Outgoing)| OutboxRow {
                number: *number,
                message: message.clone(),
            };
            let taken = {
                let rows = self.rows.lock();
                let taken = rows.range(after + 1..).take(limit as usize);
                taken.map(row).collect()
            };
            let delay = self.delay.lock().as_mut().map(|delay| delay());
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            Ok(taken)
        })
    }
    fn remove<'a>(&'a self, numbers: Vec<u64>) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move {
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            let mut rows = self.rows.lock();
            let removed = numbers
                .into_iter()
                .filter_map(|number| rows.remove_entry(&number));
            *self.removed.lock() = removed.collect();
            Ok(())
        })
    }
    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.changed.notified())
    }
    fn depth(&self) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async {
            let takes = *self.counts_take.lock();
            {
                let mut counts = self.counts.lock();
                counts.0 += 1;
                counts.1 = counts.1.max(counts.0);
            }
            tokio::time::sleep(takes).await;
            self.counts.lock().0 -= 1;
            Ok(self.rows.lock().len() as u64)
        })
    }
}
