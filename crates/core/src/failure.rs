//! Failures have a home. A failure record is a failed delivery of *one subscription* with the original bytes; a parked key is
//! the failed record of a key and everything of that key that came after it, in order. Redrive hands records back to the kernel of that
//! subscription, in key order; it never publishes again, so no other subscription sees it and no dedupe window swallows it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Fut;
use crate::capability::Capability;
use crate::carriage::Raw;
use crate::clock::Timestamp;
use crate::code::Code;
pub use crate::crash::{CrashNote, CrashState};
use crate::fault::{Advice, Fault, FaultKind};
use crate::id::{InstanceId, MessageId};
use crate::name::SubscriptionId;

/// A failure record's number, unique within its subscription, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailureId(pub u64);

/// Why a message was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The retries of its policy were used up.
    RetriesExhausted,
    /// The handler refused it for good.
    Permanent,
    /// Its envelope or payload cannot be read.
    Unreadable,
    /// The retries of its policy were used up, and its handler had panicked at least twice.
    Panicked,
    /// The process died several times while it was handled.
    CrashLoop,
    /// Its key was blocked and filled its share of the window.
    BlockedTooLong,
    /// It came behind a parked key.
    Follower,
    /// The same id came before with another body.
    InboxConflict,
}

impl Cause {
    /// The stable code that a user meets.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::RetriesExhausted => Code::RETRIES_EXHAUSTED,
            Self::Permanent => Code::HANDLER_PERMANENT,
            Self::Unreadable => Code::PAYLOAD_UNREADABLE,
            Self::Panicked => Code::HANDLER_PANICKED,
            Self::CrashLoop => Code::CRASH_LOOP,
            Self::BlockedTooLong | Self::Follower => Code::KEY_BLOCKED_TOO_LONG,
            Self::InboxConflict => Code::INBOX_CONFLICT,
        }
    }
}

/// What is known of a failure beside the original bytes. Written as JSON by stores that keep it opaque.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureFacts {
    /// The message's id, where its envelope could be read.
    pub message_id: Option<MessageId>,
    /// Its type, where its envelope could be read.
    pub message_type: Option<String>,
    /// Why it was set aside.
    pub cause: Cause,
    /// The group: failures of the same cause, type and error text without its numbers and ids.
    pub group: String,
    /// The errors, the outermost first.
    pub errors: Vec<String>,
    /// Attempts made.
    pub attempts: u32,
    /// When it was first handed out.
    pub first_seen: Timestamp,
    /// When it failed for good.
    pub failed_at: Timestamp,
    /// Where it stood in its topic or shard.
    pub position: u64,
}

/// A failure record on its way into a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureDraft {
    /// The key that it belongs to, if it has one.
    pub key: Option<Bytes>,
    /// What is known of it.
    pub facts: FailureFacts,
    /// The message as it was stored: the original bytes.
    pub raw: Raw,
}

impl FailureDraft {
    /// Whether it only follows a parked key (and is refused with `NotParked` where the key is not parked any more).
    #[must_use]
    pub fn is_follower(&self) -> bool {
        self.facts.cause == Cause::Follower
    }
}

/// What state a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureState {
    /// It waits for a person.
    Waiting,
    /// It is on its way back to the handler.
    Redriving,
}

/// A stored failure, as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureRecord {
    /// Its number.
    pub id: FailureId,
    /// Whose failure it is.
    pub subscription: SubscriptionId,
    /// Its state.
    pub state: FailureState,
    /// Whether its key is parked (so that it is redriven with the whole key, in order).
    pub parked: bool,
    /// How often it was redriven before.
    pub redrives: u32,
    /// Key, facts and original bytes.
    pub draft: FailureDraft,
}

/// Failures of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureGroup {
    /// Whose.
    pub subscription: SubscriptionId,
    /// The group's text.
    pub group: String,
    /// Why they were set aside.
    pub cause: Cause,
    /// How many.
    pub count: u64,
    /// The first of them failed then.
    pub first: Timestamp,
    /// The last of them failed then.
    pub last: Timestamp,
    /// One of them.
    pub sample: FailureId,
}

/// Which failures of a subscription are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Ids(Vec<FailureId>),
    /// All of one group.
    Group(String),
    /// All of one key.
    Key(Bytes),
    /// All.
    All,
}

/// Who did something to failures, and why: kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Who.
    pub by: String,
    /// Why.
    pub text: String,
    /// When.
    pub at: Timestamp,
}

/// A message as it failed, before a person edited it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// The message as it was stored: the original bytes.
    pub raw: Raw,
    /// Who edited it last, why and when.
    pub reason: Reason,
}

/// What was done to failures, kept with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// `redrive`, `discard` or `edit`; `seek` where the subscription was moved.
    pub action: String,
    /// How many records.
    pub count: u64,
    /// Who, why, when.
    pub reason: Reason,
}

/// What the kernel needs to know when it opens a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenState {
    /// What is known of messages that were in a handler when a process died.
    pub crash: CrashState,
    /// Keys that are parked.
    pub parked: Vec<Bytes>,
}

/// A record handed back to the kernel. Held by one member until [`FailureStore::finish`], [`FailureStore::release_claims`], or the end of its process.
#[derive(Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The record.
    pub record: FailureRecord,
    /// The right to finish it.
    pub token: RedriveToken,
}

/// The right to finish one redriven record. It can neither be copied nor made up.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct RedriveToken {
    /// The record.
    pub id: FailureId,
    /// What tells this claim from an earlier one.
    pub generation: u64,
}

/// A claim that could not be ended: what went wrong, and the right to try again.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct FinishError {
    /// What went wrong. `LeaseLost`: the claim belongs to another, drop it.
    #[source]
    pub fault: Fault,
    /// The token, unchanged.
    pub token: RedriveToken,
}

/// How a redriven record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedriveOutcome {
    /// Handled: the record is removed.
    Done,
    /// Failed again: back to waiting, with these facts. Of a parked key, the rest waits with it.
    Failed(Box<FailureFacts>),
    /// Not tried to an end (drain): it stays redriving and is handed out again.
    Released,
}

/// Whether the key of a finished record is still parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// More of its messages are stored, or it had failed again.
    Parked,
    /// That was the last: the key is free, atomically with the removal of the record.
    Free,
}

/// Where failure records, parked keys and crash states live. Shared by all members of a subscription.
///
/// Contract. All of it survives what the store's durability says, at return of `Ok`. Records of one key keep the order in which they were
/// appended. Listings are pages: a store MUST bound what it reads and returns. Futures MAY be dropped: the effect is then unknown, and appending
/// the same (subscription, message id, position) again MUST NOT make a second record.
pub trait FailureStore: Send + Sync + 'static {
    /// What the kernel needs when it opens the subscription.
    ///
    /// # Errors
    /// The store cannot be reached.
    fn open<'a>(&'a self, subscription: &'a SubscriptionId) -> Fut<'a, Result<OpenState, Fault>>;

    /// Applies a note to the stored crash state ([`CrashState::apply`]), as one step: members of other processes note as well. Gives the state
    /// after it. It MUST have left the process at return (survive `kill -9`), and need not be synced. A state that cannot be read (of a later or
    /// an earlier release) counts as an empty one. The same note twice has the effect of one.
    ///
    /// # Errors
    /// The store cannot be reached: nothing was noted, or the effect is unknown.
    fn note_crash<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        note: CrashNote,
    ) -> Fut<'a, Result<CrashState, Fault>>;

    /// Appends failure records. Used where the engine has no `AtomicDeadLetter`: append, confirm, then acknowledge.
    ///
    /// # Errors
    /// Nothing was appended, or the effect is unknown: append again.
    fn append<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>>;

    /// Appends records behind a parked key, in order, parking it where the first is not a follower.
    ///
    /// # Errors
    /// `NotParked`: all are followers and the key is not parked any more.
    fn park<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        key: Bytes,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>>;

    /// Groups of one subscription or of all.
    ///
    /// # Errors
    /// The store cannot be reached.
    fn groups<'a>(
        &'a self,
        subscription: Option<&'a SubscriptionId>,
    ) -> Fut<'a, Result<Vec<FailureGroup>, Fault>>;

    /// Records of one subscription after `after`, ascending, at most `limit`, of one group where it is given; fewer (than the store's own
    /// page, where that is smaller) only at the end. Without bodies: `raw.body` MAY be empty.
    ///
    /// # Errors
    /// `NotFound` for an unknown subscription.
    fn list<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        group: Option<&'a str>,
        after: Option<FailureId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<FailureRecord>, Fault>>;

    /// One record with its original bytes.
    ///
    /// # Errors
    /// `NotFound`.
    fn get<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<FailureRecord, Fault>>;

    /// Marks records for redrive; records of a parked key bring the whole key. Gives how many records were marked.
    ///
    /// # Errors
    /// `NotFound` for an unknown subscription. Nothing was marked.
    fn redrive<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>>;

    /// Removes records for good. Discarding the failed record of a parked key leaves its followers, which become redrivable.
    /// Gives how many records were removed. A record that is on its way back to the handler is not removed.
    ///
    /// # Errors
    /// `NotFound` for an unknown subscription. Nothing was removed.
    fn discard<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>>;

    /// Replaces headers and body of a record that waits for a person: the handler gets them with the next redrive. Its key, and so its place in
    /// the order, stay; so do the original bytes ([`FailureStore::original`]), also when it is edited again or fails again.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where it is on its way back to the handler; `TooLarge`; `Unsupported`: this store keeps a message as it came.
    /// Nothing was changed.
    fn edit<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
        headers: Vec<(Bytes, Bytes)>,
        body: Bytes,
        reason: Reason,
    ) -> Fut<'a, Result<(), Fault>> {
        let _ = (subscription, id, headers, body, reason);
        let text = "this failure store keeps a message as it came: it cannot be edited";
        let fault = Fault::new(
            FaultKind::Unsupported(Capability::FailureStore),
            Advice::FixConfig,
            text,
        );
        Box::pin(std::future::ready(Err(fault)))
    }

    /// What a record held before it was edited; `None` where it never was.
    ///
    /// # Errors
    /// `NotFound`.
    fn original<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<Option<Original>, Fault>> {
        let _ = (subscription, id);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// What was done to the subscription's failures, the newest first, at most `limit`.
    ///
    /// # Errors
    /// `NotFound` for an unknown subscription.
    fn audit<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        limit: u32,
    ) -> Fut<'a, Result<Vec<AuditEntry>, Fault>>;

    /// Takes at most `room` records that are marked for redrive, in key order; the next record of a key only after the one before it
    /// was taken. Returns at once, MAY be empty. What a member took and did not finish is handed out again when it was
    /// released ([`FailureStore::release_claims`]) or its process is gone.
    ///
    /// # Errors
    /// The store cannot be reached.
    fn claim<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        member: InstanceId,
        room: u32,
    ) -> Fut<'a, Result<Vec<Redriven>, Fault>>;

    /// Waits until [`FailureStore::claim`] may give something. MAY return early. Cancel safe.
    fn changed<'a>(&'a self, subscription: &'a SubscriptionId) -> Fut<'a, ()>;

    /// Whether this key is parked: asked of each message that comes in, by a member that may not have parked it itself. Cheap, and does not wait for
    /// anything. MUST be `true` from the return of the [`FailureStore::park`] that parked it, whichever member called that; MAY be `true` too long
    /// (then `park` answers a follower with `NotParked`), and where the store cannot tell. Not asked where the engine keeps the failures: there
    /// [`Leased::key_parked`](crate::source::Leased::key_parked) says it.
    ///
    /// The default is for stores that no two members share.
    fn is_parked(&self, subscription: &SubscriptionId, key: &Bytes) -> bool {
        let _ = (subscription, key);
        false
    }

    /// Ends a claim.
    ///
    /// # Errors
    /// The token comes back, to try again with. `LeaseLost`: the claim belongs to another, drop it; so it is too where an earlier try, whose
    /// effect was unknown, had ended it.
    fn finish<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        token: RedriveToken,
        outcome: RedriveOutcome,
    ) -> Fut<'a, Result<KeyState, FinishError>>;

    /// Gives up what a member took of a subscription and did not finish: it can be claimed again, and the tokens end nothing any more. For a member
    /// that goes away while its process lives. Idempotent; nothing happens where the subscription or the member is unknown.
    ///
    /// # Errors
    /// The store cannot be reached: what was taken comes back when the process is gone.
    fn release_claims<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        member: InstanceId,
    ) -> Fut<'a, Result<(), Fault>>;
}
