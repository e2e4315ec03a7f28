//! `CURRENT`: the root of the directory, replaced as a whole.
//!
//! ```text
//! | magic 8 | version 2 | flags 2 | length 4 | node 16 | durable 8 | next segment 8 | next checkpoint 8 |
//! | checkpoint id 8, lsn 8 | previous id 8, lsn 8 | next lsn 8 | key 4 | n 4 | n × (id 8, generation 4, state 4, size 8, base 8, prev 8) | crc 4 |
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crc32c::crc32c;
use parking_lot::Mutex;

use super::format::{Unreadable, VERSION, u16_at, u32_at, u64_at};
use crate::Error;
use crate::disk::{Disk, OpenMode};
use crate::planted::{self, Plant};

pub(crate) const CURRENT: &str = "CURRENT";
pub(crate) const CURRENT_TMP: &str = "CURRENT.tmp";
pub(crate) const MAGIC: [u8; 8] = *b"PRCURRNT";
const HEAD: usize = 104;
const ENTRY: usize = 40;
const CLEAN: u16 = 1;

/// A checkpoint's id and the LSN up to which it holds the state; id 0 = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CheckpointEntry {
    pub(crate) id: u64,
    pub(crate) lsn: u64,
}

/// A listed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) id: u64,
    pub(crate) generation: u32,
    pub(crate) size: u64,
    /// Base and previous LSN, if it was in use when this was written.
    pub(crate) used: Option<(u64, u64)>,
}

/// The content of `CURRENT`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Manifest {
    pub(crate) node: [u8; 16],
    pub(crate) clean: bool,
    pub(crate) durable_lsn: u64,
    pub(crate) next_segment: u64,
    pub(crate) next_checkpoint: u64,
    pub(crate) checkpoint: CheckpointEntry,
    pub(crate) previous: CheckpointEntry,
    /// The LSN with which the current opening began; none before it is larger.
    pub(crate) next_lsn: u64,
    pub(crate) segments: Vec<SegmentEntry>,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let length = HEAD + self.segments.len() * ENTRY + 4;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(if self.clean { CLEAN } else { 0 }).to_le_bytes());
        bytes.extend_from_slice(
            &u32::try_from(length)
                .expect("a manifest has far fewer segments")
                .to_le_bytes(),
        );
        bytes.extend_from_slice(&self.node);
        let numbers = [self.durable_lsn, self.next_segment, self.next_checkpoint];
        let checkpoints = [
            self.checkpoint.id,
            self.checkpoint.lsn,
            self.previous.id,
            self.previous.lsn,
        ];
        numbers
            .iter()
            .chain(&checkpoints)
            .for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(&self.next_lsn.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for segment in &self.segments {
            let (base, prev) = segment.used.unwrap_or_default();
            bytes.extend_from_slice(&segment.id.to_le_bytes());
            bytes.extend_from_slice(&segment.generation.to_le_bytes());
            bytes.extend_from_slice(&u32::from(segment.used.is_some()).to_le_bytes());
            [segment.size, base, prev]
                .iter()
                .for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        }
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        assert_eq!(
            bytes.len(),
            length,
            "the length was computed from the same list"
        );
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, Error> {
        let corrupt = |reason: &str| {
            Err(Error::CorruptManifest {
                reason: reason.to_owned(),
            })
        };
        if bytes.len() < 12 || bytes[..8] != MAGIC {
            return corrupt("it does not start as a manifest does");
        }
        let version = u16_at(bytes, 8);
        if version > VERSION {
            return Err(Unreadable::Version(version).into_error(CURRENT.to_owned()));
        }
        if bytes.len() < HEAD + 4 || u32_at(bytes, 12) as usize != bytes.len() {
            return corrupt("its length is wrong");
        }
        let (content, crc) = bytes.split_at(bytes.len() - 4);
        if crc32c(content) != u32_at(crc, 0) {
            return corrupt("its checksum is wrong");
        }
        let flags = u16_at(bytes, 10);
        if flags & !CLEAN != 0 || u32_at(bytes, 96) != 0 {
            return Err(Unreadable::Reserved("manifest flags or encryption key")
                .into_error(CURRENT.to_owned()));
        }
        let entries = &content[HEAD..];
        if entries.len() != (u32_at(bytes, 100) as usize).saturating_mul(ENTRY) {
            return corrupt("its list of segments has the wrong length");
        }
        let segments = entries
            .chunks_exact(ENTRY)
            .map(SegmentEntry::decode)
            .collect::<Result<Vec<_>, _>>()?;
        if version != VERSION || !segments.is_sorted_by(|a, b| a.id < b.id) {
            return corrupt("its version or its list of segments is impossible");
        }
        Ok(Manifest {
            node: bytes[16..32].try_into().expect("sixteen bytes"),
            clean: flags & CLEAN != 0,
            durable_lsn: u64_at(bytes, 32),
            next_segment: u64_at(bytes, 40),
            next_checkpoint: u64_at(bytes, 48),
            checkpoint: CheckpointEntry {
                id: u64_at(bytes, 56),
                lsn: u64_at(bytes, 64),
            },
            previous: CheckpointEntry {
                id: u64_at(bytes, 72),
                lsn: u64_at(bytes, 80),
            },
            next_lsn: u64_at(bytes, 88),
            segments,
        })
    }

    /// Lists a segment, or changes how it is listed.
    pub(crate) fn list(&mut self, entry: SegmentEntry) {
        self.next_segment = self.next_segment.max(entry.id.saturating_add(1));
        match self
            .segments
            .binary_search_by_key(&entry.id, |segment| segment.id)
        {
            Ok(at) => self.segments[at] = entry,
            Err(at) => self.segments.insert(at, entry),
        }
    }
}

impl SegmentEntry {
    fn decode(bytes: &[u8]) -> Result<SegmentEntry, Error> {
        let used = match u32_at(bytes, 12) {
            0 => None,
            1 => Some((u64_at(bytes, 24), u64_at(bytes, 32))),
            _ => return Err(Unreadable::Reserved("segment state").into_error(CURRENT.to_owned())),
        };
        Ok(SegmentEntry {
            id: u64_at(bytes, 0),
            generation: u32_at(bytes, 8),
            size: u64_at(bytes, 16),
            used,
        })
    }
}

/// The manifest as it is on disk, and the only way to change it.
///
/// Shared by the log and its background jobs. A change is made to the state at the time of the write, so two jobs never undo each other.
#[derive(Debug)]
pub(crate) struct ManifestStore {
    disk: Arc<dyn Disk>,
    manifest: Mutex<Manifest>,
    durable: AtomicU64,
    /// Segments whose header became durable since the last write; a lock of its own, since that one is held over a write.
    noted: Mutex<Vec<SegmentEntry>>,
}

impl ManifestStore {
    pub(crate) fn new(disk: Arc<dyn Disk>, manifest: Manifest) -> ManifestStore {
        let durable = AtomicU64::new(manifest.durable_lsn);
        ManifestStore {
            disk,
            manifest: Mutex::new(manifest),
            durable,
            noted: Mutex::default(),
        }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(crate) fn set_durable(&self, lsn: u64) {
        self.durable.store(lsn, Ordering::Release);
    }

    /// The next write lists this segment as used: its header is durable.
    pub(crate) fn note_used(&self, entry: SegmentEntry) {
        self.noted.lock().push(entry);
    }

    pub(crate) fn get(&self) -> Manifest {
        self.manifest.lock().clone()
    }

    /// Changes the manifest durably. After an error the file holds the old or the new state.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Manifest)) -> Result<(), Error> {
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        next.durable_lsn = self.durable();
        let noted = self.noted.lock().clone();
        for entry in &noted {
            if let Some(listed) = next
                .segments
                .iter_mut()
                .find(|listed| listed.id == entry.id)
            {
                *listed = *entry;
            }
        }
        change(&mut next);
        write_atomically(&*self.disk, CURRENT_TMP, CURRENT, "", &[&next.encode()])?;
        *manifest = next;
        self.noted.lock().retain(|entry| !noted.contains(entry));
        Ok(())
    }
}

/// Writes a whole file so that after a crash it is the old one or the new one: tmp, fsync, rename, fsync of the directory.
pub(crate) fn write_atomically(
    disk: &dyn Disk,
    tmp: &str,
    name: &str,
    directory: &str,
    parts: &[&[u8]],
) -> Result<(), Error> {
    match disk.unlink(tmp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("removing", tmp)(error));
        }
        _ => {}
    }
    let written = write_new(disk, tmp, parts);
    if written.is_err() {
        let _ = disk.unlink(tmp);
        return written;
    }
    disk.rename(tmp, name).map_err(Error::io("renaming", tmp))?;
    if planted::is(Plant::RenameNotSynced) {
        return Ok(());
    }
    disk.sync_dir(directory)
        .map_err(Error::io("syncing the directory of", name))
}

fn write_new(disk: &dyn Disk, name: &str, parts: &[&[u8]]) -> Result<(), Error> {
    let file = disk
        .open(name, OpenMode::CreateNew)
        .map_err(Error::io("creating", name))?;
    let mut at = 0;
    for part in parts {
        file.write_at(part, at)
            .map_err(Error::io("writing", name))?;
        at += part.len() as u64;
    }
    if planted::is(Plant::TmpFileNotSynced) {
        return Ok(());
    }
    file.sync_data().map_err(Error::io("syncing", name))
}
