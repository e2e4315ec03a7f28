//! One process writes a database of ours at a time: a lock file beside it, so that others may still read the database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;

/// Held while the database is open. The operating system gives it back when the process dies, whatever the cause.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

pub(crate) fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Takes the lock of a database, whose path is canonical.
pub(crate) fn take(database: &Path) -> Result<DirLock, Error> {
    let unusable = |why: &str, source: std::io::Error| Error::NotUsable {
        path: database.to_owned(),
        why: format!("{why}: {source}"),
        source: Some(Arc::new(source)),
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(lock_path(database))
        .map_err(|e| unusable("its lock file cannot be opened", e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Locked {
                path: database.to_owned(),
                holder: holder(&mut file),
            });
        }
        Err(TryLockError::Error(e)) => return Err(unusable("its lock file cannot be locked", e)),
    }
    // The number in the file is for people; the lock itself is what counts.
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|e| unusable("its lock file cannot be written", e))?;
    Ok(DirLock { _file: file })
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) if pid == std::process::id() => {
            format!("this process (pid {pid})")
        }
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}
