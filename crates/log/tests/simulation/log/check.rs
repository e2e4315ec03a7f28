//! What must hold, and when it is looked at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::{
    Error, FailureId, Kind, Leased, Level, Log, Lsn, Offset, Settle, SettleOp, Tx, pump,
};

use super::model::{Did, Model};
use super::{
    APPEND_BYTES_MAX, EVENT_BYTES, EVENTS, LEASE, WEAK, World, key_bytes, member, options,
};

impl World {
    /// Takes over what the log settled by itself, since its time to live was over. Only of such may it settle anything.
    pub(super) fn absorb_expired(&mut self) {
        let mut expired = Vec::new();
        let last = {
            let log = self.log.lock();
            for (n, sub) in self.subs.iter().enumerate() {
                let of_stream = self.expiring.range((sub.stream, 0)..(sub.stream + 1, 0));
                for (place, expires_at_ms) in of_stream {
                    let over = *expires_at_ms <= self.wall_max_ms;
                    let open = self.model.records.contains_key(place)
                        && !self.model.settled.contains(&(n, place.1));
                    if over && open && log.is_settled(sub.id, place.1).unwrap() {
                        expired.push((n, place.1));
                    }
                }
            }
            log.last()
        };
        for (sub, offset) in expired {
            let in_hand = self.held.iter().any(|held| {
                (held.sub, held.leased.record.offset) == (sub, offset)
                    && held.leased.until > Duration::from_millis(self.mono_ms)
            });
            assert!(!in_hand, "{offset} of sub {sub} expired in a member's hand");
            self.did(last, Did::Settled { sub, offset });
            self.drop_lease(sub, offset);
        }
    }

    /// The first event that the log still has, and whether one that the model has is before it.
    pub(super) fn first_event(&self) -> (Offset, bool) {
        let info = self.log.lock().stream_info(self.streams[EVENTS].id);
        let first = info.unwrap().first;
        let from = self.model.first.min(first);
        let mut gone = self.model.records.range((EVENTS, from)..(EVENTS, first));
        (first, gone.next().is_some())
    }

    pub(super) fn did_trim(&mut self, lsn: Lsn, first: Offset) {
        self.trimmed_max = self.trimmed_max.max(first);
        self.did(lsn, Did::Trimmed { first });
    }

    /// A tick, and what it may do by itself: settle what expired, and let go of events beyond the bytes to retain.
    pub(super) fn tick(&mut self) -> Result<(), Error> {
        self.wall_max_ms = self.wall_max_ms.max(self.wall_ms);
        let (now, id) = (self.now(), self.streams[EVENTS].id);
        let before = self.log.lock().stream_info(id)?.bytes;
        self.log.lock().tick(now)?;
        let after = self.log.lock().stream_info(id)?.bytes;
        assert!(after <= EVENT_BYTES, "{after} bytes of events retained");
        let (first, gone) = self.first_event();
        assert!(
            !gone || (before > EVENT_BYTES && after + APPEND_BYTES_MAX > EVENT_BYTES),
            "more events gone than retention asks for: {before} bytes before, {after} after"
        );
        let last = self.log.lock().last();
        self.did_trim(last, first);
        self.absorb_expired();
        Ok(())
    }

    pub(super) fn check_delivery(
        &mut self,
        sub: usize,
        who: u64,
        leased: &Leased,
        written: Lsn,
        durable: Lsn,
    ) {
        let (stream, offset) = (self.subs[sub].stream, leased.record.offset);
        let (id, key) = self.model.records[&(stream, offset)];
        assert_eq!(
            leased.record.id,
            u128::from(id).to_le_bytes(),
            "the record is the one that was published"
        );
        assert_eq!(leased.record.key, key_bytes(key));
        assert!(
            leased
                .record
                .value
                .as_ref()
                .unwrap()
                .iter()
                .all(|byte| *byte == id as u8)
        );
        assert!(
            leased.record.deliver_at_ms <= self.wall_ms,
            "not before it is due"
        );
        let expires_at_ms = leased.record.expires_at_ms;
        assert!(
            expires_at_ms == 0 || expires_at_ms > self.wall_ms,
            "not after it expired"
        );
        assert!(
            !self.model.settled.contains(&(sub, offset)),
            "what is settled does not come back"
        );
        assert!(
            !self.held.iter().any(
                |held| (held.sub, held.leased.record.offset) == (sub, offset)
                    && held.leased.until > Duration::from_millis(self.mono_ms)
            ),
            "one lease at a time"
        );
        let at = self.history.iter().find(|(_, did)| {
            matches!(did,
            Did::Published { stream: s, offset: o, .. } if (*s, *o) == (stream, offset))
        });
        let lsn = at.unwrap().0;
        match self.streams[stream].level {
            Level::Fsync => assert!(lsn <= durable, "seen before it was durable"),
            Level::Os | Level::Interval(_) => assert!(lsn <= written, "seen before it was written"),
            Level::Memory => {}
        }
        self.saw(stream, offset, id);
        if self.subs[sub].ordered && key > 0 && leased.record.deliver_at_ms == 0 {
            let earlier = self.model.records.range((stream, 0)..(stream, offset));
            for ((_, other), (_, other_key)) in earlier.filter(|(_, (_, k))| *k == key) {
                let mine = self.held.iter().any(|held| {
                    held.sub == sub && held.member == who && held.leased.record.offset == *other
                });
                let settled = self.model.settled.contains(&(sub, *other));
                // A delayed record is in no order with the others.
                let delayed = self.delayed.contains(&(stream, *other));
                assert!(
                    mine || settled || delayed,
                    "{offset} of key {other_key} passed {other}"
                );
            }
        }
    }

    pub(super) fn saw(&mut self, stream: usize, offset: Offset, id: u64) {
        let first = *self.seen.entry((stream, offset)).or_insert(id);
        assert_eq!(
            first, id,
            "offset {offset} of stream {stream} was minted twice"
        );
    }

    pub(super) fn read(&mut self) -> Result<(), Error> {
        let stream = self.rng.below(self.streams.len() as u64) as usize;
        let from = self.rng.below(20);
        self.read_from(stream, from)
    }

    /// Reads the end of the streams whose records may be seen before they are synced.
    pub(super) fn read_ends(&mut self) -> Result<(), Error> {
        for stream in WEAK..self.streams.len() {
            let next = self.log.lock().next_offset(self.streams[stream].id)?;
            self.read_from(stream, next.saturating_sub(8))?;
        }
        Ok(())
    }

    pub(super) fn read_from(&mut self, stream: usize, from: Offset) -> Result<(), Error> {
        let batch = self
            .log
            .lock()
            .read(self.streams[stream].id, from, 50, 100_000)?;
        for record in &batch.records {
            let (id, _) = self.model.records[&(stream, record.offset)];
            assert_eq!(record.id, u128::from(id).to_le_bytes());
            self.saw(stream, record.offset, id);
        }
        Ok(())
    }

    /// The process ends, and with `power` the machine: what is not synced survives in part, in any order.
    pub(super) fn restart(&mut self, power: bool, faulty: bool) {
        let written = self.log.lock().written();
        let durable = self.log.lock().durable();
        let seed = self.rng.next();
        self.disk = if power {
            self.disk.crash(seed)
        } else {
            self.disk.kill()
        };
        if self.rng.chance(20) {
            self.wall_ms = self.wall_ms.saturating_sub(self.rng.below(5_000));
        }
        self.mono_ms = self.rng.below(1_000);
        let options = options(&mut self.rng);
        let (log, report) = Log::open(Arc::new(self.disk.clone()), options, self.now()).unwrap();
        self.log = Mutex::new(log);
        assert!(
            report.last >= durable,
            "confirmed up to {durable}, found up to {}",
            report.last
        );
        if !power && !faulty {
            assert!(
                report.last >= written,
                "written up to {written}, found up to {}",
                report.last
            );
        }
        self.held.clear();
        self.epoch = 0;
        self.history.retain(|(lsn, _)| *lsn <= report.last);
        self.model = Model::default();
        self.history
            .iter()
            .for_each(|(_, did)| self.model.apply(did));
        self.absorb_expired();
        let (first, gone) = self.first_event();
        assert!(
            !gone || first <= self.trimmed_max,
            "events were lost, not trimmed"
        );
        self.did_trim(report.last, first);
        self.check_minting();
        self.compare();
    }

    /// What anybody saw keeps its offset for ever, also where a crash took the record.
    pub(super) fn check_minting(&self) {
        for ((stream, offset), id) in &self.seen {
            let next = self.log.lock().next_offset(self.streams[*stream].id);
            let kept = self.model.records.get(&(*stream, *offset));
            assert!(
                *offset < next.unwrap() && kept.is_none_or(|(kept, _)| kept == id),
                "offset {offset} of stream {stream} was seen, and will be minted again"
            );
        }
    }

    /// The log and the model agree in everything that can be asked.
    pub(super) fn compare(&self) {
        let mut log = self.log.lock();
        for (n, sub) in self.subs.iter().enumerate() {
            let of_stream = self
                .model
                .records
                .range((sub.stream, 0)..(sub.stream + 1, 0));
            let mut depth = 0;
            for ((_, offset), _) in of_stream {
                let settled = self.model.settled.contains(&(n, *offset));
                assert_eq!(
                    log.is_settled(sub.id, *offset).unwrap(),
                    settled,
                    "sub {n} offset {offset}"
                );
                depth += u64::from(!settled);
            }
            let info = log.subscription_info(sub.id).unwrap();
            assert_eq!(info.depth, depth, "depth of sub {n}");
            let failures = log.failures(sub.id, None, FailureId(0), 10_000).unwrap();
            let of_sub = self.model.failures.iter().filter(|((s, _), _)| *s == n);
            let expected: Vec<_> = of_sub
                .map(|((_, failure), rest)| (*failure, *rest))
                .collect();
            assert_eq!(failures.len(), expected.len(), "failures of sub {n}");
            let mut parked = BTreeSet::new();
            for (info, (failure, (id, key, parks))) in failures.iter().zip(expected) {
                assert_eq!(
                    (info.id.0, info.parked),
                    (failure, parks),
                    "failures of sub {n}"
                );
                let failure = log.failure(sub.id, info.id).unwrap();
                assert_eq!(failure.meta, Bytes::from(id.to_string()));
                assert_eq!(failure.record.id, u128::from(id).to_le_bytes());
                assert_eq!(failure.record.key, key_bytes(key));
                parked.extend(key_bytes(key).filter(|_| parks));
            }
            assert_eq!(
                log.parked_keys(sub.id)
                    .unwrap()
                    .into_iter()
                    .collect::<BTreeSet<_>>(),
                parked
            );
            assert_eq!(info.failures, failures.len());
            let crash = self
                .model
                .crash
                .get(&n)
                .map(|state| Bytes::from(state.to_string()));
            assert_eq!(log.crash_state(sub.id).unwrap(), crash.unwrap_or_default());
        }
        let id = self.streams[EVENTS].id;
        let events = log.read(id, 0, 10_000, 1 << 20).unwrap().records;
        let kept = self
            .model
            .records
            .range((EVENTS, self.model.first)..(EVENTS + 1, 0));
        let kept: Vec<Offset> = kept.map(|((_, offset), _)| *offset).collect();
        let there: Vec<Offset> = events.iter().map(|event| event.offset).collect();
        assert_eq!(there, kept, "all events but the trimmed ones");
        let reader = log
            .reader(self.streams[EVENTS].id, "projection")
            .unwrap()
            .unwrap_or_default();
        assert_eq!((reader.epoch, reader.watermark), self.model.reader);
    }

    /// Everything unsettled comes out, with one member and all the time in the world; then nothing is left.
    pub(super) fn drain(&mut self) {
        self.mono_ms += 100_000;
        self.wall_ms += 100_000;
        let now = self.now();
        pump::run_until_idle(&self.log, now).unwrap();
        self.tick().unwrap();
        self.held.clear();
        for sub in 0..self.subs.len() {
            let id = self.subs[sub].id;
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
}
