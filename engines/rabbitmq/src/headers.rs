//! Between messages of ours and messages of AMQP 0-9-1: CloudEvents in binary mode, fields as headers with the prefix of the CloudEvents binding
//! for AMQP. The one place that knows this prefix.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use postrider_core::carriage::{self, CE_PREFIX, Carriage, Raw};
use postrider_core::code::Code;
use postrider_core::envelope::{HEADERS_BYTES_MAX, Outgoing};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::message::Key;
use postrider_core::source::Record;

use crate::names::fnv1a;

/// What stands before a CloudEvents name. `cloudEvents:` means the same and is read too.
const PREFIX: &str = "cloudEvents_";
const PREFIX_READ: &str = "cloudEvents:";
/// The field that holds the key: AMQP has no key of its own.
const KEY: &str = "partitionkey";
const CONTENT_TYPE: &str = "content-type";
/// Headers that the server adds at a delivery; they are facts of it, not of the message.
const OF_THE_SERVER: [&str; 9] = [
    "x-delivery-count",
    "x-acquired-count",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// A message as AMQP carries it.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// Writes a message, checked against the limits before anything is sent.
///
/// # Errors
/// Over a limit, or with a header that AMQP cannot carry.
pub(crate) fn write(message: &Outgoing, bytes_max: usize) -> Result<Encoded, Fault> {
    let raw = carriage::write(message, Carriage::Binary);
    check(&raw, bytes_max)?;
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(short(&message.envelope.id.to_string())?)
        .with_type(cut(&message.envelope.message_type))
        .with_timestamp(message.envelope.time.millis() / 1000);
    if let Some(correlation) = &message.envelope.correlation_id {
        properties = properties.with_correlation_id(cut(correlation));
    }
    let mut table = Vec::with_capacity(raw.headers.len() + 1);
    for (name, value) in raw.headers {
        let name = std::str::from_utf8(&name).map_err(|_| bad("a header name is not UTF-8"))?;
        if name == CONTENT_TYPE {
            let value = std::str::from_utf8(&value).map_err(|_| bad("the content type"))?;
            properties = properties.with_content_type(short(value)?);
            continue;
        }
        let name = match name.strip_prefix(CE_PREFIX) {
            Some(field) => short(&format!("{PREFIX}{field}"))?,
            None if of_cloud_events(name).is_some() => {
                return Err(bad(&format!(
                    "the header `{name}` has the prefix of the envelope's own fields"
                )));
            }
            None => short(name)?,
        };
        table.push((name, value));
    }
    if let Some(key) = raw.key {
        table.push((short(&format!("{PREFIX}{KEY}"))?, key));
    }
    Ok(Encoded {
        properties: properties.with_headers(table_of(table)),
        body: raw.body,
    })
}

/// A name that stands more than once becomes a list.
fn table_of(pairs: Vec<(ShortString, Bytes)>) -> FieldTable {
    let mut table: std::collections::BTreeMap<ShortString, AMQPValue> = Default::default();
    for (name, value) in pairs {
        let value = AMQPValue::LongString(LongString::from(value.to_vec()));
        match table.get_mut(&name) {
            None => {
                table.insert(name, value);
            }
            Some(AMQPValue::FieldArray(list)) => list.push(value),
            Some(one) => {
                let first = std::mem::replace(one, AMQPValue::Void);
                *one = AMQPValue::FieldArray(FieldArray::from(vec![first, value]));
            }
        }
    }
    FieldTable::from(table)
}

/// Reads a message that was delivered. Never fails: what is no message of ours becomes a failure record with these bytes.
pub(crate) fn read(properties: &BasicProperties, body: Vec<u8>) -> Record {
    let raw = raw_of(properties, body);
    let mut record = Record::read(raw, 0, None);
    record.position = match &record.content {
        Ok((envelope, _)) => fnv1a(envelope.id.as_bytes()) >> 1,
        Err(_) => digest(&record.raw) >> 1,
    };
    record
}

/// A queue gives a message no number that lasts. This one says only "the same message": a failure record of an unreadable one is found by it.
fn digest(raw: &Raw) -> u64 {
    let mut bytes = Vec::with_capacity(raw.size() + 16 * raw.headers.len());
    for (name, value) in &raw.headers {
        bytes.extend_from_slice(&(name.len() as u64).to_be_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
        bytes.extend_from_slice(value);
    }
    bytes.extend_from_slice(&raw.body);
    fnv1a(&bytes)
}

fn raw_of(properties: &BasicProperties, body: Vec<u8>) -> Raw {
    let mut raw = Raw {
        key: None,
        headers: Vec::new(),
        body: Bytes::from(body),
    };
    if let Some(content_type) = properties.content_type() {
        let value = Bytes::from(content_type.to_string());
        raw.headers
            .push((Bytes::from_static(CONTENT_TYPE.as_bytes()), value));
    }
    let Some(table) = properties.headers() else {
        return raw;
    };
    for (name, value) in table {
        let name = name.as_str();
        if OF_THE_SERVER.contains(&name) {
            continue;
        }
        let values: Vec<Bytes> = match value {
            AMQPValue::FieldArray(list) => list.as_slice().iter().map(bytes_of).collect(),
            one => vec![bytes_of(one)],
        };
        match of_cloud_events(name) {
            Some(KEY) => raw.key = values.into_iter().next(),
            field => {
                let name = field.map_or_else(|| name.to_owned(), |f| format!("{CE_PREFIX}{f}"));
                let name = Bytes::from(name);
                raw.headers
                    .extend(values.into_iter().map(|value| (name.clone(), value)));
            }
        }
    }
    raw
}

fn of_cloud_events(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
        .or_else(|| name.strip_prefix(PREFIX_READ))
}

/// A value of any type as the bytes of its text; bytes and texts as they are.
fn bytes_of(value: &AMQPValue) -> Bytes {
    match value {
        AMQPValue::LongString(text) => Bytes::copy_from_slice(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => Bytes::copy_from_slice(bytes.as_slice()),
        AMQPValue::ShortString(text) => Bytes::from(text.to_string()),
        AMQPValue::Boolean(b) => Bytes::from(b.to_string()),
        AMQPValue::ShortShortInt(n) => Bytes::from(n.to_string()),
        AMQPValue::ShortShortUInt(n) => Bytes::from(n.to_string()),
        AMQPValue::ShortInt(n) => Bytes::from(n.to_string()),
        AMQPValue::ShortUInt(n) => Bytes::from(n.to_string()),
        AMQPValue::LongInt(n) => Bytes::from(n.to_string()),
        AMQPValue::LongUInt(n) => Bytes::from(n.to_string()),
        AMQPValue::LongLongInt(n) => Bytes::from(n.to_string()),
        AMQPValue::Float(n) => Bytes::from(n.to_string()),
        AMQPValue::Double(n) => Bytes::from(n.to_string()),
        AMQPValue::Timestamp(n) => Bytes::from(n.to_string()),
        AMQPValue::Void => Bytes::new(),
        // Nested tables and decimals of other systems: their text, so that nothing is dropped silently.
        other => Bytes::from(format!("{other:?}")),
    }
}

fn check(raw: &Raw, bytes_max: usize) -> Result<(), Fault> {
    let key = raw.key.as_ref().map_or(0, Bytes::len);
    if key > Key::BYTES_MAX {
        let most = Key::BYTES_MAX;
        return Err(bad(&format!(
            "the key has {key} bytes, at most {most} are taken: use a shorter key"
        )));
    }
    let headers: usize = raw.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    if headers > HEADERS_BYTES_MAX {
        return Err(bad(&format!(
            "the headers have {headers} bytes, at most {HEADERS_BYTES_MAX} are taken: move data into the payload"
        )));
    }
    if raw.size() > bytes_max {
        let text = format!(
            "the message has {} bytes, at most {bytes_max} are taken: send less, or a reference to data kept elsewhere",
            raw.size()
        );
        let fault = Fault::new(FaultKind::TooLarge, Advice::FixMessage, text);
        return Err(fault.code(Code::PUBLISH_TOO_LARGE));
    }
    Ok(())
}

fn short(text: &str) -> Result<ShortString, Fault> {
    ShortString::try_new(text).map_err(|_| {
        let start: String = text.chars().take(40).collect();
        bad(&format!(
            "`{start}…` has {} bytes where AMQP takes 255",
            text.len()
        ))
    })
}

/// A copy for tools; the whole stands in its header.
fn cut(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::from(&text[..end])
}

fn bad(text: &str) -> Fault {
    Fault::new(FaultKind::TooLarge, Advice::FixMessage, text).code(Code::PUBLISH_BAD_ENVELOPE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
