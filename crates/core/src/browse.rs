//! Looking into an engine message by message: what [`Admin`](crate::engine::Admin) takes and gives. For people, never on the way of a message.

use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::failure::{FailureId, Reason};
use crate::id::MessageId;
use crate::name::{Destination, SubscriptionId};
use crate::source::{Record, SeekTo};
use crate::text::Text;

/// Which messages of a topic or queue are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browse {
    /// Which topic or queue.
    pub destination: Destination,
    /// From where on, ascending.
    pub from: SeekTo,
    /// At most this many messages.
    pub limit: usize,
    /// And about this many bytes of key, headers and payload; the first message always fits.
    pub bytes_max: usize,
    /// How long to wait for the first one where there is none yet. Zero: not at all.
    pub wait: Duration,
}

/// A page of a topic or queue.
#[derive(Debug)]
pub struct Browsed {
    /// The messages, ascending.
    pub records: Vec<Record>,
    /// Where the next page begins.
    pub next: u64,
    /// The position of the oldest message that is kept; that of the next one to come where there is none.
    pub first: u64,
    /// Messages below may be seen: equal to `next` when all was read.
    pub end: u64,
}

/// Where a message stands in one subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is to be handed out.
    Waiting,
    /// A member has it: it is handled, or waits for a retry there.
    InFlight,
    /// It is kept back until a time.
    Delayed,
    /// It ended: handled, expired, cancelled or skipped; also what is older than the subscription.
    Settled,
    /// It failed for good; a failure record has it.
    Failed,
    /// Its key is parked; a failure record has it.
    Parked,
    /// Its failure record is on its way back to the handler.
    Redriving,
}

/// A message's place in one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose.
    pub subscription: SubscriptionId,
    /// Where it stands.
    pub state: DeliveryState,
    /// Hand-overs that counted, where it has not ended.
    pub attempts: u32,
    /// Its failure record, where there is one.
    pub failure: Option<FailureId>,
    /// Until when it is kept back.
    pub until: Option<Timestamp>,
}

/// A message that is kept, with where it stands.
#[derive(Debug)]
pub struct Kept {
    /// Its topic or queue.
    pub destination: Destination,
    /// The message.
    pub record: Record,
    /// Where it stands, per subscription of that destination.
    pub standings: Vec<Standing>,
}

/// What is looked for among everything that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The message of this identity. The first that is found ends the search.
    Id(MessageId),
    /// All messages of one conversation: this correlation id, or this id where the conversation began with it.
    Correlation(Text),
}

/// A search, the newest messages first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// What is looked for.
    pub wanted: Wanted,
    /// At most this many messages are looked at, over all topics and queues together.
    pub scan_max: u64,
    /// At most this many are given.
    pub limit: usize,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// The messages; of one topic or queue, ascending.
    pub messages: Vec<Kept>,
    /// How many messages were looked at.
    pub scanned: u64,
    /// Whether everything that is kept was looked at, or what was looked for was found. `false`: older messages were not looked at.
    pub complete: bool,
}

/// Whether a seek is done or only counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeekHow {
    /// Only say what it would do.
    Count,
    /// Do it; this is kept.
    Do(Reason),
}

/// What a seek does, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sought {
    /// The position of the next message to be delivered.
    pub to: u64,
    /// The position of the oldest message that is kept.
    pub first: u64,
    /// The position of the next message to come.
    pub end: u64,
    /// Messages that are not handled and stand before it: they are settled without being handled.
    pub skipped: u64,
    /// Messages that are settled, still kept, and stand from it on: they are delivered again.
    pub again: u64,
}
