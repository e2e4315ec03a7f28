//! The limits of a log.

use crate::Error;

use super::format::{BATCH_HEADER, BLOCK, FRAME_MIN};

/// The limits of a log, each with its unit in its name. All may change between two openings of the same directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalOptions {
    /// Sizes of the first, the second, and every further segment, in bytes; multiples of 4096, not shrinking, 16 KiB to 2 GiB. A segment is
    /// larger where one frame needs it, and smaller, down to the size of the first, where the disk has no room for more.
    /// Default 1, 8 and 128 MiB.
    pub segment_bytes: [u64; 3],
    /// The largest frame, all its entries together. Default 32 MiB, at most 1 GiB.
    pub frame_bytes_max: u64,
    /// Bytes that may wait to be written before [`Error::Overloaded`]; a single frame is taken even when larger. Default 32 MiB.
    pub staged_bytes_max: u64,
    /// Written batches kept in memory for readers at the tail. Default 16 MiB.
    pub tail_bytes_max: u64,
    /// The end of a segment that only [`Wal::append_reserved`](super::Wal::append_reserved) may use while there is no space for the next
    /// one, in blocks of 4 KiB, of which each batch takes at least one; at most an eighth of the segment counts. Default 16 MiB.
    pub reserve_bytes: u64,
    /// Log written since the last checkpoint before [`Wal::needs_checkpoint`](super::Wal::needs_checkpoint). Default 64 MiB.
    pub checkpoint_bytes: u64,
    /// Freed segments kept for reuse. Default 2.
    pub pool_segments_max: usize,
    /// The most that all segment files may take together, those kept for reuse included; `None`: as much as the disk gives. What frees space
    /// may still make two segments where others are refused with [`Error::Full`]. Checkpoints come on top. At least six of the largest
    /// segments. Default `None`.
    pub disk_bytes_max: Option<u64>,
    /// Zeros written by one [`PrepareJob`](super::PrepareJob). Default 1 MiB.
    pub fill_bytes: u64,
}

const MIB: u64 = 1 << 20;

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            segment_bytes: [MIB, 8 * MIB, 128 * MIB],
            frame_bytes_max: 32 * MIB,
            staged_bytes_max: 32 * MIB,
            tail_bytes_max: 16 * MIB,
            reserve_bytes: 16 * MIB,
            checkpoint_bytes: 64 * MIB,
            pool_segments_max: 2,
            disk_bytes_max: None,
            fill_bytes: MIB,
        }
    }
}

impl WalOptions {
    /// Refuses options that contradict each other.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let refuse = |reason: &str| {
            Err(Error::Options {
                reason: reason.to_owned(),
            })
        };
        let [first, second, third] = self.segment_bytes;
        if first < 4 * BLOCK || third > 2 << 30 || first > second || second > third {
            return refuse("segment_bytes must not shrink and lie between 16 KiB and 2 GiB");
        }
        if self.segment_bytes.iter().any(|size| size % BLOCK != 0) {
            return refuse("segment_bytes must be multiples of 4096");
        }
        if self.frame_bytes_max < FRAME_MIN || self.frame_bytes_max > 1 << 30 {
            return refuse("frame_bytes_max must lie between 44 bytes and 1 GiB");
        }
        if self.fill_bytes < BLOCK || self.checkpoint_bytes == 0 {
            return refuse("fill_bytes must be at least 4096 and checkpoint_bytes at least 1");
        }
        if self.disk_bytes_max.is_some_and(|max| max < 6 * third) {
            return refuse("disk_bytes_max must be at least six of the largest segments");
        }
        Ok(())
    }

    /// The size of segment number `id`, which must hold one frame of `frame` bytes (0: any).
    pub(crate) fn segment_size(&self, id: u64, frame: u64) -> u64 {
        let class = usize::try_from(id.saturating_sub(1)).map_or(2, |nth| nth.min(2));
        let needed = BLOCK + BATCH_HEADER + frame;
        self.segment_bytes[class].max(needed.next_multiple_of(BLOCK))
    }

    /// The end of a segment of `size` bytes that is kept for settles.
    pub(crate) fn reserve(&self, size: u64) -> u64 {
        self.reserve_bytes.min(size / 8).next_multiple_of(BLOCK)
    }
}
