//! A log written again into an empty directory, under an identity of its own: what a backup and a restore are.
//!
//! Every frame keeps its LSN and its place, so the checkpoint and everything that points into the log stay as they are. What changes is
//! the directory's id, and with it every seeded checksum, which is why every byte is verified on the way. A segment is as long as what
//! it holds: the next frame goes into a new one.

use std::io::ErrorKind;
use std::sync::Arc;

use super::checkpoint::{self, CHECKPOINT_DIR, Loaded};
use super::format::{self, BATCH_HEADER, BLOCK, BatchHeader, block_up};
use super::manifest::{
    self, CURRENT, CURRENT_TMP, CheckpointEntry, Manifest, SegmentEntry, write_atomically,
};
use super::scan::{Bounds, Seen, scan};
use super::segment::{self, LOG_DIR, SegmentFile};
use super::{EntryBytes, Lsn, SegmentId};
use crate::Error;
use crate::disk::{Disk, OpenMode};

/// What a copy of a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BackupReport {
    /// The last frame in it: everything that was confirmed as durable when the copy was begun.
    pub last: Lsn,
    /// Up to which frame its checkpoint holds the state; 0 if there is none.
    pub checkpoint: Lsn,
    /// Segments in it.
    pub segments: u64,
    /// Frames in it.
    pub frames: u64,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// A segment to copy.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: Arc<SegmentFile>,
    pub(super) base_lsn: u64,
    pub(super) prev_lsn: u64,
}

/// A log to copy.
#[derive(Debug)]
pub(super) struct Original {
    /// In order.
    pub(super) segments: Vec<Source>,
    /// The last frame to copy; it and all before it are durable.
    pub(super) upto: u64,
    pub(super) checkpoint: Option<(CheckpointEntry, Loaded)>,
    /// The LSN with which the original goes on.
    pub(super) next: u64,
}

impl Original {
    /// Writes it into the empty directory `target`; `CURRENT` comes last, so a copy that was cut short is none. `note` hears of bytes written.
    pub(super) fn copy(
        &self,
        target: &dyn Disk,
        note: &mut dyn FnMut(u64),
    ) -> Result<BackupReport, Error> {
        make_directories(target)?;
        let node = (target.entropy()).map_err(Error::io("reading", "random bytes"))?;
        let mut report = BackupReport {
            last: Lsn(self.upto),
            ..BackupReport::default()
        };
        let mut entries = Vec::new();
        let mut last = None;
        for source in &self.segments {
            // Its frames, if it has any, are not for this copy.
            if source.prev_lsn > self.upto {
                continue;
            }
            let (entry, end, frames) = self.segment(source, &node, target)?;
            report.frames += frames;
            report.bytes += entry.size;
            note(entry.size);
            entries.push(entry);
            last = Some((source, end));
        }
        if let Some((source, (at, end))) = last.filter(|(_, (_, end))| *end < self.upto) {
            return Err(lost(source.file.id, at, end + 1, self.upto));
        }
        let checkpoint = self.checkpoint(&node, target, &mut report)?;
        for directory in [LOG_DIR, CHECKPOINT_DIR] {
            (target.sync_dir(directory)).map_err(Error::io("syncing", directory))?;
        }
        report.segments = entries.len() as u64;
        let manifest = Manifest {
            node,
            clean: false,
            durable_lsn: self.upto,
            next_segment: entries.last().map_or(1, |entry| entry.id + 1),
            next_checkpoint: checkpoint.id + 1,
            checkpoint,
            previous: CheckpointEntry::default(),
            next_lsn: self.next.max(self.upto + 1),
            segments: entries,
        };
        let bytes = manifest.encode();
        report.bytes += bytes.len() as u64;
        // DURABILITY: everything that it names is on the disk.
        manifest::write_atomically(target, CURRENT_TMP, CURRENT, "", &[&bytes])?;
        Ok(report)
    }

    fn checkpoint(
        &self,
        node: &[u8; 16],
        target: &dyn Disk,
        report: &mut BackupReport,
    ) -> Result<CheckpointEntry, Error> {
        let Some((entry, loaded)) = &self.checkpoint else {
            return Ok(CheckpointEntry::default());
        };
        let bytes = loaded.encode_for(node, *entry);
        let name = checkpoint::path(entry.id);
        write_atomically(
            target,
            &format!("{name}.tmp"),
            &name,
            CHECKPOINT_DIR,
            &[&bytes],
        )?;
        report.checkpoint = Lsn(entry.lsn);
        report.bytes += bytes.len() as u64;
        Ok(*entry)
    }

    /// Copies one segment. Gives how it is listed, where it ends (byte and LSN), and its frames.
    fn segment(
        &self,
        source: &Source,
        node: &[u8; 16],
        target: &dyn Disk,
    ) -> Result<(SegmentEntry, (u64, u64), u64), Error> {
        let id = source.file.id.0;
        let name = segment::path(id);
        let mut entry = SegmentEntry {
            id,
            generation: 1,
            size: 2 * BLOCK,
            used: Some((source.base_lsn, source.prev_lsn)),
        };
        let opened = target.open(&name, OpenMode::CreateNew);
        let handle = opened.map_err(Error::io("creating", &name))?;
        let file = SegmentFile::new(node, &entry, Arc::clone(&handle));
        let bounds = Bounds {
            prev_lsn: source.prev_lsn,
            end: source.file.size,
            upto: self.upto,
        };
        let mut bytes = Vec::new();
        let scanned = scan(&source.file, bounds, &mut |seen| {
            encode(&mut bytes, seen, &source.file, &file, self.upto);
            match bytes.is_empty() {
                true => Ok(()),
                false => file.write(&bytes, seen.at),
            }
        })?;
        if let Some(gap) = scanned.gaps.first() {
            return Err(lost(source.file.id, gap.at, gap.first, gap.last));
        }
        entry.size = block_up(scanned.end).max(entry.size);
        let file = SegmentFile::new(node, &entry, handle);
        let padding = vec![0; (entry.size - scanned.end) as usize];
        if !padding.is_empty() {
            file.write(&padding, scanned.end)?;
        }
        file.write(&file.new_header(node, source.base_lsn, source.prev_lsn), 0)?;
        file.sync()?;
        Ok((entry, (scanned.end, scanned.last), scanned.frames))
    }
}

fn lost(segment: SegmentId, at: u64, first: u64, last: u64) -> Error {
    Error::Corrupt {
        segment,
        at,
        first: Lsn(first),
        last: Lsn(last),
        reason: "it was not copied".to_owned(),
    }
}

/// The same batch under the seed of `to`. Empty if nothing of it is good.
fn encode(bytes: &mut Vec<u8>, seen: &Seen<'_>, from: &SegmentFile, to: &SegmentFile, upto: u64) {
    bytes.clear();
    if seen.frames == 0 && seen.header.frames > 0 {
        return;
    }
    bytes.resize(BATCH_HEADER as usize, 0);
    for frame in seen.frames(from) {
        let parts: Vec<(u8, u8, [&[u8]; 1])> = frame
            .entries()
            .map(|entry| (entry.kind, entry.flags, [entry.body]))
            .collect();
        let entries: Vec<EntryBytes<'_>> = parts
            .iter()
            .map(|(kind, flags, body)| EntryBytes {
                kind: *kind,
                flags: *flags,
                body,
            })
            .collect();
        format::encode_frame(bytes, &entries, frame.lsn().0, to.key(), |_, _| {});
    }
    assert_eq!(
        bytes.len(),
        seen.bytes.len(),
        "another seed changes checksums, not lengths"
    );
    let header = BatchHeader {
        generation: to.generation,
        length: bytes.len() as u32,
        frames: seen.frames,
        synced_lsn: seen.header.synced_lsn.min(upto),
        ..seen.header
    };
    bytes[..BATCH_HEADER as usize].copy_from_slice(&header.encode(to.seed));
}

/// The directories of a new log, in one that is empty.
fn make_directories(target: &dyn Disk) -> Result<(), Error> {
    let path = target.describe();
    match target.list("") {
        Ok(names) if names.is_empty() => {}
        Ok(_) => {
            return Err(Error::Refused {
                reason: format!("{path} is not empty: name a directory that is new or empty"),
            });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            (target.mkdir("")).map_err(Error::io("creating", &path))?;
        }
        Err(error) => return Err(Error::io("listing", path)(error)),
    }
    for directory in [LOG_DIR, CHECKPOINT_DIR] {
        (target.mkdir(directory)).map_err(Error::io("creating", directory))?;
    }
    target.sync_dir("").map_err(Error::io("syncing", path))
}
