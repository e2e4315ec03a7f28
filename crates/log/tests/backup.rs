//! A running log is copied whole, a copy is verified and brought back, and damage is named.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::{Disk, FileDisk, SimDisk};
use postrider_log::wal::WalOptions;
use postrider_log::{
    Error, FailureId, FailureIn, Kind, Log, Lsn, MemberId, Now, Offset, Options, Park, Publish,
    Record, RecordIn, Settle, SettleOp, StreamConfig, StreamId, SubId, SubscriptionConfig, Tx,
    pump, tools,
};

const A: MemberId = MemberId(1);
const LEASE: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options {
        wal: WalOptions {
            segment_bytes: [16 << 10, 16 << 10, 32 << 10],
            checkpoint_bytes: 16 << 10,
            reserve_bytes: 2048,
            fill_bytes: 16 << 10,
            ..WalOptions::default()
        },
        ..Options::default()
    }
}

fn at(ms: u64) -> Now {
    Now::from_millis(1_700_000_000_000 + ms, 5_000 + ms)
}

struct Host {
    disk: SimDisk,
    log: Mutex<Log>,
    stream: StreamId,
    sub: SubId,
    ms: u64,
}

impl Host {
    fn new(seed: u64) -> Host {
        let disk = SimDisk::new(seed);
        let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), at(0)).unwrap();
        let config = StreamConfig {
            kind: Kind::Queue,
            ..StreamConfig::default()
        };
        let stream = log.create_stream("shop.order", config).unwrap().0;
        let config = SubscriptionConfig::default();
        let sub = log
            .create_subscription(stream, "inventory", config)
            .unwrap()
            .0;
        let log = Mutex::new(log);
        let host = Host {
            disk,
            log,
            stream,
            sub,
            ms: 0,
        };
        host.flush();
        host
    }

    fn flush(&self) {
        pump::run_until_idle(&self.log, at(self.ms)).unwrap();
    }

    fn stage(&self, n: u64) {
        let record = RecordIn {
            id: u128::from(n + 1).to_le_bytes(),
            key: Some(Bytes::from(format!("order-{}", n % 7))),
            value: Some(Bytes::from(vec![n as u8; 700])),
            ..RecordIn::default()
        };
        let publish = Publish {
            stream: self.stream,
            records: vec![record],
            ..Publish::default()
        };
        let tx = Tx {
            publishes: vec![publish],
            ..Tx::default()
        };
        self.log.lock().commit(tx, at(self.ms)).unwrap();
    }

    /// Publishes, and settles or fails some of it.
    fn work(&mut self, from: u64, count: u64) {
        for n in from..from + count {
            self.ms += 50;
            self.stage(n);
            self.flush();
            let batch = (self.log.lock()).lease(self.sub, A, 1, 1 << 20, LEASE, at(self.ms));
            for leased in batch.unwrap().messages {
                let how = match leased.record.offset % 40 {
                    0 => continue,
                    1 => Settle::Dead(FailureIn {
                        group: "declined".into(),
                        meta: Bytes::from_static(b"why"),
                        key: None,
                        park: Park::No,
                    }),
                    _ => Settle::Ack,
                };
                let (offset, token) = (leased.record.offset, leased.token);
                let settles = vec![SettleOp {
                    sub: self.sub,
                    offset,
                    token,
                    how,
                }];
                self.log
                    .lock()
                    .commit(
                        Tx {
                            settles,
                            ..Tx::default()
                        },
                        at(self.ms),
                    )
                    .unwrap();
            }
            self.flush();
        }
    }

    fn view(&self) -> BTreeMap<Offset, (usize, u8)> {
        view(&mut self.log.lock(), self.sub)
    }
}

/// What a member would get, and the failure records (above 1,000,000).
fn view(log: &mut Log, sub: SubId) -> BTreeMap<Offset, (usize, u8)> {
    let stream = log.subscription_info(sub).unwrap().stream;
    let mut seen = BTreeMap::new();
    for record in log.read(stream, 0, 100_000, 1 << 30).unwrap().records {
        seen.insert(record.offset, brief(&record));
    }
    for info in log.failures(sub, None, FailureId(0), 100_000).unwrap() {
        let failure = log.failure(sub, info.id).unwrap();
        assert_eq!(failure.meta, &b"why"[..]);
        seen.insert(1_000_000 + info.id.0, brief(&failure.record));
    }
    seen
}

fn brief(record: &Record) -> (usize, u8) {
    let value = record.value.as_ref().unwrap();
    assert!(value.iter().all(|byte| *byte == value[0]));
    (value.len(), value[0])
}

fn reopen(disk: &SimDisk) -> Log {
    Log::open(Arc::new(disk.clone()), options(), at(9_000_000))
        .unwrap()
        .0
}

#[test]
fn a_backup_of_a_running_log_holds_what_was_durable_when_it_began_and_opens_by_itself() {
    let mut host = Host::new(1);
    host.work(0, 200);
    // An acknowledgement is synced when somebody waits, or after a while.
    host.ms += 1_000;
    host.flush();
    let before = host.view();
    let segments = host.log.lock().wal().segments();
    let holes = segments
        .windows(2)
        .filter(|two| two[1].id.0 > two[0].id.0 + 1);
    assert!(holes.count() > 0, "segments were freed in the middle");
    let job = host.log.lock().backup().unwrap();
    let durable = host.log.lock().durable();
    // It goes on meanwhile: segments are freed, made, and used again.
    host.work(200, 200);
    host.stage(999);
    let target = SimDisk::new(2);
    let mut heard = 0;
    let report = job.run(&target, &mut |bytes| heard += bytes).unwrap();
    assert_eq!(report.last, durable);
    assert!(heard > 0 && report.bytes > heard && report.segments > 1);

    let verified = tools::verify_disk(Arc::new(target.clone())).unwrap();
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!((verified.last, verified.frames), (durable, report.frames));
    // DURABILITY: all of it was synced, names and bytes.
    let crashed = target.crash(3);
    assert_eq!(view(&mut reopen(&crashed), host.sub), before);

    let other = host.view();
    assert_ne!(other, before);
    let (mut copy, node) = (reopen(&target), host.log.lock().wal().node());
    assert_ne!(copy.wal().node(), node, "a directory id of its own");
    assert_eq!(view(&mut copy, host.sub), before);
    // And it goes on by itself: no offset is given twice.
    let publish = Publish {
        stream: host.stream,
        records: vec![RecordIn {
            value: Some("new".into()),
            ..RecordIn::default()
        }],
        ..Publish::default()
    };
    let tx = Tx {
        publishes: vec![publish],
        ..Tx::default()
    };
    let ticket = copy.commit(tx, at(9_000_001)).unwrap();
    assert!(!before.contains_key(&ticket.appended[0][0].offset));
    let copy = Mutex::new(copy);
    pump::run_until_idle(&copy, at(9_000_001)).unwrap();
    pump::close(&copy, at(9_000_001)).unwrap();
    drop(copy);
    assert!(tools::verify_disk(Arc::new(target)).unwrap().is_sound());
}

#[test]
fn a_stopped_directory_is_verified_dumped_copied_and_brought_back_without_being_changed() {
    let mut host = Host::new(4);
    host.work(0, 60);
    let before = host.view();
    let sub = host.sub;
    let disk = host.disk.clone();
    drop(host); // as a crash
    let content = |disk: &SimDisk| -> Vec<_> {
        let paths = disk
            .paths()
            .into_iter()
            .filter(|path| path != "postrider.lock");
        paths
            .map(|path| (path.clone(), disk.content(&path)))
            .collect()
    };
    let untouched = content(&disk);
    let verified = tools::verify_disk(Arc::new(disk.clone())).unwrap();
    assert!(verified.is_sound() && !verified.clean, "{verified:?}");
    assert!(verified.live >= before.len() as u64 && verified.entries > 20);

    let mut lines = Vec::new();
    let mut values = 0;
    tools::dump_disk(Arc::new(disk.clone()), Lsn(0), &mut |entry| {
        values += entry.records.len();
        lines.push(entry.to_string());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(lines.len() as u64, verified.entries);
    assert!(values >= before.len());
    for needle in [
        " data stream=1 name=\"shop.order\" base=",
        " settle sub=1 name=\"inventory\" reason=\"ack\" offsets=",
        " failure sub=",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(needle)),
            "{needle} in {}",
            lines[5]
        );
    }
    let mut count = 0;
    tools::dump_disk(Arc::new(disk.clone()), Lsn(50), &mut |entry| {
        assert!(entry.lsn >= Lsn(50));
        count += 1;
        if count == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    assert_eq!(count, 3);

    let (first, second) = (SimDisk::new(5), SimDisk::new(6));
    let note = &mut |_| {};
    tools::restore_disk(Arc::new(disk.clone()), Arc::new(first.clone()), note).unwrap();
    tools::restore_disk(Arc::new(first), Arc::new(second.clone()), note).unwrap();
    assert_eq!(
        content(&disk),
        untouched,
        "looking and copying change nothing"
    );
    assert_eq!(view(&mut reopen(&second.crash(7)), sub), before);
    // What holds something is not written into.
    let open = reopen(&disk);
    let refused = open.backup().unwrap().run(&second, note);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
}

#[test]
fn every_flipped_bit_of_what_counts_is_found_named_and_not_restored() {
    let mut host = Host::new(8);
    host.work(0, 60);
    pump::close(&host.log, at(host.ms)).unwrap();
    let disk = host.disk.clone();
    drop(host);
    let sound = tools::verify_disk(Arc::new(disk.clone())).unwrap();
    assert!(sound.is_sound() && sound.clean);
    let mut looked = 0;
    for segment in &sound.segments {
        // The first batch of each, a frame header, a body, and the segment's own header.
        for byte in [20, 4096 + 20, 4096 + 64 + 10, 4096 + 64 + 32 + 20] {
            if byte >= segment.used && byte >= 96 {
                continue;
            }
            let broken = disk.kill();
            broken.flip(&segment.file, byte as usize, 3);
            let report = tools::verify_disk(Arc::new(broken.clone())).unwrap();
            assert!(!report.is_sound(), "{} byte {byte}", segment.file);
            let named = report
                .damage
                .iter()
                .any(|damage| damage.file == segment.file);
            assert!(named, "{} byte {byte}: {report:?}", segment.file);
            let target = SimDisk::new(9);
            let restored =
                tools::restore_disk(Arc::new(broken), Arc::new(target.clone()), &mut |_| {});
            assert!(
                matches!(restored, Err(Error::Refused { .. })),
                "{restored:?}"
            );
            assert!(target.paths().is_empty(), "nothing was written");
            looked += 1;
        }
    }
    assert!(looked > 8, "{looked}");
    let checkpoint = disk
        .paths()
        .into_iter()
        .rfind(|path| path.ends_with(".ckpt"))
        .unwrap();
    let broken = disk.kill();
    broken.flip(&checkpoint, 80, 1);
    let report = tools::verify_disk(Arc::new(broken)).unwrap();
    assert_eq!(report.damage[0].file, checkpoint);
}

#[test]
fn a_backup_cut_short_anywhere_is_no_directory_that_a_log_opens() {
    let mut host = Host::new(10);
    host.work(0, 40);
    let whole = SimDisk::new(11);
    host.log
        .lock()
        .backup()
        .unwrap()
        .run(&whole, &mut |_| {})
        .unwrap();
    let operations = whole.operations();
    let mut opened = 0;
    for cut in 1..=operations {
        let target = SimDisk::new(12);
        target.power_off_at(cut);
        let job = host.log.lock().backup().unwrap();
        let done = job.run(&target, &mut |_| {});
        assert!(done.is_err() || cut == operations);
        let left = target.crash(cut);
        let bare =
            left.list("log").is_ok_and(|names| names.is_empty()) || left.list("log").is_err();
        match Log::open(Arc::new(left), options(), at(9_000_000)) {
            Ok((mut log, _)) if !bare => {
                assert_eq!(view(&mut log, host.sub), host.view(), "cut at {cut}");
                opened += 1;
            }
            Ok((log, _)) => assert_eq!(log.last(), Lsn(0), "an empty one is new"),
            Err(Error::NotOurs { .. } | Error::CorruptManifest { .. }) => {}
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
    assert!(
        opened <= 3,
        "only what ends with the manifest is a backup: {opened}"
    );
}

#[test]
fn a_directory_that_is_open_is_not_looked_at_and_one_without_a_log_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    assert!(tools::verify(&data).is_err());
    assert!(!data.exists());
    let disk = Arc::new(FileDisk::new(&data));
    let (mut log, _) = Log::open(disk, Options::default(), at(0)).unwrap();
    let locked = tools::verify(&data);
    assert!(
        matches!(locked, Err(Error::Locked { pid: Some(_), .. })),
        "{locked:?}"
    );
    log.close().unwrap();
    drop(log);
    assert!(tools::verify(&data).unwrap().is_sound());
}
