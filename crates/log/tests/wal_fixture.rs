//! Every released format stays readable: a directory of each is kept in `tests/fixtures/`.
//!
//! `POSTRIDER_WRITE_FIXTURES=1 cargo test -p postrider-log --test wal_fixture` writes the current one anew; only for a format that was not
//! released yet.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postrider_log::Error;
use postrider_log::disk::FileDisk;
use postrider_log::wal::{
    EntryBytes, EntryRef, FrameRef, Lsn, NoReplay, Sync, VERSION, Visitor, Wal, WalOptions,
};

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: [16 << 10, 16 << 10, 16 << 10],
        ..WalOptions::default()
    }
}

fn fixture(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

/// The body of the n-th frame's m-th entry.
fn body(n: u8, m: u8) -> Vec<u8> {
    (0..usize::from(n) * 211 + usize::from(m))
        .map(|at| (at as u8).wrapping_mul(n | 1))
        .collect()
}

fn write(path: &Path) {
    let _ = fs::remove_dir_all(path);
    let (mut wal, _) = Wal::open(Arc::new(FileDisk::new(path)), options(), &mut NoReplay).unwrap();
    for n in 0..12u8 {
        let (first, second) = (body(n, 0), body(n, 1));
        let (head, tail) = second.split_at(second.len() / 2);
        let entries = [
            EntryBytes {
                kind: n,
                flags: 0,
                body: &[&first],
            },
            EntryBytes {
                kind: n,
                flags: 0x81,
                body: &[head, tail],
            },
        ];
        wal.append(&entries, if n % 2 == 0 { Sync::Now } else { Sync::Lazy })
            .unwrap();
        if n % 3 != 0 {
            let job = wal.begin().unwrap().unwrap();
            wal.finish(job.run()).unwrap();
        }
        if n == 6 {
            let upto = wal.durable();
            let sections = vec![
                ("one".to_owned(), vec![1, 2, 3]),
                ("two".to_owned(), Vec::new()),
            ];
            let job = wal.checkpoint(sections, upto).unwrap();
            wal.finish_checkpoint(job.run()).unwrap();
        }
    }
    if let Some(job) = wal.begin_idle().unwrap() {
        wal.finish(job.run()).unwrap();
    }
    wal.close().unwrap();
    drop(wal);
    fs::remove_file(path.join("postrider.lock")).unwrap();
}

#[derive(Default)]
struct Seen {
    sections: Vec<(String, Vec<u8>)>,
    frames: Vec<u64>,
}

impl Visitor for Seen {
    fn checkpoint(&mut self, section: &str, bytes: &[u8]) -> Result<(), Error> {
        self.sections.push((section.to_owned(), bytes.to_vec()));
        Ok(())
    }
    fn frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Error> {
        let n = frame.lsn().0 as u8 - 1;
        let entries: Vec<EntryRef<'_>> = frame.entries().collect();
        let [first, second] = entries[..] else {
            panic!("two entries were written")
        };
        assert_eq!(
            (first.kind, first.flags, first.body),
            (n, 0, &body(n, 0)[..])
        );
        assert_eq!(
            (second.kind, second.flags, second.body),
            (n, 0x81, &body(n, 1)[..])
        );
        self.frames.push(frame.lsn().0);
        Ok(())
    }
}

#[test]
fn every_released_format_opens() {
    if std::env::var_os("POSTRIDER_WRITE_FIXTURES").is_some() {
        write(&fixture(VERSION));
    }
    for version in 1..=VERSION {
        let temporary = tempfile::tempdir().unwrap();
        for directory in ["", "log", "ckpt"] {
            fs::create_dir_all(temporary.path().join(directory)).unwrap();
            for file in fs::read_dir(fixture(version).join(directory)).unwrap() {
                let file = file.unwrap().path();
                if file.is_file() {
                    let name = file.file_name().unwrap();
                    fs::copy(&file, temporary.path().join(directory).join(name)).unwrap();
                }
            }
        }
        let mut seen = Seen::default();
        let disk = Arc::new(FileDisk::new(temporary.path()));
        let (mut wal, report) = Wal::open(disk, options(), &mut seen).unwrap();
        assert!(report.clean && !report.created);
        assert_eq!(
            seen.sections,
            [
                ("one".to_owned(), vec![1, 2, 3]),
                ("two".to_owned(), Vec::new())
            ]
        );
        assert_eq!((report.checkpoint, report.last), (Lsn(5), Lsn(12)));
        assert_eq!(seen.frames, (6..=12).collect::<Vec<u64>>());
        // It can be written on, too.
        wal.append(
            &[EntryBytes {
                kind: 1,
                flags: 0,
                body: &[b"new"],
            }],
            Sync::Now,
        )
        .unwrap();
        wal.close().unwrap();
    }
}
