//! The promises of the log's public face, one test each, on a simulated disk and clock.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::{MemDisk, SimDisk};
use postrider_log::wal::WalOptions;
use postrider_log::{
    Cancel, Created, Error, Expected, FailureId, FailureIn, Kind, LeaseBatch, Level, Log, MemberId,
    Now, Offset, OffsetCommit, Options, Park, Publish, RecordIn, Retention, Settle, SettleOp,
    Start, StreamConfig, StreamId, SubId, SubscriptionConfig, Ticket, Tx, pump,
};

const A: MemberId = MemberId(1);
const B: MemberId = MemberId(2);
const LEASE: Duration = Duration::from_secs(30);

struct Host {
    disk: SimDisk,
    log: Mutex<Log>,
    ms: u64,
}

fn small() -> Options {
    let wal = WalOptions {
        segment_bytes: [16 << 10, 16 << 10, 16 << 10],
        checkpoint_bytes: 16 << 10,
        reserve_bytes: 2048,
        fill_bytes: 16 << 10,
        ..WalOptions::default()
    };
    Options {
        wal,
        ..Options::default()
    }
}

impl Host {
    fn new() -> Host {
        let disk = SimDisk::new(1);
        let log = Log::open(Arc::new(disk.clone()), small(), at(0)).unwrap().0;
        Host {
            disk,
            log: Mutex::new(log),
            ms: 0,
        }
    }

    fn now(&self) -> Now {
        at(self.ms)
    }

    fn stream(&self, config: StreamConfig) -> StreamId {
        self.log
            .lock()
            .create_stream("shop.order", config)
            .unwrap()
            .0
    }

    fn sub(&self, stream: StreamId, name: &str) -> SubId {
        self.log
            .lock()
            .create_subscription(stream, name, SubscriptionConfig::default())
            .unwrap()
            .0
    }

    fn flush(&self) {
        pump::run_until_idle(&self.log, self.now()).unwrap();
    }

    fn commit(&self, tx: Tx) -> Result<Ticket, Error> {
        self.log.lock().commit(tx, self.now())
    }

    fn publish(&self, stream: StreamId, records: Vec<RecordIn>) -> Ticket {
        let ticket = self.commit(publish(stream, records)).unwrap();
        self.flush();
        assert!(self.log.lock().is_safe(&ticket));
        ticket
    }

    fn lease(&self, sub: SubId, member: MemberId) -> LeaseBatch {
        self.log
            .lock()
            .lease(sub, member, 100, 1 << 20, LEASE, self.now())
            .unwrap()
    }

    fn offsets(&self, sub: SubId, member: MemberId) -> Vec<Offset> {
        self.lease(sub, member)
            .messages
            .iter()
            .map(|leased| leased.record.offset)
            .collect()
    }

    fn settle(&self, sub: SubId, leased: &postrider_log::Leased, how: Settle) -> Ticket {
        let (offset, token) = (leased.record.offset, leased.token);
        self.commit(Tx {
            settles: vec![SettleOp {
                sub,
                offset,
                token,
                how,
            }],
            ..Tx::default()
        })
        .unwrap()
    }

    fn pass(&mut self, ms: u64) -> postrider_log::Ticked {
        self.ms += ms;
        self.log.lock().tick(self.now()).unwrap()
    }

    /// The process is killed (what was written stays), or the power is cut.
    fn restart(&mut self, power: bool) {
        self.disk = if power {
            self.disk.crash(9)
        } else {
            self.disk.kill()
        };
        self.log = Mutex::new(
            Log::open(Arc::new(self.disk.clone()), small(), self.now())
                .unwrap()
                .0,
        );
    }
}

fn at(ms: u64) -> Now {
    Now::from_millis(1_700_000_000_000 + ms, 5_000 + ms)
}

fn publish(stream: StreamId, records: Vec<RecordIn>) -> Tx {
    Tx {
        publishes: vec![Publish {
            stream,
            records,
            ..Publish::default()
        }],
        ..Tx::default()
    }
}

fn record(id: u8, key: &'static str) -> RecordIn {
    RecordIn {
        id: [id; 16],
        key: Some(Bytes::from(key)),
        value: Some(Bytes::from(vec![id; 100])),
        ..RecordIn::default()
    }
}

#[test]
fn a_consumer_sees_nothing_before_it_is_safe_at_the_level_of_the_stream() {
    for (level, safe_at_once) in [
        (Level::Fsync, false),
        (Level::Os, false),
        (Level::Memory, true),
    ] {
        let host = Host::new();
        let stream = host.stream(StreamConfig {
            level,
            ..StreamConfig::default()
        });
        let sub = host.sub(stream, "a");
        host.flush();
        host.log.lock().take_wakes();
        let ticket = host.commit(publish(stream, vec![record(1, "k")])).unwrap();
        assert_eq!(host.log.lock().is_safe(&ticket), safe_at_once, "{level:?}");
        assert_eq!(
            host.offsets(sub, A).len(),
            usize::from(safe_at_once),
            "{level:?}"
        );
        host.flush();
        assert!(host.log.lock().is_safe(&ticket));
        let wakes = host.log.lock().take_wakes();
        assert_eq!(
            (wakes.subscriptions, wakes.streams),
            (vec![sub], vec![stream]),
            "{level:?}"
        );
    }
}

#[test]
fn attempts_survive_a_kill_and_a_release_does_not_count() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let sub = host.sub(stream, "a");
    host.publish(stream, vec![record(1, "k"), record(2, "l")]);
    assert!(
        host.lease(sub, A)
            .messages
            .iter()
            .all(|leased| leased.attempt == 1)
    );
    pump::write(&host.log, host.now()).unwrap();
    host.restart(false);
    let again = host.lease(sub, A);
    assert_eq!(
        again
            .messages
            .iter()
            .map(|leased| leased.attempt)
            .collect::<Vec<_>>(),
        [2, 2]
    );
    assert_eq!(host.log.lock().release_member(A, host.now()).unwrap(), 2);
    let third = host.lease(sub, B);
    assert_eq!(
        third
            .messages
            .iter()
            .map(|leased| leased.attempt)
            .collect::<Vec<_>>(),
        [2, 2]
    );
    let stale = host.commit(Tx {
        settles: vec![SettleOp {
            sub,
            offset: 0,
            token: again.messages[0].token,
            how: Settle::Ack,
        }],
        ..Tx::default()
    });
    assert!(matches!(stale, Err(Error::LeaseLost { offset: 0, .. })));
}

#[test]
fn a_stale_lease_undoes_the_whole_transaction() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let sub = host.sub(stream, "a");
    host.publish(stream, vec![record(1, "k")]);
    let leased = host.lease(sub, A).messages.remove(0);
    let ticked = host.pass(31_000);
    assert_eq!(ticked.leases_ended, 1);
    let mut tx = publish(stream, vec![record(2, "k")]);
    tx.settles.push(SettleOp {
        sub,
        offset: 0,
        token: leased.token,
        how: Settle::Ack,
    });
    assert!(matches!(host.commit(tx), Err(Error::LeaseLost { .. })));
    assert_eq!(host.log.lock().next_offset(stream).unwrap(), 1);
    assert_eq!(
        host.lease(sub, B).messages[0].attempt,
        2,
        "a lease that ended counts"
    );
}

#[test]
fn the_same_id_is_stored_once_within_the_window_also_after_a_crash() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig {
        kind: Kind::Events,
        ..StreamConfig::default()
    });
    host.publish(stream, vec![record(1, "k"), record(2, "k")]);
    host.restart(true);
    let ticket = host.publish(stream, vec![record(2, "k"), record(3, "k"), record(3, "k")]);
    let told: Vec<_> = ticket.appended[0]
        .iter()
        .map(|appended| (appended.offset, appended.duplicate))
        .collect();
    assert_eq!(told, [(1, true), (2, false), (2, true)]);
    host.pass(300_000);
    let ticket = host.publish(stream, vec![record(2, "k")]);
    assert!(
        !ticket.appended[0][0].duplicate,
        "after twice the window it is a new one"
    );
}

#[test]
fn one_record_published_alone_is_the_commit_of_that_record() {
    for level in [Level::Fsync, Level::Os, Level::Memory] {
        let (committed, alone) = (Host::new(), Host::new());
        let config = StreamConfig {
            level,
            ..StreamConfig::default()
        };
        let streams = [&committed, &alone].map(|host| host.stream(config));
        let subs = [&committed, &alone].map(|host| host.sub(streams[0], "shop"));
        assert_eq!((streams[0], subs[0]), (streams[1], subs[1]));
        // The third is the first again.
        for id in [1, 2, 1, 3] {
            let ticket = committed
                .commit(publish(streams[0], vec![record(id, "k")]))
                .unwrap();
            let mut log = alone.log.lock();
            let one = log
                .publish_one(streams[1], &record(id, "k"), alone.now())
                .unwrap();
            drop(log);
            assert_eq!(Ticket::from(one), ticket, "{level:?}");
            committed.flush();
            alone.flush();
        }
        let leased = [&committed, &alone].map(|host| host.lease(subs[0], A).messages);
        assert_eq!(leased[0].len(), 3, "one of four was a duplicate");
        let records = leased.map(|all| {
            let records = all.iter().map(|leased| format!("{:?}", leased.record));
            records.collect::<Vec<_>>()
        });
        assert_eq!(records[0], records[1]);
        let unknown = alone
            .log
            .lock()
            .publish_one(StreamId(77), &record(9, "k"), alone.now());
        assert!(matches!(unknown, Err(Error::UnknownStream { .. })));
    }
}

#[test]
fn an_event_stream_refuses_a_writer_that_did_not_see_the_last_event() {
    let host = Host::new();
    let stream = host.stream(StreamConfig {
        kind: Kind::Events,
        ..StreamConfig::default()
    });
    let append = |id, expect| {
        let publish = Publish {
            stream,
            records: vec![record(id, "k")],
            expect,
            ..Publish::default()
        };
        host.commit(Tx {
            publishes: vec![publish],
            ..Tx::default()
        })
    };
    assert!(matches!(
        append(1, Expected::Exists),
        Err(Error::Conflict { actual: 0, .. })
    ));
    append(1, Expected::Empty).unwrap();
    append(2, Expected::Next(1)).unwrap();
    assert!(matches!(
        append(3, Expected::Next(1)),
        Err(Error::Conflict { actual: 2, .. })
    ));
    assert!(
        append(2, Expected::Next(1)).unwrap().appended[0][0].duplicate,
        "the same event again is no conflict"
    );
}

#[test]
fn one_payload_for_several_streams_is_stored_once() {
    let host = Host::new();
    let mut streams = Vec::new();
    let mut subs = Vec::new();
    for name in ["a", "b", "c"] {
        let stream = host
            .log
            .lock()
            .create_stream(name, StreamConfig::default())
            .unwrap()
            .0;
        streams.push(stream);
        subs.push(host.sub(stream, "s"));
    }
    host.publish(streams[1], vec![record(9, "k")]);
    let before = host
        .log
        .lock()
        .wal()
        .segments()
        .iter()
        .map(|segment| segment.used)
        .sum::<u64>();
    let big = RecordIn {
        value: Some(Bytes::from(vec![7; 4_000])),
        ..record(1, "k")
    };
    let tx = Publish {
        stream: streams[0],
        also: streams[1..].to_vec(),
        records: vec![big],
        ..Publish::default()
    };
    host.commit(Tx {
        publishes: vec![tx],
        ..Tx::default()
    })
    .unwrap();
    host.flush();
    let after = host
        .log
        .lock()
        .wal()
        .segments()
        .iter()
        .map(|segment| segment.used)
        .sum::<u64>();
    assert!(after - before < 2 * 4_096 + 4_096, "{}", after - before);
    for (n, sub) in subs.iter().enumerate() {
        let got = host.lease(*sub, A);
        let last = got.messages.last().unwrap();
        assert_eq!(
            (
                last.record.offset,
                last.record.value.as_ref().unwrap().len()
            ),
            (u64::from(n == 1), 4_000)
        );
    }
}

#[test]
fn a_delayed_message_comes_when_it_is_due_and_not_if_it_was_cancelled() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let sub = host.sub(stream, "a");
    let due = host.now().wall_ms + 3_600_000;
    let later = |id| RecordIn {
        deliver_at_ms: due,
        ..record(id, "k")
    };
    host.publish(stream, vec![later(1), later(2), record(3, "l")]);
    assert_eq!(host.offsets(sub, A), [2]);
    let cancel = |offset| Tx {
        cancels: vec![Cancel { stream, offset }],
        ..Tx::default()
    };
    assert_eq!(host.commit(cancel(1)).unwrap().cancelled, [true]);
    assert_eq!(host.commit(cancel(1)).unwrap().cancelled, [false]);
    host.flush();
    host.restart(true);
    host.pass(3_599_000);
    assert_eq!(
        host.offsets(sub, A),
        [2],
        "only what was not settled before the crash"
    );
    let wait = host.log.lock().next_timer(host.now()).unwrap();
    assert!(wait <= Duration::from_secs(1));
    host.pass(1_010);
    assert_eq!(host.offsets(sub, A), [0]);
}

#[test]
fn an_expired_message_is_not_handed_out_and_leaves_without_a_consumer() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let (seen, idle) = (host.sub(stream, "seen"), host.sub(stream, "idle"));
    let expires_at_ms = host.now().wall_ms + 1_000;
    host.publish(
        stream,
        vec![RecordIn {
            expires_at_ms,
            ..record(1, "k")
        }],
    );
    host.publish(
        stream,
        vec![
            RecordIn {
                expires_at_ms,
                ..record(2, "l")
            },
            record(3, "m"),
        ],
    );
    let first = host
        .log
        .lock()
        .lease(seen, A, 1, 1 << 20, LEASE, host.now())
        .unwrap();
    assert_eq!(
        host.pass(1_020).expired,
        1,
        "offset 0 of the idle one; the other is in flight"
    );
    host.settle(seen, &first.messages[0], Settle::Ack);
    assert_eq!(host.offsets(seen, A), [2]);
    assert_eq!(host.offsets(idle, A), [2]);
    assert_eq!(host.log.lock().stream_info(stream).unwrap().first, 1);
}

#[test]
fn a_back_off_survives_a_restart_and_is_never_longer_than_it_was() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let sub = host.sub(stream, "a");
    host.publish(stream, vec![record(1, "k"), record(2, "k")]);
    let leased = host
        .log
        .lock()
        .lease(sub, A, 1, 1 << 20, LEASE, host.now())
        .unwrap();
    host.settle(
        sub,
        &leased.messages[0],
        Settle::Return {
            delay: Duration::from_secs(10),
            count: true,
        },
    );
    host.pass(4_000);
    host.flush();
    host.restart(true);
    assert!(host.offsets(sub, B).is_empty(), "the key waits");
    host.pass(5_900);
    assert!(host.offsets(sub, B).is_empty());
    host.pass(120);
    assert_eq!(host.offsets(sub, B), [0, 1]);
}

#[test]
fn a_failure_keeps_the_original_bytes_and_goes_with_its_settle() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let sub = host.sub(stream, "a");
    host.publish(stream, vec![record(5, "order-1")]);
    let leased = host.lease(sub, A).messages.remove(0);
    let (group, meta) = ("declined".to_owned(), Bytes::from_static(b"{}"));
    let failure = FailureIn {
        group,
        meta,
        key: leased.record.key.clone(),
        park: Park::Key,
    };
    let ticket = host.settle(sub, &leased, Settle::Dead(failure));
    assert_eq!(
        (ticket.level, ticket.failures.as_slice()),
        (Level::Fsync, &[FailureId(1)][..])
    );
    host.flush();
    host.restart(true);
    assert!(host.offsets(sub, A).is_empty());
    let log = host.log.lock();
    let failure = log.failure(sub, FailureId(1)).unwrap();
    assert_eq!(
        (failure.record.id, failure.record.value),
        ([5; 16], leased.record.value)
    );
    assert_eq!(
        (failure.info.source, &failure.meta[..]),
        (Some(0), &b"{}"[..])
    );
    assert!(log.is_parked(sub, b"order-1"));
    assert_eq!(
        log.stream_info(stream).unwrap().records,
        0,
        "the record no longer needs its stream"
    );
}

#[test]
fn a_replaced_reader_is_fenced_off() {
    let host = Host::new();
    let stream = host.stream(StreamConfig {
        kind: Kind::Events,
        ..StreamConfig::default()
    });
    let old = host
        .log
        .lock()
        .claim_reader(stream, "projection")
        .unwrap()
        .0;
    let commit = |epoch, watermark| {
        let (group, meta) = ("projection".to_owned(), Bytes::from_static(b"m"));
        let done = vec![(watermark + 1, watermark + 3)];
        host.commit(Tx {
            offsets: vec![OffsetCommit {
                stream,
                group,
                epoch,
                watermark,
                done,
                meta,
            }],
            ..Tx::default()
        })
    };
    commit(old.epoch, 5).unwrap();
    let new = host
        .log
        .lock()
        .claim_reader(stream, "projection")
        .unwrap()
        .0;
    assert_eq!((new.watermark, new.done.as_slice()), (5, &[(6, 8)][..]));
    assert!(matches!(commit(old.epoch, 9), Err(Error::Fenced { .. })));
    commit(new.epoch, 9).unwrap();
    assert_eq!(
        host.log
            .lock()
            .reader(stream, "projection")
            .unwrap()
            .unwrap()
            .watermark,
        9
    );
}

#[test]
fn segments_are_freed_once_everything_in_them_is_settled() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let sub = host.sub(stream, "a");
    for round in 0..40u8 {
        let records = (0..10)
            .map(|n| RecordIn {
                id: [0; 16],
                ..record(round.wrapping_add(n), "k")
            })
            .collect();
        host.publish(stream, records);
        for leased in &host.lease(sub, A).messages {
            host.settle(sub, leased, Settle::Ack);
        }
        host.pass(2_000);
        host.flush();
    }
    let log = host.log.lock();
    let segments = log.wal().segments();
    assert!(segments[0].id.0 > 3 && segments.len() <= 4, "{segments:?}");
}

#[test]
fn retention_trims_an_event_stream_by_age_and_bytes() {
    let mut host = Host::new();
    let retention = Retention {
        age: Some(Duration::from_secs(60)),
        bytes: Some(1_000),
    };
    let stream = host.stream(StreamConfig {
        kind: Kind::Events,
        retention,
        ..StreamConfig::default()
    });
    for id in 1..=10 {
        host.publish(stream, vec![record(id, "k")]);
    }
    assert_eq!(host.pass(0).trimmed, 1);
    let info = host.log.lock().stream_info(stream).unwrap();
    assert!(info.bytes <= 1_000 && info.records > 2, "{info:?}");
    let batch = host.log.lock().read(stream, 0, 100, 1 << 20).unwrap();
    assert_eq!((batch.records[0].offset, batch.next), (info.first, 10));
    host.pass(60_010);
    host.pass(10_000);
    assert_eq!(host.log.lock().stream_info(stream).unwrap().records, 0);
}

#[test]
fn a_queue_keeps_commands_for_its_first_subscription_and_a_seek_delivers_again() {
    let host = Host::new();
    let stream = host.stream(StreamConfig {
        kind: Kind::Queue,
        ..StreamConfig::default()
    });
    host.publish(stream, vec![record(1, "k"), record(2, "k")]);
    let sub = host.sub(stream, "owner");
    let leased = host.lease(sub, A);
    assert_eq!(leased.messages.len(), 2);
    host.settle(sub, &leased.messages[0], Settle::Ack);
    host.log.lock().seek(sub, Start::Earliest).unwrap();
    assert_eq!(
        host.offsets(sub, B),
        [0, 1],
        "the batch is still there, so all of it comes again"
    );
}

#[test]
fn creating_twice_is_the_same_and_changing_is_told() {
    let host = Host::new();
    let config = StreamConfig::default();
    let mut log = host.log.lock();
    let (id, created, _) = log.create_stream("s", config).unwrap();
    assert_eq!(created, Created::New);
    assert_eq!(log.create_stream("s", config).unwrap().1, Created::Existing);
    let os = StreamConfig {
        level: Level::Os,
        ..config
    };
    assert_eq!(log.create_stream("s", os).unwrap().1, Created::Altered);
    assert_eq!(log.stream_info(id).unwrap().config.level, Level::Os);
    let events = StreamConfig {
        kind: Kind::Events,
        ..os
    };
    assert!(matches!(
        log.create_stream("s", events),
        Err(Error::Invalid { .. })
    ));
    assert!(matches!(
        log.create_stream("a\nb", os),
        Err(Error::Name { .. })
    ));
}

#[test]
fn what_is_too_large_is_refused_with_the_name_of_its_limit() {
    let host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let key = RecordIn {
        key: Some(Bytes::from(vec![0; 1 << 20])),
        ..RecordIn::default()
    };
    let error = host.commit(publish(stream, vec![key])).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                limit: "key_bytes_max",
                ..
            }
        ),
        "{error}"
    );
    let value = RecordIn {
        value: Some(Bytes::from(vec![0; 9 << 20])),
        ..RecordIn::default()
    };
    let error = host.commit(publish(stream, vec![value])).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                limit: "record_bytes_max",
                ..
            }
        ),
        "{error}"
    );
}

/// 02 §4.4, 10, the whole log.
#[test]
fn acceptance_10_a_full_disk_refuses_publishes_and_lets_consumers_go_on() {
    let host = Host::new();
    let stream = host.stream(StreamConfig::default());
    let sub = host.sub(stream, "a");
    host.publish(stream, vec![record(1, "k")]);
    host.disk.set_capacity(Some(0));
    let big = |id| RecordIn {
        value: Some(Bytes::from(vec![id; 4_000])),
        ..record(id, "k")
    };
    let full = (2..40).find_map(|id| host.commit(publish(stream, vec![big(id)])).err());
    assert!(full.is_some_and(|error| error.is_no_space()));
    pump::write(&host.log, host.now()).unwrap();
    let leased = host
        .log
        .lock()
        .lease(sub, A, 1, 1 << 20, LEASE, host.now())
        .unwrap();
    host.settle(sub, &leased.messages[0], Settle::Ack);
    host.disk.set_capacity(None);
    host.flush();
    host.publish(stream, vec![big(99)]);
}

#[test]
fn a_flipped_bit_on_the_disk_is_never_served() {
    let mut host = Host::new();
    let stream = host.stream(StreamConfig {
        kind: Kind::Events,
        ..StreamConfig::default()
    });
    host.publish(
        stream,
        vec![RecordIn {
            value: Some(Bytes::from(vec![0xAB; 2_000])),
            ..record(1, "k")
        }],
    );
    pump::close(&host.log, host.now()).unwrap();
    host.restart(false);
    for path in host.disk.paths() {
        let content = host.disk.content(&path).unwrap();
        if let Some(place) = content
            .windows(500)
            .position(|window| window.iter().all(|byte| *byte == 0xAB))
        {
            host.disk.flip(&path, place + 250, 3);
        }
    }
    let read = host.log.lock().read(stream, 0, 10, 1 << 20);
    assert!(
        matches!(
            read,
            Err(Error::CorruptEntry { .. } | Error::Malformed { .. })
        ),
        "{read:?}"
    );
}

#[test]
fn a_memory_disk_gives_back_the_memory_of_what_is_settled() {
    let wal = WalOptions {
        segment_bytes: [64 << 10, 64 << 10, 64 << 10],
        ..WalOptions::default()
    };
    let disk = Arc::new(MemDisk::new());
    let log = Mutex::new(
        Log::open(
            disk,
            Options {
                wal,
                ..Options::default()
            },
            at(0),
        )
        .unwrap()
        .0,
    );
    let stream = log
        .lock()
        .create_stream(
            "s",
            StreamConfig {
                level: Level::Memory,
                ..StreamConfig::default()
            },
        )
        .unwrap()
        .0;
    let sub = log
        .lock()
        .create_subscription(stream, "a", SubscriptionConfig::default())
        .unwrap()
        .0;
    for round in 0..3_000 {
        let big = RecordIn {
            value: Some(Bytes::from(vec![1; 8_000])),
            ..RecordIn::default()
        };
        log.lock()
            .commit(publish(stream, vec![big]), at(0))
            .unwrap();
        let batch = log.lock().lease(sub, A, 10, 1 << 20, LEASE, at(0)).unwrap();
        assert!(!batch.messages.is_empty() || round == 0, "{round}");
        for leased in &batch.messages {
            let settle = SettleOp {
                sub,
                offset: leased.record.offset,
                token: leased.token,
                how: Settle::Ack,
            };
            log.lock()
                .commit(
                    Tx {
                        settles: vec![settle],
                        ..Tx::default()
                    },
                    at(0),
                )
                .unwrap();
        }
        pump::run_until_idle(&log, at(0)).unwrap();
    }
    let held: u64 = log
        .lock()
        .wal()
        .segments()
        .iter()
        .map(|segment| segment.size)
        .sum();
    assert!(held < 8 << 20, "{held} bytes held after 24 MB went through");
}
