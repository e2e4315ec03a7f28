//! A directory with moved entries, as the first release that moved any wrote it, still opens. Written anew with `POSTRIDER_WRITE_FIXTURES=1`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::FileDisk;
use postrider_log::wal::WalOptions;
use postrider_log::{
    FailureId, FailureIn, FailureOp, Log, Lsn, MemberId, Now, Options, Park, Publish, RecordIn,
    Settle, SettleOp, StreamConfig, SubscriptionConfig, Tx, pump, tools,
};

const VALUE: usize = 1_500;

fn options() -> Options {
    Options {
        wal: WalOptions {
            segment_bytes: [16 << 10; 3],
            checkpoint_bytes: 16 << 10,
            reserve_bytes: 2048,
            tail_bytes_max: 0,
            pool_segments_max: 0,
            ..WalOptions::default()
        },
        ..Options::default()
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1-moves")
}

fn at(n: u64) -> Now {
    Now::from_millis(1_700_000_000_000 + n * 100, n * 100)
}

/// Message 3 stays, message 5 fails twice, all others are settled.
fn write(path: &Path) {
    let _ = fs::remove_dir_all(path);
    let (mut log, _) = Log::open(Arc::new(FileDisk::new(path)), options(), at(0)).unwrap();
    let stream = log
        .create_stream("shop.order", StreamConfig::default())
        .unwrap()
        .0;
    let config = SubscriptionConfig {
        ordered: false,
        ..SubscriptionConfig::default()
    };
    let sub = log
        .create_subscription(stream, "inventory", config)
        .unwrap()
        .0;
    let log = Mutex::new(log);
    let commit = |tx: Tx, n| {
        log.lock().commit(tx, at(n)).unwrap();
        pump::run_until_idle(&log, at(n)).unwrap();
    };
    let cause = |group: &str, meta: &'static str| FailureIn {
        group: group.into(),
        meta: Bytes::from(meta),
        key: None,
        park: Park::No,
    };
    for n in 0..120u64 {
        let value = Some(Bytes::from(vec![n as u8; VALUE]));
        let record = RecordIn {
            id: u128::from(n + 1).to_le_bytes(),
            value,
            ..RecordIn::default()
        };
        commit(
            Tx {
                publishes: vec![Publish {
                    stream,
                    records: vec![record],
                    ..Publish::default()
                }],
                ..Tx::default()
            },
            n,
        );
        let lease = Duration::from_secs(3_600);
        let batch = log
            .lock()
            .lease(sub, MemberId(1), 9, 1 << 20, lease, at(n))
            .unwrap();
        let settles = batch.messages.into_iter().filter_map(|leased| {
            let (offset, token) = (leased.record.offset, leased.token);
            let how = match offset {
                3 => return None,
                5 => Settle::Dead(cause("declined", "first")),
                _ => Settle::Ack,
            };
            Some(SettleOp {
                sub,
                offset,
                token,
                how,
            })
        });
        let settles = settles.collect();
        commit(
            Tx {
                settles,
                ..Tx::default()
            },
            n,
        );
        if n == 8 {
            let (id, ids) = (FailureId(1), vec![FailureId(1)]);
            let redrive = FailureOp::Redrive {
                sub,
                ids,
                reason: "again".into(),
            };
            commit(
                Tx {
                    failures: vec![redrive],
                    ..Tx::default()
                },
                n,
            );
            let failure = cause("broken", "second");
            commit(
                Tx {
                    failures: vec![FailureOp::Reopen { sub, id, failure }],
                    ..Tx::default()
                },
                n,
            );
        }
    }
    pump::close(&log, at(200)).unwrap();
    drop(log);
    fs::remove_file(path.join("postrider.lock")).unwrap();
}

#[test]
fn every_released_format_with_moved_entries_opens() {
    if std::env::var_os("POSTRIDER_WRITE_FIXTURES").is_some() {
        write(&fixture());
    }
    let home = tempfile::tempdir().unwrap();
    for directory in ["", "log", "ckpt"] {
        fs::create_dir_all(home.path().join(directory)).unwrap();
        for file in fs::read_dir(fixture().join(directory)).unwrap() {
            let file = file.unwrap().path();
            if file.is_file() {
                let name = file.file_name().unwrap();
                fs::copy(&file, home.path().join(directory).join(name)).unwrap();
            }
        }
    }
    assert!(tools::verify(home.path()).unwrap().is_sound());
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    tools::dump(home.path(), Lsn(0), &mut |entry| {
        *kinds.entry(entry.kind).or_default() += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(kinds["move"] >= 1 && kinds["copy"] >= 2, "{kinds:?}");

    let disk = Arc::new(FileDisk::new(home.path()));
    let (mut log, report) = Log::open(disk, options(), at(300)).unwrap();
    assert!(report.clean);
    let stream = log.find_stream("shop.order").unwrap();
    let sub = log.stream_info(stream).unwrap().subscriptions[0];
    let left = log.read(stream, 0, 1_000, 1 << 20).unwrap().records;
    let left: Vec<_> = left
        .iter()
        .map(|one| (one.offset, one.value.clone().unwrap()))
        .collect();
    assert_eq!(left, [(3, Bytes::from(vec![3; VALUE]))]);
    let failed = log.failure(sub, FailureId(1)).unwrap();
    assert_eq!(
        (failed.info.group.as_str(), &failed.meta[..]),
        ("broken", &b"second"[..])
    );
    assert_eq!(failed.record.value.unwrap(), vec![5; VALUE]);
}
