//! Messages in the kernel's hands.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use postrider_core::clock::Mono;
use postrider_core::id::MessageId;

use crate::io::{Origin, Slot};
use crate::lane::LaneId;
use crate::watch::Watch;

/// What becomes of a message right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Waits for its turn.
    Queued,
    /// Failed; waits for its backoff.
    Waiting,
    /// Its backoff is over; it waits for a token of the retry budget.
    Due,
    /// In the handler. `lost`: it belongs to another, its outcome is dropped. `cancelled`: told to stop.
    Running { lost: bool, cancelled: bool },
    /// Its key is parked: waits to follow it. Or it waits behind lost messages of its key.
    Staged,
    /// A settle is on its way.
    Settling(Settling),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settling {
    Ack,
    GiveBack,
    Fail { park: bool },
    Park,
    FinishRedrive { back: bool },
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) slot: Slot,
    /// Its place in the order of receipt; tells it from an earlier message of the same slot.
    pub(crate) seq: u64,
    /// Its place among the messages of its key: its sequence, or what it had when it was lost.
    pub(crate) place: u64,
    pub(crate) origin: Origin,
    pub(crate) id: MessageId,
    /// `None`: free, unordered among all others.
    pub(crate) lane: Option<LaneId>,
    pub(crate) size: u64,
    pub(crate) retry: u16,
    pub(crate) deliveries: u32,
    pub(crate) unreadable: bool,
    pub(crate) received: Mono,
    pub(crate) state: State,
    /// Failed attempts in this residence.
    pub(crate) failures: u32,
    pub(crate) panics: u32,
    pub(crate) last_wait: Duration,
    pub(crate) lease_until: Option<Mono>,
    /// When its lease is to be extended; its entry in the lease timers.
    pub(crate) lease_at: Option<Mono>,
    /// When its backoff ends; its entry in the timers.
    pub(crate) retry_at: Option<Mono>,
    /// In the handler, and to be given back when that ends: one before it of its key was lost.
    pub(crate) recalled: bool,
    /// Whether it is watched, as one that may have killed a process.
    pub(crate) watch: Watch,
}

impl Message {
    pub(crate) fn is_redriven(&self) -> bool {
        self.origin == Origin::Redrive
    }

    pub(crate) const fn is_leased(&self) -> bool {
        matches!(self.origin, Origin::Lease { .. })
    }

    /// Attempts made, as far as is known.
    pub(crate) const fn attempts(&self) -> u32 {
        self.deliveries.saturating_add(self.failures)
    }

    /// Neither in the handler nor being settled.
    pub(crate) const fn is_held(&self) -> bool {
        matches!(
            self.state,
            State::Queued | State::Waiting | State::Due | State::Staged
        )
    }

    /// It has failed and is to be tried again.
    pub(crate) const fn is_backing_off(&self) -> bool {
        matches!(self.state, State::Waiting | State::Due)
    }
}

/// All messages, by slot and in the order of receipt. The map by slot is for look-ups alone: nothing goes through it in its order.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    by_slot: HashMap<Slot, Message>,
    order: BTreeMap<u64, Slot>,
    last_seq: u64,
}

impl Messages {
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    pub(crate) fn insert(&mut self, message: Message) {
        self.order.insert(message.seq, message.slot);
        let old = self.by_slot.insert(message.slot, message);
        assert!(
            old.is_none(),
            "a slot is used again only after the kernel forgot it"
        );
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.by_slot.contains_key(&slot)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Message> {
        self.by_slot.get(&slot)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Message> {
        self.by_slot.get_mut(&slot)
    }

    /// A message that the kernel itself keeps in one of its queues.
    pub(crate) fn at(&self, slot: Slot) -> &Message {
        self.by_slot.get(&slot).expect("a queued slot is known")
    }

    /// As [`Messages::at`].
    pub(crate) fn at_mut(&mut self, slot: Slot) -> &mut Message {
        self.by_slot.get_mut(&slot).expect("a queued slot is known")
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Message> {
        let message = self.by_slot.remove(&slot)?;
        self.order.remove(&message.seq);
        Some(message)
    }

    /// All slots in the order of receipt.
    pub(crate) fn slots(&self) -> impl DoubleEndedIterator<Item = Slot> + '_ {
        self.order.values().copied()
    }

    pub(crate) fn oldest(&self) -> Option<&Message> {
        let (_, slot) = self.order.first_key_value()?;
        self.by_slot.get(slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_slot.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }
}
