//! The failure records of one subscription, and the keys that are parked by them: heads in memory, payloads in the log.
//!
//! A parked key *is* its parked records, in the order of their numbers: there is nothing else to keep in step. The key is free
//! when the last of them is gone, in the frame in which it goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::Error;
use crate::codec::{Put, Reader};
use crate::entry::FailureState;
use crate::ids::{FailureId, Offset};
use crate::wal::{Location, SegmentId};

/// Decisions kept per subscription; older ones are forgotten.
pub(crate) const AUDIT_MAX: usize = 1_000;

/// A failure record, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureInfo {
    /// Its number in the subscription.
    pub id: FailureId,
    /// The cause it is grouped by.
    pub group: String,
    /// Where it stands: open or redriving.
    pub state: FailureState,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Whether its key is parked by it.
    pub parked: bool,
    /// How often it was redriven.
    pub redrives: u32,
    /// When it was stored, wall time in ms.
    pub at_ms: u64,
    /// When it last changed, wall time in ms.
    pub changed_ms: u64,
    /// The offset of the message in the subscription's stream, or what the host gave as such.
    pub source: Option<Offset>,
    /// The message id; all zero when it has none.
    pub message_id: [u8; 16],
}

/// The failure records of one cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// The cause.
    pub group: String,
    /// How many wait for a decision.
    pub open: u64,
    /// How many are being redriven.
    pub redriving: u64,
    /// When the first of them was stored, wall time in ms.
    pub first_ms: u64,
    /// When the last of them was stored, wall time in ms.
    pub last_ms: u64,
    /// The first of them.
    pub sample: FailureId,
}

/// What was decided about failure records, or about a message without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Records went back to the handler.
    Redrive,
    /// Records were given up.
    Discard,
    /// A message was given up without a record.
    DiscardMessage(Offset),
}

/// One decision, kept with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// When, wall time in ms.
    pub at_ms: u64,
    /// What.
    pub action: Action,
    /// How many records or messages.
    pub count: u64,
    /// Why.
    pub reason: String,
}

/// Where the pieces of a record lie in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// The FAILURE entry: payload, and the first meta.
    pub(crate) payload: Location,
    /// The REOPEN entry with a newer meta.
    pub(crate) meta: Option<Location>,
}

impl Pieces {
    pub(crate) fn all(&self) -> impl Iterator<Item = Location> + use<> {
        [Some(self.payload), self.meta].into_iter().flatten()
    }
}

#[derive(Debug)]
struct Head {
    state: FailureState,
    key: Option<Bytes>,
    parked: bool,
    redrives: u32,
    at_ms: u64,
    changed_ms: u64,
    group: Arc<str>,
    source: Option<Offset>,
    message_id: [u8; 16],
    pieces: Pieces,
}

#[derive(Debug, Default)]
pub(crate) struct Failures {
    last: u64,
    heads: BTreeMap<u64, Head>,
    redriving: BTreeSet<u64>,
    parked: BTreeMap<Bytes, BTreeSet<u64>>,
    groups: HashMap<Arc<str>, u64>,
    known: HashMap<Origin, u64>,
    audit: VecDeque<Audit>,
}

/// By what a record that is stored again is recognised.
type Origin = ([u8; 16], Option<Offset>);

/// A new record, as an entry says it.
pub(crate) struct NewFailure<'a> {
    pub(crate) id: FailureId,
    pub(crate) at_ms: u64,
    pub(crate) source: Option<Offset>,
    pub(crate) group: &'a str,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) parked: bool,
    pub(crate) message_id: [u8; 16],
    pub(crate) payload: Location,
}

impl Failures {
    pub(crate) fn next_id(&self) -> u64 {
        self.last + 1
    }

    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn contains(&self, id: FailureId) -> bool {
        self.heads.contains_key(&id.0)
    }

    pub(crate) fn pieces(&self, id: FailureId) -> Option<Pieces> {
        self.heads.get(&id.0).map(|head| head.pieces)
    }

    /// The record of this message from this place, if there is one.
    pub(crate) fn of_origin(
        &self,
        message_id: [u8; 16],
        source: Option<Offset>,
    ) -> Option<FailureId> {
        self.known
            .get(&(message_id, source))
            .map(|id| FailureId(*id))
    }

    pub(crate) fn info(&self, id: FailureId) -> Option<FailureInfo> {
        self.heads.get(&id.0).map(|head| info(id.0, head))
    }

    /// Records after `after`, in the order of their numbers: that of failing.
    pub(crate) fn list(
        &self,
        group: Option<&str>,
        after: FailureId,
        max: usize,
    ) -> Vec<FailureInfo> {
        let from = after.0.saturating_add(1);
        let wanted = |head: &Head| group.is_none_or(|group| *head.group == *group);
        let heads = self.heads.range(from..).filter(|(_, head)| wanted(head));
        heads.take(max).map(|(id, head)| info(*id, head)).collect()
    }

    /// The records that are there in these ranges `[from, to)`.
    pub(crate) fn among(&self, ranges: &[(u64, u64)]) -> Vec<FailureId> {
        let there = ranges
            .iter()
            .flat_map(|(from, to)| self.heads.range(*from..*to));
        there.map(|(id, _)| FailureId(*id)).collect()
    }

    /// Records on their way back to the handler after `after`, in the order of their numbers.
    pub(crate) fn redriving(&self, after: FailureId, max: usize) -> Vec<FailureInfo> {
        let ids = self.redriving.range(after.0.saturating_add(1)..).take(max);
        ids.filter_map(|id| self.heads.get(id).map(|head| info(*id, head)))
            .collect()
    }

    pub(crate) fn is_parked(&self, key: &[u8]) -> bool {
        self.parked.contains_key(key)
    }

    /// The keys that are parked, in the order of bytes.
    pub(crate) fn parked_keys(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.parked.keys()
    }

    /// The records that park a key, in order.
    pub(crate) fn of_key(&self, key: &[u8]) -> impl Iterator<Item = FailureId> + '_ {
        self.parked
            .get(key)
            .into_iter()
            .flatten()
            .map(|id| FailureId(*id))
    }

    /// The causes, most frequent first.
    pub(crate) fn groups(&self) -> Vec<FailureGroup> {
        let mut groups: BTreeMap<&str, FailureGroup> = BTreeMap::new();
        for (id, head) in &self.heads {
            let group = groups.entry(&head.group).or_insert_with(|| FailureGroup {
                group: head.group.to_string(),
                open: 0,
                redriving: 0,
                first_ms: head.at_ms,
                last_ms: head.at_ms,
                sample: FailureId(*id),
            });
            *(if head.state == FailureState::Open {
                &mut group.open
            } else {
                &mut group.redriving
            }) += 1;
            group.first_ms = group.first_ms.min(head.at_ms);
            group.last_ms = group.last_ms.max(head.at_ms);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.open + group.redriving));
        groups
    }

    pub(crate) fn audit(&self) -> impl DoubleEndedIterator<Item = &Audit> {
        self.audit.iter()
    }

    /// The records after `after`, with their pieces.
    pub(crate) fn pieces_after(
        &self,
        after: u64,
    ) -> impl Iterator<Item = (FailureId, Pieces)> + '_ {
        let heads = self.heads.range(after.saturating_add(1)..);
        heads.map(|(id, head)| (FailureId(*id), head.pieces))
    }

    /// A piece of a record lies at `to` from now on, if it lay at `from`.
    pub(crate) fn relocate(&mut self, id: FailureId, from: Location, to: Location) -> bool {
        let Some(head) = self.heads.get_mut(&id.0) else {
            return false;
        };
        let pieces = &mut head.pieces;
        let piece = [Some(&mut pieces.payload), pieces.meta.as_mut()];
        let piece = piece.into_iter().flatten().find(|piece| **piece == from);
        piece.map(|piece| *piece = to).is_some()
    }

    pub(crate) fn all_pieces(&self) -> impl Iterator<Item = Pieces> + '_ {
        self.heads.values().map(|head| head.pieces)
    }

    pub(crate) fn apply_new(&mut self, new: &NewFailure<'_>) {
        self.last = self.last.max(new.id.0);
        let key = new.key.map(Bytes::copy_from_slice);
        let parked_by = key.as_ref().filter(|_| new.parked);
        // What comes behind a key that is being redriven goes the same way, else it would wait for a second decision.
        let front = parked_by
            .and_then(|key| self.parked.get(key))
            .and_then(|ids| ids.first());
        let state = front
            .and_then(|id| self.heads.get(id))
            .map_or(FailureState::Open, |head| head.state);
        if let Some(key) = parked_by {
            self.parked.entry(key.clone()).or_default().insert(new.id.0);
        }
        if state == FailureState::Redriving {
            self.redriving.insert(new.id.0);
        }
        self.known.insert((new.message_id, new.source), new.id.0);
        let head = Head {
            state,
            parked: parked_by.is_some(),
            key,
            redrives: u32::from(state == FailureState::Redriving),
            at_ms: new.at_ms,
            changed_ms: new.at_ms,
            group: self.intern(new.group),
            source: new.source,
            message_id: new.message_id,
            pieces: Pieces {
                payload: new.payload,
                meta: None,
            },
        };
        self.heads.insert(new.id.0, head);
    }

    /// Open records go back to the handler.
    pub(crate) fn apply_redrive(&mut self, ids: impl Iterator<Item = FailureId>, at_ms: u64) {
        for id in ids {
            let Some(head) = self.heads.get_mut(&id.0) else {
                continue;
            };
            if self.redriving.insert(id.0) {
                head.state = FailureState::Redriving;
                head.redrives = head.redrives.saturating_add(1);
                head.changed_ms = at_ms;
            }
        }
    }

    /// It failed again: it waits for a decision, and the rest of its key with it. Gives the meta that is no longer needed.
    pub(crate) fn apply_reopen(
        &mut self,
        id: FailureId,
        at_ms: u64,
        group: &str,
        meta: Location,
    ) -> Option<Location> {
        let group = self.intern(group);
        let Some(head) = self.heads.get_mut(&id.0) else {
            self.forget_group(&group);
            return None;
        };
        let freed = head.pieces.meta.replace(meta);
        let before = std::mem::replace(&mut head.group, group);
        let key = head.key.clone().filter(|_| head.parked);
        self.forget_group(&before);
        let rest = key
            .and_then(|key| self.parked.get(&key))
            .into_iter()
            .flatten();
        for id in rest.chain([&id.0]) {
            if let Some(head) = self.heads.get_mut(id) {
                head.state = FailureState::Open;
                head.changed_ms = at_ms;
            }
            self.redriving.remove(id);
        }
        freed
    }

    /// The record is gone, and its key is free if it was the last. Gives the locations that are no longer needed.
    pub(crate) fn apply_remove(&mut self, id: FailureId) -> Option<Pieces> {
        let head = self.heads.remove(&id.0)?;
        self.redriving.remove(&id.0);
        let origin = (head.message_id, head.source);
        if self.known.get(&origin) == Some(&id.0) {
            self.known.remove(&origin);
        }
        self.forget_group(&head.group);
        if let (true, Some(key)) = (head.parked, &head.key) {
            let left = self.parked.get_mut(key).map(|ids| {
                ids.remove(&id.0);
                ids.len()
            });
            if left == Some(0) {
                self.parked.remove(key);
            }
        }
        Some(head.pieces)
    }

    pub(crate) fn note(&mut self, audit: Audit) {
        if self.audit.len() >= AUDIT_MAX {
            self.audit.pop_front();
        }
        self.audit.push_back(audit);
    }

    fn intern(&mut self, group: &str) -> Arc<str> {
        let group = self
            .groups
            .get_key_value(group)
            .map_or_else(|| Arc::from(group), |(known, _)| Arc::clone(known));
        *self.groups.entry(Arc::clone(&group)).or_default() += 1;
        group
    }

    fn forget_group(&mut self, group: &Arc<str>) {
        if let Some(count) = self.groups.get_mut(group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(group);
            }
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.last);
        out.put_varint(self.heads.len() as u64);
        for (id, head) in &self.heads {
            out.put_u64(*id);
            out.put_u8(head.state.code());
            out.put_bool(head.parked);
            out.put_option(head.key.as_ref(), |out, key| out.put_bytes(key));
            out.put_u32(head.redrives);
            out.put_u64(head.at_ms);
            out.put_u64(head.changed_ms);
            out.put_bytes(head.group.as_bytes());
            out.put_option(head.source, Put::put_u64);
            out.put(&head.message_id);
            put_location(out, head.pieces.payload);
            out.put_option(head.pieces.meta, put_location);
        }
        out.put_varint(self.audit.len() as u64);
        for audit in &self.audit {
            let (action, offset) = match audit.action {
                Action::Redrive => (0, None),
                Action::Discard => (1, None),
                Action::DiscardMessage(offset) => (2, Some(offset)),
            };
            out.put_u64(audit.at_ms);
            out.put_u8(action);
            out.put_option(offset, Put::put_u64);
            out.put_u64(audit.count);
            out.put_bytes(audit.reason.as_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut failures = Failures {
            last: reader.u64()?,
            ..Failures::default()
        };
        for _ in 0..reader.count(66)? {
            let id = reader.u64()?;
            let state = FailureState::read(reader)?;
            let parked = reader.bool()?;
            let key = reader.option(Reader::bytes)?.map(Bytes::copy_from_slice);
            let redrives = reader.u32()?;
            let (at_ms, changed_ms) = (reader.u64()?, reader.u64()?);
            let group = failures.intern(reader.text()?);
            let source = reader.option(Reader::u64)?;
            let message_id = reader.id()?;
            let pieces = Pieces {
                payload: read_location(reader)?,
                meta: reader.option(read_location)?,
            };
            failures.known.insert((message_id, source), id);
            if let (true, Some(key)) = (parked, &key) {
                failures.parked.entry(key.clone()).or_default().insert(id);
            }
            if state == FailureState::Redriving {
                failures.redriving.insert(id);
            }
            let head = Head {
                state,
                key,
                parked,
                redrives,
                at_ms,
                changed_ms,
                group,
                source,
                message_id,
                pieces,
            };
            failures.heads.insert(id, head);
        }
        for _ in 0..reader.count(19)? {
            let at_ms = reader.u64()?;
            let action = match (reader.u8()?, reader.option(Reader::u64)?) {
                (0, None) => Action::Redrive,
                (1, None) => Action::Discard,
                (2, Some(offset)) => Action::DiscardMessage(offset),
                _ => return Err(reader.malformed("a decision is not known")),
            };
            let (count, reason) = (reader.u64()?, reader.text()?.to_owned());
            failures.audit.push_back(Audit {
                at_ms,
                action,
                count,
                reason,
            });
        }
        Ok(failures)
    }
}

fn info(id: u64, head: &Head) -> FailureInfo {
    FailureInfo {
        id: FailureId(id),
        group: head.group.to_string(),
        state: head.state,
        key: head.key.clone(),
        parked: head.parked,
        redrives: head.redrives,
        at_ms: head.at_ms,
        changed_ms: head.changed_ms,
        source: head.source,
        message_id: head.message_id,
    }
}

pub(crate) fn put_location(out: &mut Vec<u8>, location: Location) {
    out.put_u64(location.segment.0);
    out.put_u32(location.at);
    out.put_u32(location.len);
}

pub(crate) fn read_location(reader: &mut Reader<'_>) -> Result<Location, Error> {
    Ok(Location {
        segment: SegmentId(reader.u64()?),
        at: reader.u32()?,
        len: reader.u32()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(segment: u64) -> Location {
        Location {
            segment: SegmentId(segment),
            at: 64,
            len: 10,
        }
    }

    fn new(id: u64, group: &str) -> NewFailure<'_> {
        let message_id = u128::from(id).to_le_bytes();
        NewFailure {
            id: FailureId(id),
            at_ms: id * 10,
            source: Some(id),
            group,
            key: None,
            parked: false,
            message_id,
            payload: at(id),
        }
    }

    fn parked(id: u64, key: &'static [u8]) -> NewFailure<'static> {
        NewFailure {
            key: Some(key),
            parked: true,
            ..new(id, "declined")
        }
    }

    fn states(failures: &Failures) -> Vec<FailureState> {
        failures
            .list(None, FailureId(0), 99)
            .iter()
            .map(|info| info.state)
            .collect()
    }

    #[test]
    fn failures_are_listed_in_order_by_cause_and_in_pages() {
        let mut failures = Failures::default();
        for id in 1..=5 {
            failures.apply_new(&new(id, if id == 3 { "poison" } else { "declined" }));
        }
        let groups = failures.groups();
        assert_eq!(
            (
                groups[0].group.as_str(),
                groups[0].open,
                groups[0].first_ms,
                groups[0].last_ms
            ),
            ("declined", 4, 10, 50)
        );
        let page = failures.list(Some("declined"), FailureId(1), 2);
        assert_eq!(
            page.iter().map(|info| info.id.0).collect::<Vec<_>>(),
            [2, 4]
        );
        assert_eq!(
            failures.of_origin(3u128.to_le_bytes(), Some(3)),
            Some(FailureId(3))
        );
        assert_eq!(
            failures.of_origin(3u128.to_le_bytes(), Some(4)),
            None,
            "the same id at another place is another failure"
        );
    }

    #[test]
    fn a_record_that_is_gone_frees_its_payload_and_its_number_is_never_used_again() {
        let mut failures = Failures::default();
        failures.apply_new(&new(1, "declined"));
        failures.apply_redrive([FailureId(1)].into_iter(), 99);
        assert_eq!(
            failures.apply_reopen(FailureId(1), 99, "declined again", at(8)),
            None
        );
        let info = failures.info(FailureId(1)).unwrap();
        assert_eq!(
            (info.group.as_str(), info.redrives, info.state),
            ("declined again", 1, FailureState::Open)
        );
        assert_eq!(failures.groups.len(), 1);
        assert_eq!(
            failures
                .apply_remove(FailureId(1))
                .unwrap()
                .all()
                .collect::<Vec<_>>(),
            [at(1), at(8)]
        );
        assert_eq!((failures.len(), failures.next_id()), (0, 2));
        assert_eq!(failures.of_origin(1u128.to_le_bytes(), Some(1)), None);
        assert!(failures.groups.is_empty());
    }

    #[test]
    fn a_key_is_parked_as_long_as_it_has_a_parked_record() {
        let mut failures = Failures::default();
        failures.apply_new(&parked(1, b"a"));
        failures.apply_new(&parked(2, b"b"));
        failures.apply_new(&parked(3, b"a"));
        assert_eq!(
            failures.of_key(b"a").collect::<Vec<_>>(),
            [FailureId(1), FailureId(3)]
        );
        failures.apply_remove(FailureId(1));
        assert!(failures.is_parked(b"a"), "its follower is there");
        failures.apply_remove(FailureId(3));
        assert!(!failures.is_parked(b"a"));
        assert_eq!(failures.parked_keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_comes_behind_a_key_on_its_way_back_goes_with_it_and_waits_with_it_when_it_fails() {
        use FailureState::{Open, Redriving};
        let mut failures = Failures::default();
        failures.apply_new(&parked(1, b"a"));
        failures.apply_new(&parked(2, b"a"));
        failures.apply_redrive([FailureId(1), FailureId(2)].into_iter(), 50);
        failures.apply_new(&parked(3, b"a"));
        assert_eq!(states(&failures), [Redriving; 3]);
        assert_eq!(
            failures
                .redriving(FailureId(1), 9)
                .iter()
                .map(|info| info.id.0)
                .collect::<Vec<_>>(),
            [2, 3]
        );
        failures.apply_remove(FailureId(1));
        failures.apply_reopen(FailureId(2), 60, "again", at(9));
        assert_eq!(states(&failures), [Open; 2]);
        assert!(failures.redriving(FailureId(0), 9).is_empty());
    }

    #[test]
    fn they_survive_the_round_trip() {
        let mut failures = Failures::default();
        failures.apply_new(&new(1, "a"));
        failures.apply_new(&parked(2, b"k"));
        failures.apply_new(&parked(3, b"k"));
        failures.apply_redrive([FailureId(2), FailureId(3)].into_iter(), 5);
        failures.apply_remove(FailureId(1));
        failures.note(Audit {
            at_ms: 1,
            action: Action::Discard,
            count: 1,
            reason: "no longer wanted".to_owned(),
        });
        failures.note(Audit {
            at_ms: 2,
            action: Action::DiscardMessage(7),
            count: 1,
            reason: "junk".to_owned(),
        });
        let mut out = Vec::new();
        failures.encode(&mut out);
        let read = Failures::decode(&mut Reader::new(&out, "test")).unwrap();
        let mut again = Vec::new();
        read.encode(&mut again);
        assert_eq!(out, again);
        assert!(read.is_parked(b"k"));
        assert_eq!(read.redriving(FailureId(0), 9).len(), 2);
        assert_eq!(
            read.of_origin(2u128.to_le_bytes(), Some(2)),
            Some(FailureId(2))
        );
    }
}
