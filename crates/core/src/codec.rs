//! Payload codecs. A codec is a content type and two directions; JSON is the default.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::BoxError;

/// A way to write payloads, named by its content type.
pub trait Codec: 'static {
    /// The MIME type that the envelope carries as `datacontenttype`.
    const CONTENT_TYPE: &'static str;
}

/// A codec that writes `T`. A second codec (Protobuf, Avro) implements this for the types that it knows.
pub trait Encode<T>: Codec {
    /// The bytes of `value`.
    ///
    /// # Errors
    /// The value has no form in this codec.
    fn encode(value: &T) -> Result<Bytes, CodecError>;
}

/// A codec that reads `T`.
pub trait Decode<T>: Codec {
    /// Reads `T` from bytes that came from anywhere: MUST NOT panic, whatever they are.
    ///
    /// # Errors
    /// The bytes are not a `T`; the error says where.
    fn decode(bytes: &[u8]) -> Result<T, CodecError>;
}

/// Why a payload could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value has no form in the codec.
    #[error("cannot write the payload as {content_type}")]
    Encode {
        /// The codec's content type.
        content_type: &'static str,
        /// What the codec said.
        #[source]
        source: BoxError,
    },
    /// The bytes are not the type.
    #[error("the payload is not a readable `{message_type}` ({content_type})")]
    Decode {
        /// The message type that was expected.
        message_type: &'static str,
        /// The codec's content type.
        content_type: &'static str,
        /// What the codec said.
        #[source]
        source: BoxError,
    },
    /// The payload is written in another content type than this reader knows.
    #[error("the payload of `{message_type}` is `{found}`; this reader knows `{known}`")]
    ContentType {
        /// The message type that was expected.
        message_type: &'static str,
        /// The content type in the envelope.
        found: String,
        /// The content type that the reader knows.
        known: &'static str,
    },
}

/// Reads `T` after a look at the content type (its parameters, such as a charset, are not compared). What `derive(Message)` calls.
///
/// # Errors
/// The content type is another one, or the bytes are not a `T`.
pub fn decode_checked<C: Decode<T>, T>(
    message_type: &'static str,
    content_type: &str,
    payload: &[u8],
) -> Result<T, CodecError> {
    let found = content_type.split(';').next().unwrap_or_default().trim();
    if !found.eq_ignore_ascii_case(C::CONTENT_TYPE) {
        return Err(CodecError::ContentType {
            message_type,
            found: content_type.chars().take(80).collect(),
            known: C::CONTENT_TYPE,
        });
    }
    C::decode(payload)
}

/// JSON by `serde_json`. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    const CONTENT_TYPE: &'static str = "application/json";
}

impl<T: Serialize> Encode<T> for Json {
    fn encode(value: &T) -> Result<Bytes, CodecError> {
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(|e| CodecError::Encode {
                content_type: Self::CONTENT_TYPE,
                source: e.into(),
            })
    }
}

impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|e| CodecError::Decode {
            message_type: std::any::type_name::<T>(),
            content_type: Self::CONTENT_TYPE,
            source: e.into(),
        })
    }
}
