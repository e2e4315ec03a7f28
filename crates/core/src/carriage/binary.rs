//! Binary and packed carriage: fields as headers.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Malformed, Raw, utf8};
use crate::clock::Timestamp;
use crate::envelope::Envelope;
use crate::id::MessageId;
use crate::message::Key;
use crate::name::Destination;
use crate::text::Text;

/// What stands before a CloudEvents name in a binary header, as in the Kafka binding.
pub const CE_PREFIX: &str = "ce_";
/// The one header of the packed form.
pub const PACKED_HEADER: &str = "postrider-envelope";
const CONTENT_TYPE: &str = "content-type";

pub(super) fn find<'a>(raw: &'a Raw, name: &str) -> Option<&'a Bytes> {
    raw.headers
        .iter()
        .find(|(n, _)| n.as_ref() == name.as_bytes())
        .map(|(_, v)| v)
}

/// Calls `put(name, value)` for each field of the envelope that is set, by its CloudEvents name, `id` first.
pub(super) fn fields(envelope: &Envelope, mut put: impl FnMut(&'static str, Bytes)) {
    let text = |t: &Text| t.clone().into_bytes();
    put("specversion", Bytes::from_static(b"1.0"));
    put("id", Bytes::from(envelope.id.to_string()));
    put("source", text(&envelope.source));
    put("type", text(&envelope.message_type));
    put("time", Bytes::from(envelope.time.to_rfc3339()));
    if envelope.version != 1 {
        put("schemaversion", Bytes::from(envelope.version.to_string()));
    }
    let options: [(&'static str, Option<Bytes>); 12] = [
        ("dataschema", envelope.schema.as_ref().map(text)),
        ("subject", envelope.subject.as_ref().map(text)),
        (
            "sequence",
            envelope.sequence.map(|n| Bytes::from(n.to_string())),
        ),
        ("correlationid", envelope.correlation_id.as_ref().map(text)),
        ("causationid", envelope.causation_id.as_ref().map(text)),
        ("traceparent", envelope.traceparent.as_ref().map(text)),
        ("tracestate", envelope.tracestate.as_ref().map(text)),
        (
            "replyto",
            envelope
                .reply_to
                .as_ref()
                .map(|d| Bytes::from(d.to_string())),
        ),
        (
            "expirytime",
            envelope.expires_at.map(|t| Bytes::from(t.to_rfc3339())),
        ),
        (
            "deliverat",
            envelope.deliver_at.map(|t| Bytes::from(t.to_rfc3339())),
        ),
        ("dataref", envelope.data_ref.as_ref().map(text)),
        ("tenant", envelope.tenant.as_ref().map(text)),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            put(name, value);
        }
    }
}

const PREFIXED: [(&str, &str); 18] = [
    ("specversion", "ce_specversion"),
    ("id", "ce_id"),
    ("source", "ce_source"),
    ("type", "ce_type"),
    ("time", "ce_time"),
    ("schemaversion", "ce_schemaversion"),
    ("dataschema", "ce_dataschema"),
    ("subject", "ce_subject"),
    ("sequence", "ce_sequence"),
    ("correlationid", "ce_correlationid"),
    ("causationid", "ce_causationid"),
    ("traceparent", "ce_traceparent"),
    ("tracestate", "ce_tracestate"),
    ("replyto", "ce_replyto"),
    ("expirytime", "ce_expirytime"),
    ("deliverat", "ce_deliverat"),
    ("dataref", "ce_dataref"),
    ("tenant", "ce_tenant"),
];

fn prefixed(name: &str) -> Bytes {
    PREFIXED.iter().find(|(n, _)| *n == name).map_or_else(
        || Bytes::from(format!("{CE_PREFIX}{name}")),
        |(_, p)| Bytes::from_static(p.as_bytes()),
    )
}

pub(super) fn write(envelope: &Envelope, payload: &Bytes) -> Raw {
    let mut headers = Vec::with_capacity(8 + envelope.headers.len());
    fields(envelope, |name, value| {
        headers.push((prefixed(name), value))
    });
    headers.push((
        Bytes::from_static(CONTENT_TYPE.as_bytes()),
        envelope.content_type.clone().into_bytes(),
    ));
    for (name, value) in envelope.headers.iter() {
        headers.push((name.clone().into_bytes(), value.clone()));
    }
    Raw {
        key: envelope.key.as_ref().map(|k| k.as_bytes().clone()),
        headers,
        body: payload.clone(),
    }
}

pub(super) fn write_packed(envelope: &Envelope, payload: &Bytes) -> Raw {
    let mut map = Map::new();
    fields(envelope, |name, value| {
        map.insert(
            name.to_owned(),
            Value::String(String::from_utf8_lossy(&value).into_owned()),
        );
    });
    map.insert(
        "datacontenttype".to_owned(),
        Value::String(envelope.content_type.to_string()),
    );
    let mut headers = vec![(
        Bytes::from_static(PACKED_HEADER.as_bytes()),
        Bytes::from(Value::Object(map).to_string()),
    )];
    for (name, value) in envelope.headers.iter() {
        headers.push((name.clone().into_bytes(), value.clone()));
    }
    Raw {
        key: envelope.key.as_ref().map(|k| k.as_bytes().clone()),
        headers,
        body: payload.clone(),
    }
}

/// An envelope being read: the required fields are looked at when all have come.
#[derive(Default)]
pub(super) struct Draft {
    id: Option<MessageId>,
    source: Option<Text>,
    message_type: Option<Text>,
    envelope: Option<Envelope>,
}

impl Draft {
    fn rest(&mut self) -> &mut Envelope {
        self.envelope.get_or_insert_with(|| {
            let nobody = MessageId::from_bytes([0; 16]);
            Envelope::new(nobody, Text::default(), Text::default(), Timestamp(0))
        })
    }

    /// Takes one field by its CloudEvents name. `false`: not a name of ours, so it is an application header.
    pub(super) fn take(&mut self, name: &str, value: &Bytes) -> Result<bool, Malformed> {
        match name {
            "specversion" => {
                if value.as_ref() != b"1.0" {
                    return Err(Malformed::Field {
                        field: "specversion",
                        why: "only 1.0 is known".into(),
                    });
                }
            }
            "id" => self.id = Some(MessageId::parse_or_hash(&utf8("id", value)?)),
            "source" => self.source = Some(utf8("source", value)?),
            "type" => self.message_type = Some(utf8("type", value)?),
            "time" => self.rest().time = time("time", value)?,
            "datacontenttype" => self.rest().content_type = utf8("datacontenttype", value)?,
            "schemaversion" => self.rest().version = number("schemaversion", value)?,
            "dataschema" => self.rest().schema = Some(utf8("dataschema", value)?),
            "subject" => self.rest().subject = Some(utf8("subject", value)?),
            "partitionkey" => self.rest().key = Some(Key::new(value.clone())),
            "sequence" => self.rest().sequence = Some(number("sequence", value)?),
            "correlationid" => self.rest().correlation_id = Some(utf8("correlationid", value)?),
            "causationid" => self.rest().causation_id = Some(utf8("causationid", value)?),
            "traceparent" => self.rest().traceparent = Some(utf8("traceparent", value)?),
            "tracestate" => self.rest().tracestate = Some(utf8("tracestate", value)?),
            "replyto" => {
                let to = Destination::parse(&utf8("replyto", value)?);
                self.rest().reply_to = Some(to.map_err(|e| Malformed::Field {
                    field: "replyto",
                    why: e.to_string(),
                })?);
            }
            "expirytime" => self.rest().expires_at = Some(time("expirytime", value)?),
            "deliverat" => self.rest().deliver_at = Some(time("deliverat", value)?),
            "dataref" => self.rest().data_ref = Some(utf8("dataref", value)?),
            "tenant" => self.rest().tenant = Some(utf8("tenant", value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn header(&mut self, name: Text, value: Bytes) {
        self.rest().headers.push(name, value);
    }

    pub(super) fn finish(mut self, key: Option<&Bytes>) -> Result<Envelope, Malformed> {
        let mut envelope = std::mem::take(&mut self.envelope).unwrap_or_else(|| {
            Envelope::new(
                MessageId::from_bytes([0; 16]),
                Text::default(),
                Text::default(),
                Timestamp(0),
            )
        });
        envelope.id = self.id.ok_or(Malformed::Missing("id"))?;
        envelope.source = self.source.ok_or(Malformed::Missing("source"))?;
        envelope.message_type = self.message_type.ok_or(Malformed::Missing("type"))?;
        if envelope.key.is_none() {
            envelope.key = key.map(|k| Key::new(k.clone()));
        }
        Ok(envelope)
    }
}

fn number<N: std::str::FromStr>(field: &'static str, value: &Bytes) -> Result<N, Malformed>
where
    N::Err: std::fmt::Display,
{
    utf8(field, value)?
        .parse()
        .map_err(|e: N::Err| Malformed::Field {
            field,
            why: e.to_string(),
        })
}

fn time(field: &'static str, value: &Bytes) -> Result<Timestamp, Malformed> {
    Timestamp::parse_rfc3339(&utf8(field, value)?).ok_or_else(|| Malformed::Field {
        field,
        why: "not an RFC 3339 time since 1970".into(),
    })
}

fn header_name(name: &Bytes) -> Result<Text, Malformed> {
    Text::from_utf8(name.clone()).map_err(|_| {
        Malformed::HeaderName(String::from_utf8_lossy(name).chars().take(80).collect())
    })
}

pub(super) fn read(raw: &Raw) -> Result<(Envelope, Bytes), Malformed> {
    let mut draft = Draft::default();
    for (name, value) in &raw.headers {
        let name = header_name(name)?;
        let field = if name == CONTENT_TYPE {
            Some("datacontenttype")
        } else {
            name.strip_prefix(CE_PREFIX)
        };
        let ours = match field {
            Some(field) => draft.take(field, value)?,
            None => false,
        };
        if !ours {
            draft.header(name, value.clone());
        }
    }
    Ok((draft.finish(raw.key.as_ref())?, raw.body.clone()))
}

pub(super) fn read_packed(raw: &Raw) -> Result<(Envelope, Bytes), Malformed> {
    let mut draft = Draft::default();
    for (name, value) in &raw.headers {
        let name = header_name(name)?;
        if name != PACKED_HEADER {
            draft.header(name, value.clone());
            continue;
        }
        let map: Map<String, Value> =
            serde_json::from_slice(value).map_err(|e| Malformed::Json {
                form: "packed",
                why: e.to_string(),
            })?;
        for (field, value) in map {
            let value = match value {
                Value::String(text) => Bytes::from(text),
                other => Bytes::from(other.to_string()),
            };
            if !draft.take(&field, &value)? {
                draft.header(Text::from(format!("{CE_PREFIX}{field}")), value);
            }
        }
    }
    Ok((draft.finish(raw.key.as_ref())?, raw.body.clone()))
}
