//! One hand-over of a message to a handler, and how it ends: the seam between handlers (erased) and the driver.

use std::sync::Arc;

use bytes::Bytes;
use postrider_core::clock::Timestamp;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::fault::{Fault, HandlerError};
use postrider_core::name::SubscriptionId;
use postrider_core::store::Fence;

use crate::runtime::Runtime;

/// One hand-over of a message to a subscription. Cheap to clone. Delivery facts are here, never in the envelope.
#[derive(Clone)]
pub struct Delivery {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) envelope: Envelope,
    pub(crate) payload: Bytes,
    pub(crate) subscription: SubscriptionId,
    /// From 1: a lower bound of handler starts.
    pub(crate) attempt: u32,
    pub(crate) redriven: bool,
    pub(crate) first_seen: Timestamp,
    pub(crate) position: u64,
    /// Broken off when the delivery belongs to another: checked before a store commits.
    pub(crate) fence: Fence,
    pub(crate) runtime: Arc<Runtime>,
}

/// How the handling of a delivery ended. What the driver does with it:
///
/// | ending | driver |
/// |---|---|
/// | `Effects` | publishes them and acknowledges, in one commit where the engine can, else publish, confirm, acknowledge |
/// | `Committed` | acknowledges; wakes the relay |
/// | `Duplicate` | counts, acknowledges |
/// | `Failed` | tells the kernel |
/// | `Conflict` | a failure record `InboxConflict` |
/// | `Fenced` | drops the result |
/// | `StoreFault` | as unavailable: pauses, burns no attempt |
#[derive(Debug)]
pub enum Ending {
    /// The handler returned these messages and no store is involved: at least once.
    Effects(Vec<Outgoing>),
    /// The handler's effects, outgoing messages included, are committed in the store.
    Committed,
    /// The store had seen the message: nothing was run.
    Duplicate,
    /// The handler failed.
    Failed(HandlerError),
    /// The message cannot be read as the handler's type.
    Unreadable(postrider_core::BoxError),
    /// The same id was handled with another body.
    Conflict,
    /// The delivery belongs to another member.
    Fenced,
    /// The store failed; the handler is not to blame.
    StoreFault(Fault),
}
