//! Reading one segment from front to back, past damage: for copies and for looking, where recovery would stop.

use super::format::{self, BATCH_HEADER, BLOCK, BatchHeader, FRAME_HEADER, block_up};
use super::segment::SegmentFile;
use super::walk::{FrameRef, batch_header};
use super::window::Window;
use crate::Error;

/// What of a segment is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The LSN before its first frame.
    pub(super) prev_lsn: u64,
    /// No batch from this byte on is looked at.
    pub(super) end: u64,
    /// No batch behind this LSN is looked at.
    pub(super) upto: u64,
}

/// A batch, and how much of it is good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) at: u64,
    pub(super) header: BatchHeader,
    /// Its header and the frames that are good.
    pub(super) bytes: &'a [u8],
    /// How many those are: an earlier recovery may have cut it.
    pub(super) frames: u32,
}

/// Frames that should be there and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) at: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// What was found in a segment.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The byte behind the last good frame.
    pub(super) end: u64,
    pub(super) last: u64,
    pub(super) frames: u64,
    pub(super) gaps: Vec<Gap>,
}

/// Shows every batch of a segment within `bounds`. Every checksum of what is shown was verified.
pub(super) fn scan(
    file: &SegmentFile,
    bounds: Bounds,
    show: &mut dyn FnMut(&Seen<'_>) -> Result<(), Error>,
) -> Result<Scanned, Error> {
    let mut window = Window::new(file);
    let mut scanned = Scanned {
        end: BLOCK,
        last: bounds.prev_lsn,
        frames: 0,
        gaps: Vec::new(),
    };
    let mut next = BLOCK;
    while next < bounds.end.min(file.size) && scanned.last < bounds.upto {
        let header = batch_header(&mut window, file, next)?;
        let Some(header) = header.filter(|header| header.prev_lsn >= scanned.last) else {
            next += BLOCK;
            continue;
        };
        if header.prev_lsn > scanned.last {
            scanned.gaps.push(Gap {
                at: scanned.end,
                first: scanned.last + 1,
                last: header.prev_lsn,
            });
            scanned.last = header.prev_lsn;
        }
        let length = u64::from(header.length);
        let Some(bytes) = window.get(next, length)? else {
            next += BLOCK;
            continue;
        };
        let (good, frames) = good_frames(file, bytes, &header)?;
        let whole = good as u64 == length;
        show(&Seen {
            at: next,
            header,
            bytes: &bytes[..good],
            frames,
        })?;
        if whole || frames > 0 {
            scanned.end = next + good as u64;
            next = block_up(scanned.end);
        } else {
            next += BLOCK;
        }
        if frames > 0 {
            scanned.last = header.first_lsn + u64::from(frames) - 1;
            scanned.frames += u64::from(frames);
        }
    }
    Ok(scanned)
}

/// How many bytes of a batch, and how many of its frames, are good.
fn good_frames(
    file: &SegmentFile,
    bytes: &[u8],
    header: &BatchHeader,
) -> Result<(usize, u32), Error> {
    let mut at = BATCH_HEADER as usize;
    for nth in 0..header.frames {
        let lsn = header.first_lsn + u64::from(nth);
        let Some(frame) = frame_at(bytes, at) else {
            return Ok((at, nth));
        };
        let valid = format::frame_is_valid(frame, lsn, file.key());
        if !valid.map_err(|unreadable| unreadable.into_error(file.path()))? {
            return Ok((at, nth));
        }
        at += frame.len();
    }
    Ok((at, header.frames))
}

fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let header = bytes.get(at..at + FRAME_HEADER as usize)?;
    let length = usize::try_from(format::frame_length(header)?).ok()?;
    bytes.get(at..at.checked_add(length)?)
}

impl<'a> Seen<'a> {
    /// The good frames, in order.
    pub(super) fn frames(
        &self,
        file: &SegmentFile,
    ) -> impl Iterator<Item = FrameRef<'a>> + use<'a> {
        let (bytes, first, start, segment) = (self.bytes, self.header.first_lsn, self.at, file.id);
        let mut at = BATCH_HEADER as usize;
        (0..u64::from(self.frames)).map_while(move |nth| {
            let frame = frame_at(bytes, at)?;
            let place = start + at as u64;
            at += frame.len();
            Some(FrameRef::new(first + nth, segment, place, frame))
        })
    }
}
