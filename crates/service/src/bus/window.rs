//! The publisher's window: how many messages and bytes may await confirmation.

use postrider_core::code::Code;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

use crate::error::{Error, Result};

/// Bytes are counted in blocks of this size, so that their number fits a semaphore.
const BLOCK_BYTES: usize = 64;

/// Room for messages and bytes that await confirmation.
pub(super) struct Window {
    messages: Semaphore,
    blocks: Semaphore,
    messages_max: u32,
    blocks_max: u32,
}

/// Room that is taken until it is dropped.
pub(crate) struct Room<'a> {
    _messages: SemaphorePermit<'a>,
    _blocks: SemaphorePermit<'a>,
}

impl Window {
    /// A window of at least one message and one block.
    pub(super) fn new(messages_max: usize, bytes_max: usize) -> Self {
        let bound =
            |n: usize| u32::try_from(n.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let (messages_max, blocks_max) = (bound(messages_max), bound(bytes_max / BLOCK_BYTES));
        Self {
            messages: Semaphore::new(messages_max as usize),
            blocks: Semaphore::new(blocks_max as usize),
            messages_max,
            blocks_max,
        }
    }

    /// What is larger than the window takes all of it.
    fn need(&self, messages: usize, bytes: usize) -> (u32, u32) {
        let clip = |n: usize, max: u32| u32::try_from(n).unwrap_or(u32::MAX).clamp(1, max);
        let blocks = clip(bytes.div_ceil(BLOCK_BYTES), self.blocks_max);
        (clip(messages, self.messages_max), blocks)
    }

    /// Waits for room, first come first served.
    pub(super) async fn wait(&self, messages: usize, bytes: usize) -> Room<'_> {
        let (messages, blocks) = self.need(messages, bytes);
        let open = "the window's semaphores are never closed";
        // ORDER: always messages before blocks, so that two that wait cannot hold what the other needs.
        Room {
            _messages: self.messages.acquire_many(messages).await.expect(open),
            _blocks: self.blocks.acquire_many(blocks).await.expect(open),
        }
    }

    /// Takes room for one message, if there is room now.
    ///
    /// # Errors
    /// `PUBLISH_OVERLOADED`.
    pub(super) fn take(&self, bytes: usize) -> Result<Room<'_>> {
        let (messages, blocks) = self.need(1, bytes);
        let full = |_: TryAcquireError| self.overloaded();
        Ok(Room {
            _messages: self.messages.try_acquire_many(messages).map_err(full)?,
            _blocks: self.blocks.try_acquire_many(blocks).map_err(full)?,
        })
    }

    fn overloaded(&self) -> Error {
        let (messages, bytes) = self.in_flight();
        let what = format!(
            "{messages} messages and {bytes} bytes await confirmation; the window is {} messages and {} bytes",
            self.messages_max,
            self.blocks_max as usize * BLOCK_BYTES
        );
        Error::new(Code::PUBLISH_OVERLOADED, what).retriable()
    }

    /// Messages and bytes (in blocks of 64) that await confirmation.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        let used = |max: u32, semaphore: &Semaphore| max as usize - semaphore.available_permits();
        let blocks = used(self.blocks_max, &self.blocks);
        (
            used(self.messages_max, &self.messages),
            blocks * BLOCK_BYTES,
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_window_says_overloaded_and_room_comes_back() {
        let window = Window::new(2, 1024);
        let first = window.take(100).unwrap();
        let _second = window.take(100).unwrap();
        let error = window.take(100).err().unwrap();
        assert_eq!(error.code(), Code::PUBLISH_OVERLOADED);
        assert!(error.is_retriable());
        drop(first);
        assert!(window.take(100).is_ok());
    }

    #[test]
    fn bytes_are_bounded_too_and_a_giant_goes_alone() {
        let window = Window::new(100, 1024);
        let giant = window.take(1 << 20).unwrap();
        assert_eq!(window.in_flight(), (1, 1024));
        assert!(window.take(1).is_err());
        drop(giant);
        let _most = window.take(1000).unwrap();
        assert!(window.take(100).is_err());
    }

    #[tokio::test]
    async fn publishers_wait_for_room() {
        let window = Window::new(1, 1024);
        let held = window.take(1).unwrap();
        let mut waiting = Box::pin(window.wait(1, 1));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(held);
        assert!(futures_util::poll!(waiting.as_mut()).is_ready());
    }
}
