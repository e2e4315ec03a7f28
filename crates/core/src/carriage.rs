//! How an envelope travels. *Binary*: one native header a field (`ce_id`, `ce_type`, …). *Packed*: one header that holds
//! all fields as JSON (SQS, MQTT 3). *Structured*: a CloudEvents JSON body (Kinesis, ZeroMQ). Readers accept all three.

mod binary;
mod structured;

use bytes::Bytes;

use crate::envelope::{Envelope, Outgoing};
use crate::text::Text;

pub use binary::{CE_PREFIX, PACKED_HEADER};
pub use structured::STRUCTURED_CONTENT_TYPE;

/// A message as an engine stores it: an optional key, headers, a body. Nothing in it is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// The engine's own key (partition key, routing key), if it has one.
    pub key: Option<Bytes>,
    /// Header names (any bytes: names that are not UTF-8 are an error, never a panic) and values.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The body.
    pub body: Bytes,
}

impl Raw {
    /// The bytes that it takes, roughly as an engine counts them.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.body.len() + self.key.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Which form a writer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// One native header a field.
    Binary,
    /// One header that holds all fields.
    Packed,
    /// Envelope and payload in the body.
    Structured,
}

/// Why a stored message has no readable envelope. Such a message becomes a failure record with its raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// No form of envelope was found.
    #[error(
        "the message carries no CloudEvents envelope: no `ce_id` header, no packed header, no structured body"
    )]
    NoEnvelope,
    /// A field that every message has is not there.
    #[error("the envelope has no `{0}`")]
    Missing(&'static str),
    /// A field does not hold what its name promises.
    #[error("the envelope's `{field}` is not readable: {why}")]
    Field {
        /// The CloudEvents name.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A header name is not UTF-8.
    #[error("a header name is not UTF-8: {0}")]
    HeaderName(String),
    /// A structured or packed envelope is not JSON of the right shape.
    #[error("the {form} envelope is not readable: {why}")]
    Json {
        /// `structured` or `packed`.
        form: &'static str,
        /// What the reader said.
        why: String,
    },
}

/// Writes a message in one of the three forms.
#[must_use]
pub fn write(message: &Outgoing, carriage: Carriage) -> Raw {
    match carriage {
        Carriage::Binary => binary::write(&message.envelope, &message.payload),
        Carriage::Packed => binary::write_packed(&message.envelope, &message.payload),
        Carriage::Structured => structured::write(&message.envelope, &message.payload),
    }
}

/// Reads a message in any of the three forms.
///
/// # Errors
/// There is no envelope, or it is not well formed. Never panics, whatever the bytes are.
pub fn read(raw: &Raw) -> Result<(Envelope, Bytes), Malformed> {
    if binary::find(raw, PACKED_HEADER).is_some() {
        return binary::read_packed(raw);
    }
    if binary::find(raw, "ce_id").is_some() {
        return binary::read(raw);
    }
    if structured::looks_structured(raw) {
        return structured::read(raw);
    }
    Err(Malformed::NoEnvelope)
}

fn utf8(field: &'static str, bytes: &Bytes) -> Result<Text, Malformed> {
    Text::from_utf8(bytes.clone()).map_err(|e| Malformed::Field {
        field,
        why: e.to_string(),
    })
}

#[cfg(test)]
mod tests;
