//! One stream: where its batches are, what is visible, what is still needed.

use std::collections::{BTreeMap, VecDeque};

use crate::Error;
use crate::codec::{Put, Reader};
use crate::definitions::{Kind, Level, StreamConfig};
use crate::ids::{Offset, StreamId, SubId, millis};
use crate::planted::{self, Plant};
use crate::tx::Expected;
use crate::view::dedupe::Dedupe;
use crate::view::failures::{put_location, read_location};
use crate::view::offsets::ReaderState;
use crate::wal::Location;

/// Where a run of records lies, and how much of it is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchRef {
    pub(crate) base: Offset,
    /// The DATA entry. Of a REF, that of the stream that stored it.
    pub(crate) at: Location,
    pub(crate) count: u32,
    /// Settles that are outstanding, over all subscriptions.
    pub(crate) pending: u64,
    pub(crate) at_ms: u64,
    /// When the last record of it expires, wall time in ms; 0 when one never does.
    pub(crate) expires_ms: u64,
    alive: bool,
}

/// Records that were appended together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) base: Offset,
    pub(crate) at: Location,
    pub(crate) count: u32,
    pub(crate) at_ms: u64,
    pub(crate) expires_ms: u64,
}

impl BatchRef {
    pub(crate) fn end(&self) -> Offset {
        self.base + u64::from(self.count)
    }
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) name: Box<str>,
    pub(crate) config: StreamConfig,
    /// The next offset to mint.
    pub(crate) next: Offset,
    /// One past the last record in the log. Below `next` only after a crash, until the next append.
    pub(crate) end: Offset,
    /// Records below were trimmed.
    pub(crate) start: Offset,
    /// Offsets below may have been seen; after a crash none below is minted.
    pub(crate) reserved: Offset,
    /// The part of `reserved` that is durable.
    pub(crate) reserved_durable: Offset,
    /// Offsets below are safe at the stream's level.
    pub(crate) safe: Offset,
    /// Whether it ever held a record.
    pub(crate) written: bool,
    pub(crate) subs: Vec<SubId>,
    pub(crate) readers: BTreeMap<Box<str>, ReaderState>,
    pub(crate) dedupe: Option<Box<Dedupe>>,
    /// Whether a timer for retention by age is set.
    pub(crate) retention_armed: bool,
    /// Whether it is on the list of those whose readers to wake.
    pub(crate) woken: bool,
    batches: VecDeque<BatchRef>,
    dead: usize,
    bytes: u64,
}

impl Stream {
    pub(crate) fn new(id: StreamId, name: &str, config: StreamConfig) -> Self {
        Stream {
            id,
            name: name.into(),
            config,
            next: 0,
            end: 0,
            start: 0,
            reserved: 0,
            reserved_durable: 0,
            safe: 0,
            written: false,
            subs: Vec::new(),
            readers: BTreeMap::new(),
            dedupe: None,
            retention_armed: false,
            woken: false,
            batches: VecDeque::new(),
            dead: 0,
            bytes: 0,
        }
    }

    /// Offsets from here on must not be seen: they are not safe at the stream's level, or could be minted again after a crash.
    pub(crate) fn visible_end(&self) -> Offset {
        match self.config.level {
            Level::Fsync => self.safe,
            _ if planted::is(Plant::ReserveNotDurable) => self.safe,
            _ => self.safe.min(self.reserved_durable),
        }
    }

    pub(crate) fn check_expected(
        &self,
        expected: Expected,
        next: Offset,
        written: bool,
    ) -> Result<(), Error> {
        let holds = match expected {
            Expected::Any => true,
            Expected::Empty => !written,
            Expected::Exists => written,
            Expected::Next(offset) => offset == next,
        };
        if holds {
            Ok(())
        } else {
            Err(Error::Conflict {
                stream: self.name.to_string(),
                expected,
                actual: next,
            })
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The runs that are still there, oldest first.
    pub(crate) fn batches(&self) -> impl DoubleEndedIterator<Item = &BatchRef> {
        self.batches.iter().filter(|batch| batch.alive)
    }

    pub(crate) fn records(&self) -> u64 {
        self.batches().map(|batch| u64::from(batch.count)).sum()
    }

    /// The runs that are still there and begin at `from` or later, oldest first.
    pub(crate) fn batches_from(&self, from: Offset) -> impl Iterator<Item = &BatchRef> {
        let index = self.batches.partition_point(|batch| batch.base < from);
        self.batches.range(index..).filter(|batch| batch.alive)
    }

    /// Where the run that begins at `base` lies.
    pub(crate) fn location_of(&self, base: Offset) -> Option<Location> {
        let run = self.batches_from(base).next()?;
        (run.base == base).then_some(run.at)
    }

    /// The run that begins at `base` lies at `to` from now on, if it lay at `from`.
    pub(crate) fn relocate(&mut self, base: Offset, from: Location, to: Location) -> bool {
        let index = self.batches.partition_point(|batch| batch.base < base);
        let run = self.batches.get_mut(index);
        let run = run.filter(|run| run.alive && run.base == base && run.at == from);
        run.map(|run| run.at = to).is_some()
    }

    /// The run that holds `offset`, or the first one after it.
    pub(crate) fn find(&self, offset: Offset) -> Option<&BatchRef> {
        let index = self.batches.partition_point(|batch| batch.end() <= offset);
        self.batches.range(index..).find(|batch| batch.alive)
    }

    /// The oldest record that is there, or the end.
    pub(crate) fn first(&self) -> Offset {
        self.batches().next().map_or(self.end, |batch| batch.base)
    }

    /// Adds a run at the end. Gives whether it is needed; if not it is dropped at once.
    pub(crate) fn push(&mut self, run: Run) -> bool {
        let Run {
            base,
            at,
            count,
            at_ms,
            expires_ms,
        } = run;
        assert!(base >= self.end, "offsets of a stream rise");
        let pending = u64::from(count) * self.subs.len() as u64;
        let batch = BatchRef {
            base,
            at,
            count,
            pending,
            at_ms,
            expires_ms,
            alive: true,
        };
        self.end = batch.end();
        self.next = self.next.max(self.end);
        self.written = true;
        if !self.is_needed(&batch) {
            return false;
        }
        self.bytes += u64::from(at.len);
        self.batches.push_back(batch);
        true
    }

    fn is_needed(&self, batch: &BatchRef) -> bool {
        let retained = self.config.retention.age.is_some() || self.config.retention.bytes.is_some();
        match self.config.kind {
            Kind::Events => true,
            Kind::Topic => batch.pending > 0 || retained,
            Kind::Queue => batch.pending > 0 || retained || self.subs.is_empty(),
        }
    }

    /// A subscription settled `[from, to)`, which it had not before. Gives the runs that are needed no more.
    pub(crate) fn settled(&mut self, from: Offset, to: Offset, freed: &mut Vec<Location>) {
        let mut index = self.batches.partition_point(|batch| batch.end() <= from);
        while let Some(batch) = self.batches.get_mut(index).filter(|batch| batch.base < to) {
            let overlap = to.min(batch.end()) - from.max(batch.base);
            batch.pending = batch.pending.saturating_sub(overlap);
            self.drop_if_unneeded(index, freed);
            index += 1;
        }
        self.compact();
    }

    /// Changes what one subscription still wants, run by run: `wants` gives how many of `[from, to)`.
    pub(crate) fn recount(&mut self, mut wants: impl FnMut(Offset, Offset) -> u64) {
        for batch in self.batches.iter_mut().filter(|batch| batch.alive) {
            batch.pending += wants(batch.base, batch.end());
        }
    }

    /// The reverse of [`recount`](Self::recount).
    pub(crate) fn uncount(&mut self, mut wants: impl FnMut(Offset, Offset) -> u64) {
        for batch in self.batches.iter_mut().filter(|batch| batch.alive) {
            batch.pending = batch.pending.saturating_sub(wants(batch.base, batch.end()));
        }
    }

    /// Drops every run that is needed no more, after subscriptions or settings changed.
    pub(crate) fn sweep(&mut self, freed: &mut Vec<Location>) {
        for index in 0..self.batches.len() {
            self.drop_if_unneeded(index, freed);
        }
        self.compact();
    }

    fn drop_if_unneeded(&mut self, index: usize, freed: &mut Vec<Location>) {
        let batch = self.batches[index];
        if batch.alive && !self.is_needed(&batch) {
            self.drop_at(index, freed);
        }
    }

    fn drop_at(&mut self, index: usize, freed: &mut Vec<Location>) {
        let batch = &mut self.batches[index];
        batch.alive = false;
        freed.push(batch.at);
        self.bytes -= u64::from(batch.at.len);
        self.dead += 1;
    }

    fn compact(&mut self) {
        while self.batches.front().is_some_and(|batch| !batch.alive) {
            self.batches.pop_front();
            self.dead -= 1;
        }
        if self.dead > 64 && self.dead * 2 > self.batches.len() {
            self.batches.retain(|batch| batch.alive);
            self.dead = 0;
        }
    }

    /// Up to where retention lets go, at `now_ms`; `None` if nothing.
    pub(crate) fn trim_point(&self, now_ms: u64) -> Option<Offset> {
        let retention = self.config.retention;
        let mut over = retention
            .bytes
            .map_or(0, |max| self.bytes.saturating_sub(max));
        let mut point = None;
        for batch in self.batches() {
            if self.config.kind != Kind::Events && batch.pending > 0 {
                break;
            }
            let old = retention
                .age
                .is_some_and(|age| now_ms.saturating_sub(batch.at_ms) >= millis(age));
            if !old && over == 0 {
                break;
            }
            over = over.saturating_sub(u64::from(batch.at.len));
            point = Some(batch.end());
        }
        point
    }

    /// When retention by age lets go of something next, wall time in ms.
    pub(crate) fn next_trim_ms(&self) -> Option<u64> {
        let age = self.config.retention.age?;
        let first = self
            .batches()
            .find(|batch| self.config.kind == Kind::Events || batch.pending == 0)?;
        Some(first.at_ms.saturating_add(millis(age)))
    }

    /// Drops the runs that end at or before `before`: of an event stream all, of others those that are settled.
    pub(crate) fn trim(&mut self, before: Offset, freed: &mut Vec<Location>) {
        let events = self.config.kind == Kind::Events;
        for index in 0..self.batches.len() {
            let batch = self.batches[index];
            if batch.end() > before {
                break;
            }
            if batch.alive && (events || batch.pending == 0) {
                self.drop_at(index, freed);
            }
        }
        self.compact();
        self.start = self.start.max(before.min(self.first()));
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.id.0);
        out.put_bytes(self.name.as_bytes());
        self.config.encode(out);
        for offset in [self.next, self.end, self.start, self.reserved] {
            out.put_u64(offset);
        }
        out.put_bool(self.written);
        out.put_varint(self.readers.len() as u64);
        for (group, state) in &self.readers {
            out.put_bytes(group.as_bytes());
            state.encode(out);
        }
        out.put_option(self.dedupe.as_ref(), |out, dedupe| dedupe.encode(out));
        out.put_varint(self.batches().count() as u64);
        for batch in self.batches() {
            out.put_u64(batch.base);
            put_location(out, batch.at);
            out.put_u32(batch.count);
            out.put_u64(batch.at_ms);
            out.put_u64(batch.expires_ms);
        }
    }

    /// Reads a stream. What is pending is counted anew when the subscriptions are read.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let id = StreamId(reader.u32()?);
        let name = reader.text()?;
        let mut stream = Stream::new(id, name, StreamConfig::decode(reader)?);
        stream.next = reader.u64()?;
        stream.end = reader.u64()?;
        stream.start = reader.u64()?;
        stream.reserved = reader.u64()?;
        stream.written = reader.bool()?;
        for _ in 0..reader.count(19)? {
            let group = reader.text()?;
            stream
                .readers
                .insert(group.into(), ReaderState::decode(reader)?);
        }
        stream.dedupe = reader.option(Dedupe::decode)?.map(Box::new);
        let mut at = 0;
        for _ in 0..reader.count(44)? {
            let base = reader.u64()?;
            let location = read_location(reader)?;
            let count = reader.u32()?;
            let (at_ms, expires_ms) = (reader.u64()?, reader.u64()?);
            let end = base.checked_add(u64::from(count));
            let batch = BatchRef {
                base,
                at: location,
                count,
                pending: 0,
                at_ms,
                expires_ms,
                alive: true,
            };
            match end {
                Some(end) if base >= at && count > 0 && end <= stream.end => at = end,
                _ => return Err(reader.malformed("the runs of a stream are out of order")),
            }
            stream.bytes += u64::from(location.len);
            stream.batches.push_back(batch);
        }
        if stream.end > stream.next {
            return Err(reader.malformed("a stream ends beyond its next offset"));
        }
        Ok(stream)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::definitions::Retention;
    use crate::wal::SegmentId;

    fn at(segment: u64) -> Location {
        Location {
            segment: SegmentId(segment),
            at: 0,
            len: 100,
        }
    }

    fn run(base: u64, segment: u64, count: u32, at_ms: u64) -> Run {
        Run {
            base,
            at: at(segment),
            count,
            at_ms,
            expires_ms: 0,
        }
    }

    fn stream(kind: Kind, subs: u32) -> Stream {
        let mut stream = Stream::new(
            StreamId(1),
            "s",
            StreamConfig {
                kind,
                ..StreamConfig::default()
            },
        );
        stream.subs = (0..subs).map(SubId).collect();
        stream
    }

    #[test]
    fn a_topic_keeps_a_record_until_the_last_subscription_has_settled_it() {
        let mut stream = stream(Kind::Topic, 2);
        assert!(stream.push(run(0, 1, 10, 0)));
        assert!(stream.push(run(10, 2, 10, 0)));
        let mut freed = Vec::new();
        stream.settled(0, 20, &mut freed);
        stream.settled(5, 20, &mut freed);
        assert_eq!(freed, [at(2)], "the later run goes before the earlier one");
        assert_eq!(stream.find(10), None);
        stream.settled(0, 5, &mut freed);
        assert_eq!(freed, [at(2), at(1)]);
        assert_eq!((stream.first(), stream.bytes()), (20, 0));
    }

    #[test]
    fn without_a_subscription_a_topic_keeps_nothing_and_a_queue_everything() {
        assert!(!stream(Kind::Topic, 0).push(run(0, 1, 1, 0)));
        assert!(stream(Kind::Queue, 0).push(run(0, 1, 1, 0)));
    }

    #[test]
    fn retention_lets_go_by_age_and_by_bytes_and_never_of_what_is_unsettled() {
        let mut stream = stream(Kind::Topic, 1);
        stream.config.retention = Retention {
            age: Some(Duration::from_secs(10)),
            bytes: Some(250),
        };
        for n in 0..4 {
            stream.push(run(n, n, 1, n * 1_000));
        }
        assert_eq!(stream.trim_point(1_000_000), None, "nothing is settled");
        let mut freed = Vec::new();
        stream.settled(0, 3, &mut freed);
        assert!(
            freed.is_empty(),
            "settled records stay for the time of the retention"
        );
        assert_eq!(stream.trim_point(0), Some(2), "150 bytes too many");
        assert_eq!(stream.trim_point(12_000), Some(3));
        assert_eq!(stream.trim_point(1_000_000), Some(3));
        stream.trim(3, &mut freed);
        assert_eq!((freed.len(), stream.first(), stream.start), (3, 3, 3));
    }

    #[test]
    fn what_may_be_seen_is_bounded_by_what_is_reserved() {
        let mut stream = stream(Kind::Events, 0);
        stream.safe = 90;
        assert_eq!(stream.visible_end(), 90);
        stream.config.level = Level::Memory;
        stream.reserved_durable = 70;
        assert_eq!(stream.visible_end(), 70);
    }
}
