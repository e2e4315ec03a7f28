//! What has to exist before the first message: topics, queues and subscriptions.

use std::time::Duration;

use serde::Serialize;

use crate::capability::Durability;
use crate::name::{Destination, SubscriptionId};
use crate::source::SeekTo;

/// A topic or queue that a service needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationSpec {
    /// Which.
    pub destination: Destination,
    /// The level that a confirmed publish reaches; `None`: the engine's default.
    pub durability: Option<Durability>,
    /// Keep messages this long after all subscriptions have settled them, for replay. Zero: not at all.
    pub retain: Duration,
}

/// A subscription that a service needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionNeed {
    /// Which.
    pub id: SubscriptionId,
    /// Messages of one key in order.
    pub ordered: bool,
    /// Where it begins if it does not exist.
    pub start: SeekTo,
}

/// Everything that a service needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Topics and queues.
    pub destinations: Vec<DestinationSpec>,
    /// Subscriptions.
    pub subscriptions: Vec<SubscriptionNeed>,
}

/// What provisioning may do. It never deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvisionMode {
    /// Compare, and fail where something is missing or differs.
    Check,
    /// Create what is missing; fail where something differs.
    Create,
    /// Create what is missing; change what differs where that loses nothing.
    Migrate,
}

/// What provisioning found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TopologyDiff {
    /// What was created.
    pub created: Vec<String>,
    /// What is missing (mode `Check`).
    pub missing: Vec<String>,
    /// What differs, and how.
    pub differs: Vec<String>,
}

impl TopologyDiff {
    /// Whether nothing was missing and nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.missing.is_empty() && self.differs.is_empty()
    }
}
