//! What one commit asks for and what it gives back. One [`Tx`] is one frame: wholly in the log or not at all.

use std::time::Duration;

use bytes::Bytes;

use crate::batch::Headers;
use crate::ids::{FailureId, LeaseToken, Offset, StreamId, SubId};
use crate::{Level, Lsn};

/// One commit: everything in it becomes true together, or nothing does, also after a crash.
///
/// Operations apply in the order of the fields, and within a field in the order of the list.
#[derive(Debug, Clone, Default)]
pub struct Tx {
    /// Records to append.
    pub publishes: Vec<Publish>,
    /// Leased messages whose delivery ends.
    pub settles: Vec<SettleOp>,
    /// Scheduled records to take back before they are due.
    pub cancels: Vec<Cancel>,
    /// Operations on failure records that are not the settling of a lease.
    pub failures: Vec<FailureOp>,
    /// Positions of log-shaped readers.
    pub offsets: Vec<OffsetCommit>,
    /// Crash states to store: the subscription and an opaque value, which replaces the one before.
    pub crash_states: Vec<(SubId, Bytes)>,
    /// When the commit counts as safe; see [`Confirm`].
    pub confirm: Confirm,
}

/// When a commit is safe, as [`Ticket::level`] then says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confirm {
    /// The strongest level of what is in it: a publish has its stream's level; failure records and reader
    /// positions are `fsync`; acknowledgements, returns and crash states alone are `os` (they ride on the next sync,
    /// which comes within [`Options::lazy_sync_after`](crate::Options::lazy_sync_after)).
    #[default]
    Auto,
    /// When it is synced, whatever is in it.
    Durable,
}

/// Records for one stream, or the same records for several.
#[derive(Debug, Clone, Default)]
pub struct Publish {
    /// Where they go.
    pub stream: StreamId,
    /// Further streams that get the same records: the payload is stored once.
    pub also: Vec<StreamId>,
    /// The records, in order. At most [`Limits::records_max`](crate::Limits::records_max) in a commit.
    pub records: Vec<RecordIn>,
    /// What `stream` must look like for this to happen. Of `also` nothing is expected.
    pub expect: Expected,
}

/// What the writer believes of the stream: the optimistic lock of an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expected {
    /// Nothing.
    #[default]
    Any,
    /// It holds no record and never did.
    Empty,
    /// It holds, or held, at least one record.
    Exists,
    /// Its next offset is this one.
    Next(Offset),
}

/// A record to append.
#[derive(Debug, Clone, Default)]
pub struct RecordIn {
    /// The message id, by which a repetition within the stream's dedupe window is recognised. All zero: no id, never a duplicate.
    pub id: [u8; 16],
    /// The key, by which order is kept. `None` or empty: in no order with anything.
    pub key: Option<Bytes>,
    /// The payload. `None` is a tombstone, as in Kafka.
    pub value: Option<Bytes>,
    /// Headers in order; names are bytes and may repeat.
    pub headers: Vec<Header>,
    /// Not handed out before this wall time (ms since 1970). 0: at once.
    pub deliver_at_ms: u64,
    /// Not handed out from this wall time on (ms since 1970). 0: never expires.
    pub expires_at_ms: u64,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name: usually UTF-8, kept as it came.
    pub name: Bytes,
    /// The value.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a value.
    pub fn new(name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Header {
            name: name.into(),
            value: Some(value.into()),
        }
    }
}

/// A record as it is read: slices of the batch that holds it, checked against its CRC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the stream.
    pub offset: Offset,
    /// The message id; all zero when it has none.
    pub id: [u8; 16],
    /// When it was appended, wall time in ms.
    pub appended_at_ms: u64,
    /// As published; 0 is none.
    pub deliver_at_ms: u64,
    /// As published; 0 is none.
    pub expires_at_ms: u64,
    /// The key.
    pub key: Option<Bytes>,
    /// The payload.
    pub value: Option<Bytes>,
    /// The headers, parsed as they are walked.
    pub headers: Headers,
}

impl Record {
    /// The same record as one to append: for a failure record, a parked key or a copy.
    #[must_use]
    pub fn to_input(&self) -> RecordIn {
        RecordIn {
            id: self.id,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: self.headers.iter().collect(),
            deliver_at_ms: self.deliver_at_ms,
            expires_at_ms: self.expires_at_ms,
        }
    }
}

/// The end of one leased delivery.
#[derive(Debug, Clone)]
pub struct SettleOp {
    /// The subscription that leased it.
    pub sub: SubId,
    /// The message.
    pub offset: Offset,
    /// The lease, as given by [`Log::lease`](crate::Log::lease). Stale: the whole commit fails with `LeaseLost`.
    pub token: LeaseToken,
    /// How it ends.
    pub how: Settle,
}

/// How a leased delivery ends.
#[derive(Debug, Clone)]
pub enum Settle {
    /// Handled.
    Ack,
    /// Failed for good: a failure record with the original bytes is stored in the same frame. It may park its key.
    Dead(FailureIn),
    /// Given up on without a record; the reason goes into the audit list.
    Discard {
        /// Why.
        reason: String,
    },
    /// Given back: handed out again, to anyone, not before `delay` has passed. Its key waits for it.
    Return {
        /// How long to wait, monotonic; after a restart clamped between zero and this.
        delay: Duration,
        /// Whether the attempt counts.
        count: bool,
    },
    /// Its time to live has passed.
    Expired,
}

/// A failure record to store. The record itself (key, payload, headers) comes from the delivery or from [`FailureOp::Append`].
#[derive(Debug, Clone, Default)]
pub struct FailureIn {
    /// The cause by which records are grouped in listings.
    pub group: String,
    /// What the host wants to know of it again (error chain, attempts, when): opaque to the log.
    pub meta: Bytes,
    /// The key that it belongs to; must be there where it parks.
    pub key: Option<Bytes>,
    /// What becomes of the key.
    pub park: Park,
}

/// What a failure record does to its key. A key is parked as long as it has a record that parks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Park {
    /// Nothing.
    #[default]
    No,
    /// Parks it, or comes behind what parks it already.
    Key,
    /// Comes behind what parks it already. The key is not parked: the whole commit fails with `NotParked`.
    Behind,
}

/// Takes back a scheduled record: settles it in every subscription that has not got it in flight or settled.
#[derive(Debug, Clone, Copy)]
pub struct Cancel {
    /// The stream.
    pub stream: StreamId,
    /// The record.
    pub offset: Offset,
}

/// An operation on the failure records of one subscription.
#[derive(Debug, Clone)]
pub enum FailureOp {
    /// Stores a record that did not come from a lease (another engine's message). The same id and source twice, while the first is
    /// there, is stored once: the answer is the first one's number.
    Append {
        /// Whose failure.
        sub: SubId,
        /// The cause.
        failure: FailureIn,
        /// The message.
        record: Box<RecordIn>,
        /// Where it stood, by which it is told from another message of the same id.
        source: Option<Offset>,
    },
    /// Open → redriving: the host injects them into the subscription again, in the order of their numbers.
    Redrive {
        /// Whose failures.
        sub: SubId,
        /// Which, rising.
        ids: Vec<FailureId>,
        /// Why; kept in the audit list.
        reason: String,
    },
    /// Redriving → open: it failed again, with a new cause. Of a parked key, the rest is open again too.
    Reopen {
        /// Whose failure.
        sub: SubId,
        /// Which.
        id: FailureId,
        /// The new cause. Key and parking stay what they are.
        failure: FailureIn,
    },
    /// Ends a record: its redrive succeeded. The last of a parked key frees the key.
    Resolve {
        /// Whose failure.
        sub: SubId,
        /// Which.
        id: FailureId,
    },
    /// Ends records: they are given up. The last of a parked key frees the key.
    Discard {
        /// Whose failures.
        sub: SubId,
        /// Which, rising.
        ids: Vec<FailureId>,
        /// Why; kept in the audit list.
        reason: String,
    },
}

/// The position of a log-shaped reader group on a stream.
#[derive(Debug, Clone)]
pub struct OffsetCommit {
    /// The stream.
    pub stream: StreamId,
    /// The reader's name.
    pub group: String,
    /// The epoch given by [`Log::claim_reader`](crate::Log::claim_reader). Lower than the stored one: `Fenced`.
    pub epoch: u64,
    /// All records below are done.
    pub watermark: Offset,
    /// Ranges `[from, to)` above the watermark that are done too: rising, not touching.
    pub done: Vec<(Offset, Offset)>,
    /// Opaque to the log; at most 64 KiB.
    pub meta: Bytes,
}

/// What a commit gave. Nothing in it may be told to anyone before [`Log::is_safe`](crate::Log::is_safe) says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The frame, or for a commit that changed nothing the last frame before it.
    pub lsn: Lsn,
    /// When it is safe.
    pub level: Level,
    /// When it may be told: as `level` says, or once it is synced, while the offsets in it are not reserved durably.
    pub told_at: Level,
    /// Per publish, per record: where it went. Of `also` the offsets are not told.
    pub appended: Vec<Vec<Appended>>,
    /// Per cancel: whether at least one subscription will now not get it.
    pub cancelled: Vec<bool>,
    /// The failure records that were created: those of settles first, then those of appends.
    pub failures: Vec<FailureId>,
}

/// What [`Log::publish_one`](crate::Log::publish_one) gave: a [`Ticket`] of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketOfOne {
    /// As [`Ticket::lsn`].
    pub lsn: Lsn,
    /// As [`Ticket::level`].
    pub level: Level,
    /// As [`Ticket::told_at`].
    pub told_at: Level,
    /// Where it went.
    pub appended: Appended,
}

/// Where one record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its offset; of a duplicate, that of the first.
    pub offset: Offset,
    /// Whether its id was known in the dedupe window, so that nothing was stored.
    pub duplicate: bool,
}

/// A message handed out under a lease.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The message.
    pub record: Record,
    /// What settles, extends or returns it.
    pub token: LeaseToken,
    /// Hand-overs that counted, this one included: 1 the first time. A lower bound of handler starts.
    pub attempt: u32,
    /// When the lease ends, on the clock of [`Now::mono`](crate::Now).
    pub until: Duration,
}

/// What [`Log::lease`](crate::Log::lease) gave.
#[derive(Debug, Clone, Default)]
pub struct LeaseBatch {
    /// The messages, per key in order.
    pub messages: Vec<Leased>,
    /// The frame with their attempt marks: once [`Log::is_written`](crate::Log::is_written), the marks survive a kill.
    pub lsn: Lsn,
    /// Whether calling again at once may give more.
    pub more: bool,
}
