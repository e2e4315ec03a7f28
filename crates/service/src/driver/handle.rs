//! What the rest of the process holds of a running driver: commands in, status and the end out.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::fault::Dependency;
use postrider_core::name::SubscriptionId;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::error::DriverError;

/// Commands that wait for the driver. A full queue makes the sender wait; it never grows.
pub(super) const COMMANDS_MAX: usize = 16;

/// What a driver is told from outside.
#[derive(Debug)]
pub(super) enum Command {
    Pause,
    Resume,
    Available(Dependency),
    Drain { within: Duration },
}

/// What a driver is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It handles messages.
    #[default]
    Running,
    /// A person paused it.
    Paused,
    /// It finishes what runs and takes nothing new.
    Draining,
    /// It ended.
    Ended,
}

/// A look at a driver: numbers of now, not of one instant together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// The dependency that consumption waits for.
    pub waits_for: Option<String>,
    /// Deliveries held: running, waiting in a lane, waiting to be settled.
    pub held: u32,
    /// Handlers running.
    pub running: u32,
    /// Deliveries whose effects wait to be published.
    pub publishing: u32,
    /// Keys that wait for a retry.
    pub blocked_keys: u32,
    /// Keys that are parked.
    pub parked_keys: u32,
    /// The last fault of the source, while it is being opened again.
    pub source_fault: Option<String>,
}

/// What was left when a driver ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DrainReport {
    /// Handlers that were cancelled at the deadline.
    pub cancelled: u32,
    /// Deliveries that were given back unhandled: they come again.
    pub released: u32,
    /// Deliveries that were neither settled nor given back in time: they come again when their lease ends.
    pub left: u32,
}

/// How a driver ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What was left.
    pub report: DrainReport,
    /// Why it ended, where nobody had asked it to.
    pub error: Option<Arc<DriverError>>,
}

/// A running driver. Cheap to clone; dropping all of them does not stop it.
#[derive(Clone)]
pub struct DriverHandle {
    pub(super) subscription: SubscriptionId,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) ended: watch::Receiver<Option<Ended>>,
    pub(super) cut: CancellationToken,
}

impl DriverHandle {
    /// Whose driver it is.
    #[must_use]
    pub fn subscription(&self) -> &SubscriptionId {
        &self.subscription
    }

    /// Takes nothing new from now; handlers that run go on. Idempotent; nothing happens where the driver has ended.
    pub async fn pause(&self) {
        self.send(Command::Pause).await;
    }

    /// Goes on after a pause. Idempotent.
    pub async fn resume(&self) {
        self.send(Command::Resume).await;
    }

    /// A dependency answers again: consumption that waited for it goes on.
    pub async fn available(&self, dependency: Dependency) {
        self.send(Command::Available(dependency)).await;
    }

    /// Takes nothing new, finishes what runs for at most `within`, cancels the rest, gives back what is held, and waits for
    /// the end. A second call with a shorter time makes it shorter.
    ///
    /// Cancel safety: dropping the future does not take the command back.
    pub async fn stop(&self, within: Duration) -> Ended {
        self.send(Command::Drain { within }).await;
        self.ended().await
    }

    /// Ends the driver now, as a crash would: handlers are aborted, nothing is settled. What it held comes again.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until the driver has ended.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let seen = ended.wait_for(Option::is_some).await;
        let ended = seen.ok().and_then(|e| e.clone());
        ended.unwrap_or_else(|| Ended {
            report: DrainReport::default(),
            error: Some(Arc::new(DriverError::Vanished {
                subscription: self.subscription.clone(),
            })),
        })
    }

    /// Its numbers of now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    async fn send(&self, command: Command) {
        // An error means that the driver has ended: then there is nothing to pause or stop.
        let _ = self.commands.send(command).await;
    }
}
