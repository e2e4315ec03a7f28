//! Records on disk: Kafka's RecordBatch v2, byte for byte, behind a small table of what the log itself looks up.
//!
//! ```text
//! block   shape u16 · count u32 · ids count×16 · deliver-at count×8 · expires-at count×8 · RecordBatch      (little endian)
//!
//! RecordBatch v2 (big endian)                                  Record (zigzag varints, marked z)
//!  0 base offset i64        27 base timestamp i64              length z · attributes i8 · timestamp delta z
//!  8 batch length i32       35 max timestamp i64               offset delta z
//! 12 leader epoch i32       43 producer id i64                 key length z (-1: null) · key
//! 16 magic i8 = 2           51 producer epoch i16              value length z (-1: null) · value
//! 17 crc32c u32 of 21..     53 base sequence i32               headers z · (name length z · name · value length z · value)*
//! 21 attributes i16         57 records i32
//! 23 last offset delta i32  61 records …
//! ```
//!
//! Source: Kafka protocol guide, *Record Batch*. The base offset and the leader epoch lie outside the checksum, so a batch
//! can be served under another base offset without touching it.

use bytes::Bytes;

use crate::Error;
use crate::codec::{Put, Reader, zigzag_len};
use crate::ids::{KeyHash, Offset};
use crate::tx::{Header, Record, RecordIn};

const HEAD: usize = 61;
const CRC_FROM: usize = 21;
const MAGIC: u8 = 2;
/// Attribute bit 3: timestamps are append times.
const LOG_APPEND_TIME: u16 = 1 << 3;
/// Attribute bits 0 to 2 name a compression, 5 a control batch: neither is written by this release.
const UNKNOWN_ATTRIBUTES: u16 = 0b10_0111;

const SHAPE_IDS: u16 = 1;
const SHAPE_DELIVER: u16 = 1 << 1;
const SHAPE_EXPIRES: u16 = 1 << 2;
const SHAPE_KNOWN: u16 = SHAPE_IDS | SHAPE_DELIVER | SHAPE_EXPIRES;

/// Who produced a batch, for idempotent Kafka producers. [`Producer::NONE`] where nobody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The producer's id, -1 for none.
    pub id: i64,
    /// Its epoch, -1 for none.
    pub epoch: i16,
    /// The sequence of the first record, -1 for none.
    pub sequence: i32,
}

impl Producer {
    /// No producer.
    pub const NONE: Producer = Producer {
        id: -1,
        epoch: -1,
        sequence: -1,
    };
}

impl Default for Producer {
    fn default() -> Self {
        Producer::NONE
    }
}

/// The headers of a record: checked when the record was read, parsed as they are walked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    raw: Bytes,
    count: u32,
}

impl Headers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, in order, as slices of the batch.
    pub fn iter(&self) -> impl Iterator<Item = Header> + '_ {
        let mut at = 0;
        (0..self.count).map_while(move |_| {
            let mut field = |null_allowed: bool| {
                let mut reader = Reader::new(self.raw.get(at..)?, "header");
                let before = reader.left();
                let length = reader.zigzag().ok()?;
                at += before - reader.left();
                if length < 0 {
                    return null_allowed.then_some(None);
                }
                let to = at.checked_add(usize::try_from(length).ok()?)?;
                let bytes = (to <= self.raw.len()).then(|| self.raw.slice(at..to))?;
                at = to;
                Some(Some(bytes))
            };
            let name = field(false)??;
            let value = field(true)?;
            Some(Header { name, value })
        })
    }

    /// The value of the last header of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Bytes> {
        self.iter()
            .filter(|header| header.name == name.as_bytes())
            .last()
            .and_then(|header| header.value)
    }
}

/// Appends a block with these records to `out` and tells where in `out` each record begins.
///
/// # Panics
/// If there are no records, or more bytes than a Kafka batch can hold (2 GiB): both are refused before.
pub(crate) fn encode_block(
    out: &mut Vec<u8>,
    base: Offset,
    at_ms: u64,
    producer: Producer,
    records: &[&RecordIn],
) -> Positions {
    assert!(!records.is_empty(), "a batch holds at least one record");
    put_table(out, records);
    let start = out.len();
    out.resize(start + HEAD, 0);
    let mut positions = Positions::of(records.len());
    for (delta, record) in records.iter().enumerate() {
        positions.push(u32::try_from(out.len()).expect("a block is smaller than 2 GiB"));
        put_record(out, delta as i64, record);
    }
    let length = i32::try_from(out.len() - start - 12).expect("a batch is smaller than 2 GiB");
    let count = i32::try_from(records.len()).expect("record counts are limited");
    let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX);
    let head = &mut out[start..start + HEAD];
    head[0..8].copy_from_slice(&base.to_be_bytes());
    head[8..12].copy_from_slice(&length.to_be_bytes());
    head[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    head[16] = MAGIC;
    head[21..23].copy_from_slice(&LOG_APPEND_TIME.to_be_bytes());
    head[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    head[27..35].copy_from_slice(&at_ms.to_be_bytes());
    head[35..43].copy_from_slice(&at_ms.to_be_bytes());
    head[43..51].copy_from_slice(&producer.id.to_be_bytes());
    head[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
    head[53..57].copy_from_slice(&producer.sequence.to_be_bytes());
    head[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&out[start + CRC_FROM..]);
    out[start + 17..start + 21].copy_from_slice(&crc.to_be_bytes());
    positions
}

/// About how many bytes a record takes, for limits and for reserving.
pub(crate) fn record_size(record: &RecordIn) -> usize {
    let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record
        .headers
        .iter()
        .map(|h| h.name.len() + part(&h.value) + 8)
        .sum();
    part(&record.key) + part(&record.value) + headers + 48
}

fn put_table(out: &mut Vec<u8>, records: &[&RecordIn]) {
    let any = |bit: u16, has: fn(&RecordIn) -> bool| {
        if records.iter().any(|r| has(r)) {
            bit
        } else {
            0
        }
    };
    let shape = any(SHAPE_IDS, |r| r.id != [0; 16])
        | any(SHAPE_DELIVER, |r| r.deliver_at_ms != 0)
        | any(SHAPE_EXPIRES, |r| r.expires_at_ms != 0);
    out.put_u16(shape);
    out.put_u32(u32::try_from(records.len()).expect("record counts are limited"));
    if shape & SHAPE_IDS != 0 {
        records.iter().for_each(|record| out.put(&record.id));
    }
    if shape & SHAPE_DELIVER != 0 {
        records
            .iter()
            .for_each(|record| out.put_u64(record.deliver_at_ms));
    }
    if shape & SHAPE_EXPIRES != 0 {
        records
            .iter()
            .for_each(|record| out.put_u64(record.expires_at_ms));
    }
}

fn put_record(out: &mut Vec<u8>, delta: i64, record: &RecordIn) {
    let field = |bytes: &Option<Bytes>| match bytes {
        None => zigzag_len(-1),
        Some(bytes) => zigzag_len(bytes.len() as i64) + bytes.len(),
    };
    let headers: usize = record
        .headers
        .iter()
        .map(|header| {
            zigzag_len(header.name.len() as i64) + header.name.len() + field(&header.value)
        })
        .sum();
    // attributes and timestamp delta take one byte each
    let length = 2
        + zigzag_len(delta)
        + field(&record.key)
        + field(&record.value)
        + zigzag_len(record.headers.len() as i64)
        + headers;
    out.put_zigzag(length as i64);
    let from = out.len();
    out.put_u8(0);
    out.put_zigzag(0);
    out.put_zigzag(delta);
    put_field(out, record.key.as_deref());
    put_field(out, record.value.as_deref());
    out.put_zigzag(record.headers.len() as i64);
    for header in &record.headers {
        put_field(out, Some(&header.name));
        put_field(out, header.value.as_deref());
    }
    assert_eq!(out.len() - from, length, "a record is as long as it says");
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => out.put_zigzag(-1),
        Some(bytes) => {
            out.put_zigzag(bytes.len() as i64);
            out.put(bytes);
        }
    }
}

/// The table in front of a batch, without a look at the batch: enough for recovery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) count: u32,
    ids: &'a [u8],
    deliver: &'a [u8],
    expires: &'a [u8],
}

impl<'a> Table<'a> {
    /// Reads the table and leaves the reader at the batch.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let shape = reader.u16()?;
        let count = reader.u32()?;
        if shape & !SHAPE_KNOWN != 0 {
            return Err(reader.malformed("a block has columns that this release does not know"));
        }
        if count == 0 {
            return Err(reader.malformed("a block holds no record"));
        }
        let mut column = |bit: u16, width: usize| -> Result<&'a [u8], Error> {
            if shape & bit == 0 {
                Ok(&[])
            } else {
                reader.take((count as usize).saturating_mul(width))
            }
        };
        let ids = column(SHAPE_IDS, 16)?;
        let deliver = column(SHAPE_DELIVER, 8)?;
        let expires = column(SHAPE_EXPIRES, 8)?;
        Ok(Table {
            count,
            ids,
            deliver,
            expires,
        })
    }

    pub(crate) fn id(&self, index: u32) -> [u8; 16] {
        let at = index as usize * 16;
        self.ids
            .get(at..at + 16)
            .map_or([0; 16], |id| id.try_into().expect("a slice of 16"))
    }

    pub(crate) fn deliver_at_ms(&self, index: u32) -> u64 {
        word(self.deliver, index)
    }

    pub(crate) fn expires_at_ms(&self, index: u32) -> u64 {
        word(self.expires, index)
    }

    /// When the last record of the block expires; 0 when one of them never does.
    pub(crate) fn expires_last_ms(&self) -> u64 {
        if self.expires.is_empty() {
            return 0;
        }
        let all = (0..self.count).map(|index| self.expires_at_ms(index));
        let mut last = 0;
        for at in all {
            if at == 0 {
                return 0;
            }
            last = last.max(at);
        }
        last
    }
}

fn word(column: &[u8], index: u32) -> u64 {
    let at = index as usize * 8;
    column.get(at..at + 8).map_or(0, |word| {
        u64::from_le_bytes(word.try_into().expect("a slice of 8"))
    })
}

/// Where in the bytes of a block its records begin. Most blocks have one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    One(Option<u32>),
    Many(Vec<u32>),
}

impl Positions {
    /// None yet, of so many.
    fn of(count: usize) -> Self {
        match count {
            0 | 1 => Positions::One(None),
            _ => Positions::Many(Vec::with_capacity(count)),
        }
    }

    fn push(&mut self, at: u32) {
        match self {
            Positions::One(one) => {
                assert!(one.is_none(), "there are as many as was said");
                *one = Some(at);
            }
            Positions::Many(many) => many.push(at),
        }
    }

    fn as_slice(&self) -> &[u32] {
        match self {
            Positions::One(one) => one.as_slice(),
            Positions::Many(many) => many,
        }
    }
}

/// A block that was checked: its records are read without touching what is around them.
#[derive(Debug)]
pub(crate) struct Block {
    bytes: Bytes,
    table_at: usize,
    at_ms: u64,
    positions: Positions,
}

/// What a subscription asks about a record before it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) key: Option<KeyHash>,
    pub(crate) size: u32,
    pub(crate) deliver_at_ms: u64,
    pub(crate) expires_at_ms: u64,
}

impl Block {
    /// A block just encoded into `bytes`, whose table begins at `table_at`; `positions` as [`encode_block`] gave them.
    pub(crate) fn encoded(bytes: Bytes, table_at: usize, at_ms: u64, positions: Positions) -> Self {
        Block {
            bytes,
            table_at,
            at_ms,
            positions,
        }
    }

    /// Checks a block as read: shape, length, magic, CRC32C, and that there are as many records as it says.
    pub(crate) fn verify(bytes: Bytes, table_at: usize) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes.get(table_at..).unwrap_or_default(), "record batch");
        let table = Table::read(&mut reader)?;
        let count = table.count;
        let batch_at = bytes.len() - reader.left();
        let batch = reader.rest();
        let at_ms = check_batch(batch, count)?;
        let mut records = Reader::new(&batch[HEAD..], "record batch");
        let mut positions = Positions::of((count as usize).min(records.left().max(2)));
        for _ in 0..count {
            let at = bytes.len() - records.left();
            positions
                .push(u32::try_from(at).map_err(|_| records.malformed("it is larger than 4 GiB"))?);
            let length = records.zigzag()?;
            let length = usize::try_from(length)
                .map_err(|_| records.malformed("a record has a negative length"))?;
            records.take(length)?;
        }
        records.finish()?;
        assert!(batch_at + HEAD <= bytes.len(), "the batch was checked");
        Ok(Block {
            bytes,
            table_at,
            at_ms,
            positions,
        })
    }

    /// How many records it has.
    pub(crate) fn count(&self) -> u32 {
        self.positions.as_slice().len() as u32
    }

    /// Bytes held in memory.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.len() + self.positions.as_slice().len() * 4 + 96
    }

    fn table(&self) -> Table<'_> {
        let mut reader = Reader::new(
            self.bytes.get(self.table_at..).unwrap_or_default(),
            "record batch",
        );
        Table::read(&mut reader).expect("the table was checked, or written by us")
    }

    fn parse(&self, index: u32) -> Result<(Raw, Table<'_>), Error> {
        let at = *self
            .positions
            .as_slice()
            .get(index as usize)
            .ok_or(Error::Malformed {
                what: "record batch",
                why: "a record beyond its end was asked for",
            })?;
        Ok((Raw::read(&self.bytes, at as usize)?, self.table()))
    }

    pub(crate) fn meta(&self, index: u32) -> Result<Meta, Error> {
        let (raw, table) = self.parse(index)?;
        let key = raw
            .key
            .filter(|(from, to)| to > from)
            .map(|(from, to)| KeyHash::of(&self.bytes[from..to]));
        Ok(Meta {
            key,
            size: raw.size,
            deliver_at_ms: table.deliver_at_ms(index),
            expires_at_ms: table.expires_at_ms(index),
        })
    }

    /// The record, as one of a batch whose first record has offset `base`.
    pub(crate) fn record(&self, index: u32, base: Offset) -> Result<Record, Error> {
        let (raw, table) = self.parse(index)?;
        let slice = |(from, to): (usize, usize)| self.bytes.slice(from..to);
        Ok(Record {
            offset: base + u64::from(index),
            id: table.id(index),
            appended_at_ms: self.at_ms,
            deliver_at_ms: table.deliver_at_ms(index),
            expires_at_ms: table.expires_at_ms(index),
            key: raw.key.map(slice),
            value: raw.value.map(slice),
            headers: Headers {
                raw: slice(raw.headers),
                count: raw.header_count,
            },
        })
    }
}

/// Where the parts of one record lie in the bytes that hold it.
struct Raw {
    size: u32,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    headers: (usize, usize),
    header_count: u32,
}

impl Raw {
    fn read(bytes: &[u8], at: usize) -> Result<Self, Error> {
        let mut outer = Reader::new(bytes.get(at..).unwrap_or_default(), "record");
        let length = outer.zigzag()?;
        let length =
            usize::try_from(length).map_err(|_| outer.malformed("its length is negative"))?;
        let end = bytes.len() - outer.left() + length;
        let mut reader = Reader::new(outer.take(length)?, "record");
        let place = |reader: &Reader<'_>| end - reader.left();
        reader.u8()?;
        reader.zigzag()?;
        reader.zigzag()?;
        let field = |reader: &mut Reader<'_>| -> Result<Option<(usize, usize)>, Error> {
            let length = reader.zigzag()?;
            if length < 0 {
                return Ok(None);
            }
            let length =
                usize::try_from(length).map_err(|_| reader.malformed("a length is too large"))?;
            let from = place(reader);
            reader.take(length)?;
            Ok(Some((from, from + length)))
        };
        let key = field(&mut reader)?;
        let value = field(&mut reader)?;
        let header_count = reader.zigzag()?;
        let header_count = u32::try_from(header_count)
            .ok()
            .filter(|count| *count as usize <= reader.left() / 2)
            .ok_or_else(|| reader.malformed("it has more headers than bytes"))?;
        let from = place(&reader);
        for _ in 0..header_count {
            if field(&mut reader)?.is_none() {
                return Err(reader.malformed("a header has no name"));
            }
            field(&mut reader)?;
        }
        reader.finish()?;
        Ok(Raw {
            size: length as u32,
            key,
            value,
            headers: (from, end),
            header_count,
        })
    }
}

/// When a batch was appended, without checking it: what a frame holds was checked with the frame. 0 if it is too short.
pub(crate) fn peek_at_ms(batch: &[u8]) -> u64 {
    batch.get(35..43).map_or(0, |at| {
        u64::from_be_bytes(at.try_into().expect("a slice of 8"))
    })
}

/// Checks the fixed part and the checksum of a batch; gives its timestamp.
fn check_batch(batch: &[u8], count: u32) -> Result<u64, Error> {
    let bad = |why| Error::Malformed {
        what: "record batch",
        why,
    };
    if batch.len() < HEAD {
        return Err(bad("it ends early"));
    }
    let int = |at: usize| u32::from_be_bytes(batch[at..at + 4].try_into().expect("a slice of 4"));
    if batch[16] != MAGIC {
        return Err(bad("its format (magic) is not 2"));
    }
    if int(8) as usize != batch.len() - 12 {
        return Err(bad("its length is not what it says"));
    }
    if int(17) != crc32c::crc32c(&batch[CRC_FROM..]) {
        return Err(bad("its checksum is wrong"));
    }
    let attributes = u16::from_be_bytes(batch[21..23].try_into().expect("a slice of 2"));
    if attributes & UNKNOWN_ATTRIBUTES != 0 {
        return Err(bad(
            "it is compressed or a control batch, which this release does not read",
        ));
    }
    if int(57) != count || int(23) != count - 1 {
        return Err(bad("its record count is not that of the table"));
    }
    Ok(u64::from_be_bytes(
        batch[35..43].try_into().expect("a slice of 8"),
    ))
}

#[cfg(test)]
mod tests;
