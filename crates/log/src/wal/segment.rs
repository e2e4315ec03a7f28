//! One segment file.

use std::sync::Arc;

use super::SegmentId;
use super::format::{self, SegmentHeader};
use super::manifest::SegmentEntry;
use crate::Error;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::planted::{self, Plant};

pub(crate) const LOG_DIR: &str = "log";

/// The path of segment `id`.
pub(crate) fn path(id: u64) -> String {
    format!("{LOG_DIR}/{id:016x}.wal")
}

/// The id in a file name of `log/`, if it is one.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".wal")?;
    (hex.len() == 16)
        .then(|| u64::from_str_radix(hex, 16).ok())
        .flatten()
}

/// An open segment file in one of its uses.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) id: SegmentId,
    pub(crate) generation: u32,
    pub(crate) size: u64,
    pub(crate) seed: u32,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl SegmentFile {
    pub(crate) fn new(
        node: &[u8; 16],
        entry: &SegmentEntry,
        file: Arc<dyn DiskFile>,
    ) -> Arc<SegmentFile> {
        Arc::new(SegmentFile {
            id: SegmentId(entry.id),
            generation: entry.generation,
            size: entry.size,
            seed: format::seed(node, entry.id, entry.generation),
            file,
        })
    }

    pub(crate) fn path(&self) -> String {
        path(self.id.0)
    }

    pub(crate) fn key(&self) -> (u32, u32) {
        (self.generation, self.seed)
    }

    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.file
            .write_at(bytes, at)
            .map_err(|error| Error::io("writing", self.path())(error))
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file
            .sync_data()
            .map_err(|error| Error::io("syncing", self.path())(error))
    }

    /// The bytes of the first block in this use.
    pub(crate) fn new_header(&self, node: &[u8; 16], base_lsn: u64, prev_lsn: u64) -> Vec<u8> {
        let (generation, id, size) = (self.generation, self.id.0, self.size);
        SegmentHeader {
            generation,
            node: *node,
            id,
            size,
            base_lsn,
            prev_lsn,
        }
        .encode()
    }

    /// The valid header of this use, if it has one.
    pub(crate) fn header(&self, node: &[u8; 16]) -> Result<Option<SegmentHeader>, Error> {
        let header = read_header(&*self.file, self.id.0)?;
        Ok(header.filter(|header| {
            header.id == self.id.0
                && header.generation == self.generation
                && header.size == self.size
                && header.node == *node
                && header.base_lsn > header.prev_lsn
        }))
    }
}

/// The header in a segment file, whatever use it is of.
pub(crate) fn read_header(file: &dyn DiskFile, id: u64) -> Result<Option<SegmentHeader>, Error> {
    let mut block = [0; 96];
    let count = file
        .read_at(&mut block, 0)
        .map_err(Error::io("reading", path(id)))?;
    SegmentHeader::decode(&block[..count]).map_err(|unreadable| unreadable.into_error(path(id)))
}

/// Makes the file of a new segment: its space reserved, its name durable, its content zero. `fill` writes the zeros at once, which makes later
/// syncs cheaper.
///
/// On failure nothing is left behind (or, if even that fails, an unlisted file, which the next open removes).
pub(crate) fn create(
    disk: &dyn Disk,
    id: u64,
    size: u64,
    fill: bool,
) -> Result<Arc<dyn DiskFile>, Error> {
    let name = path(id);
    let file = disk
        .open(&name, OpenMode::CreateNew)
        .map_err(Error::io("creating", &name))?;
    let made = allocate(disk, &*file, &name, size, fill);
    if made.is_err() {
        drop(file);
        let _ = disk.unlink(&name);
        return Err(made.expect_err("just seen"));
    }
    Ok(file)
}

/// As [`create`], and only if `of` times its size is free.
pub(crate) fn create_leaving(
    disk: &dyn Disk,
    id: u64,
    size: u64,
    fill: bool,
    of: u64,
) -> Result<Arc<dyn DiskFile>, Error> {
    if of > 1 {
        drop(create(disk, id, of * size, false)?);
        let name = path(id);
        disk.unlink(&name).map_err(Error::io("removing", &name))?;
    }
    create(disk, id, size, fill)
}

fn allocate(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    name: &str,
    size: u64,
    fill: bool,
) -> Result<(), Error> {
    file.allocate(size)
        .map_err(Error::io("reserving space for", name))?;
    if fill {
        zero(file, 0, size).map_err(Error::io("writing", name))?;
        file.sync_data().map_err(Error::io("syncing", name))?;
    }
    if planted::is(Plant::SegmentDirectoryNotSynced) {
        return Ok(());
    }
    disk.sync_dir(LOG_DIR)
        .map_err(Error::io("syncing", LOG_DIR))
}

/// Writes zeros from `from` to `to`.
pub(crate) fn zero(file: &dyn DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut at = from;
    while at < to {
        let part = (to - at).min(ZEROS.len() as u64);
        file.write_at(&ZEROS[..part as usize], at)?;
        at += part;
    }
    Ok(())
}
