//! A full disk through the engine, within a bound of its own.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use postrider_core::code::Code;
use postrider_core::engine::{Engine, Publisher};
use postrider_core::failure::Cause;
use postrider_core::fault::{Advice, Effect, Fault, FaultKind};
use postrider_core::settle::Settle;
use postrider_embedded::{Embedded, Options};
use support::*;

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
