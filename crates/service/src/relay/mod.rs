//! The relay: publishes what handlers committed into their store's outbox, in order per destination and key.
//!
//! - A row is removed only after the engine confirmed it. Killed at any point, the next relay publishes from the beginning again: the id is
//!   the same, so the inbox of whoever receives it suppresses the repeat. [`Point`] names every step; tests kill it at each.
//! - Several calls of the publisher are outstanding ([`CALLS_MAX`]), and never two with the same key, so a failed row cannot be
//!   overtaken. A row that failed is tried again with backoff; its key waits, other keys flow.
//! - A row that the engine can never take (too large, malformed) keeps its place and blocks *its key alone*: a loud error, the metric
//!   `postrider_relay_stuck_keys`, and another try every [`STUCK_RETRY`] (a limit may have been raised). Nothing is dropped.
//! - Where the engine is away, everything waits with one backoff, and nothing is read from the outbox beyond the window.
//!
//! Limits: [`BATCH_ROWS_MAX`], [`BATCH_BYTES_MAX`], [`WINDOW_ROWS_MAX`], [`WINDOW_BYTES_MAX`], [`LANES_MAX`]. (Transactional outbox: 08 §3.1.)

mod run;
mod shared;
mod window;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::clock::{Clock, Entropy};
use postrider_core::engine::Publisher;
use postrider_core::store::Outbox;
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::metrics::Recorder;
pub(crate) use shared::{RelayShare, Relays};

/// Rows of one call of the publisher.
pub const BATCH_ROWS_MAX: usize = 256;
/// Payload bytes of one call; a single larger row still goes.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Calls of the publisher that are outstanding.
pub const CALLS_MAX: usize = 4;
/// Rows in memory.
pub const WINDOW_ROWS_MAX: usize = 2048;
/// Payload bytes in memory; a single larger row still comes in.
pub const WINDOW_BYTES_MAX: usize = 8 << 20;
/// Keys that wait for a retry at once. Beyond it nothing more is taken until one of them goes.
pub const LANES_MAX: usize = 65_536;
/// How often the outbox is looked at when nobody says that it changed.
pub const POLL: Duration = Duration::from_secs(5);
/// How often a row that the engine refused for good is tried again.
pub const STUCK_RETRY: Duration = Duration::from_secs(600);

/// A step of the relay, before or after which it may be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// Rows were taken from the outbox and nothing was done with them.
    Taken,
    /// A call of the publisher is about to begin.
    BeforePublish,
    /// The engine answered, and nothing was noted.
    Published,
    /// Confirmed rows are about to be removed.
    BeforeRemove,
    /// They were removed, and nothing was noted.
    Removed,
}

/// All points, in order.
pub const POINTS: [Point; 5] = [
    Point::Taken,
    Point::BeforePublish,
    Point::Published,
    Point::BeforeRemove,
    Point::Removed,
];

/// Told of each point; `Break` ends the relay there as a kill would: nothing more is done, what is outstanding is dropped.
pub type Probe = Arc<dyn Fn(Point) -> ControlFlow<()> + Send + Sync>;

/// What a relay needs.
pub(crate) struct RelaySetup {
    /// Whose outbox it is: the label of its metrics.
    pub(crate) service: String,
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) recorder: Arc<dyn Recorder>,
    /// Fail-points; `None` outside tests.
    pub(crate) probe: Option<Probe>,
}

/// A look at a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RelayStatus {
    /// Rows in memory that wait for their turn, for a confirmation or for a retry.
    pub waiting: usize,
    /// Calls of the publisher that are outstanding.
    pub calls: usize,
    /// Keys that wait for a retry.
    pub blocked_keys: usize,
    /// Keys whose next row the engine refused for good.
    pub stuck_keys: usize,
    /// Rows published since the start.
    pub published: u64,
    /// The last fault, of engine or store.
    pub last_fault: Option<String>,
}

/// Tells the end of a relay.
type Ended = watch::Receiver<bool>;

/// A running relay. Cheap to clone; dropping all of them does not stop it.
#[derive(Clone)]
pub struct RelayHandle {
    outbox: Arc<dyn Outbox>,
    stop: mpsc::Sender<()>,
    status: Arc<Mutex<RelayStatus>>,
    ended: Ended,
}

impl RelayHandle {
    /// Its numbers of now.
    #[must_use]
    pub fn status(&self) -> RelayStatus {
        self.status.lock().clone()
    }

    /// How many rows wait in the store.
    ///
    /// # Errors
    /// The store failed.
    pub async fn depth(&self) -> Result<u64, postrider_core::fault::Fault> {
        self.outbox.depth().await
    }

    /// Whether both are of one relay.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.status, &other.status)
    }

    /// Tells it to end, as [`RelayHandle::stop`] does, and does not wait.
    pub(crate) fn leave(&self) {
        // A full queue or a closed one both mean that it was told already.
        let _ = self.stop.try_send(());
    }

    /// Finishes the calls that are outstanding, removes what was confirmed, and ends; waits for that at most `within`. What was not
    /// published stays in the outbox for the next start. `true`: it ended in time.
    pub async fn stop(&self, within: Duration) -> bool {
        self.leave();
        let mut ended = self.ended.clone();
        tokio::time::timeout(within, async move {
            // An error means that its task is gone, which is an end too.
            let _ = ended.wait_for(|ended| *ended).await;
        })
        .await
        .is_ok()
    }
}

/// Starts a relay as a task of its own, which begins after the end of the one before.
pub(crate) fn spawn(setup: RelaySetup, before: Option<Ended>) -> RelayHandle {
    let (stop, stopped) = mpsc::channel(1);
    let (end, ended) = watch::channel(false);
    let status = Arc::new(Mutex::new(RelayStatus::default()));
    let handle = RelayHandle {
        outbox: Arc::clone(&setup.outbox),
        stop,
        status: Arc::clone(&status),
        ended,
    };
    let relay = run::Relay::new(setup, status, stopped);
    tokio::spawn(async move {
        if let Some(mut before) = before {
            // An error means that its task is gone, which is an end too.
            let _ = before.wait_for(|ended| *ended).await;
        }
        relay.run().await;
        // Nobody may be listening any more.
        let _ = end.send(true);
    });
    handle
}

#[cfg(test)]
mod tests;
