//! What waits to be taken by the driver. Bounded by what is in the kernel: each message has a handful of outputs at most.

use std::collections::VecDeque;

use postrider_core::clock::Mono;
use postrider_core::source::Credit;

use crate::io::{Output, Slot};

/// Acknowledgements that go in one [`Output::Ack`] at most.
const ACKS_MAX: usize = 512;

/// Outputs in order. Acknowledgements that nobody has taken yet are joined: an earlier one never hurts, and the driver settles in one call.
/// Credit and timer come last, and only their last value.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Output>,
    taken: u64,
    /// The number of the acknowledgement that may still grow.
    ack: Option<u64>,
    credit: Option<(Credit, u32)>,
    timer: Option<Option<Mono>>,
}

impl Outbox {
    pub(crate) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(crate) fn ack(&mut self, slot: Slot) {
        if let Some(number) = self.ack
            && let Some(index) = number.checked_sub(self.taken)
            && let Some(Output::Ack(slots)) = self
                .queue
                .get_mut(usize::try_from(index).unwrap_or(usize::MAX))
            && slots.len() < ACKS_MAX
        {
            slots.push(slot);
            return;
        }
        self.ack = Some(self.taken + self.queue.len() as u64);
        self.queue.push_back(Output::Ack(vec![slot]));
    }

    pub(crate) fn credit(&mut self, source: Credit, redrive: u32) {
        self.credit = Some((source, redrive));
    }

    pub(crate) fn timer(&mut self, at: Option<Mono>) {
        self.timer = Some(at);
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        if let Some(output) = self.queue.pop_front() {
            self.taken += 1;
            return Some(output);
        }
        if let Some((source, redrive)) = self.credit.take() {
            return Some(Output::Credit { source, redrive });
        }
        self.timer.take().map(Output::SetTimer)
    }
}
