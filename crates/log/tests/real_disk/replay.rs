//! Playing a trace into the model, and cutting its power everywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use postrider_log::Log;
use postrider_log::disk::{Disk, DiskFile, OpenMode, SimDisk};

use super::child::{EVENTS, NOW, options};
use super::trace::Event;

const LOCK: &str = "postrider.lock";
/// Ways in which each point is cut.
const WAYS: u64 = 5;

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) system_calls: u64,
    pub(crate) cuts: u64,
    pub(crate) confirmed: u64,
}

/// The model, as the system calls so far made it.
pub(crate) struct Replay {
    disk: SimDisk,
    open: BTreeMap<String, Arc<dyn DiskFile>>,
    counts: Counts,
}

impl Replay {
    pub(crate) fn new() -> Replay {
        Replay {
            disk: SimDisk::new(1),
            open: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Each mark names a call of the disk; what follows until the next mark must be just that, and is played.
    pub(crate) fn play(&mut self, events: &[Event]) {
        let mut events = events.iter().peekable();
        while let Some(event) = events.next() {
            let Event::Mark(call) = event else {
                panic!("{event:?} before any call of the disk");
            };
            let mut made = Vec::new();
            while let Some(event) = events.next_if(|event| !matches!(event, Event::Mark(_))) {
                made.push(event.clone());
            }
            match call.split_once(' ') {
                Some(("confirmed", count)) => {
                    assert_eq!(made, [], "a call that the disk was not asked for");
                    self.counts.confirmed = count.parse().unwrap();
                }
                _ => {
                    check(call, &made);
                    self.counts.calls += 1;
                    self.counts.system_calls += made.len() as u64;
                    made.iter().for_each(|event| self.apply(event));
                    if made.iter().any(|event| !matches!(event, Event::Open { flags, .. } if !flags.contains("O_CREAT"))) {
                        self.cut(call);
                    }
                }
            }
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Open { path, .. } if path == LOCK => {}
            Event::Open {
                path,
                flags,
                failed: false,
            } if flags.contains("O_CREAT") => {
                let file = self.disk.open(path, OpenMode::CreateNew).unwrap();
                self.open.insert(path.clone(), file);
            }
            Event::Write { path, at, bytes } => self.file(path).write_at(bytes, *at).unwrap(),
            Event::Sync { path, call } if call == "fsync" => self.disk.sync_dir(path).unwrap(),
            Event::Sync { path, .. } => self.file(path).sync_data().unwrap(),
            Event::Rename { from, to } => {
                self.disk.rename(from, to).unwrap();
                self.open.remove(from);
                self.open.remove(to);
            }
            Event::Unlink { path, failed } => {
                assert_eq!(self.disk.unlink(path).is_err(), *failed, "{path}");
                self.open.remove(path);
            }
            Event::Mkdir { path } if path.is_empty() => {}
            Event::Mkdir { path } => self.disk.mkdir(path).unwrap(),
            Event::Allocate { path, len } => self.file(path).allocate(*len).unwrap(),
            _ => {}
        }
    }

    fn file(&mut self, path: &str) -> Arc<dyn DiskFile> {
        let disk = &self.disk;
        let file = self.open.entry(path.to_owned());
        let file = file.or_insert_with(|| disk.open(path, OpenMode::Write).unwrap());
        Arc::clone(file)
    }

    /// The power is cut here, in several ways: the log finds everything that was confirmed.
    fn cut(&mut self, call: &str) {
        for way in 0..WAYS {
            let after = self.disk.crash(self.counts.calls * WAYS + way);
            let opened = Log::open(Arc::new(after), options(), NOW);
            let (mut log, _) = opened.unwrap_or_else(|error| panic!("cut at {call}: {error}"));
            self.counts.cuts += 1;
            let Some(stream) = log.find_stream(EVENTS) else {
                assert_eq!(self.counts.confirmed, 0, "cut at {call}: all is gone");
                continue;
            };
            let read = log.read(stream, 0, 10_000, 1 << 24).unwrap();
            let found = read.records.len() as u64;
            let confirmed = self.counts.confirmed;
            assert!(found >= confirmed, "cut at {call}: {found} of {confirmed}");
            for (nth, record) in read.records.iter().enumerate() {
                assert_eq!(record.id, (nth as u128 + 1).to_le_bytes());
            }
        }
    }

    /// The model shows the files that the real directory has, byte for byte.
    pub(crate) fn compare(&self, root: &Path) {
        let mut real = BTreeMap::new();
        for directory in ["", "log", "ckpt"] {
            for entry in std::fs::read_dir(root.join(directory)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                if path.is_file() && name != LOCK {
                    real.insert(name.to_owned(), std::fs::read(&path).unwrap());
                }
            }
        }
        let model = self.disk.paths().into_iter();
        let model: BTreeMap<String, Vec<u8>> = model
            .map(|path| (path.clone(), self.disk.content(&path).unwrap()))
            .collect();
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&model), names(&real));
        for (name, bytes) in &real {
            assert!(model[name] == *bytes, "{name} differs");
        }
    }
}

/// What the model believes a call of the disk to be: that one system call, on that file, and no other.
fn check(call: &str, made: &[Event]) {
    let words: Vec<&str> = call.split(' ').collect();
    let path = |nth: usize| words.get(nth).copied().unwrap_or_default();
    let right = match (words[0], made) {
        (
            "open",
            [
                Event::Open {
                    path: of, flags, ..
                },
            ],
        ) => {
            let creates = flags.contains("O_CREAT") && flags.contains("O_EXCL");
            of == path(2) && creates == (path(1) == "CreateNew") && !flags.contains("O_TRUNC")
        }
        ("rename", [Event::Rename { from, to }]) => from == path(1) && to == path(2),
        ("unlink", [Event::Unlink { path: of, .. }]) => of == path(1),
        ("mkdir", [Event::Mkdir { path: of }]) => of == path(1),
        // The root, whose missing parents are made and whose entry is synced.
        ("mkdir", _) => path(1).is_empty(),
        ("list", [] | [Event::Open { .. }]) => true,
        (
            "sync_dir",
            [
                Event::Open { path: of, .. },
                Event::Sync { path: synced, call },
            ],
        ) => of == path(1) && synced == path(1) && call == "fsync",
        ("lock", made) => made.iter().all(|event| match event {
            Event::Open { path, .. } | Event::Other { path, .. } => path == LOCK,
            _ => false,
        }),
        (
            "write_at",
            [
                Event::Write {
                    path: of,
                    at,
                    bytes,
                },
            ],
        ) => {
            (of.as_str(), at.to_string(), bytes.len().to_string())
                == (path(1), path(2).to_owned(), path(3).to_owned())
        }
        ("sync_data", [Event::Sync { path: of, call }]) => of == path(1) && call == "fdatasync",
        ("allocate", [Event::Allocate { path: of, len }]) => {
            of == path(1) && len.to_string() == path(2)
        }
        ("entropy" | "read_at" | "len" | "end", []) => true,
        _ => false,
    };
    assert!(right, "the disk was asked for `{call}`, and made {made:?}");
}
