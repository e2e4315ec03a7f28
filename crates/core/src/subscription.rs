//! What a service asks an engine for: one subscription.

use std::time::Duration;

use crate::id::InstanceId;
use crate::name::SubscriptionId;
use crate::source::SeekTo;

/// A subscription to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSpec {
    /// Which service on which topic or queue.
    pub id: SubscriptionId,
    /// The member that opens it: new for each opened source, also where a process opens the same subscription twice.
    pub member: InstanceId,
    /// Messages of one key go to one member at a time, in order.
    pub ordered: bool,
    /// Where a subscription that did not exist begins. `Earliest`: with what the topic still keeps.
    pub start: SeekTo,
    /// How long a message is held before another member may have it. The kernel extends at a third of it.
    pub lease: Duration,
}

impl SubscriptionSpec {
    /// The lease where nothing else is said: 30 s.
    pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);

    /// An ordered subscription from the earliest message, with the default lease.
    #[must_use]
    pub const fn new(id: SubscriptionId, member: InstanceId) -> Self {
        Self {
            id,
            member,
            ordered: true,
            start: SeekTo::Earliest,
            lease: Self::LEASE_DEFAULT,
        }
    }
}
