//! Messages that cannot be read until their reader is mended.

use serde::{Deserialize, Serialize};

std::thread_local! {
    /// Garbled messages cannot be read while this is set: what a deploy of a mended reader would clear.
    static READER_BROKEN: std::cell::Cell<bool> = const { std::cell::Cell::new(true) };
}

/// Mends the reader, or breaks it, and gives what it was.
pub fn break_reader(broken: bool) -> bool {
    READER_BROKEN.replace(broken)
}

/// Reads as an error while the reader is broken.
#[derive(Clone, Copy, Debug)]
pub struct Garbled(pub bool);

impl Serialize for Garbled {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(self.0)
    }
}

impl<'de> Deserialize<'de> for Garbled {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let garbled = bool::deserialize(deserializer)?;
        if garbled && READER_BROKEN.get() {
            return Err(serde::de::Error::custom("garbled (a test)"));
        }
        Ok(Self(garbled))
    }
}
