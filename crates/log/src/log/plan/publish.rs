//! The publishing part of a commit: duplicates out, one batch per run of records, one payload for several streams.

use bytes::Bytes;

use super::{Group, Plan, Tail, too_large};
use crate::batch::{Block, Positions, Producer, encode_block, record_size};
use crate::entry::{DATA_HEAD, Entry, kind};
use crate::ids::{Now, Offset, StreamId};
use crate::planted::{self, Plant};
use crate::tx::{Appended, Publish, RecordIn};
use crate::{Error, Level};

impl<'a> Plan<'_, 'a> {
    pub(super) fn publishes(
        &mut self,
        publishes: &'a [Publish],
    ) -> Result<Vec<Vec<Appended>>, Error> {
        let records: usize = publishes.iter().map(|publish| publish.records.len()).sum();
        too_large(
            "a commit's records",
            records,
            self.limits.records_max,
            "records_max",
        )?;
        let mut appended = Vec::with_capacity(publishes.len());
        for publish in publishes {
            appended.push(self.publish(publish, records > 1)?);
        }
        self.emit_groups();
        Ok(appended)
    }

    fn publish(&mut self, publish: &'a Publish, several: bool) -> Result<Vec<Appended>, Error> {
        for record in &publish.records {
            self.check_record(record)?;
        }
        let mut streams = vec![publish.stream];
        streams.extend(&publish.also);
        for (index, id) in streams.iter().enumerate() {
            let stream = self.state.stream(*id)?;
            self.raise(stream.config.level);
            if streams[..index].contains(id) {
                return Err(Error::Invalid {
                    what: "publish",
                    why: "it names a stream twice",
                });
            }
        }
        let fresh: Vec<Vec<bool>> = streams
            .iter()
            .map(|id| self.fresh(*id, &publish.records))
            .collect();
        let stream = self.state.stream(publish.stream)?;
        if fresh[0].contains(&true) || publish.records.is_empty() {
            let tail = self.tail(publish.stream);
            stream.check_expected(publish.expect, tail.next, tail.written)?;
        }
        if fresh.iter().all(|one| *one == fresh[0]) {
            self.place(&streams, &publish.records, &fresh[0], several);
        } else {
            // What one stream knows already and another does not: no common batch.
            for (id, fresh) in streams.iter().zip(&fresh) {
                self.place(std::slice::from_ref(id), &publish.records, fresh, several);
            }
        }
        Ok(self.appended(publish, &fresh[0]))
    }

    /// Where the records went: called right after they were placed.
    fn appended(&self, publish: &Publish, fresh: &[bool]) -> Vec<Appended> {
        let new = fresh.iter().filter(|fresh| **fresh).count() as u64;
        let mut at = self.tails.get(&publish.stream).map_or(0, |tail| tail.next) - new;
        let each = publish.records.iter().zip(fresh);
        each.map(|(record, fresh)| {
            if *fresh {
                at += 1;
                return Appended {
                    offset: at - 1,
                    duplicate: false,
                };
            }
            let known = self.ids.get(&(publish.stream, record.id)).copied();
            let known = known.or_else(|| self.find_id(publish.stream, record.id));
            Appended {
                offset: known.expect("a duplicate has a first"),
                duplicate: true,
            }
        })
        .collect()
    }

    fn find_id(&self, stream: StreamId, id: [u8; 16]) -> Option<Offset> {
        self.state.streams.get(&stream)?.dedupe.as_ref()?.find(id)
    }

    /// Which records are not known to the stream by their id.
    fn fresh(&self, stream: StreamId, records: &[RecordIn]) -> Vec<bool> {
        let dedupes = self
            .state
            .streams
            .get(&stream)
            .is_some_and(|s| !s.config.dedupe.window.is_zero());
        let several = records.len() > 1;
        let mut seen: Vec<[u8; 16]> = Vec::new();
        let mut fresh: Vec<bool> = Vec::with_capacity(records.len());
        for record in records {
            let id = record.id;
            let known = dedupes
                && id != [0; 16]
                && (self.find_id(stream, id).is_some() || self.ids.contains_key(&(stream, id)));
            fresh.push(!known);
            if several && dedupes && id != [0; 16] {
                seen.push(id);
            }
        }
        drop_repeats(records, &mut fresh, seen);
        fresh
    }

    fn tail(&self, id: StreamId) -> Tail {
        self.tails.get(&id).copied().unwrap_or_else(|| {
            let stream = &self.state.streams[&id];
            Tail {
                next: stream.next,
                written: stream.written,
                group: usize::MAX,
            }
        })
    }

    /// Adds records to the last batch of these streams, or to a new one.
    fn place(
        &mut self,
        streams: &[StreamId],
        records: &'a [RecordIn],
        fresh: &[bool],
        several: bool,
    ) {
        let last = self.tail(streams[0]).group;
        let joins = self.groups.get(last).is_some_and(|group| {
            let same = group.targets.iter().map(|(id, _)| id).eq(streams);
            same && streams.iter().all(|id| self.tail(*id).group == last)
        });
        let index = if joins { last } else { self.groups.len() };
        if !joins {
            if !fresh.contains(&true) {
                return;
            }
            let targets = streams
                .iter()
                .map(|id| (*id, self.tail(*id).next))
                .collect();
            self.groups.push(Group {
                targets,
                records: Vec::with_capacity(records.len()),
            });
        }
        for (record, _) in records.iter().zip(fresh).filter(|(_, fresh)| **fresh) {
            let group = &mut self.groups[index];
            let nth = group.records.len() as u64;
            group.records.push(record);
            if several && record.id != [0; 16] {
                for (id, base) in &group.targets {
                    self.ids.insert((*id, record.id), base + nth);
                }
            }
        }
        let group = &self.groups[index];
        for (id, base) in &group.targets {
            let next = base + group.records.len() as u64;
            self.tails.insert(
                *id,
                Tail {
                    next,
                    written: true,
                    group: index,
                },
            );
        }
    }

    fn emit_groups(&mut self) {
        for group in std::mem::take(&mut self.groups) {
            let (first, base) = group.targets[0];
            let (body, block) = encode_data(first, base, self.now, &group.records);
            let target = u16::try_from(self.frame.len())
                .expect("data comes first, and batches of a commit are few");
            self.frame.push_block(kind::DATA, body, block);
            for (stream, base) in &group.targets[1..] {
                self.frame.push(&Entry::Ref {
                    stream: *stream,
                    base: *base,
                    target,
                });
            }
        }
        let mut tails: Vec<_> = self
            .tails
            .iter()
            .map(|(id, tail)| (*id, tail.next))
            .collect();
        tails.sort_unstable();
        for (id, next) in tails {
            let stream = &self.state.streams[&id];
            if stream.config.level == Level::Fsync {
                continue;
            }
            // DURABILITY: an offset that is told must not be given out again after a crash.
            if next > stream.reserved_durable && !planted::is(Plant::ToldUnreserved) {
                self.frame.must_sync = true;
                self.unreserved = true;
            }
            if next + self.limits.reserve_ahead / 2 > stream.reserved {
                self.frame.push(&Entry::Reserve {
                    stream: id,
                    upto: next + self.limits.reserve_ahead,
                });
                self.frame.must_sync = true;
            }
        }
    }
}

/// The body of a `DATA` entry, and the block in it.
fn encode_data(stream: StreamId, base: Offset, now: Now, records: &[&RecordIn]) -> (Bytes, Block) {
    let mut body = Vec::new();
    let positions = encode_body(&mut body, stream, base, now, records);
    let body = Bytes::from(body);
    let block = Block::encoded(body.clone(), DATA_HEAD, now.wall_ms, positions);
    (body, block)
}

/// Appends the body of a `DATA` entry to `out`, which is empty. Gives where its records begin.
pub(super) fn encode_body(
    out: &mut Vec<u8>,
    stream: StreamId,
    base: Offset,
    now: Now,
    records: &[&RecordIn],
) -> Positions {
    let sizes = records.iter().map(|record| record_size(record) + 24);
    out.reserve(sizes.sum::<usize>() + 128);
    let data = Entry::Data {
        stream,
        base,
        block: &[],
    };
    data.encode(out);
    encode_block(out, base, now.wall_ms, Producer::NONE, records)
}

/// Within one call the first of several records with one id is new, the others are duplicates.
fn drop_repeats(records: &[RecordIn], fresh: &mut [bool], mut seen: Vec<[u8; 16]>) {
    seen.sort_unstable();
    if seen.windows(2).all(|pair| pair[0] != pair[1]) {
        return;
    }
    let mut first = std::collections::HashSet::new();
    for (record, fresh) in records.iter().zip(fresh) {
        if record.id != [0; 16] && !first.insert(record.id) {
            *fresh = false;
        }
    }
}
