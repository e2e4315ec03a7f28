//! One hand-over of a message to a handler, and how it ends: the seam between handlers (erased) and the driver.

use std::sync::Arc;

use bytes::Bytes;
use postrider_core::clock::Timestamp;
use postrider_core::codec::CodecError;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::fault::{Fault, HandlerError};
use postrider_core::message::Message;
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

impl Delivery {
    /// What is known of the message.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.inner.envelope
    }

    /// Its bytes.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.inner.payload
    }

    /// Reads the payload as a message type.
    ///
    /// # Errors
    /// It is another type, a newer version than this reader knows, or not readable.
    pub fn read<M: Message>(&self) -> Result<M, CodecError> {
        let envelope = &self.inner.envelope;
        if envelope.message_type != M::TYPE || envelope.version > M::VERSION {
            let why = format!(
                "it is `{}` version {}; this reader knows `{}` up to version {}",
                envelope.message_type,
                envelope.version,
                M::TYPE,
                M::VERSION
            );
            return Err(CodecError::Decode {
                message_type: M::TYPE,
                content_type: M::CONTENT_TYPE,
                source: why.into(),
            });
        }
        M::decode(&envelope.content_type, &self.inner.payload)
    }

    /// Whose delivery it is.
    #[must_use]
    pub fn subscription(&self) -> &SubscriptionId {
        &self.inner.subscription
    }

    /// Which attempt this is, from 1: a lower bound of handler starts.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// Whether a person sent it back to the handler.
    #[must_use]
    pub fn is_redriven(&self) -> bool {
        self.inner.redriven
    }

    /// When this subscription first had it in hand.
    #[must_use]
    pub fn first_seen(&self) -> Timestamp {
        self.inner.first_seen
    }

    /// Where it stands in its topic or shard.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.inner.position
    }

    /// Whether it still belongs to this member. A long handler may ask before it does something that cannot be undone.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        !self.inner.fence.is_broken()
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.inner.envelope.id)
            .field("type", &self.inner.envelope.message_type)
            .field("subscription", &self.inner.subscription.to_string())
            .field("attempt", &self.inner.attempt)
            .finish_non_exhaustive()
    }
}
