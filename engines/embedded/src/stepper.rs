//! The threads of an engine, by hand: what a simulation steps in virtual time.

use std::sync::Arc;
use std::time::Duration;

use crate::host::{IDLE_AFTER, SLEEP_MIN, mark_idle, upkeep_round, write_round};
use crate::shared::Shared;

/// Does what the threads `postrider-log` and `postrider-upkeep` do, one round at a time and when it is told to.
///
/// ```text
/// while stepper.step() {
///     stepper.wanted().await;
/// }
/// ```
#[derive(Debug)]
pub struct Stepper {
    shared: Arc<Shared>,
    /// The last batch is proven by a marker.
    marked: bool,
    /// Nothing came while the last wait lasted.
    quiet: bool,
}

impl Stepper {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            marked: false,
            quiet: false,
        }
    }

    /// Waits, in the time of the tokio runtime, until there is something to write, or a timer of the log is due. Cancel safe.
    pub async fn wanted(&mut self) {
        let Some(steps) = self.shared.host.as_ref().and_then(|host| host.steps()) else {
            return;
        };
        let timer = self.shared.log.lock().next_timer(self.shared.now());
        let timer = timer.map(|timer| timer.max(SLEEP_MIN));
        let at_most = match self.marked {
            true => timer,
            false => Some(timer.unwrap_or(Duration::MAX).min(IDLE_AFTER)),
        };
        self.quiet = false;
        let Some(at_most) = at_most else {
            return steps.notified().await;
        };
        let timeout = tokio::time::timeout(at_most, steps.notified()).await;
        self.quiet = timeout.is_err() && timer.is_none_or(|timer| timer > at_most);
    }

    /// One round of each thread: lets time pass, at most one write with its sync, one slice of upkeep, one checkpoint; and, where nothing had
    /// come for a while, the marker. `false`: the engine ended, and everybody who waits was told.
    pub fn step(&mut self) -> bool {
        let now = self.shared.now();
        let Some(wrote) = write_round(&self.shared, now) else {
            return false;
        };
        let wrote = wrote.any;
        self.marked &= !wrote;
        if self.quiet && !wrote && !self.marked {
            if !mark_idle(&self.shared) {
                return false;
            }
            self.marked = true;
        }
        let Some(busy) = upkeep_round(&self.shared, now) else {
            return false;
        };
        let more = wrote || busy || self.shared.log.lock().wants_write(now);
        if let (true, Some(host)) = (more, &self.shared.host) {
            host.kick();
        }
        true
    }
}
