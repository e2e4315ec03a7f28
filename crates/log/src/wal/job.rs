//! The write of a group commit, as a value that runs off the owner's lock.

use std::sync::Arc;

use super::segment::SegmentFile;
use crate::Error;
use crate::planted::{self, Plant};

/// Writes batches, and may sync them. Made by [`Wal::begin`](super::Wal::begin).
///
/// Blocks for the disk, so run it on a thread that may; the owner stays free to stage the next batch meanwhile.
#[derive(Debug)]
#[must_use = "the log waits for this job until it is run and finished"]
pub struct WriteJob {
    pub(super) writes: Vec<Write>,
    /// Synced after all writes, in order.
    pub(super) syncs: Vec<Arc<SegmentFile>>,
}

#[derive(Debug)]
pub(super) struct Write {
    pub(super) file: Arc<SegmentFile>,
    pub(super) at: u64,
    pub(super) bytes: Arc<Vec<u8>>,
}

/// What came of a [`WriteJob`]; hand it to [`Wal::finish`](super::Wal::finish).
#[derive(Debug)]
#[must_use = "nothing counts as written before the job is finished"]
pub struct JobDone {
    pub(super) result: Result<(), Error>,
}

impl WriteJob {
    /// Bytes that it writes.
    pub fn bytes(&self) -> u64 {
        self.writes
            .iter()
            .map(|write| write.bytes.len() as u64)
            .sum()
    }

    /// Whether it ends with a sync.
    pub fn syncs(&self) -> bool {
        !self.syncs.is_empty()
    }

    /// Does it: one write per batch, then at most one sync per file. Stops at the first failure; a failed sync is not tried again.
    pub fn run(self) -> JobDone {
        let write = |write: &Write| write.file.write(&write.bytes, write.at);
        let sync = |file: &Arc<SegmentFile>| match file.sync() {
            Err(_) if planted::is(Plant::FailedSyncBelieved) => file.sync(),
            synced => synced,
        };
        let count = match () {
            () if planted::is(Plant::AckBeforeSync) => 0,
            () if planted::is(Plant::SyncOfWrongFile) => 1,
            () => self.syncs.len(),
        };
        let result = (self.writes.iter().try_for_each(write))
            .and_then(|()| self.syncs.iter().take(count).try_for_each(sync));
        JobDone { result }
    }
}
