//! The engine in a directory: what survives, what is refused, what a broken disk does.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider_core::capability::Durability;
use postrider_core::code::Code;
use postrider_core::crash::{Change, CrashNote};
use postrider_core::engine::Engine;
use postrider_core::failure::Cause;
use postrider_core::fault::{Advice, Effect, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::settle::Settle;
use postrider_core::source::Source;
use postrider_embedded::{Embedded, Options};
use postrider_log::disk::{Disk, DiskFile, FileDisk, LockOutcome, OpenMode};
use support::*;

const GRACE: Duration = Duration::from_secs(10);

fn at(directory: &Path) -> Embedded {
    Embedded::open(directory, Options::default()).unwrap()
}

#[tokio::test]
async fn what_was_confirmed_survives_a_reopen_and_what_was_settled_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    {
        let engine = at(dir.path());
        provision(&engine, &["inventory"]).await;
        let receipts = publish(
            &engine,
            (1..=3).map(|n| message(&format!("o-{n}"), n)).collect(),
        )
        .await;
        assert_eq!(receipts[0].durability, Durability::Flushed);
        let mut source = open(&engine, "inventory", 1).await;
        let mut leased = source.next(ROOM).await.unwrap();
        assert_eq!(numbers(&leased), [1, 2, 3]);
        let third = leased.pop().unwrap();
        let failed = draft(&third, Cause::Permanent);
        settle(&*source, third.token, Settle::Park(failed))
            .await
            .unwrap();
        let second = leased.pop().unwrap();
        settle(&*source, second.token, Settle::Ack).await.unwrap();
        engine.close(GRACE).await.unwrap();
    }
    let engine = at(dir.path());
    let mut source = open(&engine, "inventory", 2).await;
    let leased = source.next(ROOM).await.unwrap();
    assert_eq!(numbers(&leased), [1]);
    assert_eq!(
        leased[0].deliveries,
        Some(1),
        "the attempt of the run before counts"
    );
    let opened = engine
        .failures()
        .unwrap()
        .open(&subscription("inventory"))
        .await
        .unwrap();
    assert_eq!(opened.parked, ["o-3"]);
}

#[tokio::test]
async fn what_was_noted_of_crashes_survives_without_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let note = CrashNote {
        life: InstanceId(3),
        explained: Vec::new(),
        changes: vec![(id(1), Change::Begin), (id(2), Change::Begin)],
    };
    let sub = subscription("inventory");
    let crash = {
        let engine = at(dir.path());
        provision(&engine, &["inventory"]).await;
        engine
            .failures()
            .unwrap()
            .note_crash(&sub, note)
            .await
            .unwrap()
    };
    assert_eq!(crash.watched.len(), 2);
    let engine = at(dir.path());
    assert_eq!(
        engine.failures().unwrap().open(&sub).await.unwrap().crash,
        crash
    );
}

#[tokio::test]
async fn a_closed_engine_frees_its_directory_whoever_still_holds_a_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = at(dir.path());
    provision(&engine, &["inventory"]).await;
    let publisher = publisher(&engine).await;
    let mut source = open(&engine, "inventory", 1).await;
    engine.close(GRACE).await.unwrap();
    let again = at(dir.path());
    assert_eq!(source.next(ROOM).await.unwrap_err().kind, FaultKind::Closed);
    assert!(publisher.publish(vec![message("o-1", 1)]).await[0].is_err());
    publish(&again, vec![message("o-1", 1)]).await;
}

#[tokio::test]
async fn many_publishers_share_a_sync_and_all_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(at(dir.path()));
    provision(&engine, &["inventory"]).await;
    let each = (0..64).map(|task| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            for n in 0..4 {
                publish(&engine, vec![message(&format!("k-{task}"), task * 4 + n)]).await;
            }
        })
    });
    for task in each.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut source = open(&engine, "inventory", 1).await;
    let mut per_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut count = 0;
    while count < 256 {
        let leased = source.next(ROOM).await.unwrap();
        count += leased.len();
        for one in &leased {
            let key = String::from_utf8(one.record.key().unwrap().to_vec()).unwrap();
            per_key
                .entry(key)
                .or_default()
                .extend(numbers(std::slice::from_ref(one)));
        }
        ack_all(&*source, leased).await;
    }
    assert_eq!(per_key.len(), 64);
    assert!(
        per_key
            .values()
            .all(|numbers| numbers.is_sorted() && numbers.len() == 4),
        "{per_key:?}"
    );
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_the_process_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _engine = at(dir.path());
    let error = Embedded::open(dir.path(), Options::default()).unwrap_err();
    assert_eq!(error.code(), Code::DIR_LOCKED);
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    assert!(
        text.starts_with("PR-1001: ") && text.contains("one process"),
        "{text}"
    );
}

/// Every file below a directory, with its bytes.
fn content(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            all.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    all
}

/// A directory in which an engine was closed in order.
async fn closed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let engine = at(dir.path());
    provision(&engine, &["inventory"]).await;
    publish(&engine, (1..=50).map(|n| message("o-1", n)).collect()).await;
    engine.close(GRACE).await.unwrap();
    dir
}

fn refused(directory: &Path) -> Code {
    let before = content(directory);
    let error = Embedded::open(directory, Options::default()).unwrap_err();
    assert_eq!(
        content(directory),
        before,
        "{error}: and yet something was changed"
    );
    assert!(
        error.to_string().starts_with(&error.code().to_string()),
        "{error}"
    );
    assert!(error.code().explain().is_some());
    error.code()
}

fn only_file(directory: &Path, sub: &str) -> std::path::PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(directory.join(sub))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.pop().unwrap()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x55;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_directory_that_is_not_ours_stays_untouched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
    assert_eq!(refused(dir.path()), Code::DIR_NOT_OURS);
    let file = dir.path().join("thesis.tex");
    let error = Embedded::open(&file, Options::default()).unwrap_err();
    assert_eq!(error.code(), Code::DIR_IS_A_FILE);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[tokio::test]
async fn damage_is_refused_with_its_code_and_changes_nothing() {
    let dir = closed().await;
    flip(&dir.path().join("CURRENT"), 40);
    assert_eq!(refused(dir.path()), Code::MANIFEST_CORRUPT);

    let dir = closed().await;
    flip(&dir.path().join("CURRENT"), 9);
    assert_eq!(refused(dir.path()), Code::DIR_NEWER);

    let dir = closed().await;
    flip(&only_file(dir.path(), "log"), 40);
    assert_eq!(refused(dir.path()), Code::LOG_CORRUPT);

    let dir = closed().await;
    std::fs::remove_file(only_file(dir.path(), "log")).unwrap();
    assert_eq!(refused(dir.path()), Code::LOG_CORRUPT);
}

/// A directory that may be read and not written, as one that was mounted so, or belongs to another user. (Tests may run as a user whom no
/// permission stops.)
#[derive(Debug)]
struct ReadOnly(FileDisk);

impl ReadOnly {
    fn refuse<T>() -> io::Result<T> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

impl Disk for ReadOnly {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        match mode {
            OpenMode::Read => self.0.open(path, mode),
            _ => Self::refuse(),
        }
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Self::refuse()
    }
    fn unlink(&self, _: &str) -> io::Result<()> {
        Self::refuse()
    }
    fn mkdir(&self, _: &str) -> io::Result<()> {
        Self::refuse()
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.0.list(path)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn lock(&self, _: &str) -> io::Result<LockOutcome> {
        Self::refuse()
    }
    fn entropy(&self) -> io::Result<[u8; 16]> {
        self.0.entropy()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused_and_says_what_to_do() {
    let used = closed().await;
    let empty = tempfile::tempdir().unwrap();
    let missing = empty.path().join("data");
    for directory in [used.path(), empty.path(), &missing] {
        let before = if directory.exists() {
            content(directory)
        } else {
            BTreeMap::new()
        };
        let mut options = Options::default();
        options.disk = Some(Arc::new(ReadOnly(FileDisk::new(directory))));
        let error = Embedded::open(directory, options).unwrap_err();
        assert_eq!(error.code(), Code::DIR_NOT_WRITABLE, "{error}");
        let named = directory.display().to_string();
        assert!(error.to_string().contains(&named), "which one: {error}");
        let fault = Fault::from(error);
        assert_eq!(
            (fault.kind, fault.advice),
            (FaultKind::Denied, Advice::FixConfig)
        );
        let remedy = Code::DIR_NOT_WRITABLE.explain().unwrap().remedy;
        assert!(remedy.contains("permissions"), "{remedy}");
        let after = if directory.exists() {
            content(directory)
        } else {
            BTreeMap::new()
        };
        assert_eq!(after, before);
    }
    // It can be written again: nothing was left that stands in the way.
    let engine = at(used.path());
    let mut source = open(&engine, "inventory", 1).await;
    assert_eq!(source.next(ROOM).await.unwrap().len(), 50);
    assert!(!missing.exists());
}

type Damage = Box<dyn Fn(&Path)>;

/// The newest checkpoint is damaged: the one before it is taken, and what came since is read from the log. Everything is as it was: what waits,
/// what was settled, what failed.
#[tokio::test]
async fn a_damaged_checkpoint_costs_a_longer_start_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    // Each life ends with a checkpoint; there is much that a checkpoint lets go.
    for life in 0..4 {
        let engine = at(dir.path());
        provision(&engine, &["inventory"]).await;
        let mut source = open(&engine, "inventory", life).await;
        let waits = n / 300;
        publish(
            &engine,
            (n + 1..=n + 300).map(|n| message("o-1", n)).collect(),
        )
        .await;
        n += 300;
        let mut leased = Vec::new();
        while leased.len() < 300 + waits as usize {
            leased.extend(source.next(ROOM).await.unwrap());
        }
        // The last stays, the one before it fails, all others are settled.
        let mut fresh = leased.split_off(waits as usize);
        drop(leased);
        fresh.pop().unwrap();
        let failed = fresh.pop().unwrap();
        let record = draft(&failed, Cause::Permanent);
        settle(&*source, failed.token, Settle::DeadLetter(record))
            .await
            .unwrap();
        ack_all(&*source, fresh).await;
        drop(source);
        engine.close(GRACE).await.unwrap();
    }
    let newest = only_file(dir.path(), "ckpt");
    let sound = std::fs::read(&newest).unwrap();
    let length = sound.len();
    let damages: [(&str, Damage); 4] = [
        (
            "a flipped bit",
            Box::new(move |file| flip(file, length / 2)),
        ),
        ("its header", Box::new(|file| flip(file, 33))),
        (
            "half of it",
            Box::new(move |file| {
                let half = std::fs::OpenOptions::new().write(true).open(file).unwrap();
                half.set_len(length as u64 / 2).unwrap();
            }),
        ),
        (
            "all of it",
            Box::new(|file| std::fs::remove_file(file).unwrap()),
        ),
    ];
    for (what, damage) in damages {
        let copy = tempfile::tempdir().unwrap();
        copy_all(dir.path(), copy.path());
        let file = only_file(copy.path(), "ckpt");
        damage(&file);
        let engine = at(copy.path());
        let failures = engine.failures().unwrap();
        let records = failures
            .list(&subscription("inventory"), None, None, 100)
            .await
            .unwrap();
        assert_eq!(records.len(), 4, "{what}");
        let mut source = open(&engine, "inventory", 9).await;
        let held = source.next(ROOM).await.unwrap();
        assert_eq!(numbers(&held), [300, 600, 900, 1200], "{what}");
        let positions: Vec<u64> = publish(&engine, vec![message("o-1", 1201)])
            .await
            .iter()
            .filter_map(|receipt| receipt.position)
            .collect();
        assert_eq!(positions, [1200], "{what}: no position is given twice");
        engine.close(GRACE).await.unwrap();
        let again = at(copy.path());
        let mut source = open(&again, "inventory", 10).await;
        let held = source.next(ROOM).await.unwrap();
        assert_eq!(held.len(), 5, "{what}: and again");
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        if from.is_dir() {
            std::fs::create_dir(to.join(&name)).unwrap();
            copy_all(&from, &to.join(name));
        } else {
            std::fs::copy(from, to.join(name)).unwrap();
        }
    }
}

/// A directory whose syncs fail from some moment on.
#[derive(Debug)]
struct Failing {
    disk: FileDisk,
    broken: Arc<AtomicBool>,
}

#[derive(Debug)]
struct FailingFile {
    file: Arc<dyn DiskFile>,
    broken: Arc<AtomicBool>,
}

impl Disk for Failing {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(FailingFile {
            file,
            broken: Arc::clone(&self.broken),
        }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn unlink(&self, path: &str) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn mkdir(&self, path: &str) -> io::Result<()> {
        self.disk.mkdir(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn lock(&self, path: &str) -> io::Result<LockOutcome> {
        self.disk.lock(path)
    }
    fn entropy(&self) -> io::Result<[u8; 16]> {
        self.disk.entropy()
    }
    fn describe(&self) -> String {
        self.disk.describe()
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected EIO"));
        }
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_confirmed_and_everything_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let disk = Failing {
        disk: FileDisk::new(dir.path()),
        broken: Arc::clone(&broken),
    };
    let mut options = Options::default();
    options.disk = Some(Arc::new(disk));
    {
        let engine = Embedded::open(dir.path(), options).unwrap();
        provision(&engine, &["inventory"]).await;
        publish(&engine, vec![message("o-1", 1)]).await;
        let mut source = open(&engine, "inventory", 1).await;
        assert_eq!(numbers(&source.next(ROOM).await.unwrap()), [1]);
        broken.store(true, Ordering::SeqCst);
        let publisher = publisher(&engine).await;
        let fault = publisher
            .publish(vec![message("o-1", 2)])
            .await
            .remove(0)
            .unwrap_err();
        assert_eq!(
            (fault.code, fault.effect),
            (Some(Code::LOG_POISONED), Effect::Unknown)
        );
        broken.store(false, Ordering::SeqCst);
        let fault = publisher
            .publish(vec![message("o-1", 3)])
            .await
            .remove(0)
            .unwrap_err();
        assert_eq!(
            (fault.code, fault.effect),
            (Some(Code::LOG_POISONED), Effect::NotApplied),
            "a sync is not tried again"
        );
        let fault = source.next(ROOM).await.unwrap_err();
        assert_eq!(
            (fault.code, fault.advice),
            (Some(Code::LOG_POISONED), Advice::StopOwner)
        );
        let fault = engine.close(GRACE).await.unwrap_err();
        assert_eq!(fault.code, Some(Code::LOG_POISONED));
    }
    let engine = at(dir.path());
    let mut source = open(&engine, "inventory", 1).await;
    assert_eq!(
        source.next(ROOM).await.unwrap()[0].record.position,
        0,
        "what was confirmed is there"
    );
}

#[tokio::test]
async fn a_topic_has_at_least_the_level_that_the_engine_says_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let level = |durability| {
        let mut options = Options::default();
        options.durability = durability;
        Embedded::open(dir.path(), options).unwrap()
    };
    // What it was opened with, and what its topic gives: one that is weaker is raised, a stronger one stays.
    for (asked, given) in [
        (Durability::Os, Durability::Os),
        (Durability::Flushed, Durability::Flushed),
        (Durability::Os, Durability::Flushed),
    ] {
        let engine = level(asked);
        provision(&engine, &["inventory"]).await;
        let receipts = publish(&engine, vec![message("o-1", 1)]).await;
        assert_eq!(receipts[0].durability, given, "opened with {asked:?}");
        engine.close(GRACE).await.unwrap();
    }
}

#[tokio::test]
async fn a_level_that_takes_several_machines_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.durability = Durability::Replicated;
    let error = Embedded::open(dir.path().join("data"), options).unwrap_err();
    assert_eq!(error.code(), Code::CONFIG_CONTRADICTS);
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn inboxes_of_a_process_that_died_are_swept_at_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = {
        let engine = at(dir.path());
        let (inbox, source) = engine.inbox(InstanceId(7)).await.unwrap();
        let Source::Lease(mut source) = source else {
            panic!("a lease source")
        };
        let mut reply = message("o-1", 1);
        reply.destination = inbox.clone();
        let receipts = publish(&engine, vec![reply]).await;
        assert_eq!(receipts[0].durability, Durability::Memory);
        assert_eq!(numbers(&source.next(ROOM).await.unwrap()), [1]);
        engine.close(GRACE).await.unwrap();
        inbox
    };
    let engine = at(dir.path());
    let mut late = message("o-1", 2);
    late.destination = inbox;
    let fault = publisher(&engine)
        .await
        .publish(vec![late])
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::NoRoute);
}

#[tokio::test]
async fn a_running_engine_is_backed_up_and_the_backup_is_brought_back() {
    let home = tempfile::tempdir().unwrap();
    let (data, backup, back) = (
        home.path().join("data"),
        home.path().join("backup"),
        home.path().join("back"),
    );
    let engine = at(&data);
    provision(&engine, &["inventory"]).await;
    publish(&engine, (1..=5).map(|n| message("o-1", n)).collect()).await;
    let admin = engine.admin().unwrap();
    let inside = admin.backup(&data.join("backup")).await.unwrap_err();
    assert_eq!(inside.kind, FaultKind::Config);
    let report = admin.backup(&backup).await.unwrap();
    assert!(
        report.live >= 1 && report.bytes > 0 && report.segments >= 1,
        "{report:?}"
    );
    // It goes on; what comes later is not in the copy, and the copy is not written over.
    publish(&engine, vec![message("o-1", 6)]).await;
    let again = admin.backup(&backup).await.unwrap_err();
    assert!(again.to_string().contains("is not empty"), "{again}");
    drop(engine);

    postrider_log::tools::restore(&backup, &back, &mut |_| {}).unwrap();
    let engine = at(&back);
    let mut source = open(&engine, "inventory", 1).await;
    let leased = source.next(ROOM).await.unwrap();
    assert_eq!(numbers(&leased), [1, 2, 3, 4, 5]);
}
