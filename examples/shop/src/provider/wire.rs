//! What goes over the provider's socket, one JSON object per line, and what stands in its file.

use serde::{Deserialize, Serialize};

/// What is asked of the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Take money from the card.
    Charge,
    /// Give it back.
    Refund,
}

/// One line of `provider.jsonl`: a request that moved money, or (`replayed`) whose key was known, so that nothing was executed. A
/// decline and a 503 move nothing and leave no line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Charge or refund.
    pub op: Op,
    /// The idempotency key: `charge:{order_id}`, `refund:{order_id}`.
    pub key: String,
    /// The order.
    pub order: String,
    /// How much.
    pub cents: u64,
    /// Whether the key was known.
    pub replayed: bool,
    /// When, RFC 3339 in UTC.
    pub at: String,
}

/// A request on the socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Tells the answers on one connection apart.
    pub(super) id: u64,
    pub(super) op: Op,
    pub(super) key: String,
    pub(super) order: String,
    pub(super) cents: u64,
}

/// An answer on the socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Response {
    pub(super) id: u64,
    pub(super) answer: Answer,
}

/// What the provider answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Executed and written down, durably.
    Done,
    /// The key was known: nothing was executed, the answer is the recorded one.
    Replayed,
    /// The card was declined: nothing moved.
    Declined,
    /// 503: ask again with the same key. It may have been executed.
    Unavailable,
    /// The request makes no sense (the key is known with another amount, a refund without a charge): asking again cannot help.
    Refused,
}

/// The longest line on the socket or in the file, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
