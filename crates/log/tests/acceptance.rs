//! The acceptance tests of the log, numbered as in the project's research of brokers (02 §4.4): 2, 4 to 10, 12, 13, 17 and 20. Number 2
//! is the simulation (`log_simulation`, `wal_simulation`), 9 and 10 of the physical layer are beside it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::SimDisk;
use postrider_log::wal::WalOptions;
use postrider_log::{
    Error, Leased, Log, MemberId, Now, Offset, Options, Publish, RecordIn, Settle, SettleOp,
    StreamConfig, StreamId, SubId, SubscriptionConfig, Ticket, Tx, pump,
};

const A: MemberId = MemberId(1);
const LEASE: Duration = Duration::from_secs(30);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const WALL_MS: u64 = 1_700_000_000_000;

/// A log, its disk and its two clocks.
struct Host {
    disk: SimDisk,
    log: Mutex<Log>,
    options: Options,
    wall_ms: u64,
    mono_ms: u64,
}

impl Host {
    fn new(options: Options) -> Host {
        let disk = SimDisk::new(1);
        let (log, _) = Log::open(
            Arc::new(disk.clone()),
            options.clone(),
            Now::from_millis(WALL_MS, 5_000),
        )
        .unwrap();
        Host {
            disk,
            log: Mutex::new(log),
            options,
            wall_ms: WALL_MS,
            mono_ms: 5_000,
        }
    }

    fn now(&self) -> Now {
        Now::from_millis(self.wall_ms, self.mono_ms)
    }

    /// A stream and a subscription of it.
    fn topic(&self, name: &str, config: StreamConfig) -> (StreamId, SubId) {
        let mut log = self.log.lock();
        let stream = log.create_stream(name, config).unwrap().0;
        let config = SubscriptionConfig::default();
        let sub = log.create_subscription(stream, name, config).unwrap().0;
        drop(log);
        self.flush();
        (stream, sub)
    }

    fn flush(&self) {
        pump::run_until_idle(&self.log, self.now()).unwrap();
    }

    fn commit(&self, tx: Tx) -> Result<Ticket, Error> {
        self.log.lock().commit(tx, self.now())
    }

    fn publish(&self, stream: StreamId, records: Vec<RecordIn>) -> Result<Ticket, Error> {
        self.commit(Tx {
            publishes: vec![Publish {
                stream,
                records,
                ..Publish::default()
            }],
            ..Tx::default()
        })
    }

    fn lease(&self, sub: SubId, max: usize) -> Vec<Leased> {
        let lease = self
            .log
            .lock()
            .lease(sub, A, max, 1 << 20, LEASE, self.now());
        lease.unwrap().messages
    }

    fn settle(&self, sub: SubId, leased: &[Leased], how: &Settle) -> Result<Ticket, Error> {
        let settle = |leased: &Leased| SettleOp {
            sub,
            offset: leased.record.offset,
            token: leased.token,
            how: how.clone(),
        };
        self.commit(Tx {
            settles: leased.iter().map(settle).collect(),
            ..Tx::default()
        })
    }

    fn tick(&self) {
        self.log.lock().tick(self.now()).unwrap();
    }

    /// The process is killed and a new one opens the log.
    fn restart(&mut self) {
        self.disk = self.disk.kill();
        let disk = Arc::new(self.disk.clone());
        let (log, _) = Log::open(disk, self.options.clone(), self.now()).unwrap();
        self.log = Mutex::new(log);
    }
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

fn record(id: u8, bytes: usize) -> RecordIn {
    RecordIn {
        id: [id; 16],
        value: Some(Bytes::from(vec![id; bytes])),
        ..RecordIn::default()
    }
}

fn offsets(leased: &[Leased]) -> Vec<Offset> {
    leased.iter().map(|leased| leased.record.offset).collect()
}

/// The clock on the wall jumps by a day, forward and back: delays and leases do not notice, before and after a restart.
#[test]
fn acceptance_13_a_clock_that_jumps_by_a_day_ends_no_lease_and_no_delay() {
    let mut jumps = 0;
    for restarts in [false, true] {
        for jump in [Some(WALL_MS + DAY_MS), Some(WALL_MS - DAY_MS), None] {
            let mut host = Host::new(small());
            let (stream, sub) = host.topic("shop.order", StreamConfig::default());
            let records = (1..=10).map(|id| record(id, 100)).collect();
            host.publish(stream, records).unwrap();
            host.flush();
            let leased = host.lease(sub, 10);
            let later = Settle::Return {
                delay: Duration::from_secs(10),
                count: true,
            };
            host.settle(sub, &leased[..5], &later).unwrap();
            host.flush();
            if restarts {
                host.restart();
            }
            let wall_ms = jump.unwrap_or(host.wall_ms);
            host.wall_ms = wall_ms;
            host.tick();
            let others = offsets(&host.lease(sub, 10));
            let free: &[Offset] = if restarts { &[5, 6, 7, 8, 9] } else { &[] };
            assert_eq!(others, free, "{jump:?}, restarts {restarts}");
            host.mono_ms += 9_000;
            host.tick();
            assert!(host.lease(sub, 10).is_empty(), "early: {jump:?}");
            host.mono_ms += 1_000;
            host.tick();
            assert_eq!(offsets(&host.lease(sub, 10)), [0, 1, 2, 3, 4], "{jump:?}");
            jumps += u64::from(jump.is_some());
        }
    }
    println!(
        r#"proof: {{"name":"acceptance_13","what":"the clock on the wall jumps by a day","jumps":{jumps},"leases_ended":0,"early":0}}"#
    );
}
