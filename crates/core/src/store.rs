//! Stores: where a service's state, inbox and outbox live, so that a handler's effects happen once.
//!
//! One delivery is one commit: inbox row, the handler's writes, outgoing messages. Then the delivery is acknowledged. A crash between
//! the two redelivers; the inbox row is found, the handler is skipped, and the outbox is still relayed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::Fut;
use crate::clock::Timestamp;
use crate::envelope::Outgoing;
use crate::fault::{Fault, HandlerError};
use crate::id::{BodyHash, MessageId};
use crate::name::SubscriptionId;

/// What a store says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct StoreInfo {
    /// The product.
    pub product: &'static str,
    /// Its version.
    pub version: String,
    /// Where it is. Never with credentials.
    pub location: String,
    /// Whether messages live in the same database: publish, state and settle in one commit (scope S3), no relay.
    pub holds_messages: bool,
}

/// The row by which a store knows that a delivery was handled: (subscription, id), never the id alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxEntry {
    /// Whose.
    pub subscription: SubscriptionId,
    /// Which message.
    pub message: MessageId,
    /// What its body was: the same id with another body is an error, not a duplicate.
    pub body: BodyHash,
    /// When it came; rows older than the retention are pruned.
    pub received_at: Timestamp,
}

/// What the inbox knows of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    New,
    /// It was handled.
    Done,
    /// Its id was handled with another body.
    Conflict,
}

/// Whether a delivery still belongs to this member. Checked before the handler's commit: a handler that outlived its lease
/// must not write.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<AtomicBool>);

impl Fence {
    /// A fence that holds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The delivery belongs to another from now on.
    pub fn break_off(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was broken off.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// One commit of one delivery.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The inbox row to insert, first of all.
    pub inbox: InboxEntry,
    /// Checked last of all, before the commit.
    pub fence: Fence,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The handler ran and all of it is durable.
    Applied {
        /// Messages put into the outbox.
        outgoing: u32,
    },
    /// It had been handled before: nothing was run.
    Duplicate,
}

/// Why a commit did not happen. Nothing of it is in the store.
#[derive(Debug)]
pub enum CommitFailure {
    /// The handler said so.
    Handler(HandlerError),
    /// The same id was handled with another body.
    Conflict,
    /// The delivery belongs to another member.
    Fenced,
    /// The store failed; the handler is not to blame and no attempt is burned.
    Store(Fault),
}

/// The handler's part of a commit on a connection of type `C`: its writes, and the messages it sends. It MAY run more than once (a group commit
/// that failed as a whole runs all of its units again) and MUST NOT wait for anything.
pub type Work<C> = Box<dyn FnMut(&mut C) -> Result<Vec<Outgoing>, HandlerError> + Send>;

/// Why a read gave nothing.
#[derive(Debug)]
pub enum ReadFailure {
    /// The handler said so.
    Handler(HandlerError),
    /// The store failed; the handler is not to blame and no attempt is burned.
    Store(Fault),
}

/// A look at a store on a connection of type `C`. It MAY wait for the store and must not wait for anything else.
pub type Look<C> = Box<dyn FnOnce(&C) -> Result<(), HandlerError> + Send>;

/// What the framework needs of every store.
pub trait Store: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> &StoreInfo;

    /// A cheap look before an external call; the truth is the insert within the commit.
    ///
    /// # Errors
    /// The store failed.
    fn seen<'a>(&'a self, entry: &'a InboxEntry) -> Fut<'a, Result<Seen, Fault>>;

    /// Removes inbox rows received before `before`. The rule: keep them longer than the longest distance of a redelivery
    /// (retention of the topic, age of failures that may be redriven). Gives how many were removed.
    ///
    /// # Errors
    /// The store failed.
    fn prune_inbox(&self, before: Timestamp) -> Fut<'_, Result<u64, Fault>>;

    /// Which store it is, within this process and as long as it is open: every handle on it gives the same number, and no other store does. By it services
    /// that share a store share its relay.
    ///
    /// The default is the address of `self`: right for a type that is shared within an `Arc` and is no handle itself.
    fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The outbox that the relay drains; `None` where the store holds the messages itself.
    fn outbox(&self) -> Option<Arc<dyn Outbox>>;

    /// Finishes what was begun and closes. Idempotent.
    ///
    /// # Errors
    /// Something could not be finished within `grace`.
    fn close(&self, grace: Duration) -> Fut<'_, Result<(), Fault>>;
}

/// A store whose transactions are plain functions: SQLite. The unit runs where the database lives; nobody awaits inside it.
///
/// A store whose transactions are async (Postgres) gets a sibling of this trait with `Work` as an async function; a document store
/// implements this one with a connection type that buffers conditional writes. Both keep [`Unit`], [`Committed`] and [`CommitFailure`].
pub trait TxStore: Store {
    /// What the handler writes through.
    type Conn: ?Sized + 'static;

    /// Runs a unit and commits it, in a group with whoever is ready. At return of `Applied` it is durable (synced).
    ///
    /// The order inside is the contract: inbox insert, `work`, outbox inserts, the fence, commit.
    ///
    /// Cancel safety: a unit whose future was dropped before it began is not run; one that began is committed or not, as a whole.
    ///
    /// # Errors
    /// See [`CommitFailure`]: nothing of the unit is in the store.
    fn transact<'a>(
        &'a self,
        unit: Unit,
        work: Work<Self::Conn>,
    ) -> Fut<'a, Result<Committed, CommitFailure>>;

    /// Runs a write that belongs to no delivery (set-up, a first message from outside) with its outgoing messages in one commit.
    ///
    /// # Errors
    /// As [`TxStore::transact`], without `Conflict` and `Fenced`.
    fn write<'a>(&'a self, work: Work<Self::Conn>) -> Fut<'a, Result<u32, CommitFailure>>;

    /// Shows `look` what is committed, all of it as of one moment or later. No commit, and it MUST NOT wait for one: reads go beside the writer.
    ///
    /// Read-only is enforced: a statement that would change something MUST fail, and change nothing.
    ///
    /// Cancel safety: a look whose future was dropped may still run; it changes nothing.
    ///
    /// # Errors
    /// See [`ReadFailure`].
    fn read<'a>(&'a self, look: Look<Self::Conn>) -> Fut<'a, Result<(), ReadFailure>>;
}

/// A row of the outbox: a message that is committed and not yet published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number: ascending in commit order per key.
    pub number: u64,
    /// The message.
    pub message: Outgoing,
}

/// Messages that were committed with a handler's effects and wait to be published.
///
/// Contract. `take` gives rows in the order of their numbers. A row stays until it is removed, and is given again until then, whoever asks from
/// where: publishing twice is safe, the id is the same.
///
/// From the return of `remove` on the row is gone for this process: a `take` that is called afterwards MUST NOT give it, even where the removal is
/// not committed yet or fails to be. One that was called before MAY give it. The next process MAY find it again.
pub trait Outbox: Send + Sync + 'static {
    /// At most `limit` rows with numbers above `after`. Returns at once, MAY be empty.
    ///
    /// # Errors
    /// The store failed.
    fn take<'a>(&'a self, after: u64, limit: u32) -> Fut<'a, Result<Vec<OutboxRow>, Fault>>;

    /// Removes rows that were published and confirmed. Need not be durable at return: a crash publishes again. But from the return on no `take` gives
    /// them in this process.
    ///
    /// # Errors
    /// The store failed: the rows are still there, and are removed again.
    fn remove<'a>(&'a self, numbers: Vec<u64>) -> Fut<'a, Result<(), Fault>>;

    /// Waits until a commit added rows since the last call. MAY return early. Cancel safe.
    fn changed(&self) -> Fut<'_, ()>;

    /// How many rows wait.
    ///
    /// # Errors
    /// The store failed.
    fn depth(&self) -> Fut<'_, Result<u64, Fault>>;
}
