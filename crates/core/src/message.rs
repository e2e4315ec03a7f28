//! A typed message: what `#[derive(Message)]` implements.

use bytes::Bytes;

use crate::codec::CodecError;
use crate::name::DestinationKind;
use crate::text::Text;

/// The key of a message: messages of one topic and key are handled in order. Any bytes up to [`Key::BYTES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// The longest key, in bytes. A longer one is refused at publish (`TooLarge`).
    pub const BYTES_MAX: usize = 4096;

    /// A key of these bytes. Its length is checked at publish, where an error can be answered.
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// A key of what this value prints.
    #[must_use]
    pub fn of(value: &impl std::fmt::Display) -> Self {
        Self(Bytes::from(value.to_string()))
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The key for a person: its text where it is printable UTF-8, else hexadecimal; cut at 80 characters.
    #[must_use]
    pub fn display(&self) -> String {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => text.chars().take(80).collect(),
            _ => self.0.iter().take(40).map(|b| format!("{b:02x}")).collect(),
        }
    }
}

/// A type that travels as a message. Derive it; the derive checks names at compile time.
///
/// ```text
/// #[derive(Message, Serialize, Deserialize)]
/// #[message(topic = "shop.order", type = "placed", key = order_id)]
/// struct OrderPlaced { order_id: String, cents: u64 }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "this type is not a message",
    note = "add `#[derive(Message, Serialize, Deserialize)]` and `#[message(topic = \"…\", type = \"…\")]` to it"
)]
pub trait Message: Sized + Send + Sync + 'static {
    /// Topic for an event, queue for a command, inbox for a reply.
    const KIND: DestinationKind;
    /// The topic or queue; empty for a reply, which goes where the request says.
    const DESTINATION: &'static str;
    /// The type within the destination; one topic carries many types.
    const TYPE: &'static str;
    /// The schema version of this type, from 1. A reader refuses a newer one as undecodable, so that it is kept.
    const VERSION: u32;
    /// Whether messages of this type have a key: such a subscription is ordered unless it says otherwise.
    const KEYED: bool;
    /// The content type that [`Message::encode`] writes.
    const CONTENT_TYPE: &'static str;

    /// The key of this message, if its type has one.
    fn key(&self) -> Option<Key>;

    /// The payload.
    ///
    /// # Errors
    /// The codec cannot write the value.
    fn encode(&self) -> Result<Bytes, CodecError>;

    /// Reads a payload. MUST NOT panic, whatever the bytes are.
    ///
    /// # Errors
    /// The bytes or the content type are not what this type reads.
    fn decode(content_type: &Text, payload: &Bytes) -> Result<Self, CodecError>;
}

/// A message that goes to a topic. The derive implements it for `topic = "…"`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "only a message with `#[message(topic = \"…\")]` is published; a command (`queue = \"…\"`) is sent with `send`"
)]
pub trait Event: Message {}

/// A message that goes to a queue with one owner. The derive implements it for `queue = "…"`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a command",
    note = "only a message with `#[message(queue = \"…\")]` is sent; an event (`topic = \"…\"`) is published with `publish`"
)]
pub trait Command: Message {}
