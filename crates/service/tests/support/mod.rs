//! Fakes of the contracts of `postrider-core`, on virtual time: an engine, its sources, a failure store, an outbox. They know nothing of
//! this crate but its dependencies, so that unit tests and integration tests share them.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod engine;
pub mod failures;
pub mod outbox;
pub mod publisher;
pub mod sources;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_core::clock::{Clock, Entropy, Mono, SplitMix64, Timestamp};
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::MessageId;
use postrider_core::message::Key;
use postrider_core::name::Destination;

/// The clock of tokio: virtual where it is paused.
pub struct TokioClock(tokio::time::Instant);

impl TokioClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TokioClock {
    fn wall(&self) -> Timestamp {
        Timestamp(1_700_000_000_000).plus(self.0.elapsed())
    }
    fn mono(&self) -> Mono {
        Mono(self.0.elapsed())
    }
}

/// Seeded randomness.
pub struct Seeded(Mutex<SplitMix64>);

impl Seeded {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(SplitMix64::new(seed))))
    }
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().below(bound)
    }
}

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }
}

/// A message with this number in its id and payload.
pub fn outgoing(number: u64, key: Option<&str>) -> Outgoing {
    let mut id = [7u8; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let mut envelope = Envelope::new(
        MessageId::from_bytes(id),
        "test".into(),
        "placed".into(),
        Timestamp(0),
    );
    envelope.key = key.map(|k| Key::new(Bytes::copy_from_slice(k.as_bytes())));
    Outgoing {
        destination: Destination::topic("shop.order").unwrap(),
        envelope,
        payload: Bytes::from(number.to_string()),
    }
}

/// The number of a message of [`outgoing`].
pub fn number_of(message: &Outgoing) -> u64 {
    String::from_utf8_lossy(&message.payload).parse().unwrap()
}

/// A fault that may pass.
pub fn passing() -> Fault {
    Fault::new(
        FaultKind::Unreachable,
        Advice::Retry {
            after: Duration::from_millis(1),
        },
        "the engine is away",
    )
}

/// A fault that the message itself is to blame for.
pub fn too_large() -> Fault {
    Fault::new(
        FaultKind::TooLarge,
        Advice::FixMessage,
        "message 1234567 is too large",
    )
    .code(postrider_core::code::Code::PUBLISH_TOO_LARGE)
}
