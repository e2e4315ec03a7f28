//! What every part of a running bus shares: the engine, a publisher, time, randomness, metrics.

use std::sync::Arc;

use postrider_core::clock::{Clock, Entropy};
use postrider_core::engine::{Engine, Publisher};
use postrider_core::id::{InstanceId, MessageId};

/// What every part of a running bus shares. One per bus.
pub(crate) struct Runtime {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) instance: InstanceId,
}

impl Runtime {
    /// A new message id (UUIDv7).
    pub(crate) fn new_id(&self) -> MessageId {
        MessageId::v7(
            self.clock.wall(),
            [self.entropy.next_u64(), self.entropy.next_u64()],
        )
    }
}
