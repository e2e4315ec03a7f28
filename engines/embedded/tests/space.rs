//! A full disk through the engine, within a bound of its own.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use postrider_core::code::Code;
use postrider_core::engine::{Engine, Publisher};
use postrider_core::failure::Cause;
use postrider_core::fault::{Advice, Effect, Fault, FaultKind};
use postrider_core::settle::Settle;
use postrider_embedded::{Embedded, Options};
use postrider_log::disk::SimDisk;
use support::*;
use tracing::field::{Field, Visit};

fn options() -> Options {
    let mut options = Options::default();
    options.message_bytes_max = 64 << 10;
    options
}

/// Publishes so many bytes at a time until it is full. Gives how many were confirmed, and the fault.
async fn fill(publisher: &dyn Publisher, from: u64, bytes: usize) -> (u64, Fault) {
    for n in from..from + 20_000 {
        let mut one = message(&format!("o-{}", n % 50), n);
        one.payload = Bytes::from(vec![b'x'; bytes]);
        if let Err(fault) = publisher.publish(vec![one]).await.remove(0) {
            return (n, fault);
        }
    }
    panic!("it never was full");
}

/// Fills it, has everything settled (some of it as dead letters) while it is full, and publishes again without doing anything else.
async fn full_and_back(engine: &Embedded) {
    provision(engine, &["inventory"]).await;
    let publisher = publisher(engine).await;
    let (confirmed, fault) = fill(&*publisher, 1, 32 << 10).await;
    assert!(confirmed > 10, "{confirmed}");
    assert_eq!(
        (fault.kind, fault.effect),
        (FaultKind::Full, Effect::NotApplied)
    );
    assert_eq!(fault.code, Some(Code::DISK_FULL), "{fault}");
    assert!(matches!(fault.advice, Advice::Retry { .. }), "{fault}");
    let mut source = open(engine, "inventory", 1).await;
    let mut seen = 0;
    while seen + 1 < confirmed {
        for leased in source.next(ROOM).await.unwrap() {
            seen += 1;
            let how = match seen % 50 {
                7 => Settle::DeadLetter(draft(&leased, Cause::Permanent)),
                _ => Settle::Ack,
            };
            settle(&*source, leased.token, how).await.unwrap();
        }
    }
    let resumed = async {
        let mut n = confirmed;
        loop {
            n += 1;
            if publisher
                .publish(vec![message("o-1", n)])
                .await
                .remove(0)
                .is_ok()
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let resumed = tokio::time::timeout(Duration::from_secs(30), resumed).await;
    resumed.expect("it resumes by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acceptance_10_out_of_space_within_a_bound_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.disk_bytes_max = Some(4 << 20);
    let engine = Embedded::open(dir.path(), options.clone()).unwrap();
    full_and_back(&engine).await;
    let bytes: u64 = std::fs::read_dir(dir.path().join("log"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 4 << 20, "{bytes}");
    drop(engine);
    options.disk_bytes_max = Some(100 << 10);
    let refused = Embedded::open(dir.path(), options).unwrap_err();
    assert_eq!(refused.code(), Code::CONFIG_CONTRADICTS, "{refused}");
}

/// Where everything becomes a large failure record nothing can be freed, so the last space goes too: a settle then says so, and does not wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settle_that_nothing_can_make_room_for_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.disk_bytes_max = Some(1 << 20);
    let engine = Embedded::open(dir.path(), options).unwrap();
    provision(&engine, &["inventory"]).await;
    let publisher = publisher(&engine).await;
    let (confirmed, _) = fill(&*publisher, 1, 2 << 10).await;
    assert!(confirmed > 64, "{confirmed}");
    let mut source = open(&engine, "inventory", 1).await;
    let settled = async {
        let mut settled = 0;
        while settled + 1 < confirmed {
            let batch = match source.next(ROOM).await {
                Ok(batch) => batch,
                Err(fault) => return (settled, fault),
            };
            for leased in batch {
                // All of them together are larger than the bound.
                let mut record = draft(&leased, Cause::Permanent);
                record.facts.errors = vec!["x".repeat(16 << 10)];
                let how = Settle::DeadLetter(record);
                if let Err(fault) = settle(&*source, leased.token, how).await {
                    return (settled, fault);
                }
                settled += 1;
            }
        }
        panic!("{settled} failure records of {confirmed} had room");
    };
    let told = tokio::time::timeout(Duration::from_secs(60), settled).await;
    let (settled, fault) = told.expect("it is told, not left waiting");
    assert_eq!(
        (fault.kind, fault.effect),
        (FaultKind::Full, Effect::NotApplied)
    );
    assert!(settled >= 8, "what was kept for them was used: {settled}");
    engine.close(Duration::from_secs(30)).await.unwrap();
}

/// What is said at the level of a warning, on this thread.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn count(&self, what: &str) -> usize {
        let said = self.0.lock().unwrap();
        said.iter().filter(|line| line.contains(what)).count()
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Said {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn used(disk: &SimDisk) -> u64 {
    let files = disk.paths();
    let sizes = files.iter().filter_map(|path| disk.content(path));
    sizes.map(|content| content.len() as u64).sum()
}

/// Others have taken the last block: a checkpoint cannot be written, so no segment is freed and a start reads more. The log goes on: what has room is
/// published, consumers settle as far as the reserve goes, it is said once, and when there is room again everything goes on by itself.
#[tokio::test(start_paused = true)]
async fn where_no_block_is_left_for_a_checkpoint_the_log_goes_on_and_says_so() {
    const WORDS: &str = "no room for a checkpoint";
    let said = Said::default();
    let _listening = tracing::subscriber::set_default(said.clone());
    let disk = SimDisk::new(1);
    let mut limits = options();
    limits.clock = TokioClock::new();
    limits.disk = Some(Arc::new(disk.clone()));
    limits.message_bytes_max = 8 << 10;
    let mut log = postrider_log::Options::default();
    log.wal.segment_bytes = [256 << 10; 3];
    log.wal.frame_bytes_max = 32 << 10;
    log.wal.reserve_bytes = 32 << 10;
    log.wal.fill_bytes = 256 << 10;
    log.wal.checkpoint_bytes = 48 << 10;
    let (engine, mut stepper) = Embedded::stepped(limits, log).unwrap();
    let steps = tokio::spawn(async move {
        while stepper.step() {
            tokio::task::yield_now().await;
            stepper.wanted().await;
        }
    });
    provision(&engine, &["inventory"]).await;
    let publisher = publisher(&engine).await;
    let mut source = open(&engine, "inventory", 1).await;
    for n in 1..=3 {
        publish(&engine, vec![message("o-1", n)]).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(said.count(WORDS), 0);

    disk.set_capacity(Some(used(&disk)));
    let (confirmed, fault) = fill(&*publisher, 4, 2 << 10).await;
    assert_eq!(fault.code, Some(Code::DISK_FULL), "{fault}");
    assert!(confirmed > 8, "what has room is taken: {confirmed}");
    // Together, so that all of them need but a block or two of the reserve.
    let mut taken = Vec::new();
    while (taken.len() as u64) + 1 < confirmed {
        taken.extend(source.next(ROOM).await.unwrap());
    }
    ack_all(&*source, taken).await;
    let before = disk.operations();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = disk.operations() - before;
    assert!(!steps.is_finished(), "the log goes on");
    assert_eq!(said.count(WORDS), 1, "it is said, and not again and again");
    assert!(
        tries < 600 * 20,
        "it is tried at leisure: {tries} operations of the disk"
    );

    disk.set_capacity(None);
    tokio::time::sleep(Duration::from_secs(60)).await;
    publish(&engine, vec![message("o-1", 30_000)]).await;
    let leased = source.next(ROOM).await.unwrap();
    assert_eq!(numbers(&leased), [30_000], "what was settled stays so");
    assert_eq!(said.count(WORDS), 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop((source, engine));
    let crashed = disk.crash(7);
    let mut options = options();
    options.clock = TokioClock::new();
    options.disk = Some(Arc::new(crashed));
    let (again, mut stepper) =
        Embedded::stepped(options, postrider_log::Options::default()).unwrap();
    let _steps = tokio::spawn(async move {
        while stepper.step() {
            stepper.wanted().await;
        }
    });
    let mut source = open(&again, "inventory", 2).await;
    assert_eq!(numbers(&source.next(ROOM).await.unwrap()), [30_000]);
}
