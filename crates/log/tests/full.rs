//! A full disk: publishers are refused in time, consumers go on, it resumes by itself, and nothing that was confirmed is lost.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::SimDisk;
use postrider_log::wal::WalOptions;
use postrider_log::{
    Error, FailureId, FailureIn, Log, MemberId, Now, Offset, Options, Park, Publish, RecordIn,
    Settle, SettleOp, StreamConfig, StreamId, SubId, SubscriptionConfig, Tx, pump, tools,
};

const A: MemberId = MemberId(1);
const SEGMENT: u64 = 64 << 10;
const QUOTA: u64 = 10 * SEGMENT;

fn options(disk_bytes_max: Option<u64>) -> Options {
    Options {
        wal: WalOptions {
            segment_bytes: [16 << 10, 32 << 10, SEGMENT],
            checkpoint_bytes: SEGMENT,
            fill_bytes: SEGMENT,
            disk_bytes_max,
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
    confirmed: BTreeSet<Offset>,
    settled: BTreeSet<Offset>,
}

impl Host {
    /// Discards all failure records, or they would fill the log in the end; what was counted so far is done with.
    fn give_up_failures(&mut self) {
        let mut log = self.log.lock();
        let ids = log.failures(self.sub, None, FailureId(0), 10_000).unwrap();
        let discard = postrider_log::FailureOp::Discard {
            sub: self.sub,
            ids: ids.iter().map(|info| info.id).collect(),
            reason: "x".into(),
        };
        let tx = Tx {
            failures: vec![discard],
            ..Tx::default()
        };
        log.commit(tx, at(self.ms)).unwrap();
        self.settled.clear();
        self.confirmed.clear();
    }

    fn on(disk: &SimDisk, quota: Option<u64>) -> Result<Host, Error> {
        let (log, _) = Log::open(Arc::new(disk.clone()), options(quota), at(0))?;
        Host::on_log(disk, log)
    }

    fn on_log(disk: &SimDisk, mut log: Log) -> Result<Host, Error> {
        let stream = log.create_stream("shop.order", StreamConfig::default())?.0;
        let config = SubscriptionConfig {
            ordered: false,
            ..SubscriptionConfig::default()
        };
        let sub = log.create_subscription(stream, "inventory", config)?.0;
        let (confirmed, settled) = (BTreeSet::new(), BTreeSet::new());
        let (disk, log, ms) = (disk.clone(), Mutex::new(log), 0);
        let host = Host {
            disk,
            log,
            stream,
            sub,
            ms,
            confirmed,
            settled,
        };
        host.flush()?;
        Ok(host)
    }

    fn flush(&self) -> Result<(), Error> {
        pump::run_until_idle(&self.log, at(self.ms))
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.ms += 10;
        let record = RecordIn {
            value: Some(Bytes::from(vec![7; 900])),
            ..RecordIn::default()
        };
        let publish = Publish {
            stream: self.stream,
            records: vec![record; 4],
            ..Publish::default()
        };
        let tx = Tx {
            publishes: vec![publish],
            ..Tx::default()
        };
        let ticket = self.log.lock().commit(tx, at(self.ms))?;
        self.flush()?;
        assert!(self.log.lock().is_safe(&ticket));
        self.confirmed
            .extend(ticket.appended[0].iter().map(|one| one.offset));
        Ok(())
    }

    /// Publishes until it is full; gives how many commits were taken.
    fn fill(&mut self) -> usize {
        for count in 0..10_000 {
            match self.publish() {
                Ok(()) => {}
                Err(Error::Full { needed }) => {
                    assert!(needed > 0);
                    return count;
                }
                Err(error) => panic!("after {count}: {error}"),
            }
        }
        panic!("it never was full");
    }

    /// Takes up to `count` messages, and settles them: one in ten as a dead letter.
    fn consume(&mut self, count: usize) -> Result<usize, Error> {
        self.ms += 10;
        let lease = Duration::from_secs(3_600);
        let batch = self
            .log
            .lock()
            .lease(self.sub, A, count, 1 << 20, lease, at(self.ms))?;
        let taken = batch.messages.len();
        let mut offsets = Vec::new();
        let settles = batch.messages.into_iter().map(|leased| {
            let (offset, token, sub) = (leased.record.offset, leased.token, self.sub);
            offsets.push(offset);
            let failure = FailureIn {
                group: "declined".into(),
                meta: Bytes::from_static(b"why"),
                key: None,
                park: Park::No,
            };
            let how = if offset % 10 == 3 {
                Settle::Dead(failure)
            } else {
                Settle::Ack
            };
            SettleOp {
                sub,
                offset,
                token,
                how,
            }
        });
        let settles = settles.collect();
        self.log.lock().commit(
            Tx {
                settles,
                ..Tx::default()
            },
            at(self.ms),
        )?;
        self.flush()?;
        self.settled.extend(offsets);
        Ok(taken)
    }

    /// Everything confirmed and not settled is there; what is a failure record is one.
    fn check(&self) {
        let mut log = self.log.lock();
        let there = log.read(self.stream, 0, 100_000, 1 << 30).unwrap().records;
        let there: BTreeSet<Offset> = there.iter().map(|record| record.offset).collect();
        let waiting: BTreeSet<Offset> = self.confirmed.difference(&self.settled).copied().collect();
        assert!(
            waiting.is_subset(&there),
            "{:?}",
            waiting.difference(&there)
        );
        let failures = log.failures(self.sub, None, FailureId(0), 100_000).unwrap();
        let dead = self
            .settled
            .iter()
            .filter(|offset| *offset % 10 == 3)
            .count();
        assert!(failures.len() >= dead, "{} of {dead}", failures.len());
        for info in failures {
            assert_eq!(log.failure(self.sub, info.id).unwrap().meta, &b"why"[..]);
        }
    }
}

#[test]
fn acceptance_10_out_of_space_publishers_are_refused_and_consumers_free_what_they_need() {
    let mut host = Host::on(&SimDisk::new(1), Some(QUOTA)).unwrap();
    for round in 0..5 {
        let taken = host.fill();
        assert!(
            taken > 10,
            "round {round}: only {taken} commits before it was full"
        );
        assert!(host.publish().is_err(), "and it stays full");
        let bytes = host.log.lock().wal().disk_bytes();
        assert!(bytes <= QUOTA, "{bytes} of {QUOTA}");
        host.check();
        while host.consume(10).unwrap() > 0 {
            assert!(
                host.log.lock().wal().disk_bytes() <= QUOTA,
                "nor do consumers take more"
            );
        }
        host.check();
        host.give_up_failures();
        host.ms += 1_000;
        host.flush().unwrap();
        host.publish()
            .unwrap_or_else(|error| panic!("round {round}: it resumes: {error}"));
    }
    println!(
        "proof: {{\"name\":\"acceptance_10_out_of_space\",\"what\":\"rounds of filling a bounded log, settling all of it and going on\",\"rounds\":5}}"
    );
}

#[test]
fn acceptance_10_out_of_space_with_many_stuck_messages_what_is_needed_moves_together() {
    let mut host = Host::on(&SimDisk::new(2), Some(QUOTA)).unwrap();
    host.fill();
    // One in 40 stays in flight for ever; it is in every segment.
    loop {
        host.ms += 10;
        let lease = Duration::from_secs(1_000_000);
        let now = at(host.ms);
        let batch = host
            .log
            .lock()
            .lease(host.sub, A, 10, 1 << 20, lease, now)
            .unwrap();
        if batch.messages.is_empty() {
            break;
        }
        let settles = batch
            .messages
            .iter()
            .filter(|leased| leased.record.offset % 40 != 5);
        let settles = settles.map(|leased| SettleOp {
            sub: host.sub,
            offset: leased.record.offset,
            token: leased.token,
            how: Settle::Ack,
        });
        let settles = settles.collect();
        host.log
            .lock()
            .commit(
                Tx {
                    settles,
                    ..Tx::default()
                },
                now,
            )
            .unwrap();
        host.flush().unwrap();
    }
    host.ms += 1_000;
    host.flush().unwrap();
    for count in 0..40 {
        host.publish()
            .unwrap_or_else(|error| panic!("it resumes, {count}: {error}"));
    }
}

impl Host {
    /// Upkeep until it has surely nothing more to free.
    fn flush_freeing(&self) -> Result<(), Error> {
        for _ in 0..10 {
            self.flush()?;
            if !self.log.lock().is_freeing() {
                return Ok(());
            }
        }
        panic!("it waits for something that does not come");
    }

    /// Leases one message and settles it, each in a commit of its own that is written at once: two blocks. Upkeep does not run.
    fn consume_one_alone(&mut self) -> Result<bool, Error> {
        let now = at(self.ms);
        let lease = Duration::from_secs(3_600);
        let batch = self.log.lock().lease(self.sub, A, 1, 1 << 20, lease, now)?;
        pump::write(&self.log, now)?;
        let Some(leased) = batch.messages.first() else {
            return Ok(false);
        };
        let settle = SettleOp {
            sub: self.sub,
            offset: leased.record.offset,
            token: leased.token,
            how: Settle::Ack,
        };
        let tx = || Tx {
            settles: vec![settle.clone()],
            ..Tx::default()
        };
        let committed = self.log.lock().commit(tx(), now);
        if let Err(Error::Full { .. }) = committed {
            self.flush_freeing()?;
            self.log.lock().commit(tx(), now)?;
        }
        pump::write(&self.log, now)?;
        self.settled.insert(leased.record.offset);
        Ok(true)
    }
}

/// Each settle alone takes a block, so the last space is gone before all are settled: whoever waits for upkeep then finds that it freed some.
#[test]
fn acceptance_10_out_of_space_settles_that_come_faster_than_upkeep_find_space_after_it() {
    let mut host = Host::on(&SimDisk::new(5), Some(QUOTA)).unwrap();
    host.fill();
    let mut waited = 0;
    loop {
        match host.consume_one_alone() {
            Ok(true) => {}
            Ok(false) => break,
            Err(Error::Full { .. }) => {
                waited += 1;
                host.ms += 1;
                host.flush_freeing().unwrap();
                // What was leased and not settled is still held; a lease that found no space is given again.
                assert!(waited < 1_000, "it never goes on");
            }
            Err(error) => panic!("{error}"),
        }
        let bytes = host.log.lock().wal().disk_bytes();
        assert!(bytes <= QUOTA, "{bytes}");
    }
    assert!(waited > 0, "upkeep was waited for");
    assert_eq!(host.settled, host.confirmed);
    host.ms += 1_000;
    host.flush().unwrap();
    host.publish().unwrap();
}

/// The third segment is larger than all that is left.
#[test]
fn a_disk_too_small_for_a_segment_gets_smaller_ones_and_room_for_checkpoints_stays() {
    let large = |disk: &SimDisk| {
        let mut options = options(None);
        options.wal.segment_bytes = [64 << 10, 64 << 10, 4 << 20];
        Log::open(Arc::new(disk.clone()), options, at(0))
    };
    let disk = SimDisk::new(6);
    let mut host = Host::on_log(&disk, large(&disk).unwrap().0).unwrap();
    host.disk.set_capacity(Some(2 << 20));
    for round in 0..4 {
        let taken = host.fill();
        assert!(taken > 100, "round {round}: {taken} of 4 KiB");
        let mut consumed = 0;
        while let some @ 1.. = host.consume(10).unwrap() {
            consumed += some;
        }
        assert!(consumed >= 4 * taken, "{consumed} of {taken}");
        host.check();
        host.give_up_failures();
        host.ms += 31_000;
        host.flush().unwrap();
        host.publish()
            .unwrap_or_else(|error| panic!("round {round}: it resumes: {error}"));
    }
    let largest = |host: &Host| {
        let segments = host.log.lock().wal().segments();
        segments.iter().map(|one| one.size).max().unwrap()
    };
    assert!((64 << 10..2 << 20).contains(&largest(&host)));
    // With room again, they grow again.
    host.disk.set_capacity(None);
    while largest(&host) < 4 << 20 {
        host.publish().unwrap();
        assert!(host.confirmed.len() < 20_000, "{}", largest(&host));
    }
    drop(host.log);
    let (log, _) = large(&disk).unwrap();
    assert!(log.wal().segments().len() > 1);
}

#[test]
fn acceptance_10_out_of_space_of_the_disk_itself_at_any_size_loses_nothing_and_resumes() {
    let roomy = Host::on(&SimDisk::new(3), None).unwrap();
    let start: u64 = roomy
        .disk
        .paths()
        .iter()
        .map(|path| roomy.disk.content(path).unwrap().len() as u64)
        .sum();
    let mut fulls = 0;
    for extra in (0..40 * 4096).step_by(4096 / 2) {
        let mut host = Host::on(&SimDisk::new(4), None).unwrap();
        host.disk.set_capacity(Some(start + 6 * SEGMENT + extra));
        host.fill();
        fulls += 1;
        host.check();
        // Consumers go on as far as the reserve goes, whatever the disk says about checkpoints.
        let mut consumed = 0;
        while let Ok(some) = host.consume(10) {
            consumed += some;
            if some == 0 {
                break;
            }
        }
        assert!(consumed >= 20, "capacity {extra}: {consumed}");
        assert!(!host.log.lock().is_poisoned());
        host.check();
        host.disk.set_capacity(None);
        host.ms += 31_000;
        host.flush().unwrap();
        host.publish()
            .unwrap_or_else(|error| panic!("capacity {extra}: it resumes: {error}"));
        host.check();
        let (confirmed, settled) = (host.confirmed.clone(), host.settled.clone());
        let crashed = host.disk.crash(extra);
        assert!(
            tools::verify_disk(Arc::new(crashed.clone()))
                .unwrap()
                .is_sound()
        );
        let mut again = Host::on(&crashed, None).unwrap();
        (again.confirmed, again.settled) = (confirmed, settled);
        again.check();
    }
    assert_eq!(fulls, 80);
}
