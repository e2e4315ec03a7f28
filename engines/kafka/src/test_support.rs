//! What the tests of this crate share.

use std::sync::Arc;

use postrider_core::clock::{Clock, Mono, Timestamp};

/// The runtime's clock.
pub(crate) struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TokioClock {
    fn wall(&self) -> Timestamp {
        Timestamp(1_763_735_534_000).plus(self.0.elapsed())
    }
    fn mono(&self) -> Mono {
        Mono(self.0.elapsed())
    }
}
