//! What goes into the kernel and what comes out of it: the whole of its contract.

use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::{Mono, Timestamp};
use postrider_core::failure::Cause;
use postrider_core::fault::Dependency;
use postrider_core::id::MessageId;
use postrider_core::source::{Commit, Credit, Position, ResumeState, ShardEpoch};

/// A message in the kernel's hands: chosen by the driver, which keeps payload and token under it. A slot MUST NOT be used again before
/// the kernel has said [`Output::Forget`] of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A lease source: settled one by one.
    Lease {
        /// When its lease ends.
        until: Option<Mono>,
    },
    /// A log source: settled by the watermark.
    Log {
        /// Its shard and the ownership it was read under.
        at: ShardEpoch,
        /// Its position.
        position: Position,
    },
    /// The failure store: a redriven record.
    Redrive,
}

/// A message that came in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The driver's number for it.
    pub slot: Slot,
    /// Where it came from.
    pub origin: Origin,
    /// Its id; a derived stand-in where the envelope cannot be read.
    pub id: MessageId,
    /// Its key; `None`: unordered among all others.
    pub key: Option<Bytes>,
    /// Bytes of key, headers and payload.
    pub size: u64,
    /// Which of the policy's retry rules is its own.
    pub retry: u16,
    /// Hand-overs before this one; `None`: the engine does not count them (a log never does).
    pub deliveries: Option<u32>,
    /// Its key is parked in a failure store that the engine keeps; of a redriven record: the record belongs to a parked key.
    pub key_parked: bool,
    /// Its envelope or payload cannot be read: a failure record, never a crash and never a stuck shard.
    pub unreadable: bool,
    /// Nobody here handles its type, or its deadline has passed: acknowledge it without a handler.
    pub skip: bool,
    /// Wall time when it came in: `first_seen` of a failure.
    pub seen_at: Timestamp,
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled, and its effects are where they belong.
    Done,
    /// Handled and settled already, in one commit with its effects (`AtomicSettle`): nothing is left to settle.
    DoneAndSettled,
    /// Failed; it may work next time.
    Transient,
    /// Failed; it may work after this long.
    RetryAfter(Duration),
    /// Failed for good.
    Permanent(Cause),
    /// A dependency is down: pause, burn no attempt.
    Unavailable(Dependency),
    /// It panicked: transient, and a second panic on the same message makes it a suspect.
    Panicked,
    /// It was cancelled (lease lost, drain): no attempt is burned.
    Cancelled,
    /// Stop the subscription.
    Stop,
}

/// The answer to [`Output::Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is noted: handle it now, or say [`Output::Gone`].
    Go,
    /// It is a suspect, and its turn comes later: ask again after this long.
    Hold(Duration),
    /// It killed the process: it fails as [`Cause::CrashLoop`].
    Condemned,
}

/// Everything that can happen to a source.
#[derive(Clone, Debug)]
pub enum Input {
    /// What the failure store knew at the start; always the first input.
    Opened {
        /// Keys that are parked.
        parked: Vec<Bytes>,
    },
    /// Messages came in (from the source or redriven), in order.
    Messages(Vec<Incoming>),
    /// The handler of a slot ended.
    Finished {
        /// Which.
        slot: Slot,
        /// How.
        outcome: Outcome,
    },
    /// The time that was asked for has come (or any other: the kernel looks at `now`).
    Timer,
    /// Leases were extended to this time.
    Extended {
        /// Which.
        slots: Vec<Slot>,
        /// Until when.
        until: Mono,
    },
    /// Leases were lost: the deliveries belong to another.
    LeaseLost(Vec<Slot>),
    /// A settle ([`Output::Ack`], [`Output::Release`], [`Output::RetryLater`], [`Output::Fail`], [`Output::Park`], [`Output::FinishRedrive`]) is done.
    ///
    /// ORDER: records claimed from the failure store before a `FinishRedrive` that puts a record back (failed or released) MUST be handed over before
    /// its `Settled`: the kernel puts them back as well.
    Settled(Vec<Slot>),
    /// A settle did not work and will not: the delivery belongs to another.
    SettleLost(Vec<Slot>),
    /// A `Park` of followers was refused: their key is not parked any more. They are handled instead.
    NotParked(Vec<Slot>),
    /// A redriven record was finished, and its key is free (no more records, atomically). Comes beside the record's `Settled`, in either order.
    KeyFree(Bytes),
    /// The answer to [`Output::Ask`].
    Answer {
        /// Which.
        slot: Slot,
        /// Its message: a slot may have become another's meanwhile.
        id: MessageId,
        /// What becomes of it.
        verdict: Verdict,
    },
    /// So many [`Output::Gone`] are stored.
    GoneNoted(u32),
    /// The shard is ours.
    Assigned {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// What the last owner left.
        resume: ResumeState,
    },
    /// The shard goes to another by `deadline`: finish what runs, commit, answer with [`Output::Revoked`].
    Revoking {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// When.
        deadline: Mono,
    },
    /// The shard is gone: drop its work.
    Lost {
        /// Which shard, in which ownership.
        at: ShardEpoch,
    },
    /// A commit is stored; `false`: it was fenced.
    Committed {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// Whether it is stored.
        stored: bool,
    },
    /// The dependency answers again (a probe, or the breaker closed).
    Available(Dependency),
    /// A person pauses the subscription: nothing new is dispatched, leases are kept for what runs, the rest is released.
    Pause,
    /// A person resumes it.
    Resume,
    /// Stop: finish what runs until `deadline`, cancel the rest, release, commit, then [`Output::Drained`].
    Drain {
        /// When running handlers are cancelled.
        deadline: Mono,
    },
}

/// Everything that the kernel wants done. The driver does it in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Run the handler.
    Dispatch {
        /// Which message.
        slot: Slot,
        /// Which attempt, from 1: a lower bound of handler starts.
        attempt: u32,
    },
    /// Cancel the handler and break its fence; answer with [`Input::Finished`] `Cancelled`.
    Cancel(Slot),
    /// Settle as handled (lease sources).
    Ack(Vec<Slot>),
    /// Give back without counting; in reverse order of receipt. Messages of one key MUST come again in their order: an engine that cannot give back
    /// several as one operation hands out none of them before all are back.
    Release(Vec<Slot>),
    /// Give back, not before (unordered subscriptions only).
    RetryLater {
        /// Which.
        slot: Slot,
        /// Not before this has passed.
        delay: Duration,
        /// Attempts made.
        attempts: u32,
    },
    /// Failed for good: a failure record, then settled, as one operation. `park`: the key is parked with it as its head.
    Fail {
        /// Which.
        slot: Slot,
        /// Why.
        cause: Cause,
        /// Attempts made.
        attempts: u32,
        /// Whether its key is parked.
        park: bool,
    },
    /// Append behind the parked key, in order, then settle, as one operation. ORDER: where one of them is lost, none behind it may be appended: they
    /// are given back and answered with [`Input::SettleLost`], too. (A store that appends first and settles then has no such case: what comes again is
    /// recognised by its id.)
    Park {
        /// The key.
        key: Bytes,
        /// Its messages, in order.
        slots: Vec<Slot>,
    },
    /// A redriven record ended: `failed`: again, with this cause; `None`: handled.
    FinishRedrive {
        /// Which.
        slot: Slot,
        /// Why it failed again.
        failed: Option<Cause>,
        /// Attempts made in this redrive.
        attempts: u32,
        /// Not tried to an end (drain).
        released: bool,
    },
    /// Keep these leases for the source's lease time from now.
    Extend(Vec<Slot>),
    /// Store progress of a shard; answer with [`Input::Committed`].
    Commit {
        /// Which shard, in which ownership.
        at: ShardEpoch,
        /// The progress.
        commit: Commit,
    },
    /// May this message be handled, that was handed out before? Answer with [`Input::Answer`], once it is noted as being in a handler. A place
    /// among the handlers is kept for it; everything else goes on.
    Ask {
        /// Which.
        slot: Slot,
        /// Its message.
        id: MessageId,
    },
    /// A message that was asked for is not in a handler any more, or will not be: note it, and answer with [`Input::GoneNoted`] when that is stored.
    Gone {
        /// Its message.
        id: MessageId,
        /// Its handler ended, or it was set aside; else it was given back.
        ended: bool,
    },
    /// The shard's work is finished and committed: tell the source.
    Revoked {
        /// Which shard, in which ownership.
        at: ShardEpoch,
    },
    /// The driver may take at most this much more. Replaces the last credit; the driver counts down what it takes.
    Credit {
        /// From the source.
        source: Credit,
        /// Redriven records from the failure store: a bound of their own, so that a long redrive never starves the source, nor the
        /// source a redrive.
        redrive: u32,
    },
    /// Call [`Input::Timer`] at this time; replaces the last one. `None`: no timer.
    SetTimer(Option<Mono>),
    /// Consumption pauses because of this dependency; ask it when the timer says so.
    Paused(Dependency),
    /// The kernel will not mention this slot again: payload and token may be dropped.
    Forget(Slot),
    /// The subscription stopped (policy `Stop`, handler's `Stop`): nothing more is dispatched; the driver reports it and drains.
    Stopped {
        /// The message that did it.
        slot: Slot,
        /// Why.
        cause: Cause,
    },
    /// Drained: everything is settled, released or committed, or was given up one second after the deadline (a handler that cannot be
    /// cancelled; its lease runs out by itself). Nothing comes after it.
    Drained,
}
