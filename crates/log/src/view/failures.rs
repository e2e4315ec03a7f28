//! The failure records of one subscription: heads in memory, payloads in the log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::Error;
use crate::codec::{Put, Reader};
use crate::entry::FailureState;
use crate::ids::{FailureId, IntMap, Offset};
use crate::wal::{Location, SegmentId};

/// Reasons kept per subscription; older ones are forgotten.
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
    /// When it was stored, wall time in ms.
    pub at_ms: u64,
    /// When it last changed, wall time in ms.
    pub changed_ms: u64,
    /// The offset of the message in the subscription's stream, if it came from there.
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
}

/// One decision about a failure record or a message, kept with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// When, wall time in ms.
    pub at_ms: u64,
    /// The failure record, or none when a message was discarded without one.
    pub failure: Option<FailureId>,
    /// The message's offset, where it is known.
    pub offset: Option<Offset>,
    /// What it became.
    pub state: FailureState,
    /// Why.
    pub reason: String,
}

/// Where the pieces of a record lie in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// The FAILURE entry: payload, and the first meta.
    pub(crate) payload: Location,
    /// The FAILURE_STATE entry with a newer meta.
    pub(crate) meta: Option<Location>,
}

impl Pieces {
    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        [Some(self.payload), self.meta]
            .into_iter()
            .flatten()
            .map(|location| location.segment)
    }
}

#[derive(Debug)]
struct Head {
    state: FailureState,
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
    groups: HashMap<Arc<str>, u64>,
    by_message: IntMap<u128, u64>,
    audit: VecDeque<Audit>,
}

/// A new record, as an entry says it.
pub(crate) struct NewFailure<'a> {
    pub(crate) id: FailureId,
    pub(crate) at_ms: u64,
    pub(crate) source: Option<Offset>,
    pub(crate) group: &'a str,
    pub(crate) message_id: [u8; 16],
    pub(crate) payload: Location,
}

/// A change of a record, as an entry says it.
pub(crate) struct StateChange<'a> {
    pub(crate) id: FailureId,
    pub(crate) at_ms: u64,
    pub(crate) state: FailureState,
    pub(crate) reason: &'a str,
    /// The new cause and where its meta is; of a record that is open again.
    pub(crate) reopened: Option<(&'a str, Location)>,
}

impl Failures {
    pub(crate) fn next_id(&self) -> u64 {
        self.last + 1
    }

    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(crate) fn state(&self, id: FailureId) -> Option<FailureState> {
        self.heads.get(&id.0).map(|head| head.state)
    }

    pub(crate) fn pieces(&self, id: FailureId) -> Option<Pieces> {
        self.heads.get(&id.0).map(|head| head.pieces)
    }

    pub(crate) fn of_message(&self, message_id: [u8; 16]) -> Option<FailureId> {
        self.by_message
            .get(&u128::from_le_bytes(message_id))
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

    /// The causes, most frequent first.
    pub(crate) fn groups(&self) -> Vec<FailureGroup> {
        let mut groups: BTreeMap<&str, FailureGroup> = BTreeMap::new();
        for head in self.heads.values() {
            let group = groups.entry(&head.group).or_insert_with(|| FailureGroup {
                group: head.group.to_string(),
                open: 0,
                redriving: 0,
                first_ms: head.at_ms,
                last_ms: head.at_ms,
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

    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.heads.values().flat_map(|head| head.pieces.segments())
    }

    pub(crate) fn apply_new(&mut self, new: &NewFailure<'_>) {
        self.last = self.last.max(new.id.0);
        let group = self.intern(new.group);
        if new.message_id != [0; 16] {
            self.by_message
                .insert(u128::from_le_bytes(new.message_id), new.id.0);
        }
        let head = Head {
            state: FailureState::Open,
            at_ms: new.at_ms,
            changed_ms: new.at_ms,
            group,
            source: new.source,
            message_id: new.message_id,
            pieces: Pieces {
                payload: new.payload,
                meta: None,
            },
        };
        self.heads.insert(new.id.0, head);
    }

    /// Gives the locations that are no longer needed.
    pub(crate) fn apply_state(&mut self, change: &StateChange<'_>) -> Vec<Location> {
        let Some(head) = self.heads.get_mut(&change.id.0) else {
            return Vec::new();
        };
        head.state = change.state;
        head.changed_ms = change.at_ms;
        let source = head.source;
        let mut freed = Vec::new();
        if let Some((group, meta)) = change.reopened {
            freed.extend(head.pieces.meta.replace(meta));
            let group = self.intern(group);
            if let Some(head) = self.heads.get_mut(&change.id.0) {
                let before = std::mem::replace(&mut head.group, group);
                self.forget_group(&before);
            }
        }
        if let FailureState::Resolved | FailureState::Discarded = change.state {
            if let Some(head) = self.heads.remove(&change.id.0) {
                let message = u128::from_le_bytes(head.message_id);
                if self.by_message.get(&message) == Some(&change.id.0) {
                    self.by_message.remove(&message);
                }
                self.forget_group(&head.group);
                freed.push(head.pieces.payload);
                freed.extend(head.pieces.meta);
            }
        }
        self.note(Audit {
            at_ms: change.at_ms,
            failure: Some(change.id),
            offset: source,
            state: change.state,
            reason: change.reason.to_owned(),
        });
        freed
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
            out.put_u64(audit.at_ms);
            out.put_option(audit.failure, |out, id| out.put_u64(id.0));
            out.put_option(audit.offset, Put::put_u64);
            out.put_u8(audit.state.code());
            out.put_bytes(audit.reason.as_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut failures = Failures {
            last: reader.u64()?,
            ..Failures::default()
        };
        for _ in 0..reader.count(60)? {
            let id = reader.u64()?;
            let state = FailureState::read(reader)?;
            let (at_ms, changed_ms) = (reader.u64()?, reader.u64()?);
            let group = failures.intern(reader.text()?);
            let source = reader.option(Reader::u64)?;
            let message_id = reader.id()?;
            let payload = read_location(reader)?;
            let meta = reader.option(read_location)?;
            if message_id != [0; 16] {
                failures
                    .by_message
                    .insert(u128::from_le_bytes(message_id), id);
            }
            let pieces = Pieces { payload, meta };
            failures.heads.insert(
                id,
                Head {
                    state,
                    at_ms,
                    changed_ms,
                    group,
                    source,
                    message_id,
                    pieces,
                },
            );
        }
        for _ in 0..reader.count(12)? {
            failures.audit.push_back(Audit {
                at_ms: reader.u64()?,
                failure: reader.option(Reader::u64)?.map(FailureId),
                offset: reader.option(Reader::u64)?,
                state: FailureState::read(reader)?,
                reason: reader.text()?.to_owned(),
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
            message_id,
            payload: at(id),
        }
    }

    fn change(id: u64, state: FailureState) -> StateChange<'static> {
        StateChange {
            id: FailureId(id),
            at_ms: 99,
            state,
            reason: "fixed the card",
            reopened: None,
        }
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
        assert_eq!(failures.of_message(3u128.to_le_bytes()), Some(FailureId(3)));
    }

    #[test]
    fn a_decision_keeps_its_reason_and_frees_the_payload() {
        let mut failures = Failures::default();
        failures.apply_new(&new(1, "declined"));
        assert!(
            failures
                .apply_state(&change(1, FailureState::Redriving))
                .is_empty()
        );
        let reopened = StateChange {
            reopened: Some(("declined again", at(8))),
            ..change(1, FailureState::Open)
        };
        assert!(failures.apply_state(&reopened).is_empty());
        assert_eq!(failures.info(FailureId(1)).unwrap().group, "declined again");
        assert_eq!(failures.groups.len(), 1);
        assert_eq!(
            failures.apply_state(&change(1, FailureState::Resolved)),
            [at(1), at(8)]
        );
        assert_eq!(failures.len(), 0);
        assert_eq!(failures.of_message(1u128.to_le_bytes()), None);
        let states: Vec<_> = failures
            .audit()
            .map(|audit| (audit.state, audit.reason.as_str()))
            .collect();
        assert_eq!(states[2], (FailureState::Resolved, "fixed the card"));
        assert_eq!(failures.next_id(), 2, "numbers are never used twice");
    }

    #[test]
    fn they_survive_the_round_trip() {
        let mut failures = Failures::default();
        failures.apply_new(&new(1, "a"));
        failures.apply_new(&new(2, "b"));
        failures.apply_state(&change(1, FailureState::Discarded));
        let mut out = Vec::new();
        failures.encode(&mut out);
        let read = Failures::decode(&mut Reader::new(&out, "test")).unwrap();
        let mut again = Vec::new();
        read.encode(&mut again);
        assert_eq!(out, again);
        assert_eq!(read.of_message(2u128.to_le_bytes()), Some(FailureId(2)));
    }
}
