//! Reading everything, and saying what is wrong with it.

use std::sync::Arc;

use crate::batch::Block;
use crate::checkpoint::Loader;
use crate::disk::Disk;
use crate::entry::{DATA_HEAD, Entry, kind};
use crate::wal::{Cut, Location, Lsn, SegmentId, Stopped};
use crate::{Error, Now};

/// Places of damage that are reported one by one.
const DAMAGE_MAX: usize = 1_000;

/// What [`verify`](super::verify) found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The log was closed in order.
    pub clean: bool,
    /// Why an opening would refuse the directory; `None`: it would not.
    pub refused: Option<String>,
    /// The last frame of the log.
    pub last: Lsn,
    /// Up to which frame the checkpoint that an opening would start from holds the state.
    pub checkpoint: Lsn,
    /// What an opening would cut off as torn: it was never confirmed, and is no damage.
    pub cut: Option<Cut>,
    /// The segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Frames read.
    pub frames: u64,
    /// Entries read.
    pub entries: u64,
    /// Bytes of the log that were read.
    pub bytes: u64,
    /// Messages, failure records and causes still needed, which were read back one by one: as many entries.
    pub live: u64,
    /// What is damaged, the first 1,000 places.
    pub damage: Vec<Damage>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentReport {
    /// Its number.
    pub id: SegmentId,
    /// Its file, relative to the directory.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of it that hold something.
    pub used: u64,
    /// No frame in it has an LSN up to this one.
    pub after: Lsn,
    /// Its last frame.
    pub last: Lsn,
    /// Its frames.
    pub frames: u64,
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file, relative to the directory.
    pub file: String,
    /// The byte in it; 0 where the whole file is meant.
    pub at: u64,
    /// The first frame that is lost by it; 0 where that is not known.
    pub first: Lsn,
    /// The last frame that is lost by it.
    pub last: Lsn,
    /// What is wrong.
    pub what: String,
}

impl VerifyReport {
    /// Whether everything is there and whole.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.refused.is_none() && self.damage.is_empty()
    }

    pub(super) fn require_sound(&self, path: &str) -> Result<(), Error> {
        let what = match (&self.refused, self.damage.first()) {
            (None, None) => return Ok(()),
            (Some(refused), _) => refused.clone(),
            (None, Some(damage)) => {
                format!("{} at byte {}: {}", damage.file, damage.at, damage.what)
            }
        };
        Err(Error::Refused {
            reason: format!("{path} is damaged, so it was not used: {what}"),
        })
    }

    fn damaged(&mut self, file: &str, at: u64, what: impl Into<String>) {
        self.damaged_frames(file, at, (Lsn(0), Lsn(0)), what);
    }

    fn damaged_frames(
        &mut self,
        file: &str,
        at: u64,
        (first, last): (Lsn, Lsn),
        what: impl Into<String>,
    ) {
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(Damage {
                file: file.to_owned(),
                at,
                first,
                last,
                what: what.into(),
            });
        }
    }
}

pub(super) fn verify(disk: Arc<dyn Disk>) -> Result<VerifyReport, Error> {
    let log = Stopped::open(disk)?;
    let mut report = VerifyReport {
        clean: log.is_clean(),
        ..VerifyReport::default()
    };
    for (file, reason) in log.damaged_checkpoints()? {
        report.damaged(&file, 0, reason);
    }
    let mut loader = Loader::new(Now::from_millis(0, 0));
    let mut end = None;
    let replayed = log
        .replay(&mut loader)
        .and_then(|replayed| Ok((replayed, loader.finish()?)));
    let state = match replayed {
        Ok((replayed, state)) => {
            report.last = replayed.last;
            report.checkpoint = replayed.checkpoint;
            report.cut = replayed.cut;
            end = replayed.end;
            Some(state)
        }
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(error) => {
            report.refused = Some(error.to_string());
            None
        }
    };
    scan(&log, end, &mut report)?;
    if let Some(state) = state {
        let mut live: Vec<(u8, Location)> = state.live().collect();
        live.sort_unstable_by_key(|(kind, at)| (at.segment, at.at, *kind));
        live.dedup();
        for (kind, at) in live {
            report.live += 1;
            if let Err(error) = log.read(at).and_then(|body| check(kind, body)) {
                let file = format!("log/{:016x}.wal", at.segment.0);
                report.damaged(&file, u64::from(at.at), error.to_string());
            }
        }
    }
    Ok(report)
}

fn scan(
    log: &Stopped,
    end: Option<(SegmentId, u64)>,
    report: &mut VerifyReport,
) -> Result<(), Error> {
    let mut wrong = Vec::new();
    let mut entries = 0;
    let scans = log.scan(end, &mut |frame| {
        for raw in frame.entries() {
            entries += 1;
            if let Err(error) = Entry::decode(raw.kind, raw.flags, raw.body) {
                wrong.push((raw.location, frame.lsn(), error.to_string()));
            }
        }
        Ok(true)
    })?;
    report.entries = entries;
    for (at, lsn, what) in wrong {
        let file = format!("log/{:016x}.wal", at.segment.0);
        report.damaged_frames(&file, u64::from(at.at), (lsn, lsn), what);
    }
    for one in scans {
        if let Some(reason) = &one.unreadable {
            report.damaged(&one.file, 0, reason.clone());
            continue;
        }
        for gap in &one.gaps {
            report.damaged_frames(
                &one.file,
                gap.at,
                (gap.first, gap.last),
                "frames cannot be read",
            );
        }
        report.frames += one.frames;
        report.bytes += one.end;
        report.last = report.last.max(one.last);
        report.segments.push(SegmentReport {
            id: one.id,
            file: one.file,
            bytes: one.size,
            used: one.end,
            after: one.prev,
            last: one.last,
            frames: one.frames,
        });
    }
    Ok(())
}

/// Whether the body of an entry that is needed is what it should be.
fn check(kind: u8, body: bytes::Bytes) -> Result<(), Error> {
    let block_at = match kind {
        kind::DATA => DATA_HEAD,
        _ => match Entry::decode(kind, 0, &body)? {
            Some(Entry::Failure { block, .. }) => body.len() - block.len(),
            _ => return Ok(()),
        },
    };
    Block::verify(body, block_at).map(drop)
}
