//! An engine: what stores and moves messages. The framework knows engines by these traits alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::Fut;
use crate::browse::{Browse, Browsed, Found, Kept, Search, SeekHow, Sought};
use crate::capability::{Capabilities, Capability, Durability};
use crate::envelope::Outgoing;
use crate::failure::FailureStore;
use crate::fault::{Advice, Fault, FaultKind};
use crate::id::{InstanceId, MessageId};
use crate::name::{Destination, SubscriptionId};
use crate::settle::SettleOp;
use crate::source::{SeekTo, Source};
use crate::subscription::SubscriptionSpec;
use crate::topology::{ProvisionMode, Topology, TopologyDiff};

/// What an engine says of itself: printed at start-up, exported, tested.
#[derive(Clone, Debug, Serialize)]
pub struct EngineInfo {
    /// The URL scheme: `embedded`, `kafka`, ….
    pub scheme: &'static str,
    /// The product, as its makers write it.
    pub product: String,
    /// The version that was probed, not assumed.
    pub version: String,
    /// Where it is: a directory or an address. Never with credentials.
    pub location: String,
    /// What a confirmed publish survives, by default, with this server's configuration.
    pub durability: Durability,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// An engine that is connected.
///
/// Contract. Every method MAY be called at any time from any task. Futures MAY be dropped at any time: the effect of the call
/// is then unknown to the caller, and the engine stays whole. A method that returns `Ok` has done what its text says, with the
/// durability that it names.
pub trait Engine: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> &EngineInfo;

    /// Compares the topology with what exists and, where the mode says so, creates what is missing. Never deletes.
    /// What was created is durable at return.
    ///
    /// # Errors
    /// `Config` in mode `Check` where something differs or is missing (the fault's text holds the difference).
    fn provision<'a>(
        &'a self,
        topology: &'a Topology,
        mode: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>>;

    /// A publisher. Several MAY be open at once; order is promised within one.
    ///
    /// # Errors
    /// The engine is closed or cannot be reached.
    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>>;

    /// Opens a subscription that was provisioned.
    ///
    /// # Errors
    /// `NotFound` where it was not provisioned; `Unsupported` where the engine cannot give what the spec asks for.
    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>>;

    /// Opens the inbox of one process: replies only, gone with it. The destination is what requests carry as `replyto`.
    ///
    /// # Errors
    /// `Unsupported(RequestReply)`.
    fn inbox(&self, instance: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>>;

    /// The failure store that the engine itself keeps (`Capability::FailureStore`).
    fn failures(&self) -> Option<Arc<dyn FailureStore>>;

    /// Depth, lag and browsing, where the engine knows.
    fn admin(&self) -> Option<Arc<dyn Admin>>;

    /// The directory that it owns, where there is one: the admin socket lives in it.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Confirms what was accepted, closes sources and publishers, marks a clean stop. Idempotent.
    ///
    /// # Errors
    /// Something could not be confirmed within `grace`; it is closed all the same.
    fn close(&self, grace: Duration) -> Fut<'_, Result<(), Fault>>;
}

/// What a confirmed publish gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it survives.
    pub durability: Durability,
    /// Where it stands, if the engine says.
    pub position: Option<u64>,
    /// The same id was there already, within the dedupe window: nothing was stored.
    pub duplicate: bool,
    /// How many subscriptions will get it, if the engine knows. `Some(0)`: nobody listens; it is reported.
    pub subscriptions: Option<u32>,
}

/// Publishes to one engine.
///
/// Contract. Result `i` belongs to message `i`. Messages of one key MUST be stored in the order in which they were given, over all
/// calls of one publisher that followed each other; where one of them fails, later ones of the same key in the same call MUST
/// fail too, `NotApplied`. A message with `deliver_at` in the future is kept back until then (`DelayedDelivery`), one whose
/// `expires_at` has passed is not delivered.
///
/// Cancel safety: a dropped future leaves the effect `Unknown`. Publishing the same id again is always safe.
pub trait Publisher: Send + Sync {
    /// Publishes and waits for the confirmation. At return of `Ok` the message survives what the receipt's durability says.
    ///
    /// # Errors
    /// Per message. `Effect::Unknown`: it may have been stored; publish the same id again.
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>>;

    /// Publishes and settles deliveries of this engine in one atomic step: all of it or, also after a crash, nothing.
    ///
    /// # Errors
    /// `Unsupported(AtomicSettle)`: publish, then settle. `LeaseLost`, `Fenced`: nothing happened, and the deliveries belong
    /// to another. Otherwise the operations come back in [`CommitError::settle`].
    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>>;

    /// Takes back a delayed message.
    ///
    /// # Errors
    /// `Unsupported(CancelDelayed)`, `NotFound`.
    fn cancel<'a>(&'a self, scheduled: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>>;
}

/// A commit that did not happen, with everything that went in.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct CommitError {
    /// What went wrong.
    #[source]
    pub fault: Fault,
    /// The messages, unchanged.
    pub publish: Vec<Outgoing>,
    /// The operations, unchanged.
    pub settle: Vec<SettleOp>,
}

/// A delayed message, as `schedule` gave it: what [`Publisher::cancel`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// Where it was sent.
    pub destination: Destination,
    /// Its identity.
    pub id: MessageId,
    /// Its position, if the engine gave one.
    pub position: Option<u64>,
}

/// How a cancellation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// It will not be delivered.
    Cancelled,
    /// It was delivered already, or is being delivered.
    AlreadyFired,
}

/// Depth and position of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SubscriptionDepth {
    /// Messages accepted and not settled: waiting, held and delayed.
    pub depth: u64,
    /// Of these, held by a member now.
    pub in_flight: u64,
    /// Of these, kept back until a later time.
    pub delayed: u64,
    /// How long ago the oldest of these was accepted, in milliseconds; `None` where there is none or it is not known.
    pub oldest_age_ms: Option<u64>,
}

/// What a topic or queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DestinationDepth {
    /// Which.
    pub destination: Destination,
    /// Messages kept now.
    pub messages: u64,
    /// Position of the next message.
    pub next_position: u64,
    /// The subscriptions on it.
    pub subscriptions: Vec<SubscriptionId>,
}

/// What a finished backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// The engine's number of the last change in it: everything that was confirmed when the backup was asked for, and maybe more.
    pub last: u64,
    /// Files in it that hold messages.
    pub segments: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Messages and failure records in it that are still needed; each was read back from the copy.
    pub live: u64,
}

/// Looks into an engine. Nothing but [`Admin::seek`] changes what is delivered.
pub trait Admin: Send + Sync {
    /// All topics and queues.
    ///
    /// # Errors
    /// The engine cannot be reached.
    fn destinations(&self) -> Fut<'_, Result<Vec<DestinationDepth>, Fault>>;

    /// Depth of one subscription.
    ///
    /// # Errors
    /// `NotFound`.
    fn depth<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
    ) -> Fut<'a, Result<SubscriptionDepth, Fault>>;

    /// Copies everything into the directory `target`, which must be empty or not there, beside everything else that the engine does. At
    /// return the copy is durable and was read back; `postrider log restore` brings it back. A dropped future lets the copy go on.
    ///
    /// # Errors
    /// `Unsupported(Backup)`; `Config` where the target holds something or lies in the engine's own directory; `Full`, `Corrupt`. What is in the
    /// target then is no backup: remove it.
    fn backup<'a>(&'a self, target: &'a Path) -> Fut<'a, Result<BackupReport, Fault>> {
        let _ = target;
        let text = "this engine has no backup of its own: use what its makers give";
        let fault = Fault::new(
            FaultKind::Unsupported(Capability::Backup),
            Advice::FixConfig,
            text,
        );
        Box::pin(std::future::ready(Err(fault)))
    }

    /// Messages of a topic or queue, ascending, whoever has handled them. Nothing is taken from anybody. Cancel safe.
    ///
    /// # Errors
    /// `NotFound`; `DataLoss` where a position is asked for that is no longer kept; `Unsupported`.
    fn browse(&self, ask: Browse) -> Fut<'_, Result<Browsed, Fault>> {
        let _ = ask;
        unsupported("browse its topics")
    }

    /// The message at a position, and where it stands.
    ///
    /// # Errors
    /// `NotFound`: it is not kept, or never was; `Unsupported`.
    fn message<'a>(
        &'a self,
        destination: &'a Destination,
        position: u64,
    ) -> Fut<'a, Result<Kept, Fault>> {
        let _ = (destination, position);
        unsupported("show a message by its position")
    }

    /// Searches all topics and queues, the newest messages first. Inboxes are not looked at.
    ///
    /// # Errors
    /// The engine cannot be reached; `Unsupported`.
    fn find(&self, search: Search) -> Fut<'_, Result<Found, Fault>> {
        let _ = search;
        unsupported("search for messages")
    }

    /// Moves a subscription: what stands before `to` and is not handled is settled, what is still kept from there on is delivered, again
    /// where it had been handled. Failure records and parked keys stay as they are. It is durable at return.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where members hold messages of it: nothing was moved; `DataLoss` where `to` is no longer kept; `Unsupported`.
    fn seek<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        to: SeekTo,
        how: SeekHow,
    ) -> Fut<'a, Result<Sought, Fault>> {
        let _ = (subscription, to, how);
        unsupported("move a subscription")
    }
}

fn unsupported<'a, T: Send + 'a>(what: &str) -> Fut<'a, Result<T, Fault>> {
    let text = format!("this engine cannot {what}");
    let fault = Fault::new(
        FaultKind::Unsupported(Capability::Lag),
        Advice::FixConfig,
        text,
    );
    Box::pin(std::future::ready(Err(fault)))
}
