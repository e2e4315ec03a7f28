//! How much more may come in: the window in messages and bytes, minus all that is in it, whatever its state.

use postrider_core::policy::Limits;
use postrider_core::source::Credit;

/// The window, and what was granted of it and not used yet.
#[derive(Debug)]
pub(crate) struct Window {
    messages_max: u32,
    bytes_max: u64,
    redrive_max: u32,
    throttled_max: u32,
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
    pub(crate) redriven: u32,
    /// Records that are being put back: until they are, no more are claimed, so that a key is claimed from its first record again.
    pub(crate) putting_back: u32,
    granted: Credit,
    granted_redrive: u32,
    said_anything: bool,
}

/// How far the tap is open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tap {
    Open,
    /// Retries wait for the budget: a quarter of the window.
    Throttled,
    Closed,
}

impl Window {
    pub(crate) fn new(limits: &Limits, redrive_max: u32) -> Self {
        Self {
            messages_max: limits.window_messages_max.max(1),
            bytes_max: limits.window_bytes_max.max(1),
            redrive_max,
            throttled_max: (limits.window_messages_max / 4).max(1),
            messages: 0,
            bytes: 0,
            redriven: 0,
            putting_back: 0,
            granted: Credit {
                messages: 0,
                bytes: 0,
            },
            granted_redrive: 0,
            said_anything: false,
        }
    }

    pub(crate) fn enter(&mut self, size: u64, redriven: bool) {
        if redriven {
            self.redriven += 1;
            self.granted_redrive = self.granted_redrive.saturating_sub(1);
            assert!(
                self.redriven <= self.redrive_max,
                "the driver claimed more records than it was granted"
            );
            return;
        }
        self.messages += 1;
        self.bytes += size;
        self.granted.messages = self.granted.messages.saturating_sub(1);
        self.granted.bytes = self.granted.bytes.saturating_sub(size);
        assert!(
            self.messages <= self.messages_max,
            "the driver took more messages than it was granted"
        );
    }

    /// A message of the source came and went at once.
    pub(crate) fn pass(&mut self, size: u64) {
        self.granted.messages = self.granted.messages.saturating_sub(1);
        self.granted.bytes = self.granted.bytes.saturating_sub(size);
    }

    pub(crate) fn leave(&mut self, size: u64, redriven: bool) {
        if redriven {
            assert!(self.redriven > 0, "a redriven record leaves once");
            self.redriven -= 1;
            return;
        }
        assert!(
            self.messages > 0 && self.bytes >= size,
            "a message leaves once"
        );
        self.messages -= 1;
        self.bytes -= size;
    }

    /// Less than a sixteenth of the window is left.
    pub(crate) fn nearly_full(&self) -> bool {
        self.messages_max - self.messages <= self.messages_max / 16
            || self.bytes_max.saturating_sub(self.bytes) <= self.bytes_max / 16
    }

    /// The credit to say, if it differs enough from what the driver has. Less is said at once, more in steps of an eighth of the window, and
    /// in smaller ones when little is left.
    pub(crate) fn regrant(&mut self, tap: Tap) -> Option<(Credit, u32)> {
        let (limit, open) = match tap {
            Tap::Open => (self.messages_max, true),
            Tap::Throttled => (self.throttled_max, true),
            Tap::Closed => (0, false),
        };
        let bytes = if open {
            self.bytes_max.saturating_sub(self.bytes)
        } else {
            0
        };
        let messages = if bytes == 0 {
            0
        } else {
            limit.saturating_sub(self.messages)
        };
        let redrive = if open && self.putting_back == 0 {
            self.redrive_max - self.redriven
        } else {
            0
        };
        let step = |max: u64, target: u64| (max / 8).min(target / 2).max(1);
        let differs = |target: u64, granted: u64, max: u64| {
            target < granted || target - granted >= step(max, target)
        };
        let say = !self.said_anything
            || differs(
                u64::from(messages),
                u64::from(self.granted.messages),
                u64::from(self.messages_max),
            )
            || differs(bytes, self.granted.bytes, self.bytes_max)
            || differs(
                u64::from(redrive),
                u64::from(self.granted_redrive),
                u64::from(self.redrive_max),
            );
        if !say {
            return None;
        }
        self.said_anything = true;
        self.granted = Credit { messages, bytes };
        self.granted_redrive = redrive;
        Some((self.granted, redrive))
    }

    pub(crate) const fn messages_max(&self) -> u32 {
        self.messages_max
    }

    pub(crate) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(crate) const fn redrive_max(&self) -> u32 {
        self.redrive_max
    }
}
