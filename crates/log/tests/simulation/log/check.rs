//! What must hold, and when it is looked at.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use postrider_log::{Error, FailureId, Leased, Level, Lsn, Offset};

use super::model::Did;
use super::{APPEND_BYTES_MAX, EVENT_BYTES, EVENTS, WEAK, Waiting, World, key_bytes};

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
        let waits = self.not_before.get(&(sub, offset));
        assert!(
            waits.is_none_or(|until| *until <= self.mono_ms),
            "{offset} of sub {sub} comes before its delay is over"
        );
        let lsn = self.published[&(stream, offset)]
            .last()
            .expect("it was published")
            .lsn;
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
            let value = record.value.as_deref().unwrap();
            assert!(value.iter().all(|byte| *byte == id as u8), "another value");
            self.saw(stream, record.offset, id);
        }
        Ok(())
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
            for key in &parked {
                let of_sub = self.model.failures.range((n, 0)..(n + 1, 0));
                let of_key = of_sub
                    .filter(|(_, (_, k, parks))| *parks && key_bytes(*k).as_ref() == Some(key));
                let of_key: Vec<u64> = of_key.map(|((_, failure), _)| *failure).collect();
                let stored = log.failures_of_key(sub.id, key).unwrap();
                let stored: Vec<u64> = stored.iter().map(|id| id.0).collect();
                assert_eq!(stored, of_key, "what a key parked, in the order of failing");
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

    /// Whose commit is safe now is told so.
    pub(super) fn watch_tickets(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let safe = |one: &Waiting| self.log.lock().is_safe(&one.ticket);
        let (told, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(safe);
        self.waiting = waiting;
        for Waiting { ticket, published } in told {
            let (durable, written) = &mut self.confirmed;
            match ticket.level {
                Level::Fsync => *durable = ticket.lsn.max(*durable),
                Level::Os | Level::Interval(_) => *written = ticket.lsn.max(*written),
                Level::Memory => {}
            }
            published
                .iter()
                .for_each(|(stream, offset, id)| self.saw(*stream, *offset, *id));
            self.count("confirmed");
        }
    }
}
