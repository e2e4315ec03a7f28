//! The bytes of `docs/formats/log.md`: segment header, batch header, frame and entry header.
//!
//! ```text
//! segment   | header 4096 | batch | pad | batch | pad | …
//! batch     | header 64 | frame | frame | …
//! frame     | header 32 | entry | entry | …
//! entry     | kind 1 | flags 1 | 0 2 | length 4 | crc 4 | body |
//! ```

use crc32c::{crc32c, crc32c_append};

use super::EntryBytes;
use crate::planted::{self, Plant};

/// The format version that this release writes, and the newest that it reads.
pub const VERSION: u16 = 1;

pub(crate) const BLOCK: u64 = 4096;
pub(crate) const BATCH_HEADER: u64 = 64;
pub(crate) const FRAME_HEADER: u64 = 32;
pub(crate) const ENTRY_HEADER: u64 = 12;
/// The smallest frame: one entry without a body.
pub(crate) const FRAME_MIN: u64 = FRAME_HEADER + ENTRY_HEADER;

const SEGMENT_MAGIC: [u8; 8] = *b"PRSEGMNT";
const BATCH_MAGIC: [u8; 4] = *b"PRB1";
const MARKER: u8 = 1;

/// Why well-formed bytes cannot be read by this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// A larger version.
    Version(u16),
    /// A reserved field is set.
    Reserved(&'static str),
}

impl Unreadable {
    pub(crate) fn into_error(self, file: String) -> crate::Error {
        match self {
            Unreadable::Version(found) => crate::Error::NewerVersion {
                file,
                found,
                supported: VERSION,
            },
            Unreadable::Reserved(feature) => crate::Error::Unsupported { file, feature },
        }
    }
}

/// `at` rounded up to a block.
pub(crate) fn block_up(at: u64) -> u64 {
    at.next_multiple_of(BLOCK)
}

/// Where every checksum of one use of one segment starts.
pub(crate) fn seed(node: &[u8; 16], segment: u64, generation: u32) -> u32 {
    let seed = crc32c(node);
    if planted::is(Plant::StaleFramesAccepted) {
        return seed;
    }
    let seed = crc32c_append(seed, &segment.to_le_bytes());
    crc32c_append(seed, &generation.to_le_bytes())
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The first block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) generation: u32,
    pub(crate) node: [u8; 16],
    pub(crate) id: u64,
    pub(crate) size: u64,
    pub(crate) base_lsn: u64,
    pub(crate) prev_lsn: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK as usize];
        put(&mut bytes, 0, &SEGMENT_MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &self.generation.to_le_bytes());
        put(&mut bytes, 16, &self.node);
        put(&mut bytes, 32, &self.id.to_le_bytes());
        put(&mut bytes, 40, &self.size.to_le_bytes());
        put(&mut bytes, 48, &self.base_lsn.to_le_bytes());
        put(&mut bytes, 56, &self.prev_lsn.to_le_bytes());
        let crc = crc32c(&bytes[..92]);
        put(&mut bytes, 92, &crc.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, or `None` if there is no valid one.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<SegmentHeader>, Unreadable> {
        if bytes.len() < 96
            || bytes[..8] != SEGMENT_MAGIC
            || crc32c(&bytes[..92]) != u32_at(bytes, 92)
        {
            return Ok(None);
        }
        let version = u16_at(bytes, 8);
        if version != VERSION {
            return Err(Unreadable::Version(version));
        }
        if u16_at(bytes, 10) != 0 || bytes[64..92].iter().any(|byte| *byte != 0) {
            return Err(Unreadable::Reserved("segment flags or encryption key"));
        }
        Ok(Some(SegmentHeader {
            generation: u32_at(bytes, 12),
            node: bytes[16..32].try_into().expect("sixteen bytes"),
            id: u64_at(bytes, 32),
            size: u64_at(bytes, 40),
            base_lsn: u64_at(bytes, 48),
            prev_lsn: u64_at(bytes, 56),
        }))
    }
}

/// The first 64 bytes of a commit batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) generation: u32,
    pub(crate) length: u32,
    pub(crate) block: u32,
    pub(crate) frames: u32,
    pub(crate) prev_lsn: u64,
    pub(crate) first_lsn: u64,
    pub(crate) synced_lsn: u64,
}

impl BatchHeader {
    pub(crate) fn encode(&self, seed: u32) -> [u8; BATCH_HEADER as usize] {
        let mut bytes = [0; BATCH_HEADER as usize];
        put(&mut bytes, 0, &BATCH_MAGIC);
        bytes[8] = VERSION as u8;
        bytes[9] = if self.frames == 0 { MARKER } else { 0 };
        put(&mut bytes, 10, &(BATCH_HEADER as u16).to_le_bytes());
        put(&mut bytes, 12, &self.generation.to_le_bytes());
        put(&mut bytes, 16, &self.length.to_le_bytes());
        put(&mut bytes, 20, &self.block.to_le_bytes());
        put(&mut bytes, 24, &self.frames.to_le_bytes());
        put(&mut bytes, 32, &self.prev_lsn.to_le_bytes());
        put(&mut bytes, 40, &self.first_lsn.to_le_bytes());
        put(&mut bytes, 48, &self.last_lsn().to_le_bytes());
        put(&mut bytes, 56, &self.synced_lsn.to_le_bytes());
        let crc = crc32c_append(seed, &bytes[8..]);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, if it is valid for this place (`at` of a segment of `size` bytes) and this use of the segment.
    pub(crate) fn decode(
        bytes: &[u8],
        seed: u32,
        at: u64,
        size: u64,
    ) -> Result<Option<BatchHeader>, Unreadable> {
        if bytes.len() < BATCH_HEADER as usize || bytes[..4] != BATCH_MAGIC {
            return Ok(None);
        }
        let bytes = &bytes[..BATCH_HEADER as usize];
        if crc32c_append(seed, &bytes[8..]) != u32_at(bytes, 4) {
            return Ok(None);
        }
        if bytes[8] != VERSION as u8 {
            return Err(Unreadable::Version(u16::from(bytes[8])));
        }
        let header = BatchHeader {
            generation: u32_at(bytes, 12),
            length: u32_at(bytes, 16),
            block: u32_at(bytes, 20),
            frames: u32_at(bytes, 24),
            prev_lsn: u64_at(bytes, 32),
            first_lsn: u64_at(bytes, 40),
            synced_lsn: u64_at(bytes, 56),
        };
        if bytes[9] & !MARKER != 0
            || u16_at(bytes, 10) != BATCH_HEADER as u16
            || u32_at(bytes, 28) != 0
        {
            return Err(Unreadable::Reserved("batch flags or encryption key"));
        }
        let fits =
            u64::from(header.length) >= BATCH_HEADER && at + u64::from(header.length) <= size;
        let here = u64::from(header.block) * BLOCK == at;
        let ordered = header.first_lsn > header.prev_lsn && u64_at(bytes, 48) == header.last_lsn();
        Ok((fits && here && ordered).then_some(header))
    }

    pub(crate) fn last_lsn(&self) -> u64 {
        self.first_lsn
            .saturating_add(u64::from(self.frames))
            .saturating_sub(1)
    }
}

/// Bytes of a frame with these entries.
pub(crate) fn frame_size(entries: &[EntryBytes<'_>]) -> u64 {
    let bodies: u64 = entries
        .iter()
        .map(|entry| body_len(entry) + ENTRY_HEADER)
        .sum();
    FRAME_HEADER + bodies
}

fn body_len(entry: &EntryBytes<'_>) -> u64 {
    entry.body.iter().map(|part| part.len() as u64).sum()
}

/// Appends a frame to `buf`. `place` gets the offset of each body in `buf`, and its length.
///
/// The caller has checked that the frame is not larger than 1 GiB.
pub(crate) fn encode_frame(
    buf: &mut Vec<u8>,
    entries: &[EntryBytes<'_>],
    lsn: u64,
    (generation, seed): (u32, u32),
    mut place: impl FnMut(usize, u32),
) {
    let size = u32::try_from(frame_size(entries)).expect("a frame has at most 1 GiB");
    let count = u32::try_from(entries.len()).expect("a frame has fewer entries than bytes");
    let start = buf.len();
    let mut header = [0; FRAME_HEADER as usize];
    put(&mut header, 0, &size.to_le_bytes());
    put(&mut header, 8, &lsn.to_le_bytes());
    put(&mut header, 16, &generation.to_le_bytes());
    put(&mut header, 20, &count.to_le_bytes());
    buf.extend_from_slice(&header);
    let mut crc = crc32c_append(crc32c_append(seed, &header[..4]), &header[8..]);
    for entry in entries {
        let len = body_len(entry) as u32;
        let mut head = [0; ENTRY_HEADER as usize];
        head[0] = entry.kind;
        head[1] = entry.flags;
        put(&mut head, 4, &len.to_le_bytes());
        let body_crc = entry
            .body
            .iter()
            .fold(seed, |crc, part| crc32c_append(crc, part));
        put(&mut head, 8, &body_crc.to_le_bytes());
        crc = crc32c_append(crc, &head);
        buf.extend_from_slice(&head);
        place(buf.len(), len);
        for part in entry.body {
            buf.extend_from_slice(part);
        }
    }
    put(&mut buf[start..], 4, &crc.to_le_bytes());
}

/// The length that a frame header claims, if it is one that can be.
pub(crate) fn frame_length(header: &[u8]) -> Option<u64> {
    let length = u64::from(u32_at(header, 0));
    (length >= FRAME_MIN).then_some(length)
}

/// Verifies a whole frame; `bytes` are exactly as long as its header says.
pub(crate) fn frame_is_valid(
    bytes: &[u8],
    lsn: u64,
    (generation, seed): (u32, u32),
) -> Result<bool, Unreadable> {
    let header = &bytes[..FRAME_HEADER as usize];
    let stale = u32_at(header, 16) != generation && !planted::is(Plant::StaleFramesAccepted);
    if u64_at(header, 8) != lsn || stale {
        return Ok(false);
    }
    let mut crc = crc32c_append(crc32c_append(seed, &header[..4]), &header[8..]);
    let mut rest = &bytes[FRAME_HEADER as usize..];
    for _ in 0..u32_at(header, 20) {
        let Some((head, after)) = rest.split_at_checked(ENTRY_HEADER as usize) else {
            return Ok(false);
        };
        let Some((body, after)) = after.split_at_checked(u32_at(head, 4) as usize) else {
            return Ok(false);
        };
        if crc32c_append(seed, body) != u32_at(head, 8) && !planted::is(Plant::CrcNotCheckedAtOpen)
        {
            return Ok(false);
        }
        crc = crc32c_append(crc, head);
        rest = after;
    }
    if !rest.is_empty() || crc != u32_at(header, 4) {
        return Ok(false);
    }
    match header[24..32].iter().all(|byte| *byte == 0) {
        true => Ok(true),
        false => Err(Unreadable::Reserved("frame flags or encryption key")),
    }
}

/// Whether `entry` (entry header and body) is an entry of `len` bytes with its checksum.
pub(crate) fn entry_is_valid(entry: &[u8], len: u32, seed: u32) -> bool {
    entry.len() as u64 == ENTRY_HEADER + u64::from(len)
        && u32_at(entry, 4) == len
        && (planted::is(Plant::CrcNotCheckedOnRead)
            || crc32c_append(seed, &entry[ENTRY_HEADER as usize..]) == u32_at(entry, 8))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NODE: [u8; 16] = [9; 16];

    fn frame(key: (u32, u32)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let entries = [
            EntryBytes {
                kind: 5,
                flags: 6,
                body: &[b"he", b"", b"llo"],
            },
            EntryBytes {
                kind: 7,
                flags: 0,
                body: &[],
            },
        ];
        let mut places = Vec::new();
        encode_frame(&mut bytes, &entries, 77, key, |at, len| {
            places.push((at, len))
        });
        assert_eq!(places, [(44, 5), (61, 0)]);
        assert_eq!(bytes.len() as u64, frame_size(&entries));
        bytes
    }

    #[test]
    fn frame_has_the_bytes_of_the_format_page() {
        let key = (3, seed(&NODE, 1, 3));
        let bytes = frame(key);
        assert_eq!(u32_at(&bytes, 0), 61);
        assert_eq!(
            (u64_at(&bytes, 8), u32_at(&bytes, 16), u32_at(&bytes, 20)),
            (77, 3, 2)
        );
        assert_eq!(bytes[24..34], [0, 0, 0, 0, 0, 0, 0, 0, 5, 6]);
        assert_eq!((u32_at(&bytes, 36), &bytes[44..49]), (5, &b"hello"[..]));
        assert_eq!(frame_length(&bytes), Some(61));
        assert!(frame_is_valid(&bytes, 77, key).unwrap());
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_seen() {
        let key = (3, seed(&NODE, 1, 3));
        let bytes = frame(key);
        for bit in 32..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(frame_is_valid(&damaged, 77, key), Ok(false), "bit {bit}");
        }
    }

    #[test]
    fn nothing_of_another_use_of_a_segment_passes() {
        let own = seed(&NODE, 1, 3);
        let header = BatchHeader {
            generation: 3,
            length: 200,
            block: 2,
            frames: 1,
            prev_lsn: 76,
            first_lsn: 77,
            synced_lsn: 70,
        };
        let batch = header.encode(own);
        let (frame, at) = (frame((3, own)), 2 * BLOCK);
        assert_eq!(
            BatchHeader::decode(&batch, own, at, 1 << 20),
            Ok(Some(header))
        );
        assert_eq!(
            BatchHeader::decode(&batch, own, at + BLOCK, 1 << 20),
            Ok(None),
            "elsewhere"
        );
        assert_eq!(
            BatchHeader::decode(&batch, own, at, at + 199),
            Ok(None),
            "beyond the end"
        );
        for other in [seed(&NODE, 1, 4), seed(&NODE, 2, 3), seed(&[8; 16], 1, 3)] {
            assert_eq!(BatchHeader::decode(&batch, other, at, 1 << 20), Ok(None));
            assert_eq!(frame_is_valid(&frame, 77, (3, other)), Ok(false));
            assert!(entry_is_valid(&frame[32..49], 5, own));
            assert!(!entry_is_valid(&frame[32..49], 5, other));
        }
    }

    #[test]
    fn newer_versions_and_reserved_fields_are_told_apart_from_damage() {
        let own = seed(&NODE, 1, 3);
        let header = BatchHeader {
            generation: 3,
            length: 64,
            block: 1,
            frames: 0,
            prev_lsn: 4,
            first_lsn: 5,
            synced_lsn: 4,
        };
        let sealed = |change: fn(&mut [u8])| {
            let mut bytes = header.encode(own);
            change(&mut bytes);
            let crc = crc32c_append(own, &bytes[8..]);
            put(&mut bytes, 4, &crc.to_le_bytes());
            BatchHeader::decode(&bytes, own, BLOCK, 1 << 20)
        };
        assert_eq!(sealed(|_| {}), Ok(Some(header)));
        assert_eq!(sealed(|bytes| bytes[8] = 2), Err(Unreadable::Version(2)));
        assert!(matches!(
            sealed(|bytes| bytes[28] = 1),
            Err(Unreadable::Reserved(_))
        ));
        assert!(matches!(
            sealed(|bytes| bytes[9] |= 4),
            Err(Unreadable::Reserved(_))
        ));
    }
}
