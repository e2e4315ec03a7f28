//! Opening a directory: is it ours, is it free, what does it hold.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;

use super::checkpoint::CHECKPOINT_DIR;
use super::format::{BLOCK, block_up, u16_at};
use super::manifest::{
    self, CURRENT, CURRENT_TMP, CheckpointEntry, Manifest, ManifestStore, SegmentEntry,
};
use super::prepare::Upkeep;
use super::recover::{self, Recovered};
use super::segment::{self, LOG_DIR, SegmentFile};
use super::state::{Segment, Wal};
use super::{Lsn, SegmentId, VERSION, Visitor, WalOptions};
use crate::Error;
use crate::disk::{Disk, LockGuard, LockOutcome, OpenMode};

pub(super) const LOCK: &str = "postrider.lock";
/// The host's admin socket may lie in the directory.
const TOLERATED: [&str; 5] = [LOCK, CURRENT_TMP, LOG_DIR, CHECKPOINT_DIR, "admin.sock"];

/// What opening a log found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The directory was new.
    pub created: bool,
    /// The log had been closed in order. A new one counts as such.
    pub clean: bool,
    /// Up to which LSN the replayed checkpoint holds the state; 0 if there was none.
    pub checkpoint: Lsn,
    /// The newest checkpoint was damaged, and an earlier one was replayed.
    pub checkpoint_fell_back: bool,
    /// Frames read after the start of the first segment that was needed, those in the checkpoint included.
    pub frames_read: u64,
    /// Bytes of the frames that were replayed.
    pub bytes_replayed: u64,
    /// The last frame of the log.
    pub last: Lsn,
    /// The number that the next frame gets: more than one further after an unclean stop.
    pub next: Lsn,
    /// What was cut off at the end, if anything was seen there.
    pub cut: Option<Cut>,
}

/// A torn tail that was cut off: written once, never confirmed as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub segment: SegmentId,
    /// The first byte that does not count.
    pub at: u64,
    /// Batches behind it that were readable, and were dropped with it.
    pub batches: u64,
    /// Segments behind it that were dropped with it.
    pub segments: u64,
}

impl Wal {
    /// Opens the log on `disk`, making it if the directory is new or empty, and shows all it holds to `visitor`: the sections of the newest
    /// checkpoint, then every frame after it, in order. When this returns, all of that is durable.
    ///
    /// A torn tail, which nobody was ever told is durable, is cut; damage to anything else is refused. Takes time in proportion to the log since
    /// the last checkpoint, about a second per GiB.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NotOurs`], [`Error::NotADirectory`], [`Error::ReadOnly`], [`Error::NewerVersion`], [`Error::Unsupported`],
    /// [`Error::CorruptManifest`], [`Error::CorruptCheckpoint`], [`Error::CorruptSegment`], [`Error::Corrupt`], [`Error::Options`]: the directory was not
    /// changed. [`Error::Io`] and [`Error::Full`]: what was confirmed is still there, try again. And what the visitor returns.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        visitor: &mut dyn Visitor,
    ) -> Result<(Wal, OpenReport), Error> {
        options.validate()?;
        let exists = look(&*disk)?;
        if exists.is_none() {
            disk.mkdir("")
                .map_err(|error| refused(&*disk, "creating", error))?;
        }
        let lock = lock(&*disk)?;
        // Only now nobody else changes it.
        let created = look(&*disk)? != Some(true);
        if created {
            create(&*disk)?;
        } else {
            // DURABILITY: a process that was killed may have left its CURRENT in the page cache only.
            disk.sync_dir("").map_err(Error::io("syncing", ""))?;
        }
        let bytes = read_all(&*disk, CURRENT)?;
        let manifest = Manifest::decode(&bytes)?;
        let recovered = recover::recover(&*disk, &manifest, OpenMode::Write, visitor)?;
        let clean = manifest.clean || created;
        if !clean {
            recovered.mend(&manifest.node)?;
        }
        assemble(disk, options, manifest, &recovered, (created, clean), lock)
    }
}

/// Looks at the directory without touching it: `None` if there is none, `Some(true)` if it holds a log, `Some(false)` if one may be made in it.
pub(super) fn look(disk: &dyn Disk) -> Result<Option<bool>, Error> {
    let path = disk.describe();
    let names = match disk.list("") {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(Error::NotADirectory { path });
        }
        Err(error) => return Err(refused(disk, "listing", error)),
    };
    if names.iter().any(|name| name == CURRENT) {
        let head = read_head(disk, CURRENT)?;
        if head.len() >= 12 && head[..8] == manifest::MAGIC {
            let found = u16_at(&head, 8);
            return match found > VERSION {
                true => Err(Error::NewerVersion {
                    file: CURRENT.to_owned(),
                    found,
                    supported: VERSION,
                }),
                false => Ok(Some(true)),
            };
        }
        // Other databases have a CURRENT too; ours has a lock beside it.
        return match names.iter().any(|name| name == LOCK) {
            true => Err(Error::CorruptManifest {
                reason: "it does not start as a manifest does".to_owned(),
            }),
            false => Err(Error::NotOurs {
                path,
                found: CURRENT.to_owned(),
            }),
        };
    }
    if let Some(found) = names
        .iter()
        .find(|name| !TOLERATED.contains(&name.as_str()))
    {
        return Err(Error::NotOurs {
            path,
            found: found.clone(),
        });
    }
    for directory in [LOG_DIR, CHECKPOINT_DIR] {
        if !names.iter().any(|name| name == directory) {
            continue;
        }
        let inside = disk
            .list(directory)
            .map_err(|error| refused(disk, "listing", error))?;
        if let Some(found) = inside.into_iter().next() {
            return match names.iter().any(|name| name == LOCK) {
                true => Err(Error::CorruptManifest {
                    reason: format!("it is missing, but there is {directory}/{found}"),
                }),
                false => Err(Error::NotOurs {
                    path,
                    found: format!("{directory}/{found}"),
                }),
            };
        }
    }
    Ok(Some(false))
}

fn refused(disk: &dyn Disk, action: &'static str, source: std::io::Error) -> Error {
    let path = disk.describe();
    match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Error::ReadOnly { path, source }
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Error::NotADirectory { path },
        _ => Error::Io {
            action,
            file: path,
            source,
        },
    }
}

pub(super) fn lock(disk: &dyn Disk) -> Result<LockGuard, Error> {
    match disk
        .lock(LOCK)
        .map_err(|error| refused(disk, "locking", error))?
    {
        LockOutcome::Held(guard) => Ok(guard),
        LockOutcome::Busy { pid } => Err(Error::Locked {
            pid,
            path: disk.describe(),
        }),
    }
}

/// Makes the directories and an empty manifest. Cut short anywhere, the next open does it again.
fn create(disk: &dyn Disk) -> Result<(), Error> {
    for directory in [LOG_DIR, CHECKPOINT_DIR] {
        match disk.mkdir(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(refused(disk, "creating", error));
            }
            _ => {}
        }
    }
    disk.sync_dir("").map_err(Error::io("syncing", ""))?;
    let node = disk
        .entropy()
        .map_err(Error::io("reading", "random bytes"))?;
    let manifest = Manifest {
        node,
        next_segment: 1,
        next_checkpoint: 1,
        next_lsn: 1,
        ..Manifest::default()
    };
    manifest::write_atomically(disk, CURRENT_TMP, CURRENT, "", &[&manifest.encode()])
}

fn read_head(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, Error> {
    let file = disk
        .open(name, OpenMode::Read)
        .map_err(Error::io("opening", name))?;
    let mut bytes = vec![0; 12];
    let count = file
        .read_at(&mut bytes, 0)
        .map_err(Error::io("reading", name))?;
    bytes.truncate(count);
    Ok(bytes)
}

pub(super) fn read_all(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, Error> {
    let file = disk
        .open(name, OpenMode::Read)
        .map_err(Error::io("opening", name))?;
    let len = file.len().map_err(Error::io("reading", name))?;
    if len > 64 << 20 {
        return Err(Error::CorruptManifest {
            reason: format!("it has {len} bytes"),
        });
    }
    let mut bytes = vec![0; len as usize];
    let count = file
        .read_at(&mut bytes, 0)
        .map_err(Error::io("reading", name))?;
    bytes.truncate(count);
    Ok(bytes)
}

/// What a log starts with.
struct Start {
    segments: BTreeMap<SegmentId, Segment>,
    spare: Option<Arc<SegmentFile>>,
    /// The first segment, if it was made just now and has no header yet.
    fresh: Option<Arc<SegmentFile>>,
    tail: u64,
    next: u64,
    next_segment: u64,
}

/// Puts the log together, drops what is not part of it, and marks it as open.
fn assemble(
    disk: Arc<dyn Disk>,
    options: WalOptions,
    mut manifest: Manifest,
    recovered: &Recovered,
    (created, clean): (bool, bool),
    lock: LockGuard,
) -> Result<(Wal, OpenReport), Error> {
    let end = &recovered.end;
    let start = Start::find(&*disk, &options, &manifest, recovered, clean)?;
    let report = start.report(recovered, created, clean);
    start.mark_open(&mut manifest, recovered);
    let node = manifest.node;
    let store = Arc::new(ManifestStore::new(Arc::clone(&disk), manifest));
    // DURABILITY: the mark of a clean stop is gone before the first append.
    store.update(|_| {})?;
    start.write_header(&node, end.last)?;
    let pool = sweep(&*disk, &options, &store.get(), recovered)?;
    let kept = start.spare.as_ref().map(|spare| spare.id);
    let dropped = recovered.dropped().filter(|file| Some(file.id) != kept);
    let mut upkeep = Upkeep::new(pool);
    dropped.for_each(|file| upkeep.retire(Arc::clone(file)));
    let active = Arc::clone(
        &start
            .segments
            .values()
            .next_back()
            .expect("made if missing")
            .file,
    );
    let wal = Wal {
        disk,
        options,
        node,
        store,
        segments: start.segments,
        active,
        tail: start.tail,
        spare: start.spare,
        next_segment: start.next_segment,
        planned: VecDeque::new(),
        open: None,
        staged_bytes: 0,
        wants_sync: false,
        in_flight: None,
        unsynced: Vec::new(),
        next: start.next,
        last: end.last,
        written: end.last,
        durable: end.last,
        proven: end.last,
        recent: VecDeque::new(),
        recent_bytes: 0,
        buffers: Vec::new(),
        checkpoint_lsn: recovered.checkpoint.lsn,
        checkpoint_id: recovered.checkpoint.id,
        checkpointing: false,
        since_checkpoint: end.bytes,
        sealed_bytes: 0,
        upkeep,
        last_resort: None,
        poison: None,
        closed: false,
        lock: Some(lock),
    };
    Ok((wal, report))
}

impl Start {
    /// Where the log goes on; makes its first segment if it has none.
    fn find(
        disk: &dyn Disk,
        options: &WalOptions,
        manifest: &Manifest,
        recovered: &Recovered,
        clean: bool,
    ) -> Result<Start, Error> {
        let end = &recovered.end;
        let next = if clean {
            end.last.saturating_add(1)
        } else {
            recovered.next_after_crash(manifest)
        };
        let mut start = Start {
            segments: kept_segments(recovered),
            spare: if clean { recovered.ready_spare() } else { None },
            fresh: None,
            tail: block_up(end.at),
            next,
            next_segment: recovered.next_segment,
        };
        if start.segments.is_empty() {
            let file = first_segment(disk, options, &manifest.node, start.next_segment)?;
            start.fresh = Some(Arc::clone(&file));
            let (id, base_lsn, prev_lsn) = (file.id, next, end.last);
            let (last_lsn, used) = (None, BLOCK);
            let segment = Segment {
                file,
                base_lsn,
                prev_lsn,
                last_lsn,
                used,
                noted: false,
            };
            start.segments.insert(id, segment);
            start.next_segment += 1;
            start.tail = BLOCK;
        }
        Ok(start)
    }

    fn report(&self, recovered: &Recovered, created: bool, clean: bool) -> OpenReport {
        let end = &recovered.end;
        OpenReport {
            created,
            clean,
            checkpoint: Lsn(recovered.checkpoint.lsn),
            checkpoint_fell_back: recovered.fell_back,
            frames_read: end.frames,
            bytes_replayed: end.bytes,
            last: Lsn(end.last),
            next: Lsn(self.next),
            cut: if clean { None } else { recovered.cut() },
        }
    }

    /// Gives the first segment, if it was made just now, its header, durably.
    fn write_header(&self, node: &[u8; 16], last: u64) -> Result<(), Error> {
        let Some(file) = &self.fresh else {
            return Ok(());
        };
        file.write(&file.new_header(node, self.next, last), 0)?;
        file.sync()
    }

    /// Changes the manifest to that of a log in use.
    fn mark_open(&self, manifest: &mut Manifest, recovered: &Recovered) {
        manifest.clean = false;
        manifest.durable_lsn = recovered.end.last;
        manifest.next_lsn = self.next;
        manifest.next_segment = self.next_segment;
        if recovered.fell_back {
            // The damaged one must not be tried again, nor count as something to fall back on.
            manifest.checkpoint = recovered.checkpoint;
            manifest.previous = CheckpointEntry::default();
        }
        let listed = self.segments.values().map(|segment| SegmentEntry {
            // Without its header it is a spare; listed first, since a header that CURRENT does not know of is refused.
            used: segment
                .noted
                .then_some((segment.base_lsn, segment.prev_lsn)),
            ..segment.entry()
        });
        manifest.segments = listed.collect();
        manifest
            .segments
            .extend(self.spare.as_ref().map(|file| SegmentEntry {
                id: file.id.0,
                generation: file.generation,
                size: file.size,
                used: None,
            }));
    }
}

/// The segments that hold the log, the last one open.
fn kept_segments(recovered: &Recovered) -> BTreeMap<SegmentId, Segment> {
    let used = recovered
        .segments
        .iter()
        .take(recovered.end.index + 1)
        .filter_map(|found| Some((found, found.used?)));
    let mut segments = BTreeMap::new();
    let mut newer: Option<u64> = None;
    for (found, (base_lsn, prev_lsn)) in used.rev() {
        let file = Arc::clone(&found.file);
        let bytes = if newer.is_some() {
            file.size
        } else {
            recovered.end.at
        };
        segments.insert(
            file.id,
            Segment {
                file,
                base_lsn,
                prev_lsn,
                last_lsn: newer,
                used: bytes,
                noted: true,
            },
        );
        newer = Some(prev_lsn);
    }
    segments
}

fn first_segment(
    disk: &dyn Disk,
    options: &WalOptions,
    node: &[u8; 16],
    id: u64,
) -> Result<Arc<SegmentFile>, Error> {
    let size = options.segment_size(id, 0);
    let full = |error: Error| {
        if error.is_no_space() {
            Error::Full { needed: size }
        } else {
            error
        }
    };
    let file = segment::create(disk, id, size, !disk.is_memory()).map_err(full)?;
    let entry = SegmentEntry {
        id,
        generation: 1,
        size,
        used: None,
    };
    Ok(SegmentFile::new(node, &entry, file))
}

/// Removes what earlier runs left behind, and returns the files worth using again.
fn sweep(
    disk: &dyn Disk,
    options: &WalOptions,
    manifest: &Manifest,
    recovered: &Recovered,
) -> Result<Vec<SegmentEntry>, Error> {
    let reusable = |entry: &&SegmentEntry| entry.size == options.segment_bytes[2];
    let pool: Vec<SegmentEntry> = recovered
        .unlisted
        .iter()
        .filter(reusable)
        .take(options.pool_segments_max)
        .copied()
        .collect();
    let unlisted = recovered.unlisted.iter().map(|entry| entry.id);
    let gone = unlisted
        .filter(|id| pool.iter().all(|kept| kept.id != *id))
        .chain(recovered.rubbish.iter().copied());
    for name in gone.map(segment::path) {
        disk.unlink(&name).map_err(Error::io("removing", &name))?;
    }
    let known = [manifest.checkpoint.id, manifest.previous.id].map(super::checkpoint::path);
    for name in disk
        .list(CHECKPOINT_DIR)
        .map_err(Error::io("listing", CHECKPOINT_DIR))?
    {
        let name = format!("{CHECKPOINT_DIR}/{name}");
        let ours = name.ends_with(".ckpt") || name.ends_with(".ckpt.tmp");
        if ours && !known.contains(&name) {
            disk.unlink(&name).map_err(Error::io("removing", &name))?;
        }
    }
    Ok(pool)
}
