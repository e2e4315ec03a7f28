//! Blocks that were read or written lately, checked once, by the bytes they take.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Error;
use crate::batch::Block;
use crate::entry::DATA_HEAD;
use crate::ids::IntMap;
use crate::wal::{Location, Wal};

/// A first-in, first-out cache: tail readers find what was just appended, catch-up readers read a block once.
#[derive(Debug)]
pub(crate) struct Cache {
    blocks: IntMap<(u64, u32), Arc<Block>>,
    order: VecDeque<(u64, u32)>,
    bytes: usize,
    bytes_max: usize,
}

fn key(location: Location) -> (u64, u32) {
    (location.segment.0, location.at)
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Cache {
            blocks: IntMap::default(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(crate) fn put(&mut self, location: Location, block: Arc<Block>) {
        self.bytes += block.weight();
        if let Some(before) = self.blocks.insert(key(location), block) {
            self.bytes -= before.weight();
        } else {
            self.order.push_back(key(location));
        }
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(block) = self.blocks.remove(&oldest) {
                self.bytes -= block.weight();
            }
        }
    }

    /// The block of a DATA entry, from memory or from the log; then its checksum was verified.
    pub(crate) fn get(&mut self, wal: &Wal, location: Location) -> Result<Arc<Block>, Error> {
        if let Some(block) = self.blocks.get(&key(location)) {
            return Ok(Arc::clone(block));
        }
        let block = Arc::new(Block::verify(wal.read(location)?, DATA_HEAD)?);
        self.put(location, Arc::clone(&block));
        Ok(block)
    }
}
