//! Between the vocabulary of core and the records of the log.

use bytes::Bytes;
use postrider_core::capability::Durability;
use postrider_core::carriage::{self, Carriage, Raw};
use postrider_core::clock::Timestamp;
use postrider_core::code::Code;
use postrider_core::envelope::HEADERS_BYTES_MAX;
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::message::Key;
use postrider_core::settle::LeaseToken;
use postrider_core::source::Record;
use postrider_log as log;

/// Bits of a lease token's position that hold the offset; the rest names the subscription, so that a commit over several
/// subscriptions finds its way back.
const OFFSET_BITS: u32 = 44;
/// The first subscription number that no longer fits beside it.
pub(crate) const SUBSCRIPTIONS_MAX: u32 = 1 << (u64::BITS - OFFSET_BITS);

/// A lease of one subscription, as core carries it.
pub(crate) fn token(sub: log::SubId, offset: log::Offset, token: log::LeaseToken) -> LeaseToken {
    assert!(
        sub.0 < SUBSCRIPTIONS_MAX,
        "a source is opened only where its number fits"
    );
    assert!(
        offset >> OFFSET_BITS == 0,
        "a stream takes at most 2^44 messages in its life"
    );
    let position = (u64::from(sub.0) << OFFSET_BITS) | offset;
    LeaseToken {
        position,
        generation: token.0,
    }
}

/// The subscription, the offset and the log's token of a lease.
pub(crate) fn untoken(token: &LeaseToken) -> (log::SubId, log::Offset, log::LeaseToken) {
    let sub = u32::try_from(token.position >> OFFSET_BITS).unwrap_or(u32::MAX);
    let offset = token.position & ((1 << OFFSET_BITS) - 1);
    (log::SubId(sub), offset, log::LeaseToken(token.generation))
}

/// A message as the log stores it, checked against the limits before anything is staged.
pub(crate) fn record_in(message: &Outgoing, bytes_max: usize) -> Result<log::RecordIn, Fault> {
    let raw = carriage::write(message, Carriage::Binary);
    check_limits(&raw, bytes_max)?;
    let envelope = &message.envelope;
    Ok(log::RecordIn {
        id: *envelope.id.as_bytes(),
        deliver_at_ms: envelope.deliver_at.map_or(0, Timestamp::millis),
        expires_at_ms: envelope.expires_at.map_or(0, Timestamp::millis),
        ..raw_in(raw)
    })
}

/// The same bytes as a record without identity and times.
pub(crate) fn raw_in(raw: Raw) -> log::RecordIn {
    let headers = raw.headers.into_iter();
    log::RecordIn {
        key: raw.key,
        value: Some(raw.body),
        headers: headers
            .map(|(name, value)| log::Header::new(name, value))
            .collect(),
        ..log::RecordIn::default()
    }
}

fn check_limits(raw: &Raw, bytes_max: usize) -> Result<(), Fault> {
    let key = raw.key.as_ref().map_or(0, Bytes::len);
    if key > Key::BYTES_MAX {
        let text = format!(
            "the key has {key} bytes, at most {} are taken: use a shorter key",
            Key::BYTES_MAX
        );
        return Err(bad_envelope(text));
    }
    let headers: usize = raw.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    if headers > HEADERS_BYTES_MAX {
        let text = format!(
            "the headers have {headers} bytes, at most {HEADERS_BYTES_MAX} are taken: move data into the payload"
        );
        return Err(bad_envelope(text));
    }
    if raw.size() > bytes_max {
        let text = format!(
            "the message has {} bytes, at most {bytes_max} are taken: send less, or a reference to data kept elsewhere",
            raw.size()
        );
        return Err(
            Fault::new(FaultKind::TooLarge, Advice::FixMessage, text).code(Code::PUBLISH_TOO_LARGE)
        );
    }
    Ok(())
}

fn bad_envelope(text: String) -> Fault {
    Fault::new(FaultKind::TooLarge, Advice::FixMessage, text).code(Code::PUBLISH_BAD_ENVELOPE)
}

/// A stored record as its original bytes; shares the buffer that was read.
pub(crate) fn raw_of(record: &log::Record) -> Raw {
    Raw {
        key: record.key.clone(),
        headers: record
            .headers
            .iter()
            .map(|header| (header.name, header.value.unwrap_or_default()))
            .collect(),
        body: record.value.clone().unwrap_or_default(),
    }
}

/// A stored record as a source hands it over.
pub(crate) fn record_of(record: &log::Record) -> Record {
    let stored_at = Timestamp(record.appended_at_ms);
    Record::read(raw_of(record), record.offset, Some(stored_at))
}

/// The log's level of a durability. `None`: it takes more than one machine.
pub(crate) fn level_of(durability: Durability) -> Option<log::Level> {
    match durability {
        Durability::Memory => Some(log::Level::Memory),
        Durability::Os => Some(log::Level::Os),
        Durability::Interval => Some(log::Level::Interval(INTERVAL)),
        Durability::Flushed => Some(log::Level::Fsync),
        _ => None,
    }
}

/// How often a stream of level `interval` is synced: what a power cut may lose of it.
pub(crate) const INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);

/// What a confirmation at this level survives.
pub(crate) fn durability_of(level: log::Level) -> Durability {
    match level {
        log::Level::Memory => Durability::Memory,
        log::Level::Os => Durability::Os,
        log::Level::Interval(_) => Durability::Interval,
        log::Level::Fsync => Durability::Flushed,
    }
}
