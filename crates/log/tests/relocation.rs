//! One message that nobody can handle never pins the disk: what is still needed in an almost empty segment is moved, and nothing but its place
//! changes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::{MemDisk, SimDisk};
use postrider_log::wal::WalOptions;
use postrider_log::{
    Error, FailureId, FailureIn, FailureOp, Kind, Log, Lsn, MemberId, Now, Offset, Options, Park,
    Publish, RecordIn, Settle, SettleOp, StreamConfig, StreamId, SubId, SubscriptionConfig, Tx,
    pump, tools,
};

const A: MemberId = MemberId(1);
const LEASE: Duration = Duration::from_secs(30);
const SEGMENT: u64 = 32 << 10;

fn options() -> Options {
    Options {
        wal: WalOptions {
            segment_bytes: [16 << 10, 16 << 10, SEGMENT],
            checkpoint_bytes: 32 << 10,
            reserve_bytes: 2048,
            fill_bytes: 32 << 10,
            // Moves read the disk, not what is still in memory.
            tail_bytes_max: 16 << 10,
            ..WalOptions::default()
        },
        ..Options::default()
    }
}

fn at(ms: u64) -> Now {
    Now::from_millis(1_700_000_000_000 + ms, 5_000 + ms)
}

/// A topic with a fast and a slow subscription, a second topic that shares batches with the first, and a queue for schedules.
struct Host {
    disk: SimDisk,
    log: Mutex<Log>,
    topic: StreamId,
    other: StreamId,
    later: StreamId,
    fast: SubId,
    slow: SubId,
    third: SubId,
    timer: SubId,
    ms: u64,
    published: u64,
}

impl Host {
    fn on(disk: &SimDisk) -> Result<Host, Error> {
        let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), at(0))?;
        let topic = log.create_stream("shop.order", StreamConfig::default())?.0;
        let other = log.create_stream("shop.audit", StreamConfig::default())?.0;
        let queue = StreamConfig {
            kind: Kind::Queue,
            ..StreamConfig::default()
        };
        let later = log.create_stream("shop.reminder", queue)?.0;
        let mut sub = |stream, name| {
            let config = SubscriptionConfig {
                ordered: false,
                ..SubscriptionConfig::default()
            };
            log.create_subscription(stream, name, config)
                .map(|made| made.0)
        };
        let (fast, slow) = (sub(topic, "fast")?, sub(topic, "slow")?);
        let (third, timer) = (sub(other, "third")?, sub(later, "timer")?);
        let log = Mutex::new(log);
        let (ms, published) = (0, 0);
        let disk = disk.clone();
        Ok(Host {
            disk,
            log,
            topic,
            other,
            later,
            fast,
            slow,
            third,
            timer,
            ms,
            published,
        })
    }

    fn new(seed: u64) -> Host {
        Host::on(&SimDisk::new(seed)).unwrap()
    }

    fn flush(&self) -> Result<(), Error> {
        pump::run_until_idle(&self.log, at(self.ms))
    }

    fn commit(&self, tx: Tx) -> Result<(), Error> {
        self.log.lock().commit(tx, at(self.ms)).map(drop)
    }

    fn publish(&mut self) -> Result<(), Error> {
        let n = self.published;
        let record = RecordIn {
            id: u128::from(n + 1).to_le_bytes(),
            key: Some(Bytes::from(format!("order-{}", n % 5))),
            value: Some(Bytes::from(vec![n as u8; 900])),
            ..RecordIn::default()
        };
        let mut publishes = vec![Publish {
            stream: self.topic,
            also: if n % 10 == 3 {
                vec![self.other]
            } else {
                Vec::new()
            },
            records: vec![record.clone()],
            ..Publish::default()
        }];
        if n.is_multiple_of(20) {
            let record = RecordIn {
                deliver_at_ms: 1_900_000_000_000,
                ..record
            };
            let stream = self.later;
            publishes.push(Publish {
                stream,
                records: vec![record],
                ..Publish::default()
            });
        }
        self.published += 1;
        self.commit(Tx {
            publishes,
            ..Tx::default()
        })
    }

    fn settle(&self, sub: SubId, how: impl Fn(Offset) -> Option<Settle>) -> Result<(), Error> {
        let batch = self
            .log
            .lock()
            .lease(sub, A, 100, 1 << 20, LEASE, at(self.ms))?;
        let settles = batch.messages.into_iter().filter_map(|leased| {
            let (offset, token) = (leased.record.offset, leased.token);
            how(offset).map(|how| SettleOp {
                sub,
                offset,
                token,
                how,
            })
        });
        self.commit(Tx {
            settles: settles.collect(),
            ..Tx::default()
        })
    }

    /// Publishes and settles all but a few: one in 60 is never settled, one in 50 fails, and of these one fails again.
    fn round(&mut self) -> Result<(), Error> {
        self.ms += 40;
        self.publish()?;
        self.flush()?;
        self.settle(self.fast, |_| Some(Settle::Ack))?;
        self.settle(self.slow, |offset| match (offset % 60, offset % 50) {
            (7, _) => None,
            (_, 9) => Some(Settle::Dead(failure("declined", b"first", offset))),
            _ => Some(Settle::Ack),
        })?;
        self.settle(self.third, |offset| {
            (offset % 3 != 1).then_some(Settle::Ack)
        })?;
        if self.published % 100 == 50 {
            self.redrive_one()?;
        }
        self.flush()
    }

    /// Redrives the last record, which fails with another cause.
    fn redrive_one(&self) -> Result<(), Error> {
        let sub = self.slow;
        let last = self
            .log
            .lock()
            .failures(sub, None, FailureId(0), 1_000)?
            .pop();
        let Some(id) = last.map(|info| info.id) else {
            return Ok(());
        };
        let redrive = FailureOp::Redrive {
            sub,
            ids: vec![id],
            reason: "try".into(),
        };
        self.commit(Tx {
            failures: vec![redrive],
            ..Tx::default()
        })?;
        let again = FailureOp::Reopen {
            sub,
            id,
            failure: failure("broken", b"second", 0),
        };
        self.commit(Tx {
            failures: vec![again],
            ..Tx::default()
        })
    }

    fn rounds(&mut self, count: usize) -> Result<(), Error> {
        (0..count).try_for_each(|_| self.round())
    }

    fn disk_bytes(&self) -> u64 {
        self.log
            .lock()
            .wal()
            .segments()
            .iter()
            .map(|segment| segment.size)
            .sum()
    }

    fn view(&self) -> View {
        view(&mut self.log.lock())
    }
}

fn failure(group: &str, meta: &'static [u8], offset: Offset) -> FailureIn {
    let parks = offset % 100 == 9;
    FailureIn {
        group: group.into(),
        meta: Bytes::from_static(meta),
        key: parks.then(|| Bytes::from(format!("order-{offset}"))),
        park: if parks { Park::Key } else { Park::No },
    }
}

/// Everything that a user could see of what is left: per stream its records, per subscription its depth and its failure records.
type View = (
    BTreeMap<(String, Offset), Bytes>,
    BTreeMap<(String, u64), (String, Bytes, Bytes)>,
);

fn view(log: &mut Log) -> View {
    let (mut records, mut failures) = (BTreeMap::new(), BTreeMap::new());
    for id in log.streams() {
        let info = log.stream_info(id).unwrap();
        for record in log.read(id, 0, 100_000, 1 << 30).unwrap().records {
            records.insert((info.name.clone(), record.offset), record.value.unwrap());
        }
        for sub in info.subscriptions {
            let name = log.subscription_info(sub).unwrap().name;
            let depth = log.subscription_info(sub).unwrap().depth;
            failures.insert(
                (name.clone(), 0),
                (depth.to_string(), Bytes::new(), Bytes::new()),
            );
            for info in log.failures(sub, None, FailureId(0), 100_000).unwrap() {
                let failure = log.failure(sub, info.id).unwrap();
                let value = failure.record.value.unwrap();
                failures.insert((name.clone(), info.id.0), (info.group, failure.meta, value));
            }
        }
    }
    (records, failures)
}

fn count_kind(disk: &SimDisk, kind: &str) -> usize {
    let mut count = 0;
    tools::dump_disk(Arc::new(disk.kill()), Lsn(0), &mut |entry| {
        count += usize::from(entry.kind == kind);
        ControlFlow::Continue(())
    })
    .unwrap();
    count
}

#[test]
fn stuck_messages_failures_schedules_and_shared_batches_move_and_the_disk_stays_small() {
    let mut host = Host::new(1);
    host.rounds(1_500).unwrap();
    let (records, failures) = host.view();
    assert!(
        records.len() > 100 && failures.len() > 25,
        "{} {}",
        records.len(),
        failures.len()
    );
    let needed: usize = records.values().map(Bytes::len).sum();
    // 1,500 messages are 2 MB and more; what is needed is a tenth of it.
    let (bytes, allowed) = (
        host.disk_bytes(),
        2 * needed as u64 + 12 * SEGMENT + (128 << 10),
    );
    assert!(bytes <= allowed, "{bytes} of {allowed}, {needed} needed");
    assert!(count_kind(&host.disk, "move") > 0);
    // The same after a crash, with attempts, and everything can be read.
    let disk = host.disk.crash(7);
    let report = tools::verify_disk(Arc::new(disk.clone())).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let again = Host::on(&disk).unwrap();
    assert_eq!(again.view().0, records);
    let waiting = again
        .log
        .lock()
        .subscription_info(again.timer)
        .unwrap()
        .depth;
    assert_eq!(waiting, 75, "schedules are all there");
    // A repeated id is still known, wherever the first one lies now.
    let mut log = again.log.lock();
    let repeated = RecordIn {
        id: 1_500u128.to_le_bytes(),
        ..RecordIn::default()
    };
    let publish = Publish {
        stream: again.topic,
        records: vec![repeated],
        ..Publish::default()
    };
    let ticket = log
        .commit(
            Tx {
                publishes: vec![publish],
                ..Tx::default()
            },
            at(host.ms),
        )
        .unwrap();
    assert!(ticket.appended[0][0].duplicate);
    let stuck = log
        .lease(again.slow, A, 1_000, 1 << 30, LEASE, at(host.ms))
        .unwrap();
    assert!(
        stuck
            .messages
            .iter()
            .all(|leased| leased.record.offset % 60 == 7)
    );
    assert_eq!(stuck.messages.len(), 25);
    assert!(
        stuck.messages.iter().all(|leased| leased.attempt >= 2),
        "attempts are kept"
    );
}

#[test]
fn a_move_survives_a_power_cut_at_every_operation() {
    // As far as it takes until segments were moved several times.
    let mut moving = Host::new(2);
    let mut rounds = 0;
    while count_kind(&moving.disk, "move") < 3 {
        moving.rounds(10).unwrap();
        rounds += 10;
    }
    let (end, warm) = (moving.disk.operations(), rounds - 20);
    let mut before = Host::new(2);
    before.rounds(warm).unwrap();
    let first = before.disk.operations();
    let (mut cuts, mut moved) = (0, 0);
    for cut in (first..end).step_by(step()) {
        let mut host = Host::new(2);
        host.disk.power_off_at(cut);
        // What was acknowledged before the cut: the view at the last flush that ended well.
        let mut safe = None;
        for round in 0..rounds {
            if host.round().is_err() {
                break;
            }
            if round >= warm {
                safe = Some(host.view());
            }
        }
        let crashed = host.disk.crash(cut);
        let report = tools::verify_disk(Arc::new(crashed.clone())).unwrap();
        assert!(report.is_sound(), "cut at {cut}: {report:?}");
        let again = Host::on(&crashed).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let (records, failures) = again.view();
        if let Some((known, failed)) = safe {
            let lost: Vec<_> = known
                .keys()
                .filter(|key| !records.contains_key(*key))
                .collect();
            // What is gone was settled in the round that was cut.
            let settled = lost.iter().all(|(name, _)| name != "shop.reminder") && lost.len() <= 2;
            assert!(settled, "cut at {cut}: {lost:?}");
            for (key, (_, _, value)) in failed.iter().filter(|((_, id), _)| *id > 0) {
                assert_eq!(
                    failures.get(key).map(|known| &known.2),
                    Some(value),
                    "cut at {cut}"
                );
            }
        }
        moved += count_kind(&crashed, "move");
        cuts += 1;
    }
    assert!(cuts > 10 && moved > 0, "{cuts} cuts, {moved} moves seen");
    println!(
        "proof: {{\"name\":\"moves_survive_power_cuts\",\"what\":\"power cuts while live entries were moved out of old segments\",\"cuts\":{cuts}}}"
    );
}

/// Every operation with `POSTRIDER_SEEDS` of 500 and more, a part of them below.
fn step() -> usize {
    let seeds = std::env::var("POSTRIDER_SEEDS").ok();
    let seeds: usize = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(50);
    (500 / seeds.max(1)).clamp(1, 20)
}

#[test]
fn what_cannot_be_read_stays_where_it_is_and_nothing_stops() {
    let mut host = Host::new(3);
    host.rounds(60).unwrap();
    // The first stuck message of the slow subscription is damaged where it lies, on the disk and in no cache.
    let mut damaged = None;
    tools::dump_disk(Arc::new(host.disk.kill()), Lsn(0), &mut |entry| {
        if entry.kind == "data" && entry.records.iter().any(|record| record.offset == 7) {
            damaged.get_or_insert(entry.location);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let damaged = damaged.unwrap();
    let file = format!("log/{:016x}.wal", damaged.segment.0);
    host.disk.flip(&file, damaged.at as usize + 300, 2);
    host.rounds(900).unwrap();
    let segments = host.log.lock().wal().segments();
    assert_eq!(segments[0].id, damaged.segment, "its segment stays");
    assert!(count_kind(&host.disk, "move") > 0, "others are emptied");
    assert!(host.disk_bytes() < 40 * SEGMENT);
}

#[test]
fn in_memory_one_stuck_message_does_not_keep_a_segment() {
    let disk = MemDisk::new();
    let (mut log, _) = Log::open(Arc::new(disk.clone()), options(), at(0)).unwrap();
    let stream = log.create_stream("s", StreamConfig::default()).unwrap().0;
    let sub = log
        .create_subscription(stream, "sub", SubscriptionConfig::default())
        .unwrap()
        .0;
    let log = Mutex::new(log);
    for n in 0..16_000u64 {
        let record = RecordIn {
            value: Some(vec![0; 900].into()),
            ..RecordIn::default()
        };
        let publish = Publish {
            stream,
            records: vec![record],
            ..Publish::default()
        };
        let now = at(n * 10);
        log.lock()
            .commit(
                Tx {
                    publishes: vec![publish],
                    ..Tx::default()
                },
                now,
            )
            .unwrap();
        pump::run_until_idle(&log, now).unwrap();
        let batch = log.lock().lease(sub, A, 10, 1 << 20, LEASE, now).unwrap();
        let settles = batch
            .messages
            .into_iter()
            .filter(|leased| leased.record.offset % 60 != 7);
        let settles = settles.map(|leased| {
            let (offset, token) = (leased.record.offset, leased.token);
            SettleOp {
                sub,
                offset,
                token,
                how: Settle::Ack,
            }
        });
        let settles = settles.collect();
        log.lock()
            .commit(
                Tx {
                    settles,
                    ..Tx::default()
                },
                now,
            )
            .unwrap();
        pump::run_until_idle(&log, now).unwrap();
    }
    let bytes = disk.memory_bytes();
    assert!(bytes < 10 << 20, "{bytes} bytes for 267 messages");
}
