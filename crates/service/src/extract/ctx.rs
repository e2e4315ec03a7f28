//! Time, ids and randomness for handlers, so that tests can own them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use postrider_core::clock::Timestamp;
use postrider_core::fault::HandlerError;
use postrider_core::id::MessageId;

use super::{Context, FromDelivery};

/// Time, ids and randomness. Ids and random numbers are derived from the message: a second run of the handler gets the same ones.
#[derive(Clone)]
pub struct Ctx {
    context: Context,
    drawn: Arc<AtomicU32>,
}

impl Ctx {
    /// Wall time, from the bus's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context.delivery.inner.runtime.clock.wall()
    }

    /// A new id: the n-th of this delivery is the same in every run.
    #[must_use]
    pub fn new_id(&self) -> MessageId {
        let nth = self.drawn.fetch_add(1, Ordering::Relaxed);
        let delivery = &self.context.delivery;
        let subscription = delivery.subscription().to_string();
        MessageId::derived(delivery.envelope().id, &subscription, "ctx:id", None, nth)
    }

    /// 64 random bits: the n-th of this delivery are the same in every run. Not for secrets.
    #[must_use]
    pub fn random(&self) -> u64 {
        let id = self.new_id();
        // The last eight bytes of a version 8 UUID hold two fixed bits; the other half of it fills them in.
        let halves = id.as_bytes().split_at(8);
        let read = |half: &[u8]| half.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        read(halves.0).rotate_left(32) ^ read(halves.1)
    }

    /// A key by which the outside world recognises a repeated request: `charge:o-17` for operation `charge` on a message of key
    /// `o-17`. It comes from the business identity, never from a message id, so that a second message about the same thing
    /// repeats it. `None`: the message has no key; make one from what identifies the thing.
    #[must_use]
    pub fn idempotency_key(&self, operation: &str) -> Option<String> {
        let key = self.context.delivery.envelope().key.as_ref()?;
        Some(format!("{operation}:{}", key.display()))
    }
}

impl FromDelivery for Ctx {
    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        Ok(Self {
            context: context.clone(),
            drawn: Arc::default(),
        })
    }
}
