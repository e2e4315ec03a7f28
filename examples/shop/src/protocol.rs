//! What the supervisor and the services say to each other: one JSON object per line. The supervisor writes to the child's standard input
//! (and its end ends the child), the child to its standard output.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::faults::Level;
use crate::seed::ARTICLES;

/// The embedded engine of a run, as a path within the run's directory.
pub const ENGINE_DIR: &str = "log";

/// Orders in one command of the intake, at most.
pub const COMMAND_ORDERS_MAX: usize = 32;

/// The first line on the child's standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The run's directory.
    pub dir: PathBuf,
    /// The engine's URL; `None`: the embedded one in the run's directory.
    pub engine: Option<String>,
    /// What decides fates and faults.
    pub seed: u64,
    /// Where the orders come from.
    pub orders: Orders,
    /// Orders per second; `None`: as fast as it goes.
    pub rate: Option<u32>,
    /// Stock at the start, per article.
    pub stock: [u64; ARTICLES],
    /// Faults at the start.
    pub faults: Level,
    /// Where the provider listens.
    pub provider: PathBuf,
}

/// Where the child reads the orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orders {
    /// A CSV that was scanned before.
    File(PathBuf),
    /// Made up, this many in all; `None`: without end.
    MadeUp(Option<u64>),
}

/// A later line on the child's standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Set the faults.
    Faults {
        /// To this.
        level: Level,
    },
    /// Place no more orders; those that are placed go on.
    Hold,
    /// Drain and end.
    Stop,
}

/// A line on the child's standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Report {
    /// What the start waits for.
    WaitingFor {
        /// One line.
        what: String,
    },
    /// The services run.
    Ready {
        /// The engine, as it names itself.
        engine: String,
        /// What a confirmed message survives.
        durability: String,
    },
    /// The first message of this process was handled.
    Handled,
    /// How it stands.
    Progress(Box<Progress>),
    /// It cannot go on.
    Fatal {
        /// The code's number, where it has one.
        code: Option<u16>,
        /// One line: what happened.
        what: String,
        /// One line: why, where it is known better than the code's own text.
        why: Option<String>,
        /// One line: what to do, where it is known better than the code's own text.
        remedy: Option<String>,
    },
}

/// How it stands. Orders are counted in the database; the rest is of this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Orders placed.
    pub placed: u64,
    /// Orders shipped.
    pub shipped: u64,
    /// Orders refunded.
    pub refunded: u64,
    /// Orders cancelled.
    pub cancelled: u64,
    /// Cents of the shipped orders.
    pub cents_shipped: u64,
    /// Whether all orders of the input are placed.
    pub intake_done: bool,
    /// Messages accepted and not settled, and committed and not published, over all services.
    pub waiting: u64,
    /// Whether the engine itself counts all of these: else a message may be on its way between the server and this process, seen by neither.
    pub counts_all: bool,
    /// Messages that wait, by subscription: only those that wait.
    pub waiting_at: Vec<(String, u64)>,
    /// Messages handled by this process.
    pub handled: u64,
    /// Retries in this process.
    pub retries: u64,
    /// Failures that were handed back to their handler in this process.
    pub redriven: u64,
    /// Messages that came again in this process and were suppressed.
    pub duplicates: u64,
    /// Failure records that wait for a person.
    pub failures: u64,
    /// Failure records by group: subscription, text, how many.
    pub failure_groups: Vec<(String, String, u64)>,
    /// Keys of the failure records, as far as they are orders that have not ended: only while some have not.
    pub set_aside: Vec<String>,
}

impl Progress {
    /// Orders that ended.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.shipped + self.refunded + self.cancelled
    }
}
