//! Reading entries back, each with its checksum verified.

use std::sync::Arc;

use bytes::Bytes;

use super::Location;
use super::format::{self, ENTRY_HEADER};
use super::segment::SegmentFile;
use super::state::Wal;
use super::write::{Batch, Planned};
use crate::Error;

/// Bodies up to this length are copied out of a batch; larger ones are shared with it.
const COPY_MAX: usize = 4096;

/// Where an entry's body can be had.
#[derive(Debug)]
pub enum ReadSource {
    /// Here: it is still in memory.
    Bytes(Bytes),
    /// On the disk.
    File(ReadJob),
}

/// Reads one entry from the disk, off the owner's lock. Stays good when the segment is freed meanwhile.
#[derive(Debug)]
pub struct ReadJob {
    file: Arc<SegmentFile>,
    location: Location,
}

impl ReadJob {
    pub(super) fn new(file: Arc<SegmentFile>, location: Location) -> ReadJob {
        ReadJob { file, location }
    }

    /// Reads the body and verifies its checksum. Blocks for the disk.
    ///
    /// # Errors
    /// [`Error::CorruptEntry`] if the bytes are not what was appended, [`Error::Io`] if the disk says so.
    pub fn run(&self) -> Result<Bytes, Error> {
        let Location { segment, at, len } = self.location;
        let corrupt = Error::CorruptEntry { segment, at, len };
        let Some(start) = u64::from(at).checked_sub(ENTRY_HEADER) else {
            return Err(corrupt);
        };
        if u64::from(at) + u64::from(len) > self.file.size {
            return Err(corrupt);
        }
        let mut entry = vec![0; ENTRY_HEADER as usize + len as usize];
        let count = self
            .file
            .file
            .read_at(&mut entry, start)
            .map_err(Error::io("reading", self.file.path()))?;
        entry.truncate(count);
        if !format::entry_is_valid(&entry, len, self.file.seed) {
            return Err(corrupt);
        }
        Ok(Bytes::from(entry).slice(ENTRY_HEADER as usize..))
    }
}

impl Wal {
    /// The body of one entry, wherever it is: staged, being written, in the tail, or on the disk. May block for the disk; use
    /// [`locate`](Self::locate) to read off the owner's lock.
    ///
    /// # Errors
    /// As [`locate`](Self::locate) and [`ReadJob::run`].
    pub fn read(&self, location: Location) -> Result<Bytes, Error> {
        match self.locate(location)? {
            ReadSource::Bytes(bytes) => Ok(bytes),
            ReadSource::File(job) => job.run(),
        }
    }

    /// Where the body of one entry can be had, without touching the disk. `location` must have come from this log.
    ///
    /// # Errors
    /// [`Error::UnknownSegment`] if the segment was freed, [`Error::CorruptEntry`] if no entry of this log can be there.
    pub fn locate(&self, location: Location) -> Result<ReadSource, Error> {
        let Location { segment, at, len } = location;
        let known = self
            .segments
            .get(&segment)
            .ok_or(Error::UnknownSegment { segment })?;
        let key = (segment, u64::from(at));
        let after = self
            .recent
            .partition_point(|batch| (batch.segment, batch.at) <= key);
        if let Some(batch) = after.checked_sub(1).and_then(|at| self.recent.get(at))
            && batch.segment == segment
            && let Some(body) = slice(&batch.bytes, batch.at, location)
        {
            return Ok(ReadSource::Bytes(share(&batch.bytes, body)));
        }
        let planned = self.planned.iter().filter_map(|planned| match planned {
            Planned::Batch(batch) => Some(batch),
            Planned::Header { .. } => None,
        });
        let holds = |batch: &&Batch| batch.file.id == segment && batch.at <= key.1;
        if let Some(batch) = planned.chain(&self.open).rfind(holds)
            && let Some(body) = slice(&batch.bytes, batch.at, location)
        {
            return Ok(ReadSource::Bytes(Bytes::copy_from_slice(
                &batch.bytes[body],
            )));
        }
        if u64::from(at) + u64::from(len) > known.file.size {
            return Err(Error::CorruptEntry { segment, at, len });
        }
        Ok(ReadSource::File(ReadJob {
            file: Arc::clone(&known.file),
            location,
        }))
    }
}

/// The range of `location` in a batch of `bytes` at `at`, if it lies in it.
fn slice(bytes: &[u8], at: u64, location: Location) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(u64::from(location.at).checked_sub(at)?).ok()?;
    let end = start.checked_add(location.len as usize)?;
    (end <= bytes.len()).then_some(start..end)
}

fn share(batch: &Arc<Vec<u8>>, body: std::ops::Range<usize>) -> Bytes {
    struct Shared(Arc<Vec<u8>>);
    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    if body.len() <= COPY_MAX {
        return Bytes::copy_from_slice(&batch[body]);
    }
    Bytes::from_owner(Shared(Arc::clone(batch))).slice(body)
}
