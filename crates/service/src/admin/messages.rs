//! Messages: pages of a topic, one message with where it stands, a conversation.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider_core::browse::{Browse, DeliveryState, Found, Kept, Search, Standing, Wanted};
use postrider_core::carriage;
use postrider_core::clock::Timestamp;
use postrider_core::failure::{FailureId, FailureRecord, FailureState};
use postrider_core::fault::{Fault, FaultKind};
use postrider_core::id::MessageId;
use postrider_core::message::Key;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::source::{Position, Record, SeekTo};
use postrider_core::text::Text;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Api;
use super::answer::{Answer, ApiError};
use super::json::{PayloadJson, envelope_json, payload, text_of};
use super::routes::{Shared, admin, default_limit, read_limit, read_query};

/// Messages that one page looks at, where a type or a key is asked for.
const PAGE_SCAN_MAX: usize = 10_000;
/// Bytes of the messages of one page, about.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// The longest wait for a message to come, in ms.
const WAIT_MS_MAX: u64 = 30_000;
/// Messages and failure records that a search looks at where nothing else is said, and at most.
const SCAN_DEFAULT: u64 = 100_000;
const SCAN_MAX: u64 = 10_000_000;
/// Messages that a search gives.
const FOUND_MAX: usize = 1000;
/// Failure records that are read at once.
const FAILURES_PAGE: u32 = 500;

/// A message with where it stands.
#[derive(Serialize)]
pub(super) struct MessageJson {
    destination: String,
    position: u64,
    /// `false`: the topic has let go of it, and only a failure record has it.
    kept: bool,
    stored_at: Option<String>,
    id: Option<String>,
    #[serde(rename = "type")]
    message_type: Option<String>,
    key: Option<String>,
    key_base64: Option<String>,
    envelope: Option<Value>,
    /// Why its envelope cannot be read.
    unreadable: Option<String>,
    headers: Vec<(String, String)>,
    payload: PayloadJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<Vec<StandingJson>>,
}

#[derive(Serialize)]
struct StandingJson {
    id: String,
    state: DeliveryState,
    attempts: u32,
    failure: Option<FailureId>,
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl MessageJson {
    fn new(destination: &Destination, record: &Record) -> Self {
        let raw = &record.raw;
        let (envelope, body, unreadable) = match &record.content {
            Ok((envelope, body)) => (Some(envelope), body, None),
            Err(why) => (None, &raw.body, Some(why.to_string())),
        };
        let key = record.key();
        let headers = raw.headers.iter().map(|(n, v)| (text_of(n), text_of(v)));
        Self {
            destination: destination.to_string(),
            position: record.position,
            kept: true,
            stored_at: record.stored_at.map(Timestamp::to_rfc3339),
            id: envelope.map(|e| e.id.to_string()),
            message_type: envelope.map(|e| e.message_type.to_string()),
            key: key.map(|k| Key::new(k.clone()).display()),
            key_base64: key.map(|k| STANDARD.encode(k)),
            envelope: envelope.map(envelope_json),
            unreadable,
            headers: headers.collect(),
            payload: payload(body),
            subscriptions: None,
        }
    }

    fn standing(kept: &Kept) -> Self {
        let standings = kept.standings.iter().map(StandingJson::from);
        Self {
            subscriptions: Some(standings.collect()),
            ..Self::new(&kept.destination, &kept.record)
        }
    }

    fn failed(failure: &FailureRecord) -> Self {
        let facts = &failure.draft.facts;
        let record = Record::read(failure.draft.raw.clone(), facts.position, None);
        Self {
            kept: false,
            subscriptions: Some(Vec::new()),
            ..Self::new(&failure.subscription.on, &record)
        }
    }

    /// What a failure record says of it is what holds: its store may be another than that of the messages.
    fn note(&mut self, failure: &FailureRecord) {
        let facts = &failure.draft.facts;
        let state = match (failure.state, failure.parked) {
            (FailureState::Redriving, _) => DeliveryState::Redriving,
            (FailureState::Waiting, true) => DeliveryState::Parked,
            (FailureState::Waiting, false) => DeliveryState::Failed,
        };
        let id = failure.subscription.to_string();
        let standing = StandingJson {
            id: id.clone(),
            state,
            attempts: facts.attempts,
            failure: Some(failure.id),
            until: None,
            error: facts.errors.first().cloned(),
        };
        let all = self.subscriptions.get_or_insert_default();
        all.retain(|known| known.id != id);
        all.push(standing);
        all.sort_by(|a, b| a.id.cmp(&b.id));
    }
}

impl From<&Standing> for StandingJson {
    fn from(standing: &Standing) -> Self {
        Self {
            id: standing.subscription.to_string(),
            state: standing.state,
            attempts: standing.attempts,
            failure: standing.failure,
            until: standing.until.map(Timestamp::to_rfc3339),
            error: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BrowseQuery {
    from: Option<String>,
    #[serde(default = "default_limit")]
    limit: u32,
    #[serde(rename = "type")]
    message_type: Option<String>,
    key: Option<String>,
    #[serde(default)]
    wait_ms: u64,
}

impl BrowseQuery {
    fn means(&self, record: &Record) -> bool {
        let of_type = |wanted: &String| {
            let envelope = record.content.as_ref().ok();
            envelope.is_some_and(|(envelope, _)| envelope.message_type == wanted.as_str())
        };
        let of_key = |wanted: &String| record.key().is_some_and(|key| key == wanted.as_bytes());
        self.message_type.as_ref().is_none_or(of_type) && self.key.as_ref().is_none_or(of_key)
    }
}

#[derive(Serialize)]
pub(super) struct MessagesJson {
    messages: Vec<MessageJson>,
    /// The `from` of the next page.
    next: u64,
    /// The oldest position that is kept.
    first: u64,
    /// Messages below may be seen: equal to `next` when all was looked at.
    end: u64,
    /// Messages that were looked at.
    scanned: u64,
}

pub(super) async fn browse(
    State(api): Shared,
    destination: Result<Path<String>, PathRejection>,
    query: Result<Query<BrowseQuery>, QueryRejection>,
) -> Answer<MessagesJson> {
    let destination = read_destination(destination)?;
    let query = read_query(query)?;
    let limit = read_limit(query.limit)? as usize;
    if query.wait_ms > WAIT_MS_MAX {
        let what = format!("wait_ms is {}; it is at most {WAIT_MS_MAX}", query.wait_ms);
        return Err(ApiError::bad_request(what));
    }
    let mut from = read_from(query.from.as_deref().unwrap_or("earliest"))?;
    let admin = admin(&api)?;
    let (mut scanned, mut bytes, mut messages) = (0, 0, Vec::new());
    let mut seen = None;
    let (next, first, end) = loop {
        let looks = PAGE_SCAN_MAX.saturating_sub(scanned);
        let page = admin.browse(Browse {
            destination: destination.clone(),
            from,
            limit: (limit - messages.len()).min(looks),
            bytes_max: PAGE_BYTES_MAX.saturating_sub(bytes),
            wait: Duration::from_millis(if scanned == 0 { query.wait_ms } else { 0 }),
        });
        let page = match (page.await, seen) {
            // Handled and gone since the piece before: the next request says so.
            (Err(fault), Some(seen)) if fault.kind == FaultKind::DataLoss => break seen,
            (page, _) => page?,
        };
        scanned += page.records.len();
        for record in page.records.iter().filter(|record| query.means(record)) {
            bytes += record.raw.size();
            messages.push(MessageJson::new(&destination, record));
        }
        let full = messages.len() >= limit || scanned >= PAGE_SCAN_MAX || bytes >= PAGE_BYTES_MAX;
        if full || page.records.is_empty() || page.next >= page.end {
            break (page.next, page.first, page.end);
        }
        seen = Some((page.next, page.first, page.end));
        from = SeekTo::Position(Position(page.next));
    };
    Ok(Json(MessagesJson {
        messages,
        next,
        first,
        end,
        scanned: scanned as u64,
    }))
}

pub(super) async fn at(
    State(api): Shared,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Answer<MessageJson> {
    let Path((destination, position)) =
        path.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let destination = parse_destination(&destination)?;
    let kept = admin(&api)?.message(&destination, position).await?;
    let mut shown = MessageJson::standing(&kept);
    if let Ok((envelope, _)) = &kept.record.content {
        let failed = failures_of(&api, &Wanted::Id(envelope.id), SCAN_DEFAULT).await?;
        for failure in failed.iter().filter(|f| f.subscription.on == destination) {
            shown.note(failure);
        }
    }
    Ok(Json(shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FindQuery {
    #[serde(default = "default_scan")]
    scan: u64,
}

const fn default_scan() -> u64 {
    SCAN_DEFAULT
}

/// What a search found, and how far it went.
#[derive(Serialize)]
pub(super) struct FoundJson {
    messages: Vec<MessageJson>,
    /// Messages that were looked at.
    scanned: u64,
    /// `false`: there are older messages that were not looked at, or more than are shown.
    complete: bool,
}

pub(super) async fn by_id(
    State(api): Shared,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<FindQuery>, QueryRejection>,
) -> Answer<FoundJson> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let Some(id) = MessageId::parse(&id) else {
        let what = format!("`{id}` is not a message id: they are UUIDs");
        return Err(ApiError::bad_request(what));
    };
    find(&api, Wanted::Id(id), read_query(query)?.scan).await
}

pub(super) async fn flow(
    State(api): Shared,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<FindQuery>, QueryRejection>,
) -> Answer<FoundJson> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let wanted = Wanted::Correlation(Text::from(id));
    find(&api, wanted, read_query(query)?.scan).await
}

async fn find(api: &Api, wanted: Wanted, scan_max: u64) -> Answer<FoundJson> {
    if scan_max > SCAN_MAX {
        let what = format!("scan is {scan_max}; it is at most {SCAN_MAX}");
        return Err(ApiError::bad_request(what));
    }
    let search = Search {
        wanted: wanted.clone(),
        scan_max,
        limit: FOUND_MAX,
    };
    let found = match api.runtime.engine.admin() {
        Some(admin) => admin.find(search).await?,
        None => Found::default(),
    };
    let failures = failures_of(api, &wanted, scan_max).await?;
    let mut messages: BTreeMap<(Option<String>, String, u64), MessageJson> = BTreeMap::new();
    for kept in &found.messages {
        let shown = MessageJson::standing(kept);
        messages.insert(place(&shown), shown);
    }
    for failure in &failures {
        let failed = MessageJson::failed(failure);
        let shown = messages.entry(place(&failed)).or_insert(failed);
        shown.note(failure);
    }
    Ok(Json(FoundJson {
        complete: found.complete && messages.len() <= FOUND_MAX,
        messages: messages.into_values().take(FOUND_MAX).collect(),
        scanned: found.scanned,
    }))
}

/// What tells two messages apart: when they came, then where they are.
fn place(message: &MessageJson) -> (Option<String>, String, u64) {
    let time = message.envelope.as_ref().and_then(|e| e.get("time"));
    let time = time.and_then(Value::as_str).map(str::to_owned);
    (time, message.destination.clone(), message.position)
}

/// Failure records of these messages, of all subscriptions; at most so many are looked at.
async fn failures_of(
    api: &Api,
    wanted: &Wanted,
    scan_max: u64,
) -> Result<Vec<FailureRecord>, ApiError> {
    let groups = api.failures.groups(None).await?;
    let mut subscriptions: Vec<SubscriptionId> =
        groups.into_iter().map(|group| group.subscription).collect();
    subscriptions.sort();
    subscriptions.dedup();
    let (mut found, mut looked) = (Vec::new(), 0);
    for id in &subscriptions {
        let mut after = None;
        while looked < scan_max {
            let page = api.failures.list(id, None, after, FAILURES_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            looked += page.len() as u64;
            for record in page.iter().filter(|record| is_wanted(wanted, record)) {
                match api.failures.show(id, record.id).await {
                    Ok(record) => found.push(record),
                    // Ended since it was listed.
                    Err(Fault {
                        kind: FaultKind::NotFound,
                        ..
                    }) => {}
                    Err(fault) => return Err(fault.into()),
                }
            }
        }
    }
    Ok(found)
}

fn is_wanted(wanted: &Wanted, record: &FailureRecord) -> bool {
    let facts = &record.draft.facts;
    match wanted {
        Wanted::Id(id) => facts.message_id.as_ref() == Some(id),
        Wanted::Correlation(text) => {
            let begins = facts.message_id.is_some_and(|id| id.to_string() == **text);
            let read = carriage::read(&record.draft.raw);
            begins || read.is_ok_and(|(e, _)| e.correlation_id.as_ref() == Some(text))
        }
    }
}

pub(super) fn read_destination(
    destination: Result<Path<String>, PathRejection>,
) -> Result<Destination, ApiError> {
    let Path(text) = destination.map_err(|error| ApiError::bad_request(error.body_text()))?;
    parse_destination(&text)
}

fn parse_destination(text: &str) -> Result<Destination, ApiError> {
    Destination::parse(text).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// `earliest`, `latest`, a position, or a time.
pub(super) fn read_from(text: &str) -> Result<SeekTo, ApiError> {
    if let Ok(position) = text.parse() {
        return Ok(SeekTo::Position(Position(position)));
    }
    match text {
        "earliest" => Ok(SeekTo::Earliest),
        "latest" => Ok(SeekTo::Latest),
        time => Timestamp::parse_rfc3339(time)
            .map(SeekTo::Time)
            .ok_or_else(|| {
                let what = format!(
                    "`{time}` is neither earliest, latest, a position nor a time in RFC 3339"
                );
                ApiError::bad_request(what)
            }),
    }
}
