//! A disk whose power can be cut, for simulation.
//!
//! It keeps two states: what a program sees (the page cache) and what is durable. Between syncs, writes are pending, sector by sector; when the power
//! is cut, a seed decides which of them reached the disk. Names are a file system's: durable after `sync_dir`. Modelled on what ALICE (OSDI 2014)
//! found file systems to do, and on the fsync failures of "Can Applications Recover from fsync Failures?" (ATC 2020).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::mem::parent;
use super::{Disk, DiskFile, LockGuard, LockOutcome, OpenMode};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// A failure that [`SimDisk::inject`] plants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write fails with an I/O error; a part of it is in the page cache.
    Write,
    /// A sync of a file fails with an I/O error. As on Linux, its pending writes are then no longer pending: some reached the disk, the rest never
    /// will, and the page cache shows them all the same.
    Sync,
    /// A read fails with an I/O error.
    Read,
    /// A sync of a directory fails with an I/O error: some of its names are durable then, the others still may become so.
    Directory,
    /// A file is not made, renamed, removed or given its space: an I/O error, and nothing was done.
    Name,
}

/// A disk for simulation. Clones share it.
///
/// Deterministic: the same calls and the same seeds give the same bytes. Every call that changes something counts as an operation, from 1.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    live: Tree,
    durable: Tree,
    /// Changes of names that no `sync_dir` has covered, in order.
    pending: Vec<(u64, NameChange)>,
    operations: u64,
    power_off_at: Option<u64>,
    off: bool,
    capacity: Option<u64>,
    faults: Vec<(Fault, u64)>,
    locked: bool,
    random: Random,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tree {
    directories: BTreeSet<String>,
    names: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Writes that no sync has covered: operation, sector, bytes.
    pending: Vec<(u64, usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, u64),
    Rename { from: String, to: String, file: u64 },
    Unlink(String),
    Directory(String),
}

/// SplitMix64.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

impl Tree {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Create(name, file) => {
                self.names.insert(name.clone(), *file);
            }
            NameChange::Rename { from, to, file } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *file);
            }
            NameChange::Unlink(name) => {
                self.names.remove(name);
            }
            NameChange::Directory(name) => {
                self.directories.insert(name.clone());
            }
        }
    }
}

impl NameChange {
    fn directory(&self) -> &str {
        match self {
            NameChange::Create(name, _)
            | NameChange::Unlink(name)
            | NameChange::Directory(name) => parent(name),
            NameChange::Rename { to, .. } => parent(to),
        }
    }
}

/// Which pending writes a power cut lets through.
#[derive(Debug, Clone, Copy)]
enum Survives {
    Nothing,
    Everything,
    /// Those of earlier operations, and of this one the first so many sectors.
    UpTo(u64, u64),
    /// Each sector and each name by itself.
    AnySubset,
}

impl SimDisk {
    /// An empty disk. `seed` decides what failed syncs leave, and the random bytes it gives.
    pub fn new(seed: u64) -> SimDisk {
        let root = Tree {
            directories: BTreeSet::from([String::new()]),
            names: BTreeMap::new(),
        };
        SimDisk::with(BTreeMap::new(), root, seed, 1)
    }

    fn with(files: BTreeMap<u64, Content>, tree: Tree, seed: u64, next_file: u64) -> SimDisk {
        let state = State {
            files,
            next_file,
            live: tree.clone(),
            durable: tree,
            pending: Vec::new(),
            operations: 0,
            power_off_at: None,
            off: false,
            capacity: None,
            faults: Vec::new(),
            locked: false,
            random: Random(seed),
        };
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How many operations were done.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Lets the power fail in operation `operation`: it is done in part at most, and everything from then on fails.
    pub fn power_off_at(&self, operation: u64) {
        self.state.lock().power_off_at = Some(operation);
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// Plants a failure: the first matching call once `operation` operations were done fails, once.
    pub fn inject(&self, fault: Fault, operation: u64) {
        self.state.lock().faults.push((fault, operation));
    }

    /// Limits the bytes of all files together; beyond, growing fails with [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes of all files together, as a program sees them.
    pub fn used(&self) -> u64 {
        let state = self.state.lock();
        let files = state.live.names.values();
        let files = files.filter_map(|file| state.files.get(file));
        files.map(|content| content.live.len() as u64).sum()
    }

    /// The disk as it is after the power was cut now: `seed` decides which pending writes and names survived. This disk stays as it is.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let state = self.state.lock();
        let mut random = Random(seed);
        let survives = match random.below(8) {
            0 => Survives::Nothing,
            1 => Survives::Everything,
            2..=4 => Survives::UpTo(random.below(state.operations + 1), random.below(16)),
            _ => Survives::AnySubset,
        };
        let mut tree = state.durable.clone();
        for (operation, change) in &state.pending {
            let kept = match survives {
                Survives::Nothing => false,
                Survives::Everything => true,
                Survives::UpTo(last, _) => *operation <= last,
                Survives::AnySubset => random.coin(),
            };
            if kept {
                tree.apply(change);
            }
        }
        let named: BTreeSet<u64> = tree.names.values().copied().collect();
        let surviving = state.files.iter().filter(|(file, _)| named.contains(file));
        let files = surviving
            .map(|(file, content)| {
                (
                    *file,
                    Content::settled(content.crash(survives, &mut random)),
                )
            })
            .collect();
        SimDisk::with(files, tree, random.next(), state.next_file)
    }

    /// The operations whose changes no sync has covered, in order: writes, and changes of names.
    pub fn pending(&self) -> Vec<u64> {
        let state = self.state.lock();
        let names = state.pending.iter().map(|(operation, _)| *operation);
        let writes = state.files.values().flat_map(|content| &content.pending);
        let all: BTreeSet<u64> = names.chain(writes.map(|write| write.0)).collect();
        all.into_iter().collect()
    }

    /// The disk as it is after the power was cut now, and of what is [`pending`](Self::pending) these operations survived, whole.
    /// This disk stays as it is.
    pub fn crash_keeping(&self, kept: &BTreeSet<u64>) -> SimDisk {
        let state = self.state.lock();
        let mut tree = state.durable.clone();
        let names = state.pending.iter();
        names
            .filter(|(operation, _)| kept.contains(operation))
            .for_each(|(_, change)| tree.apply(change));
        let named: BTreeSet<u64> = tree.names.values().copied().collect();
        let surviving = state.files.iter().filter(|(file, _)| named.contains(file));
        let files = surviving.map(|(file, content)| {
            let mut bytes = content.durable.clone();
            for (_, sector, written) in content.pending.iter().filter(|one| kept.contains(&one.0)) {
                store(&mut bytes, *sector, written);
            }
            bytes.resize(content.live.len().max(bytes.len()), 0);
            (*file, Content::settled(bytes))
        });
        SimDisk::with(files.collect(), tree, kept.len() as u64, state.next_file)
    }

    /// The disk as a new process finds it after this one was killed now: the page cache is still there. This disk stays as it is.
    pub fn kill(&self) -> SimDisk {
        let state = self.state.lock();
        let mut random = state.random.clone();
        let copy = SimDisk::with(
            state.files.clone(),
            state.live.clone(),
            random.next(),
            state.next_file,
        );
        {
            let mut copy = copy.state.lock();
            copy.durable = state.durable.clone();
            copy.pending = state
                .pending
                .iter()
                .map(|(_, change)| (0, change.clone()))
                .collect();
            for content in copy.files.values_mut() {
                content
                    .pending
                    .iter_mut()
                    .for_each(|(operation, ..)| *operation = 0);
            }
            copy.capacity = state.capacity;
        }
        copy
    }

    /// All files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.state.lock().live.names.keys().cloned().collect()
    }

    /// What a program sees in a file.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let file = state.live.names.get(path)?;
        state.files.get(file).map(|content| content.live.clone())
    }

    /// Changes a file behind everybody's back, durably: bit rot, truncation, another program.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        if let Some(file) = state.live.names.get(path).copied()
            && let Some(content) = state.files.get_mut(&file)
        {
            change(&mut content.live);
            content.durable = content.live.clone();
            content.pending.clear();
        }
    }

    /// Flips one bit of a file, durably.
    pub fn flip(&self, path: &str, byte: usize, bit: u8) {
        self.edit(path, |content| {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= 1 << (bit % 8);
            }
        });
    }

    /// Lets one bit of a file read wrong, and with a second call right again. What is written and what is durable stays as it is.
    pub fn rot(&self, path: &str, byte: usize, bit: u8) {
        let mut state = self.state.lock();
        if let Some(file) = state.live.names.get(path).copied()
            && let Some(content) = state.files.get_mut(&file)
            && let Some(byte) = content.live.get_mut(byte)
        {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Removes a file behind everybody's back, durably.
    pub fn remove(&self, path: &str) {
        let mut state = self.state.lock();
        state.live.names.remove(path);
        state.durable.names.remove(path);
    }
}

impl Content {
    fn settled(bytes: Vec<u8>) -> Content {
        Content {
            live: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
        }
    }

    /// What is durable of this after a power cut.
    fn crash(&self, survives: Survives, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if !matches!(survives, Survives::Nothing)
            && (matches!(survives, Survives::Everything) || random.coin())
        {
            bytes.resize(self.live.len().max(bytes.len()), 0);
        }
        let mut of_last = 0;
        for (operation, sector, content) in &self.pending {
            let kept = match survives {
                Survives::Nothing => false,
                Survives::Everything => true,
                Survives::UpTo(last, sectors) => {
                    of_last += u64::from(*operation == last);
                    *operation < last || (*operation == last && of_last <= sectors)
                }
                Survives::AnySubset => random.coin(),
            };
            if kept {
                store(&mut bytes, *sector, content);
            }
        }
        bytes
    }

    fn write(&mut self, operation: u64, bytes: &[u8], at: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[at..end].copy_from_slice(bytes);
        for sector in at / SECTOR..end.div_ceil(SECTOR) {
            let to = ((sector + 1) * SECTOR).min(self.live.len());
            self.pending
                .push((operation, sector, self.live[sector * SECTOR..to].to_vec()));
        }
    }
}

fn store(bytes: &mut Vec<u8>, sector: usize, content: &[u8]) {
    let at = sector * SECTOR;
    if bytes.len() < at + content.len() {
        bytes.resize(at + content.len(), 0);
    }
    bytes[at..at + content.len()].copy_from_slice(content);
}

fn power_off() -> io::Error {
    io::Error::other("the power is off")
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file: {path}"))
}

impl State {
    /// Counts an operation. `Ok(false)`: the power fails in it.
    fn operation(&mut self) -> io::Result<bool> {
        if self.off {
            return Err(power_off());
        }
        self.operations += 1;
        self.off = self.power_off_at.is_some_and(|at| self.operations >= at);
        Ok(!self.off)
    }

    fn reading(&mut self) -> io::Result<()> {
        if self.off {
            return Err(power_off());
        }
        self.fail(Fault::Read)
    }

    fn fail(&mut self, fault: Fault) -> io::Result<()> {
        let due = |(planted, at): &(Fault, u64)| *planted == fault && self.operations >= *at;
        match self.faults.iter().position(due) {
            Some(at) => {
                self.faults.remove(at);
                Err(io::Error::from_raw_os_error(5))
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, change: NameChange) -> io::Result<()> {
        let done = self.operation()?;
        self.fail(Fault::Name)?;
        // The power may fail after it as well as before: pending either way.
        self.live.apply(&change);
        self.pending.push((self.operations, change));
        if done { Ok(()) } else { Err(power_off()) }
    }

    fn file(&self, path: &str) -> io::Result<u64> {
        self.live
            .names
            .get(path)
            .copied()
            .ok_or_else(|| not_found(path))
    }

    fn room(&self, file: u64, len: usize) -> io::Result<()> {
        let Some(capacity) = self.capacity else {
            return Ok(());
        };
        let others = self.live.names.values().filter(|other| **other != file);
        let used: u64 = others
            .filter_map(|other| self.files.get(other))
            .map(|content| content.live.len() as u64)
            .sum();
        let held = self
            .files
            .get(&file)
            .map_or(0, |content| content.live.len());
        if len > held && used + len as u64 > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let file = match (state.file(path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (found, OpenMode::Read | OpenMode::Write) => {
                state.reading()?;
                found?
            }
            (Err(_), OpenMode::CreateNew) => {
                if !state.live.directories.contains(parent(path)) {
                    return Err(not_found(path));
                }
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, Content::default());
                state.change(NameChange::Create(path.to_owned(), file))?;
                file
            }
        };
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            file,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.file(from)?;
        state.change(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            file,
        })
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.file(path)?;
        state.change(NameChange::Unlink(path.to_owned()))
    }

    fn mkdir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.live.directories.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change(NameChange::Directory(path.to_owned()))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.reading()?;
        if !state.live.directories.contains(path) {
            return Err(not_found(path));
        }
        let directories = state
            .live
            .directories
            .iter()
            .filter(|name| !name.is_empty());
        let inside = directories
            .chain(state.live.names.keys())
            .filter(|name| parent(name) == path);
        let mut names: Vec<String> = inside
            .map(|name| name.rsplit('/').next().unwrap_or(name).to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.operation()? {
            return Err(power_off());
        }
        let (synced, pending) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition(|(_, change)| change.directory() == path);
        state.pending = pending;
        let synced: Vec<(u64, NameChange)> = synced;
        let failed = state.fail(Fault::Directory);
        for (operation, change) in synced {
            if failed.is_ok() || state.random.coin() {
                state.durable.apply(&change);
            } else {
                state.pending.push((operation, change));
            }
        }
        failed
    }

    fn lock(&self, _path: &str) -> io::Result<LockOutcome> {
        let mut state = self.state.lock();
        if state.off {
            return Err(power_off());
        }
        if state.locked {
            return Ok(LockOutcome::Busy { pid: Some(1) });
        }
        state.locked = true;
        Ok(LockOutcome::Held(LockGuard::new(Unlock(self.clone()))))
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        let mut state = self.state.lock();
        let (low, high) = (state.random.next(), state.random.next());
        Ok(((u128::from(high) << 64) | u128::from(low)).to_le_bytes())
    }

    fn describe(&self) -> String {
        "simulated disk".to_owned()
    }
}

#[derive(Debug)]
struct Unlock(SimDisk);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state.lock().locked = false;
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        state.reading()?;
        let live = state
            .files
            .get(&self.file)
            .map_or(&[][..], |content| &content.live);
        let rest = usize::try_from(at)
            .ok()
            .and_then(|at| live.get(at..))
            .unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut state = self.disk.state.lock();
        let done = state.operation()?;
        state.room(self.file, at + bytes.len())?;
        let failed = state.fail(Fault::Write);
        let operation = state.operations;
        let whole = done && failed.is_ok();
        // A write that is broken off leaves the first so many pages.
        let pages = bytes.len().div_ceil(PAGE) as u64 + 1;
        let count = if whole {
            bytes.len()
        } else {
            (state.random.below(pages) as usize * PAGE).min(bytes.len())
        };
        if let Some(content) = state.files.get_mut(&self.file) {
            content.write(operation, &bytes[..count], at);
        }
        failed?;
        if done { Ok(()) } else { Err(power_off()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.state.lock();
        let state = &mut *guard;
        if !state.operation()? {
            return Err(power_off());
        }
        let failed = state.fail(Fault::Sync);
        let Some(content) = state.files.get_mut(&self.file) else {
            return failed;
        };
        if failed.is_ok() {
            // Only what is pending: where an earlier sync failed, the page cache stays ahead of the disk.
            content.durable.resize(content.live.len(), 0);
            for (_, sector, bytes) in std::mem::take(&mut content.pending) {
                store(&mut content.durable, sector, &bytes);
            }
            return Ok(());
        }
        for (_, sector, bytes) in std::mem::take(&mut content.pending) {
            if state.random.coin() {
                store(&mut content.durable, sector, &bytes);
            }
        }
        failed
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state.lock();
        state.reading()?;
        Ok(state
            .files
            .get(&self.file)
            .map_or(0, |content| content.live.len() as u64))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut state = self.disk.state.lock();
        let done = state.operation()?;
        state.fail(Fault::Name)?;
        state.room(self.file, len)?;
        if let Some(content) = state.files.get_mut(&self.file)
            && content.live.len() < len
        {
            content.live.resize(len, 0);
        }
        if done { Ok(()) } else { Err(power_off()) }
    }
}
