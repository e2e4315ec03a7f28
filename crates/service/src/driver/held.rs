//! What the driver holds of each message in the kernel's hands.

use std::sync::Arc;

use bytes::Bytes;
use postrider_core::carriage::Raw;
use postrider_core::clock::Timestamp;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::failure::{FailureRecord, RedriveToken};
use postrider_core::settle::LeaseToken;
use postrider_core::source::ShardEpoch;
use postrider_kernel::Slot;
use tokio::task::AbortHandle;

use crate::delivery::Delivery;
use crate::erased::ErasedHandler;

/// Where a message came from, with the right to settle it.
pub(super) enum From {
    /// `None`: the token is in a call of the engine, or was consumed.
    Lease(Option<LeaseToken>),
    Log(#[allow(dead_code, reason = "shown in a debugger")] ShardEpoch),
    Redrive(Box<Redrive>),
}

pub(super) struct Redrive {
    /// `None`: it is in a call of the failure store, or was consumed.
    pub(super) token: Option<RedriveToken>,
    pub(super) record: FailureRecord,
}

/// What is being done for a message.
pub(super) enum Doing {
    Nothing,
    /// Its handler runs.
    Handling {
        abort: AbortHandle,
    },
    /// Its handler ended; its effects are on their way.
    Publishing(Publishing),
}

/// Effects of a handler that are not confirmed yet.
pub(super) struct Publishing {
    pub(super) effects: Vec<Outgoing>,
    pub(super) tries: u32,
    /// A call is outstanding.
    pub(super) calling: bool,
    /// It failed together with others: it is tried alone.
    pub(super) alone: bool,
}

pub(super) struct Held {
    pub(super) from: From,
    pub(super) content: Option<(Envelope, Bytes)>,
    pub(super) raw: Raw,
    pub(super) key: Option<Bytes>,
    pub(super) position: u64,
    pub(super) first_seen: Timestamp,
    pub(super) handler: Option<Arc<dyn ErasedHandler>>,
    /// The last attempt's error and what lies underneath.
    pub(super) errors: Vec<String>,
    /// The last hand-over.
    pub(super) delivery: Option<Delivery>,
    pub(super) doing: Doing,
    /// Which run of a handler this is, over the life of the driver: results of another run are ignored.
    pub(super) run: u64,
    /// The kernel cancelled it.
    pub(super) cancelled: bool,
    /// Calls that will come back to this slot.
    pub(super) calls: u32,
    /// The kernel forgot it; it is freed when the last call has come back.
    pub(super) forgotten: bool,
}

impl Held {
    pub(super) fn is_redriven(&self) -> bool {
        matches!(self.from, From::Redrive(_))
    }

    pub(super) fn take_token(&mut self) -> Option<LeaseToken> {
        match &mut self.from {
            From::Lease(token) => token.take(),
            _ => None,
        }
    }

    pub(super) fn put_token(&mut self, back: LeaseToken) {
        if let From::Lease(token) = &mut self.from {
            *token = Some(back);
        }
    }

    pub(super) fn take_redrive_token(&mut self) -> Option<RedriveToken> {
        match &mut self.from {
            From::Redrive(redrive) => redrive.token.take(),
            _ => None,
        }
    }

    pub(super) fn put_redrive_token(&mut self, back: RedriveToken) {
        if let From::Redrive(redrive) = &mut self.from {
            redrive.token = Some(back);
        }
    }
}

/// The held messages by slot. Where it is dropped with messages in it, their fences are broken first: whatever still runs for them commits nothing.
#[derive(Default)]
pub(super) struct Slab {
    slots: Vec<Option<Held>>,
    free: Vec<u32>,
    len: u32,
}

impl Drop for Slab {
    fn drop(&mut self) {
        for delivery in self
            .slots
            .iter()
            .flatten()
            .filter_map(|h| h.delivery.as_ref())
        {
            delivery.inner.fence.break_off();
        }
    }
}

impl Slab {
    pub(super) fn insert(&mut self, held: Held) -> Slot {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(held);
            return Slot(index);
        }
        self.slots.push(Some(held));
        let index = u32::try_from(self.slots.len() - 1);
        Slot(index.expect("the window bounds what is held far below 2^32"))
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Held> {
        let held = self.slots.get(slot.0 as usize)?.as_ref();
        held.filter(|h| !h.forgotten)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Held> {
        let held = self.slots.get_mut(slot.0 as usize)?.as_mut();
        held.filter(|h| !h.forgotten)
    }

    /// The messages whose tokens are at hand and of one of these generations.
    pub(super) fn leased_under(&self, generations: &[u64]) -> Vec<Slot> {
        let is_under = |held: &Held| matches!(&held.from, From::Lease(Some(token)) if generations.contains(&token.generation));
        let slots = (0u32..).zip(&self.slots);
        slots
            .filter(|(_, held)| held.as_ref().is_some_and(|h| !h.forgotten && is_under(h)))
            .map(|(index, _)| Slot(index))
            .collect()
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The kernel will not mention it again.
    pub(super) fn forget(&mut self, slot: Slot) {
        if let Some(Some(held)) = self.slots.get_mut(slot.0 as usize)
            && !held.forgotten
        {
            held.forgotten = true;
            self.len -= 1;
        }
        self.maybe_free(slot);
    }

    /// A call was made that will come back to this slot.
    pub(super) fn call_out(&mut self, slot: Slot) {
        if let Some(held) = self.get_mut(slot) {
            held.calls += 1;
        }
    }

    /// A call came back.
    pub(super) fn call_back(&mut self, slot: Slot) {
        if let Some(Some(held)) = self.slots.get_mut(slot.0 as usize) {
            held.calls = held.calls.saturating_sub(1);
        }
        self.maybe_free(slot);
    }

    fn maybe_free(&mut self, slot: Slot) {
        let Some(place) = self.slots.get_mut(slot.0 as usize) else {
            return;
        };
        if place.as_ref().is_some_and(|h| h.forgotten && h.calls == 0) {
            *place = None;
            self.free.push(slot.0);
        }
    }
}
