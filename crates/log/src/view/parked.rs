//! Keys of one subscription that were set aside, each with its messages in order. Payloads are in the log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::Error;
use crate::codec::{Put, Reader};
use crate::ids::Offset;
use crate::view::failures::{put_location, read_location};
use crate::wal::{Location, SegmentId};

/// A parked key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedInfo {
    /// The key.
    pub key: Bytes,
    /// Messages parked under it.
    pub messages: u64,
    /// The number of the first of them.
    pub first_seq: Option<u64>,
    /// Since when, wall time in ms.
    pub since_ms: u64,
    /// What the host stored with it ([`ParkOp::State`](crate::ParkOp::State)).
    pub state: Bytes,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) seq: u64,
    pub(crate) at_ms: u64,
    pub(crate) source: Option<Offset>,
    pub(crate) message_id: [u8; 16],
    pub(crate) payload: Location,
}

#[derive(Debug, Default)]
struct Key {
    items: VecDeque<Item>,
    since_ms: u64,
    state: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Parked {
    last: u64,
    keys: BTreeMap<Bytes, Key>,
    ids: HashMap<[u8; 16], u64>,
    messages: u64,
}

impl Parked {
    pub(crate) fn next_seq(&self) -> u64 {
        self.last + 1
    }

    pub(crate) fn keys_len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn messages_len(&self) -> u64 {
        self.messages
    }

    pub(crate) fn contains_message(&self, message_id: [u8; 16]) -> bool {
        self.ids.contains_key(&message_id)
    }

    pub(crate) fn info(&self, key: &[u8]) -> Option<ParkedInfo> {
        self.keys
            .get_key_value(key)
            .map(|(key, parked)| info(key, parked))
    }

    /// Keys after `after`, in the order of bytes.
    pub(crate) fn list(&self, after: Option<&[u8]>, max: usize) -> Vec<ParkedInfo> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.keys.range::<[u8], _>((from, Bound::Unbounded));
        keys.take(max)
            .map(|(key, parked)| info(key, parked))
            .collect()
    }

    /// The messages of a key from `from_seq` on, in order.
    pub(crate) fn items(&self, key: &[u8], from_seq: u64, max: usize) -> Vec<Item> {
        let items = self
            .keys
            .get(key)
            .into_iter()
            .flat_map(|parked| &parked.items);
        items
            .filter(|item| item.seq >= from_seq)
            .take(max)
            .copied()
            .collect()
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.keys
            .values()
            .flat_map(|parked| &parked.items)
            .map(|item| item.payload.segment)
    }

    pub(crate) fn apply_park(&mut self, key: &[u8], item: Item) {
        self.last = self.last.max(item.seq);
        self.messages += 1;
        if item.message_id != [0; 16] {
            self.ids.insert(item.message_id, item.seq);
        }
        let parked = self.key(key, item.at_ms);
        assert!(
            parked.items.back().is_none_or(|last| last.seq < item.seq),
            "parked messages keep their order"
        );
        parked.items.push_back(item);
    }

    /// Gives the payload that is no longer needed.
    pub(crate) fn apply_done(&mut self, key: &[u8], seq: u64) -> Option<Location> {
        let parked = self.keys.get_mut(key)?;
        if parked.items.front()?.seq != seq {
            return None;
        }
        let item = parked.items.pop_front()?;
        self.messages -= 1;
        if self.ids.get(&item.message_id) == Some(&item.seq) {
            self.ids.remove(&item.message_id);
        }
        Some(item.payload)
    }

    pub(crate) fn apply_state(&mut self, key: &[u8], state: &[u8]) {
        if let Some(parked) = self.keys.get_mut(key) {
            parked.state = Bytes::copy_from_slice(state);
        }
    }

    pub(crate) fn apply_unpark(&mut self, key: &[u8]) {
        if self
            .keys
            .get(key)
            .is_some_and(|parked| parked.items.is_empty())
        {
            self.keys.remove(key);
        }
    }

    fn key(&mut self, key: &[u8], at_ms: u64) -> &mut Key {
        if !self.keys.contains_key(key) {
            let parked = Key {
                since_ms: at_ms,
                ..Key::default()
            };
            self.keys.insert(Bytes::copy_from_slice(key), parked);
        }
        self.keys.get_mut(key).expect("it was just put there")
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.last);
        out.put_varint(self.keys.len() as u64);
        for (key, parked) in &self.keys {
            out.put_bytes(key);
            out.put_u64(parked.since_ms);
            out.put_bytes(&parked.state);
            out.put_varint(parked.items.len() as u64);
            for item in &parked.items {
                out.put_u64(item.seq);
                out.put_u64(item.at_ms);
                out.put_option(item.source, Put::put_u64);
                out.put(&item.message_id);
                put_location(out, item.payload);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut parked = Parked {
            last: reader.u64()?,
            ..Parked::default()
        };
        for _ in 0..reader.count(11)? {
            let key = reader.bytes()?;
            let since_ms = reader.u64()?;
            parked.key(key, since_ms).state = Bytes::copy_from_slice(reader.bytes()?);
            let mut before = 0;
            for _ in 0..reader.count(49)? {
                let (seq, at_ms) = (reader.u64()?, reader.u64()?);
                let source = reader.option(Reader::u64)?;
                let message_id = reader.id()?;
                let payload = read_location(reader)?;
                if seq <= before {
                    return Err(reader.malformed("parked messages are out of order"));
                }
                before = seq;
                parked.apply_park(
                    key,
                    Item {
                        seq,
                        at_ms,
                        source,
                        message_id,
                        payload,
                    },
                );
            }
        }
        Ok(parked)
    }
}

fn info(key: &Bytes, parked: &Key) -> ParkedInfo {
    ParkedInfo {
        key: key.clone(),
        messages: parked.items.len() as u64,
        first_seq: parked.items.front().map(|item| item.seq),
        since_ms: parked.since_ms,
        state: parked.state.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn item(seq: u64) -> Item {
        let payload = Location {
            segment: SegmentId(seq),
            at: 0,
            len: 1,
        };
        Item {
            seq,
            at_ms: 5,
            source: Some(seq),
            message_id: u128::from(seq).to_le_bytes(),
            payload,
        }
    }

    #[test]
    fn a_key_gives_back_its_messages_in_the_order_in_which_they_were_parked() {
        let mut parked = Parked::default();
        for seq in 1..=4 {
            parked.apply_park(if seq == 2 { b"b" } else { b"a" }, item(seq));
        }
        assert_eq!(
            parked
                .items(b"a", 0, 9)
                .iter()
                .map(|item| item.seq)
                .collect::<Vec<_>>(),
            [1, 3, 4]
        );
        assert_eq!(parked.apply_done(b"a", 3), None, "not the first");
        assert_eq!(parked.apply_done(b"a", 1).unwrap().segment, SegmentId(1));
        assert!(
            !parked.contains_message(1u128.to_le_bytes())
                && parked.contains_message(3u128.to_le_bytes())
        );
        parked.apply_unpark(b"a");
        assert_eq!(
            parked.info(b"a").unwrap().messages,
            2,
            "not empty: it stays"
        );
        parked.apply_done(b"a", 3);
        parked.apply_done(b"a", 4);
        assert!(
            parked.info(b"a").is_some(),
            "an empty key stays parked until it is unparked"
        );
        parked.apply_unpark(b"a");
        assert_eq!(
            (parked.info(b"a"), parked.keys_len(), parked.messages_len()),
            (None, 1, 1)
        );
    }

    #[test]
    fn they_survive_the_round_trip() {
        let mut parked = Parked::default();
        parked.apply_park(b"a", item(1));
        parked.apply_park(b"b", item(2));
        parked.apply_park(b"a", item(5));
        parked.apply_state(b"a", b"redriving");
        let mut out = Vec::new();
        parked.encode(&mut out);
        let read = Parked::decode(&mut Reader::new(&out, "test")).unwrap();
        let mut again = Vec::new();
        read.encode(&mut again);
        assert_eq!(out, again);
        assert_eq!(read.list(Some(b"a"), 10).len(), 1);
        assert_eq!(read.next_seq(), 6);
    }
}
