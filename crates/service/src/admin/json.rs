//! The shapes of the API. Times are RFC 3339 in UTC.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use postrider_core::carriage;
use postrider_core::clock::Timestamp;
use postrider_core::engine::{EngineInfo, SubscriptionDepth};
use postrider_core::envelope::Envelope;
use postrider_core::failure::{
    AuditEntry, Cause, FailureGroup, FailureId, FailureRecord, FailureState, Original, Selection,
};
use postrider_core::message::Key;
use postrider_core::name::Destination;
use postrider_core::plan::Plan;
use postrider_core::policy::Policy;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PAYLOAD_BYTES_MAX;
use super::answer::ApiError;
use crate::driver::{Running, Status};
use crate::relay::RelayStatus;

#[derive(Serialize)]
pub(super) struct StatusJson<'a> {
    pub(super) version: &'static str,
    pub(super) pid: u32,
    pub(super) instance: String,
    pub(super) started_at: String,
    pub(super) now: String,
    pub(super) uptime_ms: u64,
    pub(super) engine: &'a EngineInfo,
    pub(super) services: Vec<String>,
    pub(super) subscriptions: usize,
    pub(super) relays: Vec<RelayJson>,
}

#[derive(Serialize)]
pub(super) struct RelayJson {
    pub(super) service: String,
    /// Rows in the store; `null` where it failed.
    pub(super) depth: Option<u64>,
    #[serde(flatten)]
    pub(super) status: RelayStatus,
}

#[derive(Serialize)]
pub(super) struct PlanJson<'a> {
    pub(super) engine: &'a EngineInfo,
    pub(super) subscriptions: Vec<Plan>,
}

#[derive(Serialize)]
pub(super) struct TopicJson {
    pub(super) destination: String,
    pub(super) messages: u64,
    pub(super) next_position: u64,
    pub(super) subscriptions: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct SubscriptionJson {
    id: String,
    service: String,
    destination: String,
    member: String,
    types: Vec<String>,
    #[serde(flatten)]
    status: Status,
    /// What the engine knows of it; `null` where it does not say.
    depth: Option<SubscriptionDepth>,
    /// How long a delivery is held before another member may have it.
    lease_ms: u64,
    policy: Policy,
}

impl SubscriptionJson {
    pub(super) fn new(running: &Running, depth: Option<SubscriptionDepth>) -> Self {
        Self {
            id: running.id.to_string(),
            service: running.id.service.to_string(),
            destination: running.id.on.to_string(),
            member: running.member.to_string(),
            types: running.shown.types.clone(),
            status: running.shown.handle.status(),
            depth,
            lease_ms: u64::try_from(running.shown.lease.as_millis()).unwrap_or(u64::MAX),
            policy: running.shown.policy.clone(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) paused: bool,
    /// Members of this process that were told.
    pub(super) members: usize,
}

#[derive(Serialize)]
pub(super) struct GroupJson {
    subscription: String,
    group: String,
    cause: Cause,
    count: u64,
    first: String,
    last: String,
    sample: FailureId,
}

impl From<FailureGroup> for GroupJson {
    fn from(group: FailureGroup) -> Self {
        Self {
            subscription: group.subscription.to_string(),
            group: group.group,
            cause: group.cause,
            count: group.count,
            first: group.first.to_rfc3339(),
            last: group.last.to_rfc3339(),
            sample: group.sample,
        }
    }
}

#[derive(Serialize)]
pub(super) struct PageJson {
    pub(super) records: Vec<FailureJson>,
    /// The `after` of the next page; `null` where this is the last.
    pub(super) next: Option<FailureId>,
}

#[derive(Serialize)]
pub(super) struct FailureJson {
    id: FailureId,
    subscription: String,
    state: FailureState,
    parked: bool,
    redrives: u32,
    key: Option<String>,
    key_base64: Option<String>,
    message_id: Option<String>,
    message_type: Option<String>,
    cause: Cause,
    code: String,
    group: String,
    errors: Vec<String>,
    attempts: u32,
    first_seen: String,
    failed_at: String,
    position: u64,
}

impl From<&FailureRecord> for FailureJson {
    fn from(record: &FailureRecord) -> Self {
        let facts = &record.draft.facts;
        let key = record.draft.key.as_ref();
        Self {
            id: record.id,
            subscription: record.subscription.to_string(),
            state: record.state,
            parked: record.parked,
            redrives: record.redrives,
            key: key.map(|k| Key::new(k.clone()).display()),
            key_base64: key.map(|k| STANDARD.encode(k)),
            message_id: facts.message_id.map(|id| id.to_string()),
            message_type: facts.message_type.clone(),
            cause: facts.cause,
            code: facts.cause.code().to_string(),
            group: facts.group.clone(),
            errors: facts.errors.clone(),
            attempts: facts.attempts,
            first_seen: facts.first_seen.to_rfc3339(),
            failed_at: facts.failed_at.to_rfc3339(),
            position: facts.position,
        }
    }
}

/// One failure with what it is about.
#[derive(Serialize)]
pub(super) struct ShownJson {
    #[serde(flatten)]
    failure: FailureJson,
    /// `null` where it cannot be read.
    envelope: Option<Value>,
    payload: PayloadJson,
    /// The headers as they were stored: names and values as text, or base64 where they are not.
    headers: Vec<(String, String)>,
    /// What it was before it was edited; `null` where it never was.
    pub(super) edited: Option<EditedJson>,
}

/// What a failure held before a person edited it.
#[derive(Serialize)]
pub(super) struct EditedJson {
    by: String,
    reason: String,
    at: String,
    payload: PayloadJson,
    headers: Vec<(String, String)>,
}

impl From<Original> for EditedJson {
    fn from(original: Original) -> Self {
        let Original { raw, reason } = original;
        let read = carriage::read(&raw).ok();
        let body = read.as_ref().map_or(&raw.body, |(_, payload)| payload);
        let headers = raw.headers.iter().map(|(n, v)| (text_of(n), text_of(v)));
        Self {
            by: reason.by,
            reason: reason.text,
            at: reason.at.to_rfc3339(),
            payload: payload(body),
            headers: headers.collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct PayloadJson {
    bytes: usize,
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl From<&FailureRecord> for ShownJson {
    fn from(record: &FailureRecord) -> Self {
        let raw = &record.draft.raw;
        let read = carriage::read(raw).ok();
        let body = read.as_ref().map_or(&raw.body, |(_, payload)| payload);
        let payload = payload(body);
        let headers = raw.headers.iter().map(|(n, v)| (text_of(n), text_of(v)));
        Self {
            failure: FailureJson::from(record),
            payload,
            headers: headers.collect(),
            edited: None,
            envelope: read.map(|(envelope, _)| envelope_json(&envelope)),
        }
    }
}

pub(super) fn payload(body: &Bytes) -> PayloadJson {
    let truncated = body.len() > PAYLOAD_BYTES_MAX;
    let mut shown = &body[..body.len().min(PAYLOAD_BYTES_MAX)];
    if truncated && std::str::from_utf8(body).is_ok() {
        // Not in the middle of a character.
        while std::str::from_utf8(shown).is_err() {
            shown = &shown[..shown.len() - 1];
        }
    }
    let text = std::str::from_utf8(shown).ok().map(str::to_owned);
    PayloadJson {
        bytes: body.len(),
        truncated,
        base64: text.is_none().then(|| STANDARD.encode(shown)),
        text,
    }
}

pub(super) fn text_of(bytes: &Bytes) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => STANDARD.encode(bytes),
    }
}

/// The envelope under its CloudEvents names; what is absent is left out.
pub(super) fn envelope_json(envelope: &Envelope) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    };
    let text = |t: &Option<postrider_core::text::Text>| t.as_ref().map(|t| Value::from(&**t));
    let time = |t: Option<Timestamp>| t.map(|t| Value::from(t.to_rfc3339()));
    let place = |d: &Option<Destination>| d.as_ref().map(|d| Value::from(d.to_string()));
    put("id", Some(envelope.id.to_string().into()));
    put("source", Some(Value::from(&*envelope.source)));
    put("type", Some(Value::from(&*envelope.message_type)));
    put("schemaversion", Some(envelope.version.into()));
    put("time", time(Some(envelope.time)));
    put(
        "datacontenttype",
        Some(Value::from(&*envelope.content_type)),
    );
    put("dataschema", text(&envelope.schema));
    put("subject", text(&envelope.subject));
    put(
        "partitionkey",
        envelope.key.as_ref().map(|k| k.display().into()),
    );
    put("sequence", envelope.sequence.map(Value::from));
    put("correlationid", text(&envelope.correlation_id));
    put("causationid", text(&envelope.causation_id));
    put("traceparent", text(&envelope.traceparent));
    put("tracestate", text(&envelope.tracestate));
    put("replyto", place(&envelope.reply_to));
    put("expirytime", time(envelope.expires_at));
    put("deliverat", time(envelope.deliver_at));
    put("dataref", text(&envelope.data_ref));
    put("tenant", text(&envelope.tenant));
    Value::Object(out)
}

#[derive(Serialize)]
pub(super) struct AuditJson {
    action: String,
    count: u64,
    by: String,
    reason: String,
    at: String,
}

impl From<AuditEntry> for AuditJson {
    fn from(entry: AuditEntry) -> Self {
        Self {
            action: entry.action,
            count: entry.count,
            by: entry.reason.by,
            reason: entry.reason.text,
            at: entry.reason.at.to_rfc3339(),
        }
    }
}

/// Which failures are meant, and why something is done to them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    ids: Option<Vec<FailureId>>,
    group: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    all: bool,
    pub(super) reason: String,
    pub(super) by: String,
}

impl Wish {
    /// The one selection that was given.
    pub(super) fn selection(&self) -> Result<Selection, ApiError> {
        let key = match (&self.key, &self.key_base64) {
            (Some(text), None) => Some(Bytes::copy_from_slice(text.as_bytes())),
            (None, Some(encoded)) => {
                let bytes = STANDARD.decode(encoded);
                let bad =
                    |error| ApiError::bad_request(format!("key_base64 is not base64: {error}"));
                Some(Bytes::from(bytes.map_err(bad)?))
            }
            (None, None) => None,
            (Some(_), Some(_)) => return Err(one_selection()),
        };
        let given = [
            self.ids.clone().map(Selection::Ids),
            self.group.clone().map(Selection::Group),
            key.map(Selection::Key),
            self.all.then_some(Selection::All),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(one_selection()),
        }
    }
}

fn one_selection() -> ApiError {
    ApiError::bad_request("say exactly one of ids, group, key (or key_base64) and all")
}

#[derive(Serialize)]
pub(super) struct Done {
    /// How many records were marked or removed.
    pub(super) count: u64,
}
