//! What every part of a running bus shares: the engine, a publisher, time, randomness, metrics.

use std::sync::Arc;

use postrider_core::clock::{Clock, Entropy};
use postrider_core::engine::{Engine, Publisher};
use postrider_core::id::{InstanceId, MessageId};

use crate::driver::Registry;
use crate::metrics::{Observed, Recorder};

/// What every part of a running bus shares. One per bus.
pub(crate) struct Runtime {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) instance: InstanceId,
    pub(crate) recorder: Arc<dyn Recorder>,
    /// What runs on this bus.
    pub(crate) registry: Arc<Registry>,
}

impl Runtime {
    /// What is published through `publisher` from now on is counted.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        publisher: Arc<dyn Publisher>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        recorder: Arc<dyn Recorder>,
    ) -> Self {
        let instance = InstanceId(entropy.next_u64());
        Self {
            instance,
            publisher: Arc::new(Observed::new(publisher, Arc::clone(&recorder))),
            registry: Arc::new(Registry::new(instance)),
            engine,
            clock,
            entropy,
            recorder,
        }
    }

    /// A new message id (UUIDv7).
    pub(crate) fn new_id(&self) -> MessageId {
        MessageId::v7(
            self.clock.wall(),
            [self.entropy.next_u64(), self.entropy.next_u64()],
        )
    }
}
