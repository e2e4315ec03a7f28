//! Reading a segment from front to back through a buffer.

use super::segment::SegmentFile;
use crate::Error;

const READ_AHEAD: u64 = 512 * 1024;

/// A buffered view of a segment file.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a SegmentFile,
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a SegmentFile) -> Window<'a> {
        Window {
            file,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// The `len` bytes at `at`; `None` if the segment ends before.
    pub(super) fn get(&mut self, at: u64, len: u64) -> Result<Option<&[u8]>, Error> {
        let Some(left) = self.file.size.checked_sub(at).filter(|left| *left >= len) else {
            return Ok(None);
        };
        let held = self.start..=self.start + self.buffer.len() as u64;
        if !held.contains(&at) || at + len > *held.end() {
            let wanted = len.max(READ_AHEAD).min(left) as usize;
            self.buffer.resize(wanted, 0);
            let count = self
                .file
                .file
                .read_at(&mut self.buffer, at)
                .map_err(Error::io("reading", self.file.path()))?;
            if count < wanted {
                let reason = format!(
                    "it ends at byte {}, not {}",
                    at + count as u64,
                    self.file.size
                );
                return Err(Error::CorruptSegment {
                    file: self.file.path(),
                    reason,
                });
            }
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(Some(&self.buffer[from..from + len as usize]))
    }
}
