//! Walking the batches of a log from front to back, and finding where it ends (steps 2 and 3 of Recovery in `docs/formats/log.md`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::format::{
    self, BATCH_HEADER, BLOCK, BatchHeader, ENTRY_HEADER, FRAME_HEADER, block_up, u32_at,
};
use super::segment::SegmentFile;
use super::window::Window;
use super::{Location, Lsn, SegmentId, Visitor};
use crate::Error;
use crate::planted::{self, Plant};

/// Of a segment that seems never to have been used, only so much is searched for proof of the contrary: had anything in it been confirmed,
/// its first batch would have been.
const SPARE_SEARCH: u64 = 256 * 1024;

/// One frame of the log, verified.
#[derive(Debug, Clone, Copy)]
pub struct FrameRef<'a> {
    lsn: u64,
    segment: SegmentId,
    /// Where `bytes` are in the segment.
    at: u64,
    bytes: &'a [u8],
}

/// One entry of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// What the body is.
    pub kind: u8,
    /// Flags of the kind.
    pub flags: u8,
    /// The body.
    pub body: &'a [u8],
    /// Where the body is, for [`Wal::read`](super::Wal::read) later on.
    pub location: Location,
}

/// The entries of a frame, in order.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    segment: SegmentId,
    at: u64,
    rest: &'a [u8],
}

impl<'a> FrameRef<'a> {
    /// `bytes` are a valid frame that lies at byte `at` of the segment.
    pub(super) fn new(lsn: u64, segment: SegmentId, at: u64, bytes: &'a [u8]) -> Self {
        FrameRef {
            lsn,
            segment,
            at,
            bytes,
        }
    }

    /// The frame's number.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn)
    }

    /// How many entries it has, at least one.
    pub fn len(&self) -> usize {
        u32_at(self.bytes, 20) as usize
    }

    /// Whether it has no entries; it always has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its entries, in order.
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            segment: self.segment,
            at: self.at + FRAME_HEADER,
            rest: &self.bytes[FRAME_HEADER as usize..],
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = EntryRef<'a>;

    fn next(&mut self) -> Option<EntryRef<'a>> {
        let (head, after) = self.rest.split_at_checked(ENTRY_HEADER as usize)?;
        let len = u32_at(head, 4);
        let (body, rest) = after.split_at_checked(len as usize)?;
        let at = u32::try_from(self.at + ENTRY_HEADER).ok()?;
        self.at += ENTRY_HEADER + u64::from(len);
        self.rest = rest;
        Some(EntryRef {
            kind: head[0],
            flags: head[1],
            body,
            location: Location {
                segment: self.segment,
                at,
                len,
            },
        })
    }
}

/// A listed segment, opened.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: Arc<SegmentFile>,
    /// Base and previous LSN; `None` if it was never used.
    pub(super) used: Option<(u64, u64)>,
}

/// A batch that may exist only in the page cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unproven {
    pub(super) index: usize,
    pub(super) at: u64,
    pub(super) len: u64,
    /// The LSN that must have been synced for this to be durable: its last, or for a marker the next after it.
    lsn: u64,
}

/// Where the log ends.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Index of the segment that the walk began in.
    pub(super) start: usize,
    /// Index of the last segment that holds any of it.
    pub(super) index: usize,
    /// The byte after the last good frame, or the block where the next batch should be.
    pub(super) at: u64,
    pub(super) last: u64,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) unproven: VecDeque<Unproven>,
}

/// What lies behind the end.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    /// The highest LSN that a batch there says was durable.
    pub(super) synced: u64,
    /// Blocks of the end's segment that start with a valid batch header.
    pub(super) headers: Vec<u64>,
}

/// One walk over a log.
pub(super) struct Walk<'a> {
    segments: &'a [Found],
    /// Frames up to here are in the checkpoint.
    after: u64,
    visitor: &'a mut dyn Visitor,
    end: End,
}

enum Batch {
    Whole,
    /// The frame that should be at this byte is bad.
    CutAt(u64),
}

impl<'a> Walk<'a> {
    /// Walks from the segment `start`, and shows every frame after LSN `after`.
    pub(super) fn run(
        segments: &'a [Found],
        start: usize,
        after: u64,
        visitor: &'a mut dyn Visitor,
    ) -> Result<End, Error> {
        let (_, prev) = segments[start]
            .used
            .expect("a walk starts in a segment that was used");
        let end = End {
            start,
            index: start,
            at: BLOCK,
            last: prev,
            ..End::default()
        };
        let mut walk = Walk {
            segments,
            after,
            visitor,
            end,
        };
        for (index, found) in segments.iter().enumerate().skip(start) {
            match found.used {
                Some((_, prev)) if prev == walk.end.last => walk.segment(index)?,
                Some(_) => break,
                None => {}
            }
        }
        Ok(walk.end)
    }

    fn segment(&mut self, index: usize) -> Result<(), Error> {
        let segments = self.segments;
        let file = &*segments[index].file;
        let mut window = Window::new(file);
        self.end.index = index;
        self.end.at = BLOCK;
        // Where to look for a batch; differs from the end after a bad frame inside one.
        let mut next = BLOCK;
        while let Some(header) = batch_header(&mut window, file, next)? {
            if header.prev_lsn != self.end.last && !planted::is(Plant::StaleFramesAccepted) {
                break;
            }
            let at = next;
            while self
                .end
                .unproven
                .front()
                .is_some_and(|batch| batch.lsn <= header.synced_lsn)
            {
                self.end.unproven.pop_front();
            }
            let frames = self.end.frames;
            let batch = self.batch(&mut window, file, at, header)?;
            (self.end.at, next) = match batch {
                Batch::Whole => (
                    block_up(at + u64::from(header.length)),
                    block_up(at + u64::from(header.length)),
                ),
                // Not one frame of it is good: as if it were not there.
                Batch::CutAt(_) if self.end.frames == frames => (at, at + BLOCK),
                Batch::CutAt(cut) => (cut, block_up(cut)),
            };
            let len = self.end.at.min(at + u64::from(header.length)) - at;
            if len > 0 {
                let lsn = self.end.last + u64::from(header.frames == 0);
                self.end.unproven.push_back(Unproven {
                    index,
                    at,
                    len,
                    lsn,
                });
            }
        }
        Ok(())
    }

    /// Verifies and shows the frames of the batch at `at`.
    fn batch(
        &mut self,
        window: &mut Window<'_>,
        file: &SegmentFile,
        at: u64,
        header: BatchHeader,
    ) -> Result<Batch, Error> {
        let end = at + u64::from(header.length);
        let mut cursor = at + BATCH_HEADER;
        for nth in 0..header.frames {
            let lsn = header.first_lsn + u64::from(nth);
            let Some(length) = frame_length(window, cursor, end)? else {
                return Ok(Batch::CutAt(cursor));
            };
            let Some(bytes) = window.get(cursor, length)? else {
                return Ok(Batch::CutAt(cursor));
            };
            let valid = format::frame_is_valid(bytes, lsn, file.key());
            if !valid.map_err(|unreadable| unreadable.into_error(file.path()))? {
                return Ok(Batch::CutAt(cursor));
            }
            if lsn > self.after {
                self.visitor.frame(&FrameRef {
                    lsn,
                    segment: file.id,
                    at: cursor,
                    bytes,
                })?;
                self.end.bytes += length;
            }
            self.end.frames += 1;
            self.end.last = lsn;
            cursor += length;
        }
        Ok(if cursor == end {
            Batch::Whole
        } else {
            Batch::CutAt(cursor)
        })
    }
}

fn frame_length(window: &mut Window<'_>, at: u64, end: u64) -> Result<Option<u64>, Error> {
    if at + FRAME_HEADER > end {
        return Ok(None);
    }
    let header = window.get(at, FRAME_HEADER)?;
    Ok(header
        .and_then(format::frame_length)
        .filter(|length| at + length <= end))
}

pub(super) fn batch_header(
    window: &mut Window<'_>,
    file: &SegmentFile,
    at: u64,
) -> Result<Option<BatchHeader>, Error> {
    let Some(bytes) = window.get(at, BATCH_HEADER)? else {
        return Ok(None);
    };
    BatchHeader::decode(bytes, file.seed, at, file.size)
        .map_err(|unreadable| unreadable.into_error(file.path()))
}

/// Looks at every block behind the end of the log.
pub(super) fn search_beyond(segments: &[Found], end: &End) -> Result<Beyond, Error> {
    let mut beyond = Beyond::default();
    for (index, found) in segments.iter().enumerate().skip(end.index) {
        let from = if index == end.index {
            block_up(end.at)
        } else {
            BLOCK
        };
        let to = if found.used.is_some() {
            found.file.size
        } else {
            SPARE_SEARCH.min(found.file.size)
        };
        let mut window = Window::new(&found.file);
        for at in (from..to).step_by(BLOCK as usize) {
            if let Some(header) = batch_header(&mut window, &found.file, at)? {
                beyond.synced = beyond.synced.max(header.synced_lsn);
                if index == end.index {
                    beyond.headers.push(at);
                }
            }
        }
    }
    Ok(beyond)
}
