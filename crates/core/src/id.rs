//! Message identity: UUIDv7 for a message that begins something, a derived UUIDv8 for one sent from a handler.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Timestamp;

/// The identity of a message: stable across every resend, retry, bridge and redrive. `(source, id)` is unique.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(Uuid);

impl MessageId {
    /// A new identity: UUIDv7 of a time and 74 bits of randomness.
    #[must_use]
    pub fn v7(at: Timestamp, random: [u64; 2]) -> Self {
        let mut bytes = [0u8; 10];
        bytes[..8].copy_from_slice(&random[0].to_be_bytes());
        bytes[8..].copy_from_slice(&random[1].to_be_bytes()[..2]);
        Self(uuid::Builder::from_unix_timestamp_millis(at.millis(), &bytes).into_uuid())
    }

    /// The identity of a message sent from a handler: a hash of what it came from, so that a re-run of the handler emits
    /// the same ids. `nth` counts the messages of the same type and key of one run. Each part is length-prefixed, so no two
    /// different inputs meet.
    #[must_use]
    pub fn derived(
        parent: MessageId,
        subscription: &str,
        kind: &str,
        key: Option<&[u8]>,
        nth: u32,
    ) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"postrider.id.1\0");
        hash.update(parent.0.as_bytes());
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(subscription.as_bytes());
        part(kind.as_bytes());
        part(if key.is_some() { b"k" } else { b"-" });
        part(key.unwrap_or_default());
        part(&nth.to_be_bytes());
        let digest = hash.finalize();
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(Uuid::new_v8(bytes))
    }

    /// The identity with these 16 bytes, as an engine stored it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads the text form of a UUID. Another system's id that is not a UUID becomes a UUIDv8 hash of it, so that
    /// foreign CloudEvents keep a stable identity.
    #[must_use]
    pub fn parse_or_hash(text: &str) -> Self {
        Uuid::parse_str(text).map_or_else(
            |_| {
                let mut hash = Sha256::new();
                hash.update(b"postrider.foreign-id.1\0");
                hash.update(text.as_bytes());
                let mut bytes = [0u8; 16];
                bytes.copy_from_slice(&hash.finalize()[..16]);
                Self(Uuid::new_v8(bytes))
            },
            Self,
        )
    }

    /// Reads the text form of a UUID, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// SHA-256 of a payload, cut to 16 bytes: the inbox keeps it, so that the same id with another body is an error with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyHash(pub [u8; 16]);

impl BodyHash {
    /// The hash of these bytes.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(&Sha256::digest(body)[..16]);
        Self(bytes)
    }
}

/// One running process of a service, new at each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub u64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parent() -> MessageId {
        MessageId::v7(Timestamp(1_763_735_534_123), [7, 9])
    }

    #[test]
    fn a_rerun_of_a_handler_derives_the_same_id() {
        let derive = |n| {
            MessageId::derived(
                parent(),
                "inventory@topic:shop.order",
                "reserved",
                Some(b"o-1"),
                n,
            )
        };
        assert_eq!(derive(0), derive(0));
        assert_ne!(derive(0), derive(1));
        assert_eq!(derive(0).0.get_version_num(), 8);
    }

    #[test]
    fn no_two_inputs_of_a_derived_id_meet() {
        let ids = [
            MessageId::derived(parent(), "ab", "c", None, 0),
            MessageId::derived(parent(), "a", "bc", None, 0),
            MessageId::derived(parent(), "ab", "c", Some(b""), 0),
            MessageId::derived(MessageId::v7(Timestamp(1), [0, 0]), "ab", "c", None, 0),
        ];
        for (i, a) in ids.iter().enumerate() {
            for b in &ids[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn new_ids_sort_by_time() {
        assert!(MessageId::v7(Timestamp(1), [u64::MAX, 0]) < MessageId::v7(Timestamp(2), [0, 0]));
        assert_eq!(parent().0.get_version_num(), 7);
    }

    #[test]
    fn a_foreign_id_keeps_a_stable_identity() {
        assert_eq!(
            MessageId::parse_or_hash("A-17"),
            MessageId::parse_or_hash("A-17")
        );
        let id = parent();
        assert_eq!(MessageId::parse_or_hash(&id.to_string()), id);
    }
}
