//! An outbox in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::envelope::Outgoing;
use postrider_core::fault::Fault;
use postrider_core::store::{Outbox, OutboxRow};
use tokio::sync::Notify;

#[derive(Default)]
pub struct FakeOutbox {
    rows: Mutex<BTreeMap<u64, Outgoing>>,
    changed: Notify,
    /// The next calls fail, in order.
    pub faults: Mutex<Vec<Fault>>,
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
            let rows = self.rows.lock();
            let rows = rows.range(after + 1..).take(limit as usize);
            Ok(rows
                .map(|(number, message)| OutboxRow {
                    number: *number,
                    message: message.clone(),
                })
                .collect())
        })
    }
    fn remove<'a>(&'a self, numbers: Vec<u64>) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move {
            if let Some(fault) = self.fault() {
                return Err(fault);
            }
            let mut rows = self.rows.lock();
            for number in numbers {
                rows.remove(&number);
            }
            Ok(())
        })
    }
    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.changed.notified())
    }
    fn depth(&self) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(self.rows.lock().len() as u64) })
    }
}
