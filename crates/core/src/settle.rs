//! Settling: what becomes of a delivery. It consumes the delivery's token, so a double settle does not compile.

use std::time::Duration;

use crate::failure::FailureDraft;
use crate::fault::Fault;

/// The right to settle one delivery, made by the engine. It can neither be copied nor made up; settling consumes it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// What the engine knows the delivery by (a position, a delivery tag).
    pub position: u64,
    /// What tells this hand-over from an earlier one of the same message (an epoch, a channel number).
    pub generation: u64,
}

/// What becomes of a delivery.
#[derive(Debug)]
pub enum Settle {
    /// Handled: it never comes back.
    Ack,
    /// Hand it out again, not before this has passed; the attempt counts. Never used in ordered mode, and only where the engine has
    /// `DelayedRetry`.
    RetryAfter {
        /// How long to keep it back.
        delay: Duration,
        /// Attempts made so far, for engines that keep our count.
        attempts: u32,
    },
    /// Hand it out again as if it had not been handed out: drain, open breaker. The attempt does not count.
    Release,
    /// A failure record, and handled: one operation. Only where the engine has `AtomicDeadLetter`.
    DeadLetter(Box<FailureDraft>),
    /// A record behind its parked key, in order, and handled: one operation. Only where the engine has `AtomicDeadLetter`.
    Park(Box<FailureDraft>),
}

/// One delivery to settle, and how.
#[derive(Debug)]
pub struct SettleOp {
    /// Which.
    pub token: LeaseToken,
    /// How.
    pub settle: Settle,
}

/// A settle that did not work: what went wrong, and the operation, so that it can be tried again.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct SettleError {
    /// What went wrong. `LeaseLost` and `Fenced`: the delivery belongs to another, drop it.
    #[source]
    pub fault: Fault,
    /// The operation, unchanged.
    pub op: SettleOp,
}
