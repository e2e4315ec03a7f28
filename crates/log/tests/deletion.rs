//! What deleting a stream or a subscription frees, and that its name can be used again: at once, and after a reopening.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::SimDisk;
use postrider_log::wal::WalOptions;
use postrider_log::{
    Created, Error, FailureId, FailureIn, Kind, Leased, Log, MemberId, Now, Offset, OffsetCommit,
    Options, Park, Publish, RecordIn, Settle, SettleOp, StreamConfig, StreamId, SubId,
    SubscriptionConfig, Tx, pump,
};

const A: MemberId = MemberId(1);

struct Host {
    disk: SimDisk,
    log: Mutex<Log>,
    ms: u64,
}

fn options() -> Options {
    Options {
        wal: WalOptions {
            segment_bytes: [16 << 10, 16 << 10, 16 << 10],
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

fn record(id: u8, key: &'static str) -> RecordIn {
    RecordIn {
        id: [id; 16],
        key: Some(Bytes::from(key)),
        value: Some(Bytes::from(vec![id; 100])),
        ..RecordIn::default()
    }
}

impl Host {
    fn new() -> Host {
        let disk = SimDisk::new(1);
        let log = Log::open(Arc::new(disk.clone()), options(), at(0)).unwrap();
        let log = Mutex::new(log.0);
        Host { disk, log, ms: 0 }
    }

    fn stream(&self, name: &str) -> (StreamId, Created) {
        let config = StreamConfig::default();
        let made = self.log.lock().create_stream(name, config).unwrap();
        (made.0, made.1)
    }

    fn sub(&self, stream: StreamId, name: &str) -> (SubId, Created) {
        let config = SubscriptionConfig::default();
        let made = self.log.lock().create_subscription(stream, name, config);
        let made = made.unwrap();
        (made.0, made.1)
    }

    fn commit(&self, tx: Tx) -> Result<(), Error> {
        self.log.lock().commit(tx, at(self.ms))?;
        self.flush();
        Ok(())
    }

    fn flush(&self) {
        pump::run_until_idle(&self.log, at(self.ms)).unwrap();
    }

    fn publish(&self, stream: StreamId, records: Vec<RecordIn>) {
        let publish = Publish {
            stream,
            records,
            ..Publish::default()
        };
        self.commit(Tx {
            publishes: vec![publish],
            ..Tx::default()
        })
        .unwrap();
    }

    fn lease(&self, sub: SubId) -> Result<Vec<Leased>, Error> {
        let lease = Duration::from_secs(30);
        let mut log = self.log.lock();
        let batch = log.lease(sub, A, 1_000, 1 << 20, lease, at(self.ms))?;
        Ok(batch.messages)
    }

    fn offsets(&self, sub: SubId) -> Vec<Offset> {
        let leased = self.lease(sub).unwrap();
        leased.iter().map(|one| one.record.offset).collect()
    }

    fn settle(&self, sub: SubId, leased: &Leased, how: Settle) -> Result<(), Error> {
        let (offset, token) = (leased.record.offset, leased.token);
        let op = SettleOp {
            sub,
            offset,
            token,
            how,
        };
        self.commit(Tx {
            settles: vec![op],
            ..Tx::default()
        })
    }

    fn park(&self, sub: SubId, leased: &Leased) {
        let failure = FailureIn {
            group: "declined".to_owned(),
            meta: Bytes::from_static(b"{}"),
            key: leased.record.key.clone(),
            park: Park::Key,
        };
        self.settle(sub, leased, Settle::Dead(failure)).unwrap();
    }

    fn records(&self, stream: StreamId) -> u64 {
        self.log.lock().stream_info(stream).unwrap().records
    }

    /// Lets checkpoints and the freeing of segments come.
    fn pass_a_minute(&mut self) {
        for _ in 0..4 {
            self.ms += 15_000;
            self.log.lock().tick(at(self.ms)).unwrap();
            self.flush();
        }
    }

    fn segments(&self) -> usize {
        self.log.lock().wal().segments().len()
    }

    fn cut_the_power(&mut self) {
        self.disk = self.disk.crash(9);
        let log = Log::open(Arc::new(self.disk.clone()), options(), at(self.ms)).unwrap();
        self.log = Mutex::new(log.0);
    }

    /// Nothing of a subscription can be asked for any more.
    fn assert_no_sub(&self, sub: SubId) {
        let unknown = |error: Error| assert!(matches!(error, Error::UnknownSubscription { .. }));
        unknown(self.lease(sub).unwrap_err());
        let mut log = self.log.lock();
        unknown(log.subscription_info(sub).unwrap_err());
        unknown(log.failures(sub, None, FailureId(0), 10).unwrap_err());
        unknown(log.parked_keys(sub).unwrap_err());
        unknown(log.delete_subscription(sub).unwrap_err());
    }
}

#[test]
fn a_deleted_subscription_frees_what_only_it_kept_and_leaves_its_name() {
    let mut host = Host::new();
    let (stream, _) = host.stream("shop.order");
    let (stays, goes) = (host.sub(stream, "stays").0, host.sub(stream, "goes").0);
    for id in 1..=3 {
        host.publish(stream, vec![record(id, ["k", "l", "m"][id as usize - 1])]);
    }
    let kept = host.lease(stays).unwrap();
    host.settle(stays, &kept[0], Settle::Ack).unwrap();
    host.settle(stays, &kept[1], Settle::Ack).unwrap();
    let held = host.lease(goes).unwrap();
    host.park(goes, &held[0]);
    assert_eq!(host.records(stream), 2, "offset 1 is kept for `goes` alone");

    host.log.lock().delete_subscription(goes).unwrap();
    host.flush();
    for power_cut in [false, true] {
        if power_cut {
            host.cut_the_power();
        }
        host.assert_no_sub(goes);
        let subs = host.log.lock().stream_info(stream).unwrap().subscriptions;
        assert_eq!((subs, host.records(stream)), (vec![stays], 1));
        assert_eq!(host.log.lock().subscription_info(stays).unwrap().depth, 1);
        assert_eq!(host.log.lock().find_subscription(stream, "goes"), None);
    }
    assert!(matches!(
        host.settle(goes, &held[1], Settle::Ack),
        Err(Error::UnknownSubscription { .. })
    ));
    assert_eq!(host.offsets(stays), [2], "the other one goes on");

    let (again, created) = host.sub(stream, "goes");
    assert!(created == Created::New && again != goes);
    host.publish(stream, vec![record(4, "k")]);
    host.cut_the_power();
    assert_eq!(
        host.log.lock().find_subscription(stream, "goes"),
        Some(again)
    );
    let info = host.log.lock().subscription_info(again).unwrap();
    assert_eq!((info.depth, info.failures, info.parked_keys), (1, 0, 0));
    assert_eq!(host.offsets(again), [3], "its key is parked no more");
    host.assert_no_sub(goes);
}

#[test]
fn a_deleted_stream_takes_all_with_it_and_its_name_begins_anew() {
    let mut host = Host::new();
    let (stream, _) = host.stream("shop.order");
    let sub = host.sub(stream, "a").0;
    host.publish(stream, vec![record(1, "k"), record(2, "l")]);
    let held = host.lease(sub).unwrap();
    host.park(sub, &held[0]);
    let reader = host
        .log
        .lock()
        .claim_reader(stream, "projection")
        .unwrap()
        .0;
    let position = OffsetCommit {
        stream,
        group: "projection".to_owned(),
        epoch: reader.epoch,
        watermark: 2,
        done: Vec::new(),
        meta: Bytes::new(),
    };
    host.commit(Tx {
        offsets: vec![position],
        ..Tx::default()
    })
    .unwrap();

    host.log.lock().delete_stream(stream).unwrap();
    host.flush();
    for power_cut in [false, true] {
        if power_cut {
            host.cut_the_power();
        }
        host.assert_no_sub(sub);
        let mut log = host.log.lock();
        assert_eq!(log.find_stream("shop.order"), None);
        assert!(log.streams().is_empty());
        let unknown = |error: Error| assert!(matches!(error, Error::UnknownStream { .. }));
        unknown(log.stream_info(stream).unwrap_err());
        unknown(log.read(stream, 0, 10, 1 << 20).unwrap_err());
        unknown(log.reader(stream, "projection").unwrap_err());
        unknown(log.delete_stream(stream).unwrap_err());
    }

    let (again, created) = host.stream("shop.order");
    assert!(created == Created::New && again != stream);
    let (sub, created) = host.sub(again, "a");
    assert_eq!(created, Created::New);
    host.publish(again, vec![record(1, "k")]);
    host.cut_the_power();
    assert_eq!(host.log.lock().find_stream("shop.order"), Some(again));
    assert_eq!(host.log.lock().reader(again, "projection").unwrap(), None);
    let info = host.log.lock().subscription_info(sub).unwrap();
    assert_eq!((info.failures, info.parked_keys), (0, 0));
    assert_eq!(host.offsets(sub), [0], "no duplicate of what is gone");
}

#[test]
fn deleting_frees_the_segments_of_records_and_of_failure_records() {
    type Delete = fn(&mut Log, StreamId, SubId);
    let ways: [(&str, Delete); 2] = [
        ("stream", |log, stream, _| {
            log.delete_stream(stream).unwrap();
        }),
        ("subscription", |log, _, sub| {
            log.delete_subscription(sub).unwrap();
        }),
    ];
    for (way, delete) in ways {
        for power_cut in [false, true] {
            let mut host = Host::new();
            let (stream, _) = host.stream("shop.order");
            let sub = host.sub(stream, "a").0;
            for round in 0..20u8 {
                let big = |n: u8| RecordIn {
                    value: Some(Bytes::from(vec![n; 2_000])),
                    ..record(n, "k")
                };
                host.publish(stream, vec![big(round * 2), big(round * 2 + 1)]);
            }
            for leased in host.lease(sub).unwrap().iter().take(20) {
                host.park(sub, leased);
            }
            host.pass_a_minute();
            let before = host.segments();
            assert!(before >= 6, "{way}: {before} segments are needed");
            delete(&mut host.log.lock(), stream, sub);
            host.flush();
            if power_cut {
                host.cut_the_power();
            }
            host.pass_a_minute();
            let after = host.segments();
            assert!(after <= 2, "{way}: {after} segments left of {before}");
        }
    }
}

#[test]
fn a_queue_without_its_subscription_keeps_what_waits_for_the_next() {
    let mut host = Host::new();
    let config = StreamConfig {
        kind: Kind::Queue,
        ..StreamConfig::default()
    };
    let made = host.log.lock().create_stream("payment.charge", config);
    let stream = made.unwrap().0;
    let owner = host.sub(stream, "payment").0;
    for id in 1..=3 {
        host.publish(stream, vec![record(id, "k")]);
    }
    let held = host.lease(owner).unwrap();
    host.settle(owner, &held[0], Settle::Ack).unwrap();
    host.log.lock().delete_subscription(owner).unwrap();
    host.flush();
    host.cut_the_power();
    let next = host.sub(stream, "billing").0;
    assert_eq!(
        host.offsets(next),
        [1, 2],
        "what was done is not done again"
    );
}

#[test]
fn a_deletion_that_was_not_durable_did_not_happen() {
    let mut host = Host::new();
    let (stream, _) = host.stream("shop.order");
    let sub = host.sub(stream, "a").0;
    host.publish(stream, vec![record(1, "k"), record(2, "l")]);
    host.log.lock().delete_stream(stream).unwrap();
    host.assert_no_sub(sub);
    host.cut_the_power();
    assert_eq!(host.log.lock().find_stream("shop.order"), Some(stream));
    assert_eq!(host.offsets(sub), [0, 1]);
}
