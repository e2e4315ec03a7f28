//! What is done with a directory that no process has open: look at every byte, print it, copy it, bring a copy back.
//!
//! Nothing here changes the directory that it reads. A running log is copied with [`Log::backup`](crate::Log::backup).
//!
//! ```
//! use std::ops::ControlFlow;
//! use postrider_log::{Lsn, tools};
//!
//! # fn main() -> Result<(), postrider_log::Error> {
//! # let home = tempfile::tempdir().expect("a directory for the test");
//! # let (data, backup, new) = (home.path().join("data"), home.path().join("backup"), home.path().join("new"));
//! # let now = postrider_log::Now::from_millis(1_700_000_000_000, 0);
//! # let disk = std::sync::Arc::new(postrider_log::disk::FileDisk::new(&data));
//! # let (mut log, _) = postrider_log::Log::open(disk, Default::default(), now)?;
//! # log.create_stream("shop.order", Default::default())?;
//! # log.close()?;
//! # drop(log);
//! assert!(tools::verify(&data)?.is_sound());
//! tools::dump(&data, Lsn(0), &mut |entry| {
//!     println!("{entry}");
//!     ControlFlow::Continue(())
//! })?;
//! tools::backup(&data, &backup, &mut |_bytes| {})?;
//! tools::restore(&backup, &new, &mut |_bytes| {})?;
//! # Ok(())
//! # }
//! ```

mod dump;
mod verify;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub use dump::{DumpEntry, DumpValue};
pub use verify::{Damage, SegmentReport, VerifyReport};

use crate::disk::{Disk, FileDisk};
use crate::wal::{BackupReport, Stopped};
use crate::{Error, Lsn};

fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(FileDisk::new(path))
}

/// Reads everything in the directory: each segment, frame, entry and checkpoint with its checksum, and each message and failure record that
/// is still needed. Changes nothing. Takes about a second per GiB.
///
/// Damage is in the report, not an error.
///
/// # Errors
/// [`Error::Locked`] while a process has it open, [`Error::NotOurs`], [`Error::NewerVersion`], [`Error::CorruptManifest`]: there is nothing
/// to read then. [`Error::Io`].
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport, Error> {
    verify::verify(disk(path.as_ref()))
}

/// [`verify`], on any disk.
///
/// # Errors
/// As [`verify`].
pub fn verify_disk(disk: Arc<dyn Disk>) -> Result<VerifyReport, Error> {
    verify::verify(disk)
}

/// Shows every entry of the directory's log from LSN `from` on, in order, one at a time; `sink` ends it with `Break`. Changes nothing. Holds one
/// batch in memory. What is damaged is passed over: [`verify`] says where.
///
/// # Errors
/// As [`verify`].
pub fn dump(
    path: impl AsRef<Path>,
    from: Lsn,
    sink: &mut dyn FnMut(DumpEntry) -> ControlFlow<()>,
) -> Result<(), Error> {
    dump::dump(disk(path.as_ref()), from, sink)
}

/// [`dump`], on any disk.
///
/// # Errors
/// As [`verify`].
pub fn dump_disk(
    disk: Arc<dyn Disk>,
    from: Lsn,
    sink: &mut dyn FnMut(DumpEntry) -> ControlFlow<()>,
) -> Result<(), Error> {
    dump::dump(disk, from, sink)
}

/// Copies the log of a directory that is not running into `target`, which must be empty or not there. The copy is durable when this returns,
/// and has an id of its own. `note` hears of the bytes of each finished file.
///
/// # Errors
/// As [`verify`], and [`Error::Refused`] if `target` holds something, [`Error::Corrupt`] and its kin if the log is damaged.
pub fn backup(
    path: impl AsRef<Path>,
    target: impl AsRef<Path>,
    note: &mut dyn FnMut(u64),
) -> Result<BackupReport, Error> {
    Stopped::open(disk(path.as_ref()))?.copy(&FileDisk::new(target.as_ref()), note)
}

/// Brings a backup back: verifies all of it, copies it into `target`, which must be empty or not there, under a new directory id, and verifies
/// the copy. The backup stays as it is. `note` hears of the bytes of each finished file.
///
/// # Errors
/// As [`verify`]; [`Error::Refused`] if the backup is damaged (nothing was written then) or `target` holds something.
pub fn restore(
    backup: impl AsRef<Path>,
    target: impl AsRef<Path>,
    note: &mut dyn FnMut(u64),
) -> Result<BackupReport, Error> {
    let (from, to) = (disk(backup.as_ref()), disk(target.as_ref()));
    restore_disk(from, to, note)
}

/// [`restore`], on any disks.
///
/// # Errors
/// As [`restore`].
pub fn restore_disk(
    backup: Arc<dyn Disk>,
    target: Arc<dyn Disk>,
    note: &mut dyn FnMut(u64),
) -> Result<BackupReport, Error> {
    verify::verify(Arc::clone(&backup))?.require_sound(&backup.describe())?;
    let report = Stopped::open(backup)?.copy(&*target, note)?;
    verify::verify(Arc::clone(&target))?.require_sound(&target.describe())?;
    Ok(report)
}
