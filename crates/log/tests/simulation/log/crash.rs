//! The end of a process, and what the next one finds.

use std::sync::Arc;

use postrider_log::disk::SimDisk;
use postrider_log::{FailureId, Kind, Log, Settle, SettleOp, Tx, pump};

use super::model::{Did, Model};
use super::{DAY_MS, LEASE, UnderWay, World, member, options};
use crate::harness::rng::Rng;
use crate::harness::tell;

impl World {
    /// The process ends, perhaps the machine too: then what is not synced survives in part, in any order. It may end again while it opens.
    pub(super) fn restart(&mut self) {
        let (written, durable) = {
            let log = self.log.lock();
            (log.written(), log.durable())
        };
        if let Some(UnderWay::Begun(job)) = self.under_way.take()
            && self.rng.chance(50)
        {
            tell(|| "the hanging write is done, and nobody is told".to_owned());
            drop(job.run());
        }
        let mut power = self.disk.is_off() || self.rng.chance(50);
        let mut any_power = power;
        let report = loop {
            self.end(power);
            self.set_clocks();
            if self.rng.chance(15) {
                self.open_with_a_flipped_bit();
            }
            if self.rng.chance(10) {
                let operation = 1 + self.rng.below(40);
                self.disk.power_off_at(operation);
            }
            match self.open() {
                Ok(report) => break report,
                Err(error) => {
                    assert!(self.disk.is_off(), "it does not open: {error}");
                    tell(|| "the power fails while it opens".to_owned());
                    self.count("power cuts while opening");
                    power = self.rng.chance(70);
                    any_power |= power;
                }
            }
        };
        tell(|| {
            format!(
                "it opens, and finds all up to {} ({durable} was durable, {written} written)",
                report.last
            )
        });
        let last = report.last;
        assert!(
            last >= durable,
            "confirmed up to {durable}, found up to {last}"
        );
        let (told_durable, told_written) = self.confirmed;
        assert!(
            last >= told_durable,
            "{told_durable} was confirmed as synced, found up to {last}"
        );
        if !any_power && !self.faulty {
            assert!(
                last >= written,
                "written up to {written}, found up to {last}"
            );
            assert!(
                last >= told_written,
                "{told_written} was confirmed as written, found up to {last}"
            );
        }
        self.confirmed.1 = self.confirmed.1.min(last);
        self.begin_anew(last);
    }

    fn end(&mut self, power: bool) {
        let seed = self.rng.next();
        if power {
            tell(|| "the power is cut".to_owned());
            self.count("power cuts");
            self.disk = self.disk.crash(seed);
        } else {
            tell(|| "the process is killed".to_owned());
            self.count("kills");
            self.disk = self.disk.kill();
            self.disk.set_capacity(None);
        }
    }

    fn set_clocks(&mut self) {
        if self.rng.chance(20) {
            self.wall_ms = self.wall_ms.saturating_sub(self.rng.below(5_000));
        } else if self.rng.chance(5) {
            let day = if self.rng.chance(50) { DAY_MS } else { -DAY_MS };
            tell(|| format!("the clock on the wall jumps by {day} ms"));
            self.wall_ms = self.wall_ms.saturating_add_signed(day);
        }
        self.wall_max_ms = self.wall_max_ms.max(self.wall_ms);
        self.mono_ms = self.rng.below(1_000);
    }

    /// The model is cut where the log ends, and both must agree.
    fn begin_anew(&mut self, last: postrider_log::Lsn) {
        self.held.clear();
        self.tokens.clear();
        self.waiting.clear();
        (self.epoch, self.quiet) = (0, false);
        (self.faulty, self.full, self.broken) = (false, false, false);
        self.history.retain(|(lsn, _)| *lsn <= last);
        self.model = Model::default();
        self.history
            .iter()
            .for_each(|(_, did)| self.model.apply(did));
        let waits = self
            .model
            .waits_ms
            .iter()
            .map(|(place, (at_ms, delay_ms))| {
                // Between zero and what it was, whatever the clock did meanwhile.
                let passed_ms = self.wall_ms.saturating_sub(*at_ms).min(*delay_ms);
                (*place, self.mono_ms + delay_ms - passed_ms)
            });
        self.not_before = waits.collect();
        self.absorb_expired();
        let (first, gone) = self.first_event();
        assert!(
            !gone || first <= self.trimmed_max,
            "events were lost, not trimmed"
        );
        self.did_trim(last, first);
        self.check_minting();
        self.compare();
    }

    /// A copy of the disk has one bit flipped: the log refuses to open it, or what it serves was published so.
    fn open_with_a_flipped_bit(&mut self) {
        let copy = self.disk.kill();
        let Some((path, byte, bit)) = some_bit(&copy, &mut self.rng, "") else {
            return;
        };
        copy.flip(&path, byte, bit);
        self.count("flipped bits");
        let flipped = || format!("bit {bit} of byte {byte} of {path} flipped");
        match Log::open(
            Arc::new(copy),
            options(&mut Rng(self.rng.next())),
            self.now(),
        ) {
            Ok((mut log, _)) => self.check_served(&mut log, &flipped()),
            Err(postrider_log::Error::Io { .. }) => {
                panic!("{}: not how damage is reported", flipped())
            }
            Err(_) => self.count("flips refused at opening"),
        }
    }

    /// A bit of a segment reads wrong: reads fail or are right.
    pub(super) fn rot(&mut self) -> Result<(), postrider_log::Error> {
        if let Some((path, byte, bit)) = some_bit(&self.disk, &mut self.rng, ".wal") {
            let what = format!("bit {bit} of byte {byte} of {path} reads wrong for a moment");
            tell(|| what.clone());
            self.disk.rot(&path, byte, bit);
            self.check_served(&mut self.log.lock(), &what);
            self.disk.rot(&path, byte, bit);
            self.count("flipped bits");
        }
        Ok(())
    }

    /// All that can be read was published so.
    fn check_served(&self, log: &mut Log, why: &str) {
        for (n, stream) in self.streams.iter().enumerate() {
            let mut from = 0;
            while let Ok(batch) = log.read(stream.id, from, 20, 1 << 20) {
                if batch.records.is_empty() {
                    break;
                }
                from = batch.next;
                for record in &batch.records {
                    let known = self.published.get(&(n, record.offset));
                    let right = |one: &super::Record| {
                        let value = record.value.as_deref().unwrap_or(b"none");
                        record.id == u128::from(one.id).to_le_bytes()
                            && record.key == super::key_bytes(one.key)
                            && value.iter().all(|byte| *byte == one.id as u8)
                    };
                    let right = known.is_some_and(|known| known.iter().any(right));
                    assert!(right, "{why}: {record:?} was never published there");
                }
            }
        }
        for sub in &self.subs {
            let failures = log.failures(sub.id, None, FailureId(0), 10_000);
            for info in failures.unwrap_or_default() {
                let Ok(failure) = log.failure(sub.id, info.id) else {
                    continue;
                };
                let id = std::str::from_utf8(&failure.meta).ok();
                let id: Option<u128> = id.and_then(|id| id.parse().ok());
                let right = id.is_some_and(|id| failure.record.id == id.to_le_bytes());
                assert!(right, "{why}: {failure:?} was never stored so");
            }
        }
    }

    /// Everything unsettled comes out, with one member and all the time in the world; then nothing is left.
    pub(crate) fn drain(&mut self) {
        self.disk.power_off_at(u64::MAX);
        self.mono_ms += 100_000;
        self.wall_ms = self.wall_ms.max(self.wall_max_ms) + 100_000;
        let now = self.now();
        pump::run_until_idle(&self.log, now).unwrap();
        self.tick().unwrap();
        self.watch_tickets();
        assert!(self.waiting.is_empty(), "a publisher waits for ever");
        self.held.clear();
        for sub in 0..self.subs.len() {
            self.drain_one(sub);
        }
        self.compare();
        for _ in 0..2 {
            self.wall_ms += 1_000;
            self.tick().unwrap();
        }
        let now = self.now();
        for stream in self
            .streams
            .iter()
            .filter(|stream| stream.kind != Kind::Events)
        {
            assert_eq!(
                self.log.lock().stream_info(stream.id).unwrap().records,
                0,
                "settled by all, and retained for long enough: gone"
            );
        }
        pump::close(&self.log, now).unwrap();
    }

    fn drain_one(&mut self, sub: usize) {
        let (id, now) = (self.subs[sub].id, self.now());
        loop {
            let batch = self
                .log
                .lock()
                .lease(id, member(0), 7, 1 << 20, LEASE, now)
                .unwrap();
            self.absorb_expired();
            if batch.messages.is_empty() && !batch.more {
                break;
            }
            let mut tx = Tx::default();
            for leased in &batch.messages {
                let (offset, token) = (leased.record.offset, leased.token);
                assert!(!self.model.settled.contains(&(sub, offset)));
                tx.settles.push(SettleOp {
                    sub: id,
                    offset,
                    token,
                    how: Settle::Ack,
                });
                self.did(batch.lsn, Did::Settled { sub, offset });
            }
            self.log.lock().commit(tx, now).unwrap();
        }
        assert_eq!(
            self.log.lock().subscription_info(id).unwrap().depth,
            0,
            "everything of sub {sub} came"
        );
    }
}

/// A bit of a byte that says something, in a file whose name ends so.
fn some_bit(disk: &SimDisk, rng: &mut Rng, suffix: &str) -> Option<(String, usize, u8)> {
    let paths: Vec<String> = disk.paths();
    let paths: Vec<String> = paths
        .into_iter()
        .filter(|path| path.ends_with(suffix))
        .collect();
    let path = rng.pick(&paths)?.clone();
    let content = disk.content(&path)?;
    let from = rng.below(content.len().max(1) as u64) as usize;
    let said = |from: usize| {
        content[from..]
            .iter()
            .position(|byte| *byte != 0)
            .map(|at| from + at)
    };
    let byte = said(from).or_else(|| said(0))?;
    Some((path, byte, rng.below(8) as u8))
}
