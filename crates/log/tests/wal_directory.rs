//! A real directory: whose it is, who holds it, and that a directory which is refused stays as it was.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use postrider_log::Error;
use postrider_log::disk::{Disk, DiskFile, FileDisk, LockOutcome, OpenMode};
use postrider_log::wal::{
    EntryBytes, FrameRef, Lsn, NoReplay, OpenReport, Sync, Visitor, Wal, WalOptions,
};

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: [64 << 10, 128 << 10, 256 << 10],
        ..WalOptions::default()
    }
}

fn open(path: &Path) -> Result<(Wal, OpenReport), Error> {
    Wal::open(Arc::new(FileDisk::new(path)), options(), &mut NoReplay)
}

/// Every file under `path` and its bytes.
fn tree(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() {
            files.insert(entry.display().to_string(), Vec::new());
            files.extend(tree(&entry));
        } else {
            files.insert(entry.display().to_string(), fs::read(&entry).unwrap());
        }
    }
    files
}

#[derive(Default)]
struct Bodies(Vec<Vec<u8>>);

impl Visitor for Bodies {
    fn checkpoint(&mut self, section: &str, bytes: &[u8]) -> Result<(), Error> {
        self.0.push([section.as_bytes(), bytes].concat());
        Ok(())
    }
    fn frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Error> {
        self.0
            .extend(frame.entries().map(|entry| entry.body.to_vec()));
        Ok(())
    }
}

#[test]
fn frames_survive_reopening_a_directory_closed_or_not() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("deep/down/data");
    let mut expected = Vec::new();
    for life in 0..4u8 {
        let mut bodies = Bodies::default();
        let (mut wal, report) =
            Wal::open(Arc::new(FileDisk::new(&path)), options(), &mut bodies).unwrap();
        assert_eq!(bodies.0, expected);
        assert_eq!(report.created, life == 0);
        assert_eq!(report.clean, life != 2, "the second life was not closed");
        for n in 0..40u8 {
            let body = vec![life ^ n; 3000];
            wal.append(
                &[EntryBytes {
                    kind: 1,
                    flags: 0,
                    body: &[&body],
                }],
                Sync::Now,
            )
            .unwrap();
            expected.push(body);
            if let Some(job) = wal.begin().unwrap() {
                wal.finish(job.run()).unwrap();
            }
            while let Some(job) = wal.prepare_step() {
                wal.finish_prepare(job.run()).unwrap();
            }
        }
        if life != 1 {
            wal.close().unwrap();
        }
    }
}

#[test]
fn second_opening_says_who_holds_the_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let (wal, _) = open(temporary.path()).unwrap();
    let error = open(temporary.path()).unwrap_err();
    let Error::Locked { pid, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*pid, Some(std::process::id()));
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())) && text.contains("one process"),
        "{text}"
    );
    drop(wal);
    open(temporary.path()).unwrap();
}

#[test]
fn foreign_directory_is_refused_and_untouched() {
    let foreign: [&[(&str, &str)]; 4] = [
        &[("notes.txt", "mine")],
        &[("CURRENT", "MANIFEST-000001\n"), ("LOCK", "")],
        &[("CURRENT", "")],
        &[("log/app.log", "started")],
    ];
    for files in foreign {
        let temporary = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = temporary.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let before = tree(temporary.path());
        let error = open(temporary.path()).unwrap_err();
        assert!(matches!(error, Error::NotOurs { .. }), "{error}");
        assert_eq!(tree(temporary.path()), before);
    }
}

#[test]
fn creation_cut_short_is_taken_up_again() {
    let temporary = tempfile::tempdir().unwrap();
    fs::create_dir(temporary.path().join("log")).unwrap();
    fs::write(temporary.path().join("postrider.lock"), "1\n").unwrap();
    fs::write(temporary.path().join("CURRENT.tmp"), "half").unwrap();
    let (_, report) = open(temporary.path()).unwrap();
    assert!(report.created);
}

#[test]
fn path_that_is_a_file_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("data");
    fs::write(&path, "a file").unwrap();
    assert!(matches!(open(&path), Err(Error::NotADirectory { .. })));
    assert!(matches!(
        open(&path.join("below")),
        Err(Error::NotADirectory { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"a file");
}

#[test]
fn newer_version_is_refused_and_untouched() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(temporary.path()).unwrap();
    wal.close().unwrap();
    drop(wal);
    let current = temporary.path().join("CURRENT");
    let mut bytes = fs::read(&current).unwrap();
    bytes[8] = 9;
    fs::write(&current, bytes).unwrap();
    let before = tree(temporary.path());
    let error = open(temporary.path()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NewerVersion {
                found: 9,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(tree(temporary.path()), before);
}

#[test]
fn each_damaged_file_has_its_own_error_and_nothing_is_touched() {
    let temporary = tempfile::tempdir().unwrap();
    let (mut wal, _) = open(temporary.path()).unwrap();
    wal.append(
        &[EntryBytes {
            kind: 1,
            flags: 0,
            body: &[b"one"],
        }],
        Sync::Now,
    )
    .unwrap();
    wal.close().unwrap();
    drop(wal);
    // A second opening lists the first segment as used.
    open(temporary.path()).unwrap().0.close().unwrap();
    type Check = fn(&Error) -> bool;
    let cases: [(&str, usize, Check); 3] = [
        ("CURRENT", 20, |error| {
            matches!(error, Error::CorruptManifest { .. })
        }),
        ("log/0000000000000001.wal", 20, |error| {
            matches!(error, Error::CorruptSegment { .. })
        }),
        ("log/0000000000000001.wal", 4096 + 64 + 32 + 12, |error| {
            matches!(error, Error::Corrupt { .. })
        }),
    ];
    for (name, byte, check) in cases {
        let path = temporary.path().join(name);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[byte] ^= 1;
        fs::write(&path, damaged).unwrap();
        let mut before = tree(temporary.path());
        let error = open(temporary.path()).unwrap_err();
        assert!(check(&error), "{name} at {byte}: {error}");
        let mut after = tree(temporary.path());
        // The holder's number is written again when the lock is taken; in this test it is the same.
        before.retain(|name, _| !name.ends_with("postrider.lock"));
        after.retain(|name, _| !name.ends_with("postrider.lock"));
        assert_eq!(before, after);
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(open(temporary.path()).unwrap().1.last, Lsn(1));
}

/// A directory that may be read and not written.
#[derive(Debug)]
struct ReadOnly(FileDisk);

impl Disk for ReadOnly {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        match mode {
            OpenMode::Read => self.0.open(path, mode),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        panic!("nothing may be written")
    }
    fn unlink(&self, _: &str) -> io::Result<()> {
        panic!("nothing may be written")
    }
    fn mkdir(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn sync_dir(&self, _: &str) -> io::Result<()> {
        panic!("nothing may be written")
    }
    fn lock(&self, _: &str) -> io::Result<LockOutcome> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn entropy(&self) -> io::Result<[u8; 16]> {
        self.0.entropy()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

// Permissions do not bind a privileged user, so the refusal of the system is played here.
#[test]
fn directory_that_cannot_be_written_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    for name in ["", "missing"] {
        let disk = ReadOnly(FileDisk::new(temporary.path().join(name)));
        let error = Wal::open(Arc::new(disk), options(), &mut NoReplay).unwrap_err();
        assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
        assert!(error.to_string().contains("writable"), "{error}");
    }
    assert!(tree(temporary.path()).is_empty());
}
