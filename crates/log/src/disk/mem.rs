//! A disk in memory: `memory:`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::{Disk, DiskFile, LockGuard, LockOutcome, OpenMode};

const CHUNK: usize = 64 * 1024;
/// Chunks of files that are gone, kept for the next ones: 32 MiB.
const POOL_CHUNKS_MAX: usize = 512;

/// Files in memory, sparse, without durability: syncs do nothing.
///
/// Clones share the files, so a log can be closed and opened again on a clone; they are gone when the last clone is.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    tree: Mutex<Tree>,
    pool: Arc<Pool>,
    locked: Arc<Mutex<bool>>,
}

#[derive(Debug, Default)]
struct Tree {
    directories: Vec<String>,
    files: BTreeMap<String, Arc<MemFile>>,
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of memory that the files occupy.
    pub fn memory_bytes(&self) -> u64 {
        let tree = self.shared.tree.lock();
        tree.files
            .values()
            .map(|file| file.content.read().chunks.iter().flatten().count() as u64 * CHUNK as u64)
            .sum()
    }
}

/// `a/b` → `a`; `b` → `""`.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file: {path}"))
}

impl Disk for MemDisk {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut tree = self.shared.tree.lock();
        match (tree.files.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(Arc::clone(file) as Arc<dyn DiskFile>),
            (None, OpenMode::CreateNew) => {
                if !tree.directories.iter().any(|known| known == parent(path)) {
                    return Err(not_found(path));
                }
                let file = Arc::new(MemFile {
                    content: RwLock::default(),
                    pool: Arc::clone(&self.shared.pool),
                });
                tree.files.insert(path.to_owned(), Arc::clone(&file));
                Ok(file)
            }
            (None, _) => Err(not_found(path)),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut tree = self.shared.tree.lock();
        let file = tree.files.remove(from).ok_or_else(|| not_found(from))?;
        tree.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.shared
            .tree
            .lock()
            .files
            .remove(path)
            .map(|_| ())
            .ok_or_else(|| not_found(path))
    }

    fn mkdir(&self, path: &str) -> io::Result<()> {
        let mut tree = self.shared.tree.lock();
        if tree.directories.iter().any(|known| known == path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        tree.directories.push(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let tree = self.shared.tree.lock();
        if !tree.directories.iter().any(|known| known == path) {
            return Err(not_found(path));
        }
        let directories = tree.directories.iter().filter(|name| !name.is_empty());
        let mut names: Vec<String> = (directories.chain(tree.files.keys()))
            .filter(|name| parent(name) == path)
            .map(|name| name.rsplit('/').next().unwrap_or(name).to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &str) -> io::Result<LockOutcome> {
        let mut locked = self.shared.locked.lock();
        if *locked {
            return Ok(LockOutcome::Busy {
                pid: Some(std::process::id()),
            });
        }
        *locked = true;
        Ok(LockOutcome::Held(LockGuard::new(Unlock(Arc::clone(
            &self.shared.locked,
        )))))
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        // Nothing in memory outlives the process, so nothing can be mistaken for it.
        Ok(*b"postrider-memory")
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn is_memory(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Unlock(Arc<Mutex<bool>>);

impl Drop for Unlock {
    fn drop(&mut self) {
        *self.0.lock() = false;
    }
}

/// Memory to be used again: a page that was touched before costs no fault.
#[derive(Debug, Default)]
struct Pool {
    chunks: Mutex<Vec<Box<[u8]>>>,
}

impl Pool {
    /// A chunk of zeros.
    fn take(&self) -> Box<[u8]> {
        let used = self.chunks.lock().pop();
        match used {
            Some(mut chunk) => {
                chunk.fill(0);
                chunk
            }
            None => vec![0; CHUNK].into_boxed_slice(),
        }
    }

    fn give(&self, used: impl IntoIterator<Item = Box<[u8]>>) {
        let mut chunks = self.chunks.lock();
        let room = POOL_CHUNKS_MAX.saturating_sub(chunks.len());
        chunks.extend(used.into_iter().take(room));
    }
}

#[derive(Debug)]
struct MemFile {
    content: RwLock<Content>,
    pool: Arc<Pool>,
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let chunks = std::mem::take(&mut self.content.get_mut().chunks);
        self.pool.give(chunks.into_iter().flatten());
    }
}

#[derive(Debug, Default)]
struct Content {
    len: u64,
    chunks: Vec<Option<Box<[u8]>>>,
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let content = self.content.read();
        let len = usize::try_from(content.len.saturating_sub(at))
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let mut done = 0;
        while done < len {
            let (chunk, offset) = split(at + done as u64);
            let part = (CHUNK - offset).min(len - done);
            let target = &mut buf[done..done + part];
            match content.chunks.get(chunk).and_then(Option::as_ref) {
                Some(bytes) => target.copy_from_slice(&bytes[offset..offset + part]),
                None => target.fill(0),
            }
            done += part;
        }
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut content = self.content.write();
        let mut done = 0;
        while done < bytes.len() {
            let (chunk, offset) = split(at + done as u64);
            let part = (CHUNK - offset).min(bytes.len() - done);
            if content.chunks.len() <= chunk {
                content.chunks.resize(chunk + 1, None);
            }
            let target = content.chunks[chunk].get_or_insert_with(|| self.pool.take());
            target[offset..offset + part].copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
        content.len = content.len.max(at + bytes.len() as u64);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.read().len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut content = self.content.write();
        content.len = content.len.max(len);
        Ok(())
    }
}

fn split(at: u64) -> (usize, usize) {
    let chunk =
        usize::try_from(at / CHUNK as u64).expect("a file in memory fits into the address space");
    (chunk, (at % CHUNK as u64) as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_come_back_and_holes_are_zero() {
        let disk = MemDisk::new();
        disk.mkdir("").unwrap();
        let file = disk.open("a", OpenMode::CreateNew).unwrap();
        file.allocate(1 << 30).unwrap();
        let text: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        file.write_at(&text, 65_000).unwrap();
        let mut back = vec![1; text.len()];
        assert_eq!(file.read_at(&mut back, 65_000).unwrap(), text.len());
        assert_eq!(back, text);
        assert_eq!(file.read_at(&mut back, (1 << 30) - 10).unwrap(), 10);
        assert_eq!(back[..10], [0; 10]);
        assert!(disk.memory_bytes() < 400_000);
        assert_eq!(disk.list("").unwrap(), ["a"]);
    }

    #[test]
    fn memory_of_a_file_that_is_gone_is_used_again_and_reads_as_zero() {
        let disk = MemDisk::new();
        disk.mkdir("").unwrap();
        let file = disk.open("a", OpenMode::CreateNew).unwrap();
        file.write_at(&[7; 3 * CHUNK], 0).unwrap();
        disk.unlink("a").unwrap();
        assert_eq!(disk.shared.pool.chunks.lock().len(), 0, "it is still open");
        drop(file);
        assert_eq!(disk.shared.pool.chunks.lock().len(), 3);
        let file = disk.open("b", OpenMode::CreateNew).unwrap();
        file.write_at(&[9], 10).unwrap();
        file.allocate(CHUNK as u64).unwrap();
        assert_eq!(disk.shared.pool.chunks.lock().len(), 2);
        let mut back = vec![1; CHUNK];
        assert_eq!(file.read_at(&mut back, 0).unwrap(), CHUNK);
        assert_eq!(back.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 9);
    }
}
