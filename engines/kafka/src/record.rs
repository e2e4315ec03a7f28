//! A Kafka record as a stored message and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use postrider_core::carriage::{Carriage, Raw, write};
use postrider_core::clock::Timestamp;
use postrider_core::envelope::Outgoing;
use postrider_core::source::Record;
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

/// What Kafka adds to a record's own bytes, at most.
pub(crate) const OVERHEAD: usize = 128;

/// Reads a record. Its offset is its position.
pub(crate) fn read(message: &BorrowedMessage<'_>) -> Record {
    let raw = Raw {
        key: message.key().map(Bytes::copy_from_slice),
        headers: headers(message),
        body: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    };
    let position = u64::try_from(message.offset()).unwrap_or_default();
    let stored_at = message.timestamp().to_millis();
    let stored_at = stored_at.and_then(|ms| u64::try_from(ms).ok());
    Record::read(raw, position, stored_at.map(Timestamp))
}

/// The driver panics at a header name that is not UTF-8, and has no other way to read it: such a record has this name instead, which makes it an
/// unreadable message with its key and body, never a dead consumer.
fn headers(message: &BorrowedMessage<'_>) -> Vec<(Bytes, Bytes)> {
    let Some(headers) = message.headers() else {
        return Vec::new();
    };
    let read = |index| {
        let header = headers.get(index);
        let value = header.value.map(Bytes::copy_from_slice);
        (
            Bytes::copy_from_slice(header.key.as_bytes()),
            value.unwrap_or_default(),
        )
    };
    let all = || (0..headers.count()).map(read).collect();
    catch_unwind(AssertUnwindSafe(all))
        .unwrap_or_else(|_| vec![(Bytes::from_static(b"\xff"), Bytes::new())])
}

/// A message on its way out.
pub(crate) struct Outbound {
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: OwnedHeaders,
    pub(crate) body: Bytes,
    pub(crate) size: usize,
}

/// Envelope fields as headers (`ce_…`), the key as the record's key, so that a key stays in its partition.
pub(crate) fn outbound(message: &Outgoing) -> Outbound {
    let raw = write(message, Carriage::Binary);
    let size = raw.size() + 16 * raw.headers.len() + OVERHEAD;
    let mut headers = OwnedHeaders::new_with_capacity(raw.headers.len());
    for (name, value) in &raw.headers {
        let name = String::from_utf8_lossy(name);
        let value: Option<&[u8]> = Some(value);
        headers = headers.insert(Header { key: &name, value });
    }
    let key = message.envelope.key.as_ref();
    Outbound {
        key: key.map(|key| key.as_bytes().clone()),
        headers,
        body: raw.body,
        size,
    }
}
