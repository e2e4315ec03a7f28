//! What an opened subscription gives: a *lease* source (messages held one by one) or a *log* source (shards, positions,
//! commit). An adapter implements only the shape that it has; the kernel turns both into one behaviour.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::Fut;
use crate::carriage::{Malformed, Raw};
use crate::clock::{Mono, Timestamp};
use crate::envelope::Envelope;
use crate::fault::Fault;
use crate::settle::{LeaseToken, SettleError, SettleOp};

/// An opened subscription.
pub enum Source {
    /// Messages held one by one: RabbitMQ, SQS, JetStream, Postgres, the embedded engine.
    Lease(Box<dyn LeaseSource>),
    /// Shards with positions and a commit: Kafka, Kinesis, streams.
    Log(Box<dyn LogSource>),
}

/// How much a consumer has room for. A source MUST NOT hand over more messages; it MAY exceed the bytes by one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Messages.
    pub messages: u32,
    /// Bytes of key, headers and payload.
    pub bytes: u64,
}

/// A stored message as a source hands it over.
#[derive(Debug)]
pub struct Record {
    /// The envelope and the payload, or why there is no readable envelope. The latter becomes a failure record.
    pub content: Result<(Envelope, Bytes), Malformed>,
    /// The message as it was stored: what a failure record keeps. Shares its buffers with `content`.
    pub raw: Raw,
    /// When the engine took it, if it says.
    pub stored_at: Option<Timestamp>,
    /// Where it stands in its topic or shard.
    pub position: u64,
}

impl Record {
    /// Reads a stored message.
    #[must_use]
    pub fn read(raw: Raw, position: u64, stored_at: Option<Timestamp>) -> Self {
        Self {
            content: crate::carriage::read(&raw),
            raw,
            stored_at,
            position,
        }
    }

    /// The key by which it is ordered: the envelope's, else the engine's own.
    #[must_use]
    pub fn key(&self) -> Option<&Bytes> {
        match &self.content {
            Ok((envelope, _)) => envelope.key.as_ref().map(crate::message::Key::as_bytes),
            Err(_) => self.raw.key.as_ref(),
        }
    }
}

/// A message held by this member until it is settled or its lease ends.
#[derive(Debug)]
pub struct Leased {
    /// The message.
    pub record: Record,
    /// The right to settle it.
    pub token: LeaseToken,
    /// When the lease ends, on the engine's clock of this process; `None`: with the connection.
    pub until: Option<Mono>,
    /// How often it was handed out *before*, as the engine counts; `None` where it does not. A lower bound of handler starts.
    pub deliveries: Option<u32>,
    /// Its key is parked in a failure store that the engine itself keeps: the kernel parks it behind the others.
    pub key_parked: bool,
}

/// A subscription whose messages are held one by one.
///
/// Contract. In an ordered subscription the source MUST hand over the messages of one key in the order in which they were
/// accepted, and MUST NOT hand a key to a second member while the first holds one of its messages; several messages of one
/// key MAY be held by one member at once. It MUST NOT let a key that is held back stop other keys.
pub trait LeaseSource: Send {
    /// The next messages; waits until there is at least one. An empty list means: nothing now, ask again (a wake-up, a
    /// changed credit).
    ///
    /// Cancel safety: MUST be safe to drop; a message taken from the engine and not returned is returned by the next call.
    ///
    /// # Errors
    /// `Unreachable` and the like with `Advice::Reconnect`: the source reconnects by itself and the call may be repeated.
    /// `StopOwner`: the source is finished.
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>>;

    /// Settles and extends, also while `next` is pending.
    fn settler(&self) -> Arc<dyn Settler>;

    /// Whether deliveries are lost only together: a member that loses one message of a key loses all later ones of that key that it holds with it,
    /// and whoever gets the key next gets all of them again, in order, before any that is newer (a queue whose consumer ended). Then nothing has to
    /// be waited for when a delivery was lost. `false`: single deliveries may be lost while later ones of the key are kept (leases with a time).
    fn loses_together(&self) -> bool {
        false
    }
}

/// Settles and extends deliveries of one lease source.
pub trait Settler: Send + Sync {
    /// Settles in the order given. Result `i` belongs to operation `i`. At return the outcome is *decided*: a crash after it
    /// MAY bring an acknowledged message back (at least once), but never skips one, and never brings back one settle
    /// without all later settles of the same key. `DeadLetter` and `Park` are atomic: record and settle, or neither.
    ///
    /// # Errors
    /// Each failed operation comes back with its fault. `LeaseLost` and `Fenced` are final. `NotParked` answers a `Park`
    /// whose draft is a follower and whose key is not parked any more: handle the message instead.
    fn settle<'a>(&'a self, ops: Vec<SettleOp>) -> Fut<'a, Vec<Result<(), SettleError>>>;

    /// Keeps deliveries for `by` from now. Result `i` is the new end of lease `i`.
    ///
    /// # Errors
    /// `LeaseLost`: the delivery belongs to another; its handler must be cancelled.
    fn extend<'a>(
        &'a self,
        tokens: &'a [&'a LeaseToken],
        by: Duration,
    ) -> Fut<'a, Vec<Result<Mono, Fault>>>;

    /// Waits until deliveries end by themselves, with their connection or their channel, and gives the generations of the tokens that ended: all
    /// deliveries under one of them belong to others now, and their handlers must be cancelled. An engine whose leases end by time alone never says
    /// anything here.
    ///
    /// ORDER: a generation MUST be said here before `next` hands over a message that was held under it again.
    ///
    /// Cancel safety: MUST be safe to drop; what was not returned is returned by the next call.
    fn lost(&self) -> Fut<'_, Vec<u64>> {
        Box::pin(std::future::pending())
    }
}

/// One shard of a log source and the epoch of its ownership. A stale epoch is answered with `Fenced`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardEpoch {
    /// The shard (partition).
    pub shard: u32,
    /// Which ownership of it.
    pub epoch: u64,
}

/// A position in a shard: the position of the next record to handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// What a shard's last owner left: where to go on, and what above that was done already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumeState {
    /// Everything below is done.
    pub watermark: Position,
    /// Ranges at or above the watermark that are done: (first, count), ascending, not touching.
    pub done_above: Vec<(Position, u64)>,
}

/// What happens on a log source.
#[derive(Debug)]
pub enum LogEvent {
    /// This member owns the shard now.
    Assigned {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// What the last owner left.
        resume: ResumeState,
    },
    /// Records of one shard, ascending by position. Positions MAY have gaps (compaction, transactions).
    Records {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// The records.
        records: Vec<Record>,
    },
    /// The shard goes to another member soon: finish, commit, then call [`LogSource::revoked`].
    Revoking {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// When it is taken away at the latest.
        deadline: Mono,
    },
    /// The shard is gone: drop its work, a commit would be fenced.
    Lost {
        /// Which shard, in which ownership.
        at: ShardEpoch,
    },
    /// The position asked for is no longer kept. Never a silent reset: the subscription's policy decides.
    DataLoss {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// What was asked for.
        asked: Position,
        /// The first that is kept.
        first: Position,
    },
    /// Commits were stored: each survives what the engine's durability says. Or they were not: a fault with `Fenced` where the ownership is over and
    /// nothing moved; anything else may be committed again.
    Committed(Vec<(ShardEpoch, Result<(), Fault>)>),
    /// Nothing for a while.
    Idle,
}

/// Progress of one shard: all below the watermark is done, and so is what `done_above` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Everything below is done.
    pub watermark: Position,
    /// Ranges at or above the watermark that are done: (first, count), ascending, not touching.
    pub done_above: Vec<(Position, u64)>,
}

/// Where to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The first record that is kept.
    Earliest,
    /// After the last record.
    Latest,
    /// This position.
    Position(Position),
    /// The first record stored at or after this time.
    Time(Timestamp),
}

/// A subscription on shards with positions.
///
/// Contract. Records of a shard come in ascending positions, from the watermark on; the kernel skips what `done_above` of the
/// resume state holds. A shard is owned by one member at a time as far as the engine can tell; the epoch fences the rest.
pub trait LogSource: Send {
    /// What happens next; waits. Cancel safety: MUST be safe to drop.
    ///
    /// # Errors
    /// As [`LeaseSource::next`].
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<LogEvent, Fault>>;

    /// Begins to store progress of several shards, and does not wait for it: what became of each comes as [`LogEvent::Committed`], once. At most one
    /// commit of a shard is outstanding. A source whose ownership is over answers `Fenced`.
    fn commit(&mut self, commits: Vec<(ShardEpoch, Commit)>);

    /// Goes to another position; records already handed over are void.
    ///
    /// # Errors
    /// `Fenced`, or `DataLoss` where the position is not kept.
    fn seek<'a>(&'a mut self, at: ShardEpoch, to: SeekTo) -> Fut<'a, Result<(), Fault>>;

    /// The work of a shard that was being revoked is finished and committed.
    ///
    /// # Errors
    /// `Fenced` where it was taken away meanwhile.
    fn revoked<'a>(&'a mut self, at: ShardEpoch) -> Fut<'a, Result<(), Fault>>;

    /// How many bytes of `done_above` a commit can carry. The kernel stops dispatching at 75 % of it.
    fn done_bytes_max(&self) -> usize;
}
