//! What a directory holds, and how its end is mended (Recovery in `docs/formats/log.md`). Nothing here writes before it is decided that the log is
//! sound.

use std::sync::Arc;

use super::checkpoint::{self, Loaded};
use super::format::{BLOCK, FRAME_MIN, block_up};
use super::manifest::{CheckpointEntry, Manifest, SegmentEntry};
use super::segment::{self, LOG_DIR, SegmentFile};
use super::walk::{Beyond, End, Found, Walk, search_beyond};
use super::{Lsn, Visitor};
use crate::Error;
use crate::disk::{Disk, OpenMode};
use crate::planted::{self, Plant};

/// A log that was read and found sound.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Vec<Found>,
    pub(super) end: End,
    pub(super) beyond: Beyond,
    /// The checkpoint that was replayed.
    pub(super) checkpoint: CheckpointEntry,
    pub(super) fell_back: bool,
    /// Unlisted files of `log/`: of known use, and others.
    pub(super) unlisted: Vec<SegmentEntry>,
    pub(super) rubbish: Vec<u64>,
    pub(super) next_segment: u64,
}

/// Reads the log that `manifest` describes and shows it to the visitor.
pub(super) fn recover(
    disk: &dyn Disk,
    manifest: &Manifest,
    mode: OpenMode,
    visitor: &mut dyn Visitor,
) -> Result<Recovered, Error> {
    let segments = open_listed(disk, manifest, mode)?;
    let (unlisted, rubbish, next_segment) = look_at_unlisted(disk, manifest)?;
    let mut recovered = Recovered {
        segments,
        end: End {
            at: BLOCK,
            last: manifest.durable_lsn,
            ..End::default()
        },
        beyond: Beyond::default(),
        checkpoint: CheckpointEntry::default(),
        fell_back: false,
        unlisted,
        rubbish,
        next_segment,
    };
    let fallen_from = replay_checkpoint(disk, manifest, &mut recovered, visitor)?;
    if manifest.segments.is_empty() {
        // Cut short right after it was made.
        return match manifest.durable_lsn {
            0 => Ok(recovered),
            _ => Err(Error::CorruptManifest {
                reason: "it lists no segment of a log that had some".to_owned(),
            }),
        };
    }
    let walked = walk(manifest, &mut recovered, visitor);
    match (walked, fallen_from) {
        (Ok(()), _) => Ok(recovered),
        // The log was whole from the damaged checkpoint on; what is missing is before it.
        (Err(Error::Corrupt { .. } | Error::CorruptSegment { .. }), Some((file, reason))) => {
            Err(Error::CorruptCheckpoint { file, reason })
        }
        (Err(error), _) => Err(error),
    }
}

fn open_listed(disk: &dyn Disk, manifest: &Manifest, mode: OpenMode) -> Result<Vec<Found>, Error> {
    manifest
        .segments
        .iter()
        .map(|entry| open_one(disk, manifest, entry, mode))
        .collect()
}

pub(super) fn open_one(
    disk: &dyn Disk,
    manifest: &Manifest,
    entry: &SegmentEntry,
    mode: OpenMode,
) -> Result<Found, Error> {
    let name = segment::path(entry.id);
    let corrupt = |reason: String| Error::CorruptSegment {
        file: name.clone(),
        reason,
    };
    let file = match disk.open(&name, mode) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(corrupt("it is missing".to_owned()));
        }
        opened => opened.map_err(Error::io("opening", &name))?,
    };
    let len = file.len().map_err(Error::io("reading", &name))?;
    if len != entry.size
        || !entry.size.is_multiple_of(BLOCK)
        || entry.size < 2 * BLOCK
        || entry.size > 4 << 30
    {
        return Err(corrupt(format!(
            "it has {len} bytes, CURRENT says {}",
            entry.size
        )));
    }
    let file = SegmentFile::new(&manifest.node, entry, file);
    let header = file
        .header(&manifest.node)?
        .map(|header| (header.base_lsn, header.prev_lsn));
    if entry.used.is_some() && entry.used != header {
        return Err(corrupt("its header is damaged".to_owned()));
    }
    Ok(Found { file, used: header })
}

/// Sorts out the files of `log/` that are not listed: of a known use, rubbish, and the next free id.
fn look_at_unlisted(
    disk: &dyn Disk,
    manifest: &Manifest,
) -> Result<(Vec<SegmentEntry>, Vec<u64>, u64), Error> {
    let (mut unlisted, mut rubbish) = (Vec::new(), Vec::new());
    let mut next = manifest.next_segment.max(1);
    for name in disk.list(LOG_DIR).map_err(Error::io("listing", LOG_DIR))? {
        let Some(id) = segment::parse_name(&name) else {
            continue;
        };
        next = next.max(id.saturating_add(1));
        if manifest.segments.iter().any(|entry| entry.id == id) {
            continue;
        }
        let file = disk
            .open(&segment::path(id), OpenMode::Read)
            .map_err(Error::io("opening", segment::path(id)))?;
        let size = file
            .len()
            .map_err(Error::io("reading", segment::path(id)))?;
        match segment::read_header(&*file, id)? {
            Some(header)
                if header.id == id
                    && id >= manifest.next_segment
                    && header.node == manifest.node =>
            {
                let reason = format!(
                    "it is older than the log: {} was used after it was written",
                    segment::path(id)
                );
                return Err(Error::CorruptManifest { reason });
            }
            Some(header) if header.size == size && header.id <= id => {
                unlisted.push(SegmentEntry {
                    id,
                    generation: header.generation,
                    size,
                    used: None,
                });
            }
            _ => rubbish.push(id),
        }
    }
    Ok((unlisted, rubbish, next))
}

/// Shows the newest checkpoint that can be read. Returns the file and the damage of the one that could not.
fn replay_checkpoint(
    disk: &dyn Disk,
    manifest: &Manifest,
    recovered: &mut Recovered,
    visitor: &mut dyn Visitor,
) -> Result<Option<(String, String)>, Error> {
    if manifest.checkpoint.id == 0 {
        return Ok(None);
    }
    let reason = match checkpoint::load(disk, &manifest.node, manifest.checkpoint)? {
        Ok(loaded) => {
            recovered.checkpoint = manifest.checkpoint;
            return show(&loaded, visitor).map(|()| None);
        }
        Err(reason) => reason,
    };
    let file = checkpoint::path(manifest.checkpoint.id);
    let older = match manifest.previous.id {
        0 => None,
        _ => checkpoint::load(disk, &manifest.node, manifest.previous)?.ok(),
    };
    let from = if older.is_some() {
        manifest.previous
    } else {
        CheckpointEntry::default()
    };
    let reaches = |found: &Found| found.used.is_some_and(|(_, prev)| prev <= from.lsn);
    if !recovered.segments.iter().any(reaches) {
        return Err(Error::CorruptCheckpoint { file, reason });
    }
    recovered.checkpoint = from;
    recovered.fell_back = true;
    if let Some(loaded) = &older {
        show(loaded, visitor)?;
    }
    Ok(Some((file, reason)))
}

fn show(loaded: &Loaded, visitor: &mut dyn Visitor) -> Result<(), Error> {
    loaded
        .sections()
        .try_for_each(|(name, body)| visitor.checkpoint(name, body))
}

/// Walks the log and decides whether what follows its end is a torn tail or corruption.
fn walk(
    manifest: &Manifest,
    recovered: &mut Recovered,
    visitor: &mut dyn Visitor,
) -> Result<(), Error> {
    let from = recovered.checkpoint.lsn;
    let starts = |found: &Found| found.used.is_some_and(|(_, prev)| prev <= from);
    let proven = manifest.durable_lsn.max(manifest.checkpoint.lsn);
    let Some(start) = recovered.segments.iter().rposition(starts) else {
        return match recovered.segments.iter().all(|found| found.used.is_none()) && proven == 0 {
            // No segment was ever used: the first one's header did not reach the disk, and nothing was confirmed.
            true => settle_unused(recovered),
            false => Err(Error::CorruptSegment {
                file: segment::path(manifest.segments[0].id),
                reason: format!("no segment holds what follows {}", Lsn(from)),
            }),
        };
    };
    let end = Walk::run(&recovered.segments, start, from, visitor)?;
    let clean = manifest.clean && end.last == manifest.durable_lsn;
    if !clean {
        recovered.beyond = search_beyond(&recovered.segments, &end)?;
    }
    let proven = proven.max(recovered.beyond.synced);
    if proven > end.last {
        return Err(corrupt(
            recovered,
            &end,
            proven,
            "a frame is damaged or missing",
        ));
    }
    if manifest.clean && !clean {
        return Err(corrupt(
            recovered,
            &end,
            end.last,
            "it goes on after the end that CURRENT says it was closed at",
        ));
    }
    recovered.end = end;
    Ok(())
}

fn settle_unused(recovered: &mut Recovered) -> Result<(), Error> {
    let end = End {
        at: BLOCK,
        ..End::default()
    };
    recovered.beyond = search_beyond(&recovered.segments, &end)?;
    if recovered.beyond.synced > 0 {
        return Err(corrupt(
            recovered,
            &end,
            recovered.beyond.synced,
            "the segment's header is damaged",
        ));
    }
    recovered.end = end;
    Ok(())
}

fn corrupt(recovered: &Recovered, end: &End, proven: u64, reason: &str) -> Error {
    Error::Corrupt {
        segment: recovered.segments[end.index].file.id,
        at: end.at,
        first: Lsn(end.last.saturating_add(1)),
        last: Lsn(proven),
        reason: reason.to_owned(),
    }
}

impl Recovered {
    /// Mends the end (steps 4 and 5): cuts the torn tail, writes again what may be in the page cache only, and makes all of it durable.
    pub(super) fn mend(&self, node: &[u8; 16]) -> Result<(), Error> {
        let Some(found) = self.segments.get(self.end.index) else {
            return Ok(());
        };
        let file = &found.file;
        let zero = |from, to| {
            segment::zero(&*file.file, from, to).map_err(Error::io("writing", file.path()))
        };
        if self.end.at < file.size {
            zero(self.end.at, block_up(self.end.at + 1))?;
        }
        self.beyond
            .headers
            .iter()
            .try_for_each(|at| zero(*at, at + BLOCK))?;
        if planted::is(Plant::PageCacheBelieved) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for batch in &self.end.unproven {
            let file = &self.segments[batch.index].file;
            bytes.resize(
                usize::try_from(batch.len).expect("a batch fits into memory"),
                0,
            );
            let count = file
                .file
                .read_at(&mut bytes, batch.at)
                .map_err(Error::io("reading", file.path()))?;
            bytes.truncate(count);
            file.write(&bytes, batch.at)?;
        }
        for index in self.end.start..=self.end.index {
            let Found { file, used } = &self.segments[index];
            if let Some((base_lsn, prev_lsn)) = *used {
                // The header may be no more durable than the batches.
                file.write(&file.new_header(node, base_lsn, prev_lsn), 0)?;
                file.sync()?;
            }
        }
        Ok(())
    }

    /// The next LSN after an unclean stop: larger than any that could have been given out and lost.
    pub(super) fn next_after_crash(&self, manifest: &Manifest) -> u64 {
        if planted::is(Plant::LsnReused) {
            return self.end.last + 1;
        }
        let lost: u64 = self
            .segments
            .iter()
            .skip(self.end.index)
            .map(|found| found.file.size / FRAME_MIN)
            .sum();
        self.end
            .last
            .max(manifest.next_lsn.saturating_sub(1))
            .saturating_add(lost + 1)
    }

    /// Segments behind the end, and ones that were never used: none of their content counts.
    pub(super) fn dropped(&self) -> impl Iterator<Item = &Arc<SegmentFile>> {
        let dropped =
            |(index, found): &(usize, &Found)| *index > self.end.index || found.used.is_none();
        self.segments
            .iter()
            .enumerate()
            .filter(dropped)
            .map(|(_, found)| &found.file)
    }
}

impl Recovered {
    /// The segment after the end that was prepared and never used.
    pub(super) fn ready_spare(&self) -> Option<Arc<SegmentFile>> {
        let found = self
            .segments
            .get(self.end.index + 1..)?
            .iter()
            .find(|found| found.used.is_none())?;
        Some(Arc::clone(&found.file))
    }

    /// What mending cuts off, if anything was there.
    pub(super) fn cut(&self) -> Option<super::Cut> {
        let behind = self
            .segments
            .iter()
            .skip(self.end.index + 1)
            .filter(|found| found.used.is_some());
        let (batches, segments) = (self.beyond.headers.len() as u64, behind.count() as u64);
        let inside = !self.end.at.is_multiple_of(BLOCK);
        let segment = self.segments.get(self.end.index)?.file.id;
        let any = batches > 0 || segments > 0 || inside;
        any.then_some(super::Cut {
            segment,
            at: self.end.at,
            batches,
            segments,
        })
    }
}
