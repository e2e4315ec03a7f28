//! What can be said of a connection.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::clock::Clock;

/// What can be said of a connection. The defaults are right for most programs.
#[derive(Clone)]
pub struct Options {
    /// What every topic and consumer group on the server begins with. Default: nothing.
    pub prefix: String,
    /// Partitions of a topic that is created: the most members of a subscription that can work at once. Never changed afterwards, since that would
    /// move keys to other partitions. Default: 8.
    pub partitions: u32,
    /// Copies of a topic that is created. Default: what the broker's `default.replication.factor` says.
    pub replication: Option<u16>,
    /// How long a member that is silent stays in its groups: so long its partitions wait after a `kill -9`. At least 6 s (what a broker takes), at most
    /// the subscription's lease. Default: 10 s.
    pub session: Duration,
    /// A name that stays the same when the process is started again, and that no other process has at the same time (a static member, KIP-345). Who comes
    /// back under it within the session has its partitions back at once, also after a `kill -9`; who had it is fenced off. Its price: a member with a
    /// name does not leave its groups when it stops, so its partitions wait out the session where it does not come back. Default: none.
    pub member: Option<String>,
    /// How long a probe or an administrative request may take. Default: 15 s.
    pub request_max: Duration,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// The defaults, on this clock.
    #[must_use]
    pub fn on(clock: Arc<dyn Clock>) -> Self {
        Self {
            prefix: String::new(),
            partitions: 8,
            replication: None,
            session: Duration::from_secs(10),
            member: None,
            request_max: Duration::from_secs(15),
            clock,
        }
    }
}
