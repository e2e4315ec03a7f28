//! Checkpoints: the state up to an LSN, so that the log before it need not be replayed.
//!
//! ```text
//! | magic 8 | version 2 | flags 2 | n 4 | node 16 | id 8 | lsn 8 | length 8 | key 4 | crc 4 |
//! n × | name length 2 | 0 2 | 0 4 | body length 8 | name | body | crc 4 |
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};

use super::Lsn;
use super::format::{Unreadable, VERSION, u16_at, u32_at, u64_at};
use super::manifest::{CheckpointEntry, ManifestStore, write_atomically};
use super::state::Wal;
use crate::Error;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::planted::{self, Plant};

pub(super) const CHECKPOINT_DIR: &str = "ckpt";
const MAGIC: [u8; 8] = *b"PRCHKPNT";
const HEAD: usize = 64;
const SECTION: usize = 16;
/// A body up to this size is written together with what is around it.
const COPIED_MAX: usize = 64 << 10;

pub(super) fn path(id: u64) -> String {
    format!("{CHECKPOINT_DIR}/{id:016x}.ckpt")
}

/// Writes a checkpoint, off the owner's lock. Made by [`Wal::checkpoint`].
#[derive(Debug)]
#[must_use = "the checkpoint is taken when this job is run and finished"]
pub struct CheckpointJob {
    disk: Arc<dyn Disk>,
    store: Arc<ManifestStore>,
    lsn: u64,
    since: u64,
    sections: Vec<(String, Vec<u8>)>,
}

/// What came of a [`CheckpointJob`]; hand it to [`Wal::finish_checkpoint`].
#[derive(Debug)]
#[must_use = "segments can be freed only after the checkpoint is finished"]
pub struct CheckpointDone {
    /// Its number, once it is there.
    id: u64,
    lsn: u64,
    /// Bytes of log that it covers, due again if it failed.
    since: u64,
    result: Result<(), Error>,
}

impl Wal {
    /// Whether enough log was written since the last checkpoint ([`WalOptions::checkpoint_bytes`](super::WalOptions::checkpoint_bytes)), and
    /// none is being written. A checkpoint for reasons of time is the caller's decision.
    pub fn needs_checkpoint(&self) -> bool {
        !self.checkpointing && self.since_checkpoint >= self.options.checkpoint_bytes
    }

    /// Up to which LSN the newest checkpoint holds the state.
    pub fn checkpoint_lsn(&self) -> Lsn {
        Lsn(self.checkpoint_lsn)
    }

    /// The job that writes `sections`, the state up to and including the frame `upto`. They are replayed in this order.
    ///
    /// # Errors
    /// [`Error::Refused`] if `upto` is not durable yet (take the sections, wait until [`durable`](Self::durable) has reached it, then call) or older
    /// than the last checkpoint; [`Error::Busy`] while one is being written; [`Error::Poisoned`], [`Error::Closed`].
    pub fn checkpoint(
        &mut self,
        sections: Vec<(String, Vec<u8>)>,
        upto: Lsn,
    ) -> Result<CheckpointJob, Error> {
        self.check()?;
        if self.checkpointing {
            return Err(Error::Busy { job: "checkpoint" });
        }
        if upto.0 > self.durable || upto.0 < self.checkpoint_lsn {
            let reason = format!(
                "a checkpoint at {upto} must lie between {} and {}",
                Lsn(self.checkpoint_lsn),
                self.durable()
            );
            return Err(Error::Refused { reason });
        }
        if sections
            .iter()
            .any(|(name, _)| name.len() > usize::from(u16::MAX))
        {
            return Err(Error::Refused {
                reason: "a section's name has more than 65535 bytes".to_owned(),
            });
        }
        self.checkpointing = true;
        let since = std::mem::take(&mut self.since_checkpoint);
        let (disk, store) = (Arc::clone(&self.disk), Arc::clone(&self.store));
        Ok(CheckpointJob {
            disk,
            store,
            lsn: upto.0,
            since,
            sections,
        })
    }

    /// Takes back the checkpoint: from now on segments up to its LSN can be freed.
    ///
    /// # Errors
    /// What writing it failed with. A full disk leaves the log as it was; anything else poisons it.
    pub fn finish_checkpoint(&mut self, done: CheckpointDone) -> Result<(), Error> {
        assert!(
            self.checkpointing,
            "a checkpoint is finished once, on the log that began it"
        );
        self.checkpointing = false;
        if let Err(error) = done.result {
            self.since_checkpoint += done.since;
            return Err(self.fatal(error));
        }
        self.checkpoint_lsn = done.lsn;
        self.checkpoint_id = done.id;
        Ok(())
    }
}

impl CheckpointJob {
    /// Does it: writes the file, makes it durable, switches `CURRENT` to it, removes the one before the previous.
    pub fn run(self) -> CheckpointDone {
        let written = self.write();
        CheckpointDone {
            id: written.as_ref().copied().unwrap_or_default(),
            lsn: self.lsn,
            since: self.since,
            result: written.map(drop),
        }
    }

    fn write(&self) -> Result<u64, Error> {
        let manifest = self.store.get();
        let entry = CheckpointEntry {
            id: manifest.next_checkpoint,
            lsn: self.lsn,
        };
        let parts = encode(
            &manifest.node,
            entry,
            self.sections
                .iter()
                .map(|(name, body)| (name.as_str(), body.as_slice())),
        );
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let (name, tmp) = (path(entry.id), format!("{}.tmp", path(entry.id)));
        if planted::is(Plant::CurrentBeforeCheckpoint) {
            self.store.update(|manifest| manifest.checkpoint = entry)?;
        }
        write_atomically(&*self.disk, &tmp, &name, CHECKPOINT_DIR, &parts)?;
        let mut outdated = CheckpointEntry::default();
        // DURABILITY: the file is whole on the disk before CURRENT names it, and the old one goes after.
        self.store.update(|manifest| {
            manifest.next_checkpoint = entry.id + 1;
            outdated = std::mem::replace(
                &mut manifest.previous,
                std::mem::replace(&mut manifest.checkpoint, entry),
            );
        })?;
        if outdated.id != 0 {
            let name = path(outdated.id);
            match self.disk.unlink(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", name)(error));
                }
                _ => {}
            }
        }
        Ok(entry.id)
    }
}

/// The file in parts, one after the other. Large bodies are not copied.
fn encode<'a>(
    node: &[u8; 16],
    entry: CheckpointEntry,
    sections: impl ExactSizeIterator<Item = (&'a str, &'a [u8])> + Clone,
) -> Vec<Cow<'a, [u8]>> {
    let length = HEAD
        + sections
            .clone()
            .map(|(name, body)| SECTION + name.len() + body.len() + 4)
            .sum::<usize>();
    let mut parts = Vec::new();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(
        &u32::try_from(sections.len())
            .expect("sections are few")
            .to_le_bytes(),
    );
    bytes.extend_from_slice(node);
    [entry.id, entry.lsn, length as u64]
        .iter()
        .for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
    for (name, body) in sections {
        let start = bytes.len();
        bytes.extend_from_slice(
            &u16::try_from(name.len())
                .expect("checked when the job was made")
                .to_le_bytes(),
        );
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        let crc = crc32c_append(crc32c(&bytes[start..]), body);
        if body.len() <= COPIED_MAX {
            bytes.extend_from_slice(body);
        } else {
            parts.push(Cow::Owned(std::mem::take(&mut bytes)));
            parts.push(Cow::Borrowed(body));
        }
        bytes.extend_from_slice(&crc.to_le_bytes());
    }
    parts.push(Cow::Owned(bytes));
    let written: usize = parts.iter().map(|part| part.len()).sum();
    assert_eq!(written, length, "the file is as long as it says");
    parts
}

/// A checkpoint read back, wholly verified.
#[derive(Debug)]
pub(super) struct Loaded {
    bytes: Vec<u8>,
    sections: Vec<(String, std::ops::Range<usize>)>,
}

impl Loaded {
    /// The same checkpoint as a file of another directory.
    pub(super) fn encode_for(&self, node: &[u8; 16], entry: CheckpointEntry) -> Vec<u8> {
        encode(node, entry, self.sections()).concat()
    }

    pub(super) fn sections(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> + Clone {
        self.sections
            .iter()
            .map(|(name, body)| (name.as_str(), &self.bytes[body.clone()]))
    }
}

/// Reads and verifies a checkpoint. `Ok(Err(reason))` if it is damaged or missing.
pub(super) fn load(
    disk: &dyn Disk,
    node: &[u8; 16],
    entry: CheckpointEntry,
) -> Result<Result<Loaded, String>, Error> {
    let name = path(entry.id);
    let file = match disk.open(&name, OpenMode::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Err("it is missing".to_owned()));
        }
        opened => opened.map_err(Error::io("opening", &name))?,
    };
    load_file(&*file, node, entry, &name)
}

/// Reads and verifies the checkpoint in an open file.
pub(super) fn load_file(
    file: &dyn DiskFile,
    node: &[u8; 16],
    entry: CheckpointEntry,
    name: &str,
) -> Result<Result<Loaded, String>, Error> {
    let length = file.len().map_err(Error::io("reading", name))?;
    let mut bytes = vec![
        0;
        usize::try_from(length).map_err(|_| Error::CorruptCheckpoint {
            file: name.to_owned(),
            reason: "it is larger than memory".to_owned(),
        })?
    ];
    let count = file
        .read_at(&mut bytes, 0)
        .map_err(Error::io("reading", name))?;
    bytes.truncate(count);
    decode(bytes, node, entry, name)
}

fn decode(
    bytes: Vec<u8>,
    node: &[u8; 16],
    entry: CheckpointEntry,
    name: &str,
) -> Result<Result<Loaded, String>, Error> {
    let damaged = |reason: &str| Ok(Err(reason.to_owned()));
    if bytes.len() < HEAD || bytes[..8] != MAGIC || crc32c(&bytes[..HEAD - 4]) != u32_at(&bytes, 60)
    {
        return damaged("its header is damaged");
    }
    if u16_at(&bytes, 8) != VERSION {
        return Err(Unreadable::Version(u16_at(&bytes, 8)).into_error(name.to_owned()));
    }
    if u16_at(&bytes, 10) != 0 || u32_at(&bytes, 56) != 0 {
        return Err(
            Unreadable::Reserved("checkpoint flags or encryption key").into_error(name.to_owned())
        );
    }
    if bytes[16..32] != node[..]
        || u64_at(&bytes, 32) != entry.id
        || u64_at(&bytes, 40) != entry.lsn
    {
        return damaged("it is of another directory or another time");
    }
    if u64_at(&bytes, 48) != bytes.len() as u64 {
        return damaged("its length is wrong");
    }
    let mut sections = Vec::new();
    let mut at = HEAD;
    for _ in 0..u32_at(&bytes, 12) {
        let Some((name, body, end)) = section(&bytes, at) else {
            return damaged("a section is damaged");
        };
        sections.push((name, body));
        at = end;
    }
    if at != bytes.len() {
        return damaged("it has bytes after its last section");
    }
    Ok(Ok(Loaded { bytes, sections }))
}

/// The section at `at`: its name, where its body is, where it ends.
fn section(bytes: &[u8], at: usize) -> Option<(String, std::ops::Range<usize>, usize)> {
    let head = bytes.get(at..at.checked_add(SECTION)?)?;
    let name_end = at + SECTION + usize::from(u16_at(head, 0));
    let body_end = name_end.checked_add(usize::try_from(u64_at(head, 8)).ok()?)?;
    let end = body_end.checked_add(4)?;
    let crc = u32_at(bytes.get(body_end..end)?, 0);
    if crc32c(&bytes[at..body_end]) != crc || head[2..8].iter().any(|byte| *byte != 0) {
        return None;
    }
    let name = std::str::from_utf8(bytes.get(at + SECTION..name_end)?).ok()?;
    Some((name.to_owned(), name_end..body_end, end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn small_and_large_sections_come_back_as_they_were() {
        let sizes = [0, 10, COPIED_MAX, COPIED_MAX + 1, 3, 200_000, 200_001];
        let bodies: Vec<Vec<u8>> = sizes.iter().map(|size| vec![*size as u8; *size]).collect();
        let (node, entry) = ([7; 16], CheckpointEntry { id: 3, lsn: 9 });
        for count in 0..=bodies.len() {
            let sections = bodies[..count].iter().map(|body| ("part", &body[..]));
            let parts = encode(&node, entry, sections.clone());
            let large = sizes[..count].iter().filter(|size| **size > COPIED_MAX);
            assert_eq!(parts.len(), 1 + 2 * large.count());
            let loaded = decode(parts.concat(), &node, entry, "x").unwrap().unwrap();
            assert!(loaded.sections().eq(sections), "{count}");
            assert_eq!(loaded.encode_for(&node, entry), parts.concat());
        }
    }
}
