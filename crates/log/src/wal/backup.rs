//! A copy of a running log: taken at one call, made beside everything else.

use std::sync::Arc;

use super::checkpoint;
use super::manifest::CheckpointEntry;
use super::state::Wal;
use super::transcribe::{BackupReport, Original, Source};
use crate::Error;
use crate::disk::{Disk, DiskFile, OpenMode};

/// Copies a log as it was, as far as it was durable, when the job was made. Made by [`Wal::backup`].
///
/// It holds on to the files it needs: what the log frees meanwhile is not used again before the job is gone, so run it soon or drop it.
#[derive(Debug)]
#[must_use = "the files it holds on to are not used again until it is run or dropped"]
pub struct BackupJob {
    original: Original,
    node: [u8; 16],
    checkpoint: Option<(CheckpointEntry, Arc<dyn DiskFile>)>,
}

impl Wal {
    /// A copy of everything that is durable now. Opens one file and reads nothing; the work is [`BackupJob::run`], off the owner's lock.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`], [`Error::Io`] if the checkpoint cannot be opened.
    pub fn backup(&self) -> Result<BackupJob, Error> {
        self.check()?;
        let checkpoint = match self.checkpoint_id {
            0 => None,
            id => {
                let name = checkpoint::path(id);
                // A newer one may be on its way; this one stays until that one is followed by another.
                let file = self.disk.open(&name, OpenMode::Read);
                let lsn = self.checkpoint_lsn;
                let entry = CheckpointEntry { id, lsn };
                Some((entry, file.map_err(Error::io("opening", name))?))
            }
        };
        let segments = self.segments.values().map(|segment| Source {
            file: Arc::clone(&segment.file),
            base_lsn: segment.base_lsn,
            prev_lsn: segment.prev_lsn,
        });
        Ok(BackupJob {
            original: Original {
                segments: segments.collect(),
                upto: self.durable,
                checkpoint: None,
                next: self.next,
            },
            node: self.node,
            checkpoint,
        })
    }
}

impl BackupJob {
    /// Copies into `target`, which must be empty or not there. When this returns, the copy is durable; it opens like any log, and has an
    /// id of its own. Cut short it leaves a directory without `CURRENT`, which no log opens: remove it and begin again.
    ///
    /// Reads and writes every byte of the log once, and verifies it. `note` is called with the bytes of each finished file.
    ///
    /// # Errors
    /// [`Error::Refused`] if `target` holds something; [`Error::Corrupt`] or [`Error::CorruptCheckpoint`] if the log is damaged;
    /// [`Error::Io`].
    pub fn run(
        mut self,
        target: &dyn Disk,
        note: &mut dyn FnMut(u64),
    ) -> Result<BackupReport, Error> {
        if let Some((entry, file)) = &self.checkpoint {
            let name = checkpoint::path(entry.id);
            let loaded = checkpoint::load_file(&**file, &self.node, *entry, &name)?;
            let loaded =
                loaded.map_err(|reason| Error::CorruptCheckpoint { file: name, reason })?;
            self.original.checkpoint = Some((*entry, loaded));
        }
        self.original.copy(target, note)
    }
}
