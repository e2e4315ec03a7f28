//! What changes something beside redrive and discard: publish, move a subscription, edit a failure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use postrider_core::browse::{SeekHow, Sought};
use postrider_core::carriage::{self, Raw};
use postrider_core::code::Code;
use postrider_core::envelope::{Envelope, Headers, Outgoing};
use postrider_core::failure::FailureId;
use postrider_core::fault::{Fault, FaultKind};
use postrider_core::id::MessageId;
use postrider_core::message::Key;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::text::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, ApiError};
use super::messages::{read_destination, read_from};
use super::routes::{Body, Id, Shared, admin, parse_id, read_id, read_wish};
use crate::driver::Phase;

/// Messages of one request.
const MESSAGES_MAX: usize = 1000;
/// The longest type of a message, in bytes.
const TYPE_BYTES_MAX: usize = 200;
/// How long a seek waits for running handlers where nothing else is said, and at most, in ms.
const SEEK_WAIT_MS: u64 = 10_000;
const SEEK_WAIT_MS_MAX: u64 = 300_000;
/// How soon it looks again whether they have ended.
const SEEK_LOOK: Duration = Duration::from_millis(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishWish {
    messages: Vec<MessageIn>,
    /// The topic or queue is made where it does not exist.
    #[serde(default)]
    create: bool,
}

/// A message to publish. What is absent is left out, or made: `id`, `time`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageIn {
    #[serde(rename = "type")]
    message_type: String,
    payload: Option<String>,
    payload_base64: Option<String>,
    content_type: Option<String>,
    key: Option<String>,
    id: Option<String>,
    source: Option<String>,
    version: Option<u32>,
    correlation_id: Option<String>,
    delay_ms: Option<u64>,
    expires_in_ms: Option<u64>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// What became of one message.
#[derive(Serialize)]
struct Published {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

pub(super) async fn publish(
    State(api): Shared,
    destination: Result<Path<String>, PathRejection>,
    body: Body,
) -> Answer<Value> {
    let destination = read_destination(destination)?;
    let wish: PublishWish = read_wish(body)?;
    if wish.messages.is_empty() || wish.messages.len() > MESSAGES_MAX {
        let what = format!(
            "{} messages were given; a request takes 1 to {MESSAGES_MAX}",
            wish.messages.len()
        );
        return Err(ApiError::bad_request(what));
    }
    if !wish.create {
        exists(&api, &destination).await?;
    }
    let messages: Result<Vec<Outgoing>, ApiError> = wish
        .messages
        .into_iter()
        .map(|message| sealed(&api, &destination, message))
        .collect();
    let messages = messages?;
    let ids: Vec<MessageId> = messages.iter().map(|message| message.envelope.id).collect();
    let results = api.runtime.publisher.publish(messages).await;
    let published = ids.iter().zip(results).map(|(id, result)| {
        let id = id.to_string();
        match result {
            Ok(receipt) => Published {
                id,
                position: receipt.position,
                duplicate: Some(receipt.duplicate),
                subscriptions: receipt.subscriptions,
                error: None,
            },
            Err(fault) => Published {
                id,
                position: None,
                duplicate: None,
                subscriptions: None,
                error: Some(fault.into()),
            },
        }
    });
    Ok(Json(json!({ "results": published.collect::<Vec<_>>() })))
}

/// A name that is misspelt makes no topic.
async fn exists(api: &Api, destination: &Destination) -> Result<(), ApiError> {
    let all = admin(api)?.destinations().await?;
    if all.iter().any(|known| known.destination == *destination) {
        return Ok(());
    }
    let what = format!("there is no {destination}; nothing was published");
    Err(ApiError::not_found(what))
}

fn sealed(api: &Api, destination: &Destination, message: MessageIn) -> Result<Outgoing, ApiError> {
    let bad = ApiError::bad_request;
    if message.message_type.is_empty() || message.message_type.len() > TYPE_BYTES_MAX {
        return Err(bad(format!("a type has 1 to {TYPE_BYTES_MAX} bytes")));
    }
    let payload = bytes_of(message.payload, message.payload_base64)?;
    let payload =
        payload.ok_or_else(|| bad("a message has a payload, or payload_base64".into()))?;
    let id = match &message.id {
        Some(text) => {
            MessageId::parse(text).ok_or_else(|| bad(format!("`{text}` is not a UUID")))?
        }
        None => api.runtime.new_id(),
    };
    let now = api.runtime.clock.wall();
    let source = message.source.unwrap_or_else(|| "admin".to_owned());
    let mut envelope = Envelope::new(id, source.into(), message.message_type.into(), now);
    envelope.key = message.key.map(|key| Key::new(key.into_bytes()));
    envelope.version = message.version.unwrap_or(1);
    envelope.correlation_id = message.correlation_id.map(Text::from);
    if let Some(content_type) = message.content_type {
        envelope.content_type = content_type.into();
    }
    let delay = message.delay_ms.map(Duration::from_millis);
    envelope.deliver_at = delay.map(|delay| now.plus(delay));
    let expires = message.expires_in_ms.map(Duration::from_millis);
    envelope.expires_at = expires.map(|by| envelope.deliver_at.unwrap_or(now).plus(by));
    let mut headers = Headers::default();
    for (name, value) in message.headers {
        if name.is_empty() || name.starts_with(carriage::CE_PREFIX) {
            return Err(bad(format!(
                "`{name}` is not a header's name: those that begin with {} are the envelope's",
                carriage::CE_PREFIX
            )));
        }
        headers.push(name, value);
    }
    envelope.headers = headers;
    crate::telemetry::inject(&mut envelope, &*api.runtime.entropy);
    Ok(Outgoing {
        destination: destination.clone(),
        envelope,
        payload,
    })
}

fn bytes_of(text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, ApiError> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(ApiError::bad_request(
            "say one of payload and payload_base64",
        )),
        (Some(text), None) => Ok(Some(Bytes::from(text))),
        (None, Some(encoded)) => {
            let bad =
                |error| ApiError::bad_request(format!("payload_base64 is not base64: {error}"));
            Ok(Some(Bytes::from(STANDARD.decode(encoded).map_err(bad)?)))
        }
        (None, None) => Ok(None),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeekWish {
    to: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    by: String,
    wait_ms: Option<u64>,
}

/// What a seek does, or did.
#[derive(Serialize)]
pub(super) struct SoughtJson {
    id: String,
    #[serde(flatten)]
    sought: Sought,
    dry_run: bool,
}

pub(super) async fn seek(State(api): Shared, id: Id, body: Body) -> Answer<SoughtJson> {
    let (id, wish): (_, SeekWish) = (read_id(id)?, read_wish(body)?);
    let to = read_from(&wish.to)?;
    let answer = |sought| SoughtJson {
        id: id.to_string(),
        sought,
        dry_run: wish.dry_run,
    };
    if wish.dry_run {
        let sought = admin(&api)?.seek(&id, to, SeekHow::Count).await?;
        return Ok(Json(answer(sought)));
    }
    let reason = api.failures.reason(&wish.by, &wish.reason)?;
    let wait_ms = wish.wait_ms.unwrap_or(SEEK_WAIT_MS).min(SEEK_WAIT_MS_MAX);
    // CANCEL: on a task of its own, so that a caller who leaves does not leave the subscription paused.
    let moving = tokio::spawn(moved(
        Arc::clone(&api),
        id.clone(),
        to,
        SeekHow::Do(reason),
        Duration::from_millis(wait_ms),
    ));
    let sought = moving.await.map_err(|_| Fault::closed("the process"))??;
    Ok(Json(answer(sought)))
}

/// Pauses the members that run here, moves the subscription once they hold nothing, and has them go on.
async fn moved(
    api: Arc<Api>,
    id: SubscriptionId,
    to: postrider_core::source::SeekTo,
    how: SeekHow,
    wait: Duration,
) -> Result<Sought, ApiError> {
    let admin = admin(&api)?;
    let members = api.runtime.registry.members(&id);
    let running: Vec<_> = members
        .iter()
        .map(|member| member.shown.handle.clone())
        .filter(|handle| handle.status().phase == Phase::Running)
        .collect();
    join_all(running.iter().map(|handle| handle.pause())).await;
    let deadline = tokio::time::Instant::now() + wait;
    let sought = loop {
        match admin.seek(&id, to, how.clone()).await {
            Err(fault) if fault.kind == FaultKind::Conflict => {
                if tokio::time::Instant::now() >= deadline {
                    break Err(fault);
                }
                tokio::time::sleep(SEEK_LOOK).await;
            }
            sought => break sought,
        }
    };
    join_all(running.iter().map(|handle| handle.resume())).await;
    Ok(sought?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupWish {
    /// A path as the process that is asked sees it; not relative.
    target: std::path::PathBuf,
}

pub(super) async fn backup(State(api): Shared, body: Body) -> Answer<Value> {
    let wish: BackupWish = read_wish(body)?;
    if !wish.target.is_absolute() {
        let what = format!("{} is not an absolute path", wish.target.display());
        return Err(ApiError::bad_request(what));
    }
    let report = admin(&api)?.backup(&wish.target).await?;
    Ok(Json(json!(report)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EditWish {
    payload: Option<String>,
    payload_base64: Option<String>,
    #[serde(default)]
    set_headers: BTreeMap<String, String>,
    #[serde(default)]
    remove_headers: Vec<String>,
    reason: String,
    by: String,
}

pub(super) async fn edit(
    State(api): Shared,
    path: Result<Path<(String, u64)>, PathRejection>,
    body: Body,
) -> Answer<Value> {
    let Path((id, number)) = path.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let (id, number) = (parse_id(&id)?, FailureId(number));
    let wish: EditWish = read_wish(body)?;
    let record = api.failures.show(&id, number).await?;
    let edited = edited(&record.draft.raw, &wish)?;
    let unchanged = edited == record.draft.raw;
    if !unchanged {
        let Raw { headers, body, .. } = edited;
        let reason = (wish.by.as_str(), wish.reason.as_str());
        api.failures
            .edit(&id, number, headers, body, reason)
            .await?;
    }
    Ok(Json(json!({ "edited": !unchanged })))
}

/// The message as it is wished. What says which message it is, and its place in the order, stays.
fn edited(raw: &Raw, wish: &EditWish) -> Result<Raw, ApiError> {
    let before = carriage::read(raw).ok();
    if before.as_ref().is_some_and(|(_, body)| *body != raw.body) {
        let what = "its envelope travels in its body (structured CloudEvents), which is not edited: publish it anew and discard the failure";
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            Code::CLI_CONFLICT,
            what,
        ));
    }
    let mut out = raw.clone();
    if let Some(body) = bytes_of(wish.payload.clone(), wish.payload_base64.clone())? {
        out.body = body;
    }
    let removed = |name: &Bytes| {
        wish.remove_headers
            .iter()
            .any(|n| n.as_bytes() == &name[..])
    };
    out.headers.retain(|(name, _)| !removed(name));
    for (name, value) in &wish.set_headers {
        let value = Bytes::from(value.clone());
        match out
            .headers
            .iter_mut()
            .find(|(n, _)| &n[..] == name.as_bytes())
        {
            Some(known) => known.1 = value,
            None => out.headers.push((Bytes::from(name.clone()), value)),
        }
    }
    let Some((before, _)) = before else {
        return Ok(out);
    };
    let after = carriage::read(&out).map_err(|why| {
        ApiError::bad_request(format!("edited so, the message could not be read: {why}"))
    })?;
    if after.0.id != before.id || after.0.key != before.key {
        let what = "an edit changes neither the id of a message nor its key: publish it anew and discard the failure";
        return Err(ApiError::bad_request(what));
    }
    Ok(out)
}
