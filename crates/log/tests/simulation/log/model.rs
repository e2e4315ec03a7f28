//! What the log should hold: the list of what each frame did, and what it amounts to.

use std::collections::{BTreeMap, BTreeSet};

use postrider_log::Offset;

/// What one frame did, as far as the model cares.
#[derive(Debug, Clone)]
pub(super) enum Did {
    Published {
        stream: usize,
        offset: Offset,
        id: u64,
        key: u64,
    },
    Settled {
        sub: usize,
        offset: Offset,
    },
    Leased {
        sub: usize,
        offset: Offset,
    },
    Returned {
        sub: usize,
        offset: Offset,
        attempts: u32,
        /// When, on the clock on the wall, and how long it waits from then on.
        waits_ms: (u64, u64),
    },
    Failed {
        sub: usize,
        failure: u64,
        id: u64,
        key: u64,
        parks: bool,
    },
    FailureEnded {
        sub: usize,
        failure: u64,
    },
    Crash {
        sub: usize,
        state: u64,
    },
    Reader {
        epoch: u64,
        watermark: u64,
    },
    /// Events below `first` are gone.
    Trimmed {
        first: Offset,
    },
}

/// What a list of deeds amounts to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) records: BTreeMap<(usize, Offset), (u64, u64)>,
    pub(super) settled: BTreeSet<(usize, Offset)>,
    pub(super) attempts: BTreeMap<(usize, Offset), u32>,
    /// What was returned: when, and how long it waits from then on.
    pub(super) waits_ms: BTreeMap<(usize, Offset), (u64, u64)>,
    /// Message, key, and whether it parks the key.
    pub(super) failures: BTreeMap<(usize, u64), (u64, u64, bool)>,
    pub(super) crash: BTreeMap<usize, u64>,
    pub(super) reader: (u64, u64),
    /// The first event that is still there.
    pub(super) first: Offset,
}

impl Model {
    pub(super) fn apply(&mut self, did: &Did) {
        match *did {
            Did::Published {
                stream,
                offset,
                id,
                key,
            } => {
                self.records.insert((stream, offset), (id, key));
            }
            Did::Settled { sub, offset } => {
                self.settled.insert((sub, offset));
                self.attempts.remove(&(sub, offset));
                self.waits_ms.remove(&(sub, offset));
            }
            Did::Leased { sub, offset } => {
                *self.attempts.entry((sub, offset)).or_default() += 1;
                self.waits_ms.remove(&(sub, offset));
            }
            Did::Returned {
                sub,
                offset,
                attempts,
                waits_ms,
            } => {
                self.waits_ms.insert((sub, offset), waits_ms);
                self.attempts.insert((sub, offset), attempts);
            }
            Did::Failed {
                sub,
                failure,
                id,
                key,
                parks,
            } => {
                self.failures.insert((sub, failure), (id, key, parks));
            }
            Did::FailureEnded { sub, failure } => {
                self.failures.remove(&(sub, failure));
            }
            Did::Crash { sub, state } => {
                self.crash.insert(sub, state);
            }
            Did::Reader { epoch, watermark } => self.reader = (epoch, watermark),
            Did::Trimmed { first } => self.first = self.first.max(first),
        }
    }
}
