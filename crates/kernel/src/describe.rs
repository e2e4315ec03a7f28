//! Every bound, by name, and how far it is used.

use crate::config::{OUTAGES_MAX, PARKED_KEYS_MAX};
use crate::kernel::Kernel;

/// A bound of the kernel and how far it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its name, the unit last.
    pub name: &'static str,
    /// What is in it now.
    pub fill: u64,
    /// What may be in it.
    pub max: u64,
}

/// The kernel at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Every bound.
    pub bounds: Vec<Bound>,
    /// Keys with messages in the kernel.
    pub lanes: u64,
    /// Keys whose first message is backing off.
    pub blocked_keys: u64,
    /// Messages that are backing off, and those behind them.
    pub blocked_messages: u64,
    /// Retries that wait for the retry budget.
    pub retries_waiting: u64,
    /// A person paused it.
    pub paused: bool,
    /// A dependency is down.
    pub unavailable: bool,
    /// It stopped itself.
    pub stopped: bool,
    /// Messages that may have killed a process and wait for their turn.
    pub suspects: u64,
}

impl Kernel {
    /// Every bound with its name and how far it is used. The largest of the shards stands for all; lanes are named by their largest.
    #[must_use]
    pub fn describe(&self) -> Description {
        let limits = &self.config.policy.limits;
        let lanes = || self.lanes.ids().map(|id| self.lanes.at(id));
        let lane_messages = lanes()
            .map(|lane| u64::from(lane.messages))
            .max()
            .unwrap_or(0);
        let lane_bytes = lanes().map(|lane| lane.bytes).max().unwrap_or(0);
        let done_bytes = self
            .shards
            .values()
            .map(|shard| shard.done_bytes())
            .max()
            .unwrap_or(0);
        let (tokens, tokens_max) = self.budget.level();
        let bound = |name, fill: u64, max: u64| Bound { name, fill, max };
        let bounds = vec![
            bound(
                "handlers",
                u64::from(self.running),
                u64::from(limits.concurrency),
            ),
            bound(
                "window_messages",
                u64::from(self.window.messages),
                u64::from(self.window.messages_max()),
            ),
            bound("window_bytes", self.window.bytes, self.window.bytes_max()),
            bound(
                "redrive_messages",
                u64::from(self.window.redriven),
                u64::from(self.window.redrive_max()),
            ),
            bound(
                "blocked_lane_messages",
                lane_messages,
                u64::from(limits.lane_messages_max),
            ),
            bound("blocked_lane_bytes", lane_bytes, limits.lane_bytes_max),
            bound(
                "parked_keys",
                self.parked.len() as u64,
                PARKED_KEYS_MAX as u64,
            ),
            bound(
                "done_bytes",
                done_bytes as u64,
                self.config.done_bytes_max as u64,
            ),
            bound("retry_tokens", tokens, tokens_max),
            bound("outages", self.outages.len() as u64, OUTAGES_MAX as u64),
        ];
        Description {
            bounds,
            lanes: self.lanes.len() as u64,
            blocked_keys: self.lanes.blocked_len() as u64,
            blocked_messages: u64::from(self.lanes.blocked_messages) + u64::from(self.free_blocked),
            retries_waiting: self.due.len() as u64,
            paused: self.paused,
            unavailable: !self.outages.is_empty(),
            stopped: self.stopped,
            suspects: self.count_suspects(),
        }
    }
}
