//! What the disk can do at all: a bare loop of a write and a sync.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

const FILE: u64 = 64 << 20;
/// Groups begin at a block, as those of a log that never writes a block twice.
const BLOCK: u64 = 4096;

/// A file that was filled with zeros before, as segments of the log are.
#[derive(Debug)]
pub(super) struct Raw {
    file: File,
    bytes: Vec<u8>,
    at: u64,
}

impl Raw {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let file = File::create_new(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self {
            file,
            bytes: vec![7; 4 << 20],
            at: 0,
        })
    }

    /// Writes so many bytes and syncs them.
    pub(super) fn group(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = &self.bytes[..bytes.clamp(1, self.bytes.len())];
        self.file.write_all_at(bytes, self.at)?;
        self.file.sync_data()?;
        let next = self.at + (bytes.len() as u64).next_multiple_of(BLOCK);
        self.at = if next + (4 << 20) > FILE { 0 } else { next };
        Ok(())
    }

    /// Groups per second.
    pub(super) fn groups_per_s(&mut self, bytes: usize, time: Duration) -> io::Result<f64> {
        let start = Instant::now();
        let mut count = 0u32;
        while start.elapsed() < time {
            self.group(bytes)?;
            count += 1;
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    }

    /// How long each of some groups took, in µs.
    pub(super) fn each_us(&mut self, bytes: usize, time: Duration) -> io::Result<Vec<f64>> {
        let start = Instant::now();
        let mut each = Vec::new();
        while start.elapsed() < time {
            let one = Instant::now();
            self.group(bytes)?;
            each.push(one.elapsed().as_secs_f64() * 1e6);
        }
        Ok(each)
    }
}
