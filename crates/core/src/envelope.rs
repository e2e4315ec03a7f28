//! The envelope: CloudEvents 1.0 names around a payload. Delivery facts (attempt, position) are never in it.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::id::MessageId;
use crate::message::Key;
use crate::name::Destination;
use crate::text::Text;

/// The largest total of header names and values, in bytes.
pub const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// What is known of a message beside its payload. Field names are those of CloudEvents 1.0 and its extensions, in Rust's
/// spelling; the wire name stands in each field's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `id`: the idempotency identity.
    pub id: MessageId,
    /// `source`: the service that sent it.
    pub source: Text,
    /// `type`: the message type within its destination.
    pub message_type: Text,
    /// `schemaversion`: the version of the type, from 1.
    pub version: u32,
    /// `time`: when it was made; informational, never used for ordering.
    pub time: Timestamp,
    /// `datacontenttype`.
    pub content_type: Text,
    /// `dataschema`: a URI of the schema, where there is one.
    pub schema: Option<Text>,
    /// `subject`, as foreign CloudEvents carry it.
    pub subject: Option<Text>,
    /// `partitionkey`: messages of one topic and key are handled in order. Absent: unordered.
    pub key: Option<Key>,
    /// `sequence`: the version per key, by which a consumer can *detect* gaps and inversions.
    pub sequence: Option<u64>,
    /// `correlationid`: what conversation this belongs to; copied from message to message.
    pub correlation_id: Option<Text>,
    /// `causationid`: the message that this one was sent because of.
    pub causation_id: Option<Text>,
    /// `traceparent` of the W3C trace context.
    pub traceparent: Option<Text>,
    /// `tracestate` of the W3C trace context.
    pub tracestate: Option<Text>,
    /// `replyto`: where the answer goes.
    pub reply_to: Option<Destination>,
    /// `expirytime`: the deadline; later than this it is not handled.
    pub expires_at: Option<Timestamp>,
    /// `deliverat`: not handled before; kept after delivery for audit.
    pub deliver_at: Option<Timestamp>,
    /// `dataref`: the claim-check reference of a payload kept elsewhere.
    pub data_ref: Option<Text>,
    /// `tenant`.
    pub tenant: Option<Text>,
    /// Everything else, in the order it came: it survives untouched, also names that we do not know.
    pub headers: Headers,
}

impl Envelope {
    /// An envelope with the fields that every message has.
    #[must_use]
    pub fn new(id: MessageId, source: Text, message_type: Text, time: Timestamp) -> Self {
        Self {
            id,
            source,
            message_type,
            version: 1,
            time,
            content_type: Text::from_static("application/json"),
            schema: None,
            subject: None,
            key: None,
            sequence: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            tracestate: None,
            reply_to: None,
            expires_at: None,
            deliver_at: None,
            data_ref: None,
            tenant: None,
            headers: Headers::default(),
        }
    }
}

/// Application headers: names in the order they came, values any bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Text, Bytes)>);

impl Headers {
    /// Adds a header; a name may stand more than once.
    pub fn push(&mut self, name: impl Into<Text>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = &(Text, Bytes)> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A message on its way out: destination, envelope, payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub destination: Destination,
    /// What is known of it.
    pub envelope: Envelope,
    /// Its bytes.
    pub payload: Bytes,
}
