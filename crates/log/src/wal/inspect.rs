//! A directory that no process has open, read without changing anything in it.

use std::sync::Arc;

use bytes::Bytes;

use super::checkpoint;
use super::format::block_up;
use super::manifest::{CURRENT, Manifest, SegmentEntry};
use super::open::{LOCK, lock, look, read_all};
use super::read::ReadJob;
use super::recover::{self, Recovered, open_one};
use super::scan::{Bounds, scan};
use super::segment;
use super::transcribe::{BackupReport, Original, Source};
use super::walk::Found;
use super::{Cut, FrameRef, Location, Lsn, NoReplay, SegmentId, Visitor};
use crate::Error;
use crate::disk::{Disk, LockGuard, OpenMode};

/// A directory at rest. Nobody else opens it while this is there.
#[derive(Debug)]
pub(crate) struct Stopped {
    disk: Arc<dyn Disk>,
    manifest: Manifest,
    segments: Vec<(SegmentEntry, Result<Found, String>)>,
    _lock: Option<LockGuard>,
}

/// What an opening would have found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replayed {
    pub(crate) checkpoint: Lsn,
    pub(crate) last: Lsn,
    pub(crate) cut: Option<Cut>,
    /// The segment and the byte in which the log ends.
    pub(crate) end: Option<(SegmentId, u64)>,
}

/// Frames that should be there and are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) at: u64,
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
}

/// What one segment holds.
#[derive(Debug)]
pub(crate) struct SegmentScan {
    pub(crate) id: SegmentId,
    pub(crate) file: String,
    pub(crate) size: u64,
    pub(crate) prev: Lsn,
    pub(crate) last: Lsn,
    pub(crate) frames: u64,
    pub(crate) end: u64,
    pub(crate) gaps: Vec<Gap>,
    /// Why it cannot be read at all.
    pub(crate) unreadable: Option<String>,
}

impl Stopped {
    /// # Errors
    /// [`Error::Locked`], and as [`Wal::open`](super::Wal::open) where there is no log or its manifest is damaged.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Stopped, Error> {
        if look(&*disk)? != Some(true) {
            let reason = format!("{} holds no log", disk.describe());
            return Err(Error::Refused { reason });
        }
        // A directory without a lock file was never opened: nothing to hold, and nothing is to be made in it.
        let names = disk.list("").map_err(Error::io("listing", ""))?;
        let held = match names.iter().any(|name| name == LOCK) {
            false => None,
            true => match lock(&*disk) {
                Ok(guard) => Some(guard),
                // Who cannot write here cannot have it open.
                Err(Error::ReadOnly { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        let manifest = Manifest::decode(&read_all(&*disk, CURRENT)?)?;
        let open = |entry: &SegmentEntry| match open_one(&*disk, &manifest, entry, OpenMode::Read) {
            Ok(found) => Ok((*entry, Ok(found))),
            Err(Error::CorruptSegment { reason, .. }) => Ok((*entry, Err(reason))),
            Err(error) => Err(error),
        };
        let segments = manifest.segments.iter().map(open);
        let segments = segments.collect::<Result<Vec<_>, Error>>()?;
        Ok(Stopped {
            disk,
            manifest,
            segments,
            _lock: held,
        })
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.manifest.clean
    }

    /// The checkpoints that cannot be read: file and reason.
    pub(crate) fn damaged_checkpoints(&self) -> Result<Vec<(String, String)>, Error> {
        let mut damaged = Vec::new();
        for entry in [self.manifest.checkpoint, self.manifest.previous] {
            if entry.id == 0 {
                continue;
            }
            if let Err(reason) = checkpoint::load(&*self.disk, &self.manifest.node, entry)? {
                damaged.push((checkpoint::path(entry.id), reason));
            }
        }
        Ok(damaged)
    }

    /// Shows what an opening would show.
    ///
    /// # Errors
    /// What the opening would refuse with.
    pub(crate) fn replay(&self, visitor: &mut dyn Visitor) -> Result<Replayed, Error> {
        let recovered = self.recover(visitor)?;
        let segment = recovered.segments.get(recovered.end.index);
        Ok(Replayed {
            checkpoint: Lsn(recovered.checkpoint.lsn),
            last: Lsn(recovered.end.last),
            cut: recovered.cut().filter(|_| !self.manifest.clean),
            end: segment.map(|found| (found.file.id, recovered.end.at)),
        })
    }

    fn recover(&self, visitor: &mut dyn Visitor) -> Result<Recovered, Error> {
        recover::recover(&*self.disk, &self.manifest, OpenMode::Read, visitor)
    }

    /// Reads every segment, oldest first, also what an opening would not look at, and shows its frames. `end`: where the log ends, if that is
    /// known. `show` ends the reading with `false`.
    pub(crate) fn scan(
        &self,
        end: Option<(SegmentId, u64)>,
        show: &mut dyn FnMut(&FrameRef<'_>) -> Result<bool, Error>,
    ) -> Result<Vec<SegmentScan>, Error> {
        let mut scans = Vec::new();
        let mut goes_on = true;
        for (entry, found) in &self.segments {
            let past_end = end.is_some_and(|(last, _)| entry.id > last.0);
            if past_end || !goes_on {
                continue;
            }
            let limit = end.filter(|(last, _)| last.0 == entry.id);
            let limit = limit.map_or(u64::MAX, |(_, at)| block_up(at));
            scans.extend(scan_one(entry, found, limit, show, &mut goes_on)?);
        }
        Ok(scans)
    }

    /// The body of one entry, verified.
    ///
    /// # Errors
    /// As [`ReadJob::run`]; [`Error::UnknownSegment`].
    pub(crate) fn read(&self, location: Location) -> Result<Bytes, Error> {
        let segment = location.segment;
        let index = (self.segments).binary_search_by_key(&segment.0, |(entry, _)| entry.id);
        let found = index
            .ok()
            .and_then(|index| self.segments[index].1.as_ref().ok());
        let found = found.ok_or(Error::UnknownSegment { segment })?;
        ReadJob::new(Arc::clone(&found.file), location).run()
    }

    /// Copies it, as far as it is sound, into an empty directory.
    pub(crate) fn copy(
        &self,
        target: &dyn Disk,
        note: &mut dyn FnMut(u64),
    ) -> Result<BackupReport, Error> {
        let recovered = self.recover(&mut NoReplay)?;
        let entry = recovered.checkpoint;
        let checkpoint = match entry.id {
            0 => None,
            id => {
                let loaded = checkpoint::load(&*self.disk, &self.manifest.node, entry)?;
                let file = checkpoint::path(id);
                let loaded = loaded.map_err(|reason| Error::CorruptCheckpoint { file, reason })?;
                Some((entry, loaded))
            }
        };
        let original = Original {
            segments: sources(&recovered),
            upto: recovered.end.last,
            checkpoint,
            next: self.manifest.next_lsn,
        };
        original.copy(target, note)
    }
}

fn sources(recovered: &Recovered) -> Vec<Source> {
    let kept = recovered.segments.iter().take(recovered.end.index + 1);
    kept.filter_map(|found| {
        let (base_lsn, prev_lsn) = found.used?;
        Some(Source {
            file: Arc::clone(&found.file),
            base_lsn,
            prev_lsn,
        })
    })
    .collect()
}

fn scan_one(
    entry: &SegmentEntry,
    found: &Result<Found, String>,
    limit: u64,
    show: &mut dyn FnMut(&FrameRef<'_>) -> Result<bool, Error>,
    goes_on: &mut bool,
) -> Result<Option<SegmentScan>, Error> {
    let mut out = SegmentScan {
        id: SegmentId(entry.id),
        file: segment::path(entry.id),
        size: entry.size,
        prev: Lsn(0),
        last: Lsn(0),
        frames: 0,
        end: 0,
        gaps: Vec::new(),
        unreadable: None,
    };
    let found = match found {
        Ok(found) => found,
        Err(reason) => {
            out.unreadable = Some(reason.clone());
            return Ok(Some(out));
        }
    };
    let Some((_, prev_lsn)) = found.used else {
        return Ok(None);
    };
    let bounds = Bounds {
        prev_lsn,
        end: limit,
        upto: u64::MAX,
    };
    let scanned = scan(&found.file, bounds, &mut |seen| {
        for frame in seen.frames(&found.file) {
            *goes_on = *goes_on && show(&frame)?;
        }
        Ok(())
    })?;
    (out.prev, out.last) = (Lsn(prev_lsn), Lsn(scanned.last));
    (out.frames, out.end) = (scanned.frames, scanned.end);
    out.gaps = (scanned.gaps.iter())
        .map(|gap| Gap {
            at: gap.at,
            first: Lsn(gap.first),
            last: Lsn(gap.last),
        })
        .collect();
    Ok(Some(out))
}
