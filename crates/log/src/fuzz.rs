//! Ways in to the private decoders for the fuzz targets in `fuzz/`. No part of the API: it may change or go at any time.

use bytes::Bytes;

use crate::batch::{Block, Table};
use crate::codec::Reader;
use crate::entry::Entry;
use crate::wal::format::{
    self, BatchHeader, ENTRY_HEADER, FRAME_MIN, SegmentHeader, entry_is_valid, frame_is_valid,
    frame_length,
};

/// One entry of a frame, as recovery reads it. Gives whether it was one.
pub fn entry(kind: u8, flags: u8, body: &[u8]) -> bool {
    match Entry::decode(kind, flags, body) {
        Ok(Some(Entry::Data { block, .. })) => {
            record_batch(block, false);
            record_batch(block, true);
            true
        }
        Ok(entry) => entry.is_some(),
        Err(_) => false,
    }
}

/// A table and its record batch. `mend`: lengths, counts and checksum are made right before, so that what is behind them is read. Gives how many
/// records could be read.
pub fn record_batch(bytes: &[u8], mend: bool) -> u32 {
    let mut bytes = bytes.to_vec();
    if mend {
        mend_batch(&mut bytes);
    }
    let Ok(block) = Block::verify(Bytes::from(bytes), 0) else {
        return 0;
    };
    let read = |index: &u32| {
        let record = block.record(*index, 0);
        let headers = record.as_ref().map_or(0, |r| r.headers.iter().count());
        let meta = block.meta(*index);
        record.is_ok_and(|r| r.headers.len() == headers) && meta.is_ok()
    };
    (0..block.count()).filter(read).count() as u32
}

fn mend_batch(bytes: &mut [u8]) {
    let mut reader = Reader::new(bytes, "record batch");
    let Ok(table) = Table::read(&mut reader) else {
        return;
    };
    let (count, left) = (table.count, reader.left());
    let at = bytes.len() - left;
    let batch = &mut bytes[at..];
    if batch.len() < 61 {
        return;
    }
    let length = (batch.len() as u32) - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[21..23].copy_from_slice(&[0, 0]);
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The headers of segment, batch and frame over the same bytes, as far as there are enough of them.
pub fn headers(bytes: &[u8]) {
    let _ = SegmentHeader::decode(bytes);
    for size in [0, bytes.len() as u64, u64::MAX] {
        let _ = BatchHeader::decode(bytes, 7, 0, size);
    }
    if bytes.len() as u64 >= FRAME_MIN {
        let _ = (frame_length(bytes), frame_is_valid(bytes, 1, (7, 7)));
        let len = bytes.len() as u64 - ENTRY_HEADER;
        let _ = entry_is_valid(bytes, len as u32, 7);
    }
}

/// The valid entries in a segment file, each as kind, flags and body: what a corpus begins with.
pub fn entries(file: &[u8]) -> Vec<Vec<u8>> {
    let Ok(Some(segment)) = SegmentHeader::decode(file) else {
        return Vec::new();
    };
    let seed = format::seed(&segment.node, segment.id, segment.generation);
    let mut found = Vec::new();
    for at in 0..file.len().saturating_sub(ENTRY_HEADER as usize) {
        let rest = &file[at..];
        let len = format::u32_at(rest, 4);
        let end = ENTRY_HEADER as usize + len as usize;
        let plausible = rest[0] != 0 && rest[0] < 64 && len > 0 && end <= rest.len();
        if plausible && entry_is_valid(&rest[..end], len, seed) {
            let body = &rest[ENTRY_HEADER as usize..end];
            found.push([&rest[..2], body].concat());
        }
    }
    found
}
