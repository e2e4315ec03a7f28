//! Structured carriage: a CloudEvents JSON body, for engines that have no headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::binary::{Draft, fields};
use super::{Malformed, Raw};
use crate::envelope::Envelope;
use crate::text::Text;

/// The content type of the structured form.
pub const STRUCTURED_CONTENT_TYPE: &str = "application/cloudevents+json";
/// Application headers stand in one extension of the structured form, base64 each: JSON has no bytes.
const HEADERS: &str = "postriderheaders";

pub(super) fn looks_structured(raw: &Raw) -> bool {
    let by_type = raw.headers.iter().any(|(n, v)| {
        n.as_ref() == b"content-type" && v.starts_with(STRUCTURED_CONTENT_TYPE.as_bytes())
    });
    by_type || (raw.body.first() == Some(&b'{') && find_specversion(&raw.body))
}

fn find_specversion(body: &[u8]) -> bool {
    const MARK: &[u8] = b"\"specversion\"";
    body.windows(MARK.len()).take(4096).any(|w| w == MARK)
}

pub(super) fn write(envelope: &Envelope, payload: &Bytes) -> Raw {
    let mut map = Map::new();
    fields(envelope, |name, value| {
        map.insert(
            name.to_owned(),
            Value::String(String::from_utf8_lossy(&value).into_owned()),
        );
    });
    map.insert(
        "datacontenttype".into(),
        envelope.content_type.to_string().into(),
    );
    if let Some(key) = &envelope.key {
        match std::str::from_utf8(key.as_bytes()) {
            Ok(text) => map.insert("partitionkey".into(), text.into()),
            Err(_) => map.insert(
                "partitionkeybase64".into(),
                STANDARD.encode(key.as_bytes()).into(),
            ),
        };
    }
    if !envelope.headers.is_empty() {
        let list: Vec<Value> = envelope
            .headers
            .iter()
            .map(|(n, v)| Value::from(vec![n.to_string(), STANDARD.encode(v)]))
            .collect();
        map.insert(HEADERS.into(), list.into());
    }
    let is_json = envelope.content_type.contains("json");
    match std::str::from_utf8(payload)
        .ok()
        .and_then(|p| serde_json::from_str::<&RawValue>(p).ok())
    {
        // The payload's own bytes stand in the body, so that its hash stays the same; space around them would be lost.
        Some(json) if is_json && json.get().len() == payload.len() => {
            let mut body = Value::Object(map).to_string();
            body.pop();
            body.push_str(",\"data\":");
            body.push_str(json.get());
            body.push('}');
            Raw {
                key: None,
                headers: content_type(),
                body: Bytes::from(body),
            }
        }
        _ => {
            map.insert("data_base64".into(), STANDARD.encode(payload).into());
            Raw {
                key: None,
                headers: content_type(),
                body: Bytes::from(Value::Object(map).to_string()),
            }
        }
    }
}

fn content_type() -> Vec<(Bytes, Bytes)> {
    vec![(
        Bytes::from_static(b"content-type"),
        Bytes::from_static(STRUCTURED_CONTENT_TYPE.as_bytes()),
    )]
}

fn json(why: impl std::fmt::Display) -> Malformed {
    Malformed::Json {
        form: "structured",
        why: why.to_string(),
    }
}

pub(super) fn read(raw: &Raw) -> Result<(Envelope, Bytes), Malformed> {
    let map: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_slice(&raw.body).map_err(json)?;
    let mut draft = Draft::default();
    let mut payload = Bytes::new();
    for (name, value) in map {
        match name.as_str() {
            "data" => payload = Bytes::copy_from_slice(value.get().as_bytes()),
            "data_base64" => payload = base64_of(value)?,
            "partitionkeybase64" => {
                draft.take("partitionkey", &base64_of(value)?)?;
            }
            HEADERS => {
                let list: Vec<(String, String)> =
                    serde_json::from_str(value.get()).map_err(json)?;
                for (name, value) in list {
                    draft.header(
                        Text::from(name),
                        STANDARD.decode(value).map_err(json)?.into(),
                    );
                }
            }
            _ => {
                let text = match serde_json::from_str::<Value>(value.get()).map_err(json)? {
                    Value::String(text) => Bytes::from(text),
                    other => Bytes::from(other.to_string()),
                };
                if !draft.take(&name, &text)? {
                    draft.header(Text::from(format!("ce_{name}")), text);
                }
            }
        }
    }
    Ok((draft.finish(raw.key.as_ref())?, payload))
}

fn base64_of(value: &RawValue) -> Result<Bytes, Malformed> {
    let text: String = serde_json::from_str(value.get()).map_err(json)?;
    STANDARD.decode(text).map(Bytes::from).map_err(json)
}
