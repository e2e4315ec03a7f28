//! The latest rows of the outbox in memory, so that the relay of a busy service need not read back what was just written.
//!
//! Invariant: every row of the outbox with a number above `from` that is not on its way out is in `rows`, in order. So whoever asks for what is above a number that is not
//! below `from` gets all of it from here, and everybody else reads the table.

use std::collections::{HashSet, VecDeque};

use postrider_core::store::OutboxRow;

/// Rows that are kept at most; beyond it the oldest are read from the table.
const ROWS_MAX: usize = 4096;
/// Bytes of payload that are kept at most.
const BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Default)]
pub(crate) struct Handoff {
    from: u64,
    rows: VecDeque<OutboxRow>,
    bytes: usize,
}

impl Handoff {
    /// The table is as it was found; its last row has this number.
    pub(crate) fn begin(&mut self, last: u64) {
        *self = Self {
            from: last,
            ..Self::default()
        };
    }

    /// A commit added these.
    pub(crate) fn add(&mut self, rows: impl IntoIterator<Item = OutboxRow>) {
        for row in rows {
            self.bytes += row.message.payload.len();
            self.rows.push_back(row);
        }
        while self.rows.len() > ROWS_MAX || self.bytes > BYTES_MAX {
            self.pop();
        }
    }

    /// At most so many rows above `after`, as many as `bytes_max` bytes of payload hold, and one in any case. `None`: the table knows.
    pub(crate) fn take(
        &mut self,
        after: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Option<Vec<OutboxRow>> {
        if after < self.from {
            return None;
        }
        while self.rows.front().is_some_and(|row| row.number <= after) {
            self.pop();
        }
        let mut taken = Vec::with_capacity(limit.min(self.rows.len()));
        let mut bytes = 0;
        while taken.len() < limit && bytes < bytes_max {
            let Some(row) = self.pop() else { break };
            bytes += row.message.payload.len();
            taken.push(row);
        }
        Some(taken)
    }

    /// They leave the outbox: nobody is given them again.
    pub(crate) fn forget(&mut self, numbers: &[u64]) {
        let (Some(front), Some(last)) = (self.rows.front(), numbers.iter().max()) else {
            return;
        };
        // Most rows were given to whoever removes them, and are not here.
        if front.number > *last {
            return;
        }
        let numbers: HashSet<u64> = numbers.iter().copied().collect();
        self.rows.retain(|row| !numbers.contains(&row.number));
        self.bytes = self.rows.iter().map(|row| row.message.payload.len()).sum();
    }

    fn pop(&mut self) -> Option<OutboxRow> {
        let row = self.rows.pop_front()?;
        self.bytes -= row.message.payload.len();
        self.from = row.number;
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::clock::Timestamp;
    use postrider_core::envelope::{Envelope, Outgoing};
    use postrider_core::id::MessageId;
    use postrider_core::name::Destination;

    use super::*;

    fn row(number: u64, bytes: usize) -> OutboxRow {
        let id = MessageId::v7(Timestamp(number), [number, 0]);
        OutboxRow {
            number,
            message: Outgoing {
                destination: Destination::topic("stock").expect("it is a name"),
                envelope: Envelope::new(id, "a".into(), "b".into(), Timestamp(1)),
                payload: vec![0; bytes].into(),
            },
        }
    }

    fn numbers(taken: Option<Vec<OutboxRow>>) -> Option<Vec<u64>> {
        taken.map(|rows| rows.iter().map(|row| row.number).collect())
    }

    #[test]
    fn what_was_there_before_or_was_given_already_is_left_to_the_table() {
        let mut handoff = Handoff::default();
        handoff.begin(7);
        handoff.add([row(9, 1), row(12, 1), row(13, 1)]);
        assert_eq!(numbers(handoff.take(6, 10, 100)), None);
        assert_eq!(numbers(handoff.take(7, 2, 100)), Some(vec![9, 12]));
        // Who comes again with an earlier number wants rows that are not here any more.
        assert_eq!(numbers(handoff.take(7, 2, 100)), None);
        assert_eq!(numbers(handoff.take(12, 2, 100)), Some(vec![13]));
        assert_eq!(numbers(handoff.take(13, 2, 100)), Some(vec![]));
    }

    #[test]
    fn rows_that_were_read_from_the_table_are_not_given_again() {
        let mut handoff = Handoff::default();
        handoff.add([row(1, 1), row(2, 1), row(3, 1)]);
        assert_eq!(numbers(handoff.take(2, 10, 100)), Some(vec![3]));
    }

    #[test]
    fn rows_that_were_removed_are_not_given_again() {
        let mut handoff = Handoff::default();
        handoff.begin(4);
        handoff.add([row(5, 1), row(6, 2), row(7, 3), row(8, 4)]);
        handoff.forget(&[3, 7, 5]);
        assert_eq!(handoff.bytes, 6);
        assert_eq!(numbers(handoff.take(4, 10, 100)), Some(vec![6, 8]));
        assert_eq!(handoff.bytes, 0);
    }

    #[test]
    fn rows_and_bytes_are_bounded_and_one_row_is_always_given() {
        let mut handoff = Handoff::default();
        handoff.add((1..=ROWS_MAX as u64 + 2).map(|number| row(number, 1)));
        assert_eq!(numbers(handoff.take(1, 1, 100)), None);
        assert_eq!(numbers(handoff.take(2, 1, 100)), Some(vec![3]));
        let mut handoff = Handoff::default();
        handoff.add([row(1, BYTES_MAX), row(2, BYTES_MAX), row(3, 5), row(4, 5)]);
        assert_eq!(numbers(handoff.take(1, 9, 9)), None, "two are too much");
        assert_eq!(numbers(handoff.take(2, 9, 3)), Some(vec![3]));
    }
}
