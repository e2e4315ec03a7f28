//! The routes: read the request, ask, answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::future::join_all;
use postrider_core::code::Code;
use postrider_core::engine::{Admin, SubscriptionDepth};
use postrider_core::failure::FailureId;
use postrider_core::name::SubscriptionId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, ApiError};
use super::json::{
    AuditJson, Done, FailureJson, GroupJson, PageJson, PlanJson, RelayJson, ShownJson, StatusJson,
    SubscriptionJson, Told, TopicJson, Wish,
};
use super::{Api, BODY_BYTES_MAX, PUBLISH_BYTES_MAX, change, messages, snapshot};
use crate::driver::Running;
use crate::failures::PAGE_MAX;
use crate::metrics;

pub(super) type Shared = State<Arc<Api>>;
pub(super) type Id = Result<Path<String>, PathRejection>;
pub(super) type Body = Result<Bytes, BytesRejection>;

pub(super) fn router(api: Arc<Api>) -> Router {
    let publish = post(change::publish).layer(DefaultBodyLimit::max(PUBLISH_BYTES_MAX));
    let edit = post(change::edit).layer(DefaultBodyLimit::max(PUBLISH_BYTES_MAX));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", get(plan))
        .route("/v1/topics", get(topics))
        .route(
            "/v1/topics/{destination}/messages",
            get(messages::browse).merge(publish),
        )
        .route(
            "/v1/topics/{destination}/messages/{position}",
            get(messages::at),
        )
        .route("/v1/messages/{id}", get(messages::by_id))
        .route("/v1/flows/{id}", get(messages::flow))
        .route("/v1/subscriptions", get(subscriptions))
        .route("/v1/subscriptions/{id}", get(subscription))
        .route("/v1/subscriptions/{id}/pause", post(pause))
        .route("/v1/subscriptions/{id}/resume", post(resume))
        .route("/v1/subscriptions/{id}/seek", post(change::seek))
        .route("/v1/failures", get(groups))
        .route("/v1/subscriptions/{id}/failures", get(failures))
        .route("/v1/subscriptions/{id}/failures/{number}", get(failure))
        .route("/v1/subscriptions/{id}/failures/{number}/edit", edit)
        .route("/v1/subscriptions/{id}/redrive", post(redrive))
        .route("/v1/subscriptions/{id}/discard", post(discard))
        .route("/v1/subscriptions/{id}/audit", get(audit))
        .route("/v1/metrics", get(prometheus))
        .route("/v1/snapshot", get(snapshot::snapshot))
        .route("/v1/backup", post(change::backup))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "there is no {}; the paths begin with /v1/",
        uri.path()
    ))
}

async fn no_such_method(uri: Uri) -> ApiError {
    let what = format!("{} is not asked with this method", uri.path());
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::ADMIN_BAD_REQUEST,
        what,
    )
}

async fn status(State(api): Shared) -> Answer<Value> {
    let runtime = &api.runtime;
    let running = runtime.registry.all();
    let services: BTreeSet<String> = running.iter().map(|r| r.id.service.to_string()).collect();
    let relays = runtime
        .registry
        .relays()
        .all()
        .into_iter()
        .map(|(service, relay)| async move {
            RelayJson {
                service,
                depth: relay.depth().await.ok(),
                status: relay.status(),
            }
        });
    let now = runtime.clock.wall();
    let uptime = runtime.clock.mono().since(api.began);
    let status = StatusJson {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        instance: runtime.instance.to_string(),
        started_at: api.started.to_rfc3339(),
        now: now.to_rfc3339(),
        uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        engine: runtime.engine.info(),
        services: services.into_iter().collect(),
        subscriptions: running.len(),
        relays: join_all(relays).await,
    };
    Ok(Json(json!(status)))
}

async fn plan(State(api): Shared) -> Answer<Value> {
    let plan = PlanJson {
        engine: api.runtime.engine.info(),
        subscriptions: api
            .runtime
            .registry
            .all()
            .iter()
            .filter_map(|r| r.shown.plan.clone())
            .collect(),
    };
    Ok(Json(json!(plan)))
}

async fn topics(State(api): Shared) -> Answer<Vec<TopicJson>> {
    let topics = admin(&api)?
        .destinations()
        .await?
        .into_iter()
        .map(|depth| TopicJson {
            destination: depth.destination.to_string(),
            messages: depth.messages,
            next_position: depth.next_position,
            subscriptions: depth
                .subscriptions
                .iter()
                .map(ToString::to_string)
                .collect(),
        });
    Ok(Json(topics.collect()))
}

pub(super) fn admin(api: &Api) -> Result<Arc<dyn Admin>, ApiError> {
    api.runtime.engine.admin().ok_or_else(|| {
        let what = "this engine does not say what its topics and queues hold";
        ApiError::new(StatusCode::NOT_IMPLEMENTED, Code::ADMIN_NOT_FOUND, what)
    })
}

/// An engine that does not know is no reason not to answer.
pub(super) async fn depth(api: &Api, id: &SubscriptionId) -> Option<SubscriptionDepth> {
    let admin = api.runtime.engine.admin()?;
    admin.depth(id).await.ok()
}

pub(super) async fn with_depth(api: &Api, running: Vec<Arc<Running>>) -> Vec<SubscriptionJson> {
    let all = running
        .iter()
        .map(|r| async move { SubscriptionJson::new(r, depth(api, &r.id).await) });
    join_all(all).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscriptionsQuery {
    #[serde(default)]
    all: bool,
}

async fn subscriptions(
    State(api): Shared,
    query: Result<Query<SubscriptionsQuery>, QueryRejection>,
) -> Answer<Vec<Value>> {
    let all = read_query(query)?.all;
    let running = with_depth(&api, api.runtime.registry.all()).await;
    let mut list: Vec<Value> = running.iter().map(snapshot::value_of).collect();
    if all {
        list.extend(snapshot::idle(&api).await?);
    }
    Ok(Json(list))
}

async fn subscription(State(api): Shared, id: Id) -> Answer<Vec<SubscriptionJson>> {
    let id = read_id(id)?;
    Ok(Json(with_depth(&api, members(&api, &id)?).await))
}

async fn pause(State(api): Shared, id: Id) -> Answer<Told> {
    let id = read_id(id)?;
    let members = members(&api, &id)?;
    join_all(members.iter().map(|m| m.shown.handle.pause())).await;
    Ok(Json(told(&id, true, &members)))
}

async fn resume(State(api): Shared, id: Id) -> Answer<Told> {
    let id = read_id(id)?;
    let members = members(&api, &id)?;
    join_all(members.iter().map(|m| m.shown.handle.resume())).await;
    Ok(Json(told(&id, false, &members)))
}

fn told(id: &SubscriptionId, paused: bool, members: &[Arc<Running>]) -> Told {
    Told {
        id: id.to_string(),
        paused,
        members: members.len(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupsQuery {
    subscription: Option<String>,
}

async fn groups(
    State(api): Shared,
    query: Result<Query<GroupsQuery>, QueryRejection>,
) -> Answer<Vec<GroupJson>> {
    let query = read_query(query)?;
    let id = query.subscription.as_deref().map(parse_id).transpose()?;
    let groups = api.failures.groups(id.as_ref()).await?;
    Ok(Json(groups.into_iter().map(GroupJson::from).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    group: Option<String>,
    after: Option<u64>,
    #[serde(default = "default_limit")]
    limit: u32,
}

pub(super) const fn default_limit() -> u32 {
    100
}

async fn failures(
    State(api): Shared,
    id: Id,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<PageJson> {
    let id = read_id(id)?;
    let ListQuery {
        group,
        after,
        limit,
    } = read_query(query)?;
    let limit = read_limit(limit)?;
    let after = after.map(FailureId);
    let records = api
        .failures
        .list(&id, group.as_deref(), after, limit)
        .await?;
    let full = records.len() as u64 >= u64::from(limit);
    Ok(Json(PageJson {
        next: records.last().map(|r| r.id).filter(|_| full),
        records: records.iter().map(FailureJson::from).collect(),
    }))
}

async fn failure(
    State(api): Shared,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Answer<ShownJson> {
    let bad = |error: PathRejection| ApiError::bad_request(error.body_text());
    let Path((id, number)) = path.map_err(bad)?;
    let (id, number) = (parse_id(&id)?, FailureId(number));
    let record = api.failures.show(&id, number).await?;
    let edited = api.failures.original(&id, number).await?;
    let mut shown = ShownJson::from(&record);
    shown.edited = edited.map(Into::into);
    Ok(Json(shown))
}

async fn redrive(State(api): Shared, id: Id, body: Body) -> Answer<Done> {
    let (id, wish): (_, Wish) = (read_id(id)?, read_wish(body)?);
    let which = wish.selection()?;
    let count = api
        .failures
        .redrive(&id, which, &wish.by, &wish.reason)
        .await?;
    Ok(Json(Done { count }))
}

async fn discard(State(api): Shared, id: Id, body: Body) -> Answer<Done> {
    let (id, wish): (_, Wish) = (read_id(id)?, read_wish(body)?);
    let which = wish.selection()?;
    let count = api
        .failures
        .discard(&id, which, &wish.by, &wish.reason)
        .await?;
    Ok(Json(Done { count }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    #[serde(default = "default_limit")]
    limit: u32,
}

async fn audit(
    State(api): Shared,
    id: Id,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Answer<Vec<AuditJson>> {
    let id = read_id(id)?;
    let limit = read_limit(read_query(query)?.limit)?;
    let entries = api.failures.audit(&id, limit).await?;
    Ok(Json(entries.into_iter().map(AuditJson::from).collect()))
}

async fn prometheus(State(api): Shared) -> Response {
    metrics::refresh(&api.runtime).await;
    match api.runtime.recorder.prometheus() {
        Some(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        None => {
            ApiError::not_found("this program exports its metrics by other means").into_response()
        }
    }
}

pub(super) fn members(api: &Api, id: &SubscriptionId) -> Result<Vec<Arc<Running>>, ApiError> {
    let members = api.runtime.registry.members(id);
    if members.is_empty() {
        return Err(ApiError::not_found(format!(
            "{id} does not run in this process"
        )));
    }
    Ok(members)
}

pub(super) fn read_id(id: Id) -> Result<SubscriptionId, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()))?;
    parse_id(&id)
}

pub(super) fn parse_id(text: &str) -> Result<SubscriptionId, ApiError> {
    SubscriptionId::parse(text).map_err(|error| ApiError::bad_request(error.to_string()))
}

pub(super) fn read_query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    Ok(query)
}

pub(super) fn read_limit(limit: u32) -> Result<u32, ApiError> {
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::bad_request(format!(
        "limit is {limit}; it may be 1 to {PAGE_MAX}"
    )))
}

pub(super) fn read_wish<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let body = body.map_err(|error| {
        let what = format!(
            "the body cannot be taken (at most {BODY_BYTES_MAX} bytes): {}",
            error.body_text()
        );
        ApiError::new(error.status(), Code::ADMIN_BAD_REQUEST, what)
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("the body is not what this path takes: {error}"))
    })
}
