//! Facts of a delivery, and application headers.

use std::ops::Deref;
use std::time::Duration;

use postrider_core::clock::Timestamp;
use postrider_core::envelope;
use postrider_core::fault::HandlerError;
use postrider_core::id::MessageId;
use postrider_core::message::Key;
use postrider_core::name::SubscriptionId;

use super::{Context, FromDelivery};
use crate::delivery::Delivery;

/// What is known of the message and of this hand-over of it. Cheap to take and to clone.
#[derive(Clone, Debug)]
pub struct Meta(Delivery);

impl Meta {
    /// The message's identity: the same in every retry and redrive.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.0.envelope().id
    }

    /// The service that sent it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.envelope().source
    }

    /// Its type.
    #[must_use]
    pub fn message_type(&self) -> &str {
        &self.0.envelope().message_type
    }

    /// The version of its type that the sender wrote.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.0.envelope().version
    }

    /// When it was made; informational, never for ordering.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.0.envelope().time
    }

    /// Which attempt this is, from 1: a lower bound of handler starts.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt()
    }

    /// When this subscription first had it in hand.
    #[must_use]
    pub fn first_seen(&self) -> Timestamp {
        self.0.first_seen()
    }

    /// Whether a person sent it back to the handler.
    #[must_use]
    pub fn is_redriven(&self) -> bool {
        self.0.is_redriven()
    }

    /// What conversation it belongs to.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.0.envelope().correlation_id.as_deref()
    }

    /// The message that it was sent because of.
    #[must_use]
    pub fn causation_id(&self) -> Option<&str> {
        self.0.envelope().causation_id.as_deref()
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.0.envelope().key.as_ref()
    }

    /// Its version per key, where the sender counts: gaps and inversions can be seen by it.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.0.envelope().sequence
    }

    /// The tenant that it belongs to.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.0.envelope().tenant.as_deref()
    }

    /// How long until its deadline; zero where it has passed, `None` where there is none.
    #[must_use]
    pub fn deadline_remaining(&self) -> Option<Duration> {
        let now = self.0.inner.runtime.clock.wall();
        self.0.envelope().expires_at.map(|at| at.since(now))
    }

    /// Whether the sender waits for an answer.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.0.envelope().reply_to.is_some()
    }

    /// Whose delivery this is.
    #[must_use]
    pub fn subscription(&self) -> &SubscriptionId {
        self.0.subscription()
    }

    /// Where it stands in its topic or shard.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.0.position()
    }
}

impl FromDelivery for Meta {
    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        Ok(Self(context.delivery.clone()))
    }
}

/// The application headers of the message, in the order they came.
#[derive(Clone, Debug)]
pub struct Headers(Delivery);

impl Headers {
    /// The first value of that name, where it is UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }
}

impl Deref for Headers {
    type Target = envelope::Headers;
    fn deref(&self) -> &envelope::Headers {
        &self.0.envelope().headers
    }
}

impl FromDelivery for Headers {
    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        Ok(Self(context.delivery.clone()))
    }
}
