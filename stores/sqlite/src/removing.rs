//! Outbox rows whose removal was answered and is not committed yet. They are still in the table, and nobody is given them.
//!
//! A removal rides on the next commit, since a sync of its own would cost as much as what it removes. Whoever read the table in between would find
//! rows that were published long ago, and publish them again behind later ones.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// The numbers of these rows. At most as many as there are rows in the outbox.
#[derive(Debug, Default)]
pub(crate) struct Removing(Mutex<BTreeSet<u64>>);

impl Removing {
    /// A removal is about to be answered. Gives the numbers that were not on their way already.
    pub(crate) fn begin(&self, mut numbers: Vec<u64>) -> Vec<u64> {
        let mut removing = self.0.lock();
        numbers.retain(|number| removing.insert(*number));
        numbers
    }

    /// They are not in the table any more, or stay in it.
    pub(crate) fn end(&self, numbers: &[u64]) {
        let mut removing = self.0.lock();
        for number in numbers {
            removing.remove(number);
        }
    }

    /// Those above `after`, in order. ORDER: asked before the table is read. What ends later is in the answer, what ended before is not in the table.
    pub(crate) fn above(&self, after: u64) -> Vec<u64> {
        let removing = self.0.lock();
        removing.range(after.saturating_add(1)..).copied().collect()
    }

    /// Whether one of the rows from `first` on is among them.
    pub(crate) fn any_from(&self, first: u64) -> bool {
        self.0.lock().last().is_some_and(|last| *last >= first)
    }

    /// Whether this row is.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0.lock().contains(&number)
    }
}
