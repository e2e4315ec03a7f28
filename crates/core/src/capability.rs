//! What an engine can do, as data: declared by the adapter for the server version that it probed, checked at start-up.

use std::time::Duration;

use serde::Serialize;

/// Something that engines differ in. A subscription or a publisher states needs in these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Capability {
    /// A confirmed publish survives what [`Durability`] says.
    ConfirmedPublish,
    /// Messages of one key go to one member at a time, in order.
    KeyOrder,
    /// Several members share a subscription.
    CompetingConsumers,
    /// Each subscription of a topic gets every message.
    FanOut,
    /// A held message can be kept longer than its first lease.
    LeaseExtension,
    /// A message published now is delivered later.
    DelayedDelivery,
    /// A delayed message can be taken back.
    CancelDelayed,
    /// A message disappears when its time has passed.
    Expiry,
    /// A subscription can read what was published before it existed.
    Replay,
    /// The same id published twice in a window is stored once.
    PublishDedupe,
    /// A message that is given back is handed out again after a delay, with our count of its attempts
    /// ([`Settle::RetryAfter`](crate::settle::Settle::RetryAfter)). Without it the kernel holds what waits for a retry.
    DelayedRetry,
    /// Publish and settle in one atomic step.
    AtomicSettle,
    /// A failure record and the settling of its message in one atomic step.
    AtomicDeadLetter,
    /// Failure records and parked keys live in the engine itself.
    FailureStore,
    /// Replies reach the process that asked.
    RequestReply,
    /// An append can state the version that it expects.
    ExpectedVersion,
    /// How much waits is known.
    Lag,
    /// Everything can be copied while it runs.
    Backup,
}

/// How an engine has an ability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "support", rename_all = "snake_case")]
pub enum Support {
    /// The engine does it.
    Native,
    /// The adapter or the kernel does it on the engine.
    Emulated {
        /// How.
        how: &'static str,
        /// What it costs.
        cost: &'static str,
    },
    /// It cannot be had.
    Absent {
        /// Why not.
        why: &'static str,
    },
}

/// What survives when a publish is confirmed: the level that this engine *with this configuration* gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Nothing: it is in the memory of one process.
    Memory,
    /// The death of the process: it was handed to the operating system.
    Os,
    /// As [`Durability::Os`], and a power cut loses at most the last interval.
    Interval,
    /// The loss of a minority of machines; a power cut of all of them may lose it.
    Replicated,
    /// A power cut: it was synced to the disk before the confirmation.
    Flushed,
    /// Both.
    ReplicatedFlushed,
}

/// What an engine states of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Capabilities {
    list: Vec<(Capability, Support)>,
    /// The largest encoded message, in bytes.
    pub message_bytes_max: usize,
    /// The longest delay of a delayed message; `None` where it is not bounded.
    pub delay_max: Option<Duration>,
    /// How long a message may be held in all before the engine takes it back; `None` where it is not bounded.
    pub hold_max: Option<Duration>,
    /// How many messages of one key a member may hold before they keep other keys from coming; `None` where they never do. A key that
    /// fills half of it is parked.
    pub key_held_max: Option<u32>,
}

impl Capabilities {
    /// An engine that has none of the abilities and takes messages up to this size.
    #[must_use]
    pub fn none(message_bytes_max: usize) -> Self {
        Self {
            list: Vec::new(),
            message_bytes_max,
            delay_max: None,
            hold_max: None,
            key_held_max: None,
        }
    }

    /// The same with this ability.
    #[must_use]
    pub fn with(mut self, capability: Capability, support: Support) -> Self {
        self.list.retain(|(c, _)| *c != capability);
        self.list.push((capability, support));
        self
    }

    /// How the ability is had. What was never declared is absent.
    #[must_use]
    pub fn of(&self, capability: Capability) -> &Support {
        const UNDECLARED: Support = Support::Absent {
            why: "the engine does not declare it",
        };
        self.list
            .iter()
            .find(|(c, _)| *c == capability)
            .map_or(&UNDECLARED, |(_, s)| s)
    }

    /// Whether the ability is had natively.
    #[must_use]
    pub fn is_native(&self, capability: Capability) -> bool {
        matches!(self.of(capability), Support::Native)
    }
}
