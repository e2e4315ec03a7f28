//! A disk over a directory whose writes stay in memory: what recovery does to a directory is done, and the directory is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postrider_log::disk::{Disk, DiskFile, FileDisk, LockGuard, LockOutcome, OpenMode};

/// The unit in which what was written is kept, in bytes.
const PAGE: u64 = 4096;

#[derive(Debug)]
pub(super) struct Overlay {
    base: FileDisk,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files that were opened to write, made or renamed, by their present name.
    files: BTreeMap<String, Arc<Written>>,
    /// Names of the directory below that are gone.
    gone: BTreeSet<String>,
    directories: BTreeSet<String>,
}

impl Overlay {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            base: FileDisk::new(dir),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file as it is now, taken up into memory where it is not yet.
    fn taken(&self, state: &mut State, path: &str) -> io::Result<Arc<Written>> {
        if let Some(file) = state.files.get(path) {
            return Ok(Arc::clone(file));
        }
        if state.gone.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(Written::over(self.base.open(path, OpenMode::Read)?)?);
        state.files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

impl Disk for Overlay {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        if mode != OpenMode::CreateNew {
            return Ok(self.taken(&mut state, path)?);
        }
        if self.taken(&mut state, path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(Written::default());
        state.files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = self.taken(&mut state, from)?;
        state.files.remove(from);
        state.gone.insert(from.to_owned());
        state.gone.remove(to);
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        self.taken(&mut state, path)?;
        state.files.remove(path);
        state.gone.insert(path.to_owned());
        Ok(())
    }

    fn mkdir(&self, path: &str) -> io::Result<()> {
        let known = self.base.list(path).is_ok();
        let new = self.state().directories.insert(path.to_owned());
        match (known || !new) && !path.is_empty() {
            true => Err(io::ErrorKind::AlreadyExists.into()),
            false => Ok(()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        let full = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        };
        let mut names: BTreeSet<String> = match self.base.list(path) {
            Ok(names) => names.into_iter().collect(),
            Err(_) if state.directories.contains(path) => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        names.retain(|name| !state.gone.contains(&full(name)));
        let made = state.files.keys().filter_map(|file| {
            let name = match path {
                "" => file.as_str(),
                path => file.strip_prefix(path)?.strip_prefix('/')?,
            };
            (!name.contains('/')).then(|| name.to_owned())
        });
        names.extend(made);
        Ok(names.into_iter().collect())
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    /// The command that made this disk holds the directory's lock.
    fn lock(&self, _: &str) -> io::Result<LockOutcome> {
        Ok(LockOutcome::Held(LockGuard::new(())))
    }

    fn entropy(&self) -> io::Result<[u8; 16]> {
        self.base.entropy()
    }

    fn describe(&self) -> String {
        self.base.describe()
    }

    /// So nothing is filled ahead.
    fn is_memory(&self) -> bool {
        true
    }
}

/// A file of the directory, or none, with the pages that were written over it.
#[derive(Debug, Default)]
struct Written {
    base: Option<Arc<dyn DiskFile>>,
    base_len: u64,
    inner: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Written {
    fn over(base: Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = base.len()?;
        Ok(Self {
            base: Some(base),
            base_len: len,
            inner: Mutex::new(Pages {
                len,
                pages: BTreeMap::new(),
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Pages> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of the file below; zeros where it has none.
    fn page(&self, number: u64) -> io::Result<Box<[u8]>> {
        let mut page = vec![0; PAGE as usize].into_boxed_slice();
        if let Some(base) = self.base.as_ref().filter(|_| number * PAGE < self.base_len) {
            base.read_at(&mut page, number * PAGE)?;
        }
        Ok(page)
    }
}

/// The parts of `[at, at + len)` by page: the page's number, where in the page, where in the bytes.
fn parts(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let end = at + len as u64;
    (at / PAGE..end.div_ceil(PAGE)).map(move |number| {
        let from = at.max(number * PAGE);
        let to = end.min((number + 1) * PAGE);
        let range = (from - at) as usize..(to - at) as usize;
        (number, (from - number * PAGE) as usize, range)
    })
}

impl DiskFile for Written {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let inner = self.inner();
        let there = inner.len.saturating_sub(at).min(buf.len() as u64) as usize;
        let Some(base) = self.base.as_ref().filter(|_| inner.pages.is_empty()) else {
            for (number, in_page, range) in parts(at, there) {
                let len = range.len();
                match inner.pages.get(&number) {
                    Some(page) => buf[range].copy_from_slice(&page[in_page..in_page + len]),
                    None => buf[range].copy_from_slice(&self.page(number)?[in_page..in_page + len]),
                }
            }
            return Ok(there);
        };
        // Nothing was written: in one piece, and zeros where it was only made longer.
        let read = base.read_at(&mut buf[..there], at)?;
        buf[read..there].fill(0);
        Ok(there)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut inner = self.inner();
        for (number, in_page, range) in parts(at, bytes.len()) {
            let page = match inner.pages.entry(number) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(none) => none.insert(self.page(number)?),
            };
            page[in_page..in_page + range.len()].copy_from_slice(&bytes[range]);
        }
        inner.len = inner.len.max(at + bytes.len() as u64);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inner().len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.len = inner.len.max(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(disk: &Overlay) -> Vec<String> {
        disk.list("").expect("a directory")
    }

    #[test]
    fn what_is_written_is_read_back_and_the_directory_is_as_it_was() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("a"), vec![7; 10_000])?;
        let disk = Overlay::new(dir.path());
        let file = disk.open("a", OpenMode::Write)?;
        file.write_at(&[1, 2, 3], 4095)?;
        file.allocate(20_000)?;
        file.write_at(&[9], 19_999)?;
        let mut read = vec![0; 20_001];
        assert_eq!(file.read_at(&mut read, 0)?, 20_000);
        let mut expected = vec![7; 10_000];
        expected[4095..4098].copy_from_slice(&[1, 2, 3]);
        expected.resize(20_000, 0);
        expected[19_999] = 9;
        assert!(read[..20_000] == expected);
        disk.open("b", OpenMode::CreateNew)?;
        assert!(disk.open("b", OpenMode::CreateNew).is_err());
        disk.rename("b", "a")?;
        assert_eq!(names(&disk), ["a"]);
        assert_eq!(disk.open("a", OpenMode::Read)?.len()?, 0, "the renamed one");
        disk.unlink("a")?;
        assert!(names(&disk).is_empty() && disk.open("a", OpenMode::Read).is_err());
        assert_eq!(std::fs::read(dir.path().join("a"))?, vec![7; 10_000]);
        Ok(())
    }
}
