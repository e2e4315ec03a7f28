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
            request_max: Duration::from_secs(15),
            clock,
        }
    }
}
