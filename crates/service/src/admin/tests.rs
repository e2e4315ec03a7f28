#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use postrider_core::capability::Capability;
use postrider_core::engine::Publisher;
use postrider_core::failure::FailureStore;
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_core::policy::{Policy, Retry};
use postrider_core::source::Source;
use postrider_core::subscription::SubscriptionSpec;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::*;
use crate::delivery::{Delivery, Ending};
use crate::driver::{DriverHandle, Setup, spawn};
use crate::erased::{ErasedHandler, Router};
use crate::metrics::Metrics;
use crate::test_support::engine::FakeEngine;
use crate::test_support::failures::FakeFailures;
use crate::test_support::publisher::FakePublisher;
use crate::test_support::sources::{FakeLease, Feed, Settles};
use crate::test_support::{Seeded, TokioClock, outgoing};

const ID: &str = "inventory@topic:shop.order";

/// Refuses every message.
struct Refuses;

impl ErasedHandler for Refuses {
    fn message_type(&self) -> &str {
        "placed"
    }
    fn retry(&self) -> Retry {
        Retry::never()
    }
    fn call(&self, _: Delivery) -> postrider_core::Fut<'static, Ending> {
        let error = postrider_core::fault::HandlerError::Permanent("card 4711 declined".into());
        Box::pin(async { Ending::Failed(error) })
    }
}

struct World {
    dir: tempfile::TempDir,
    runtime: Arc<Runtime>,
    server: AdminServer,
    feed: Arc<Feed>,
    settles: Arc<Settles>,
    handle: DriverHandle,
}

async fn world() -> World {
    let id = SubscriptionId::parse(ID).unwrap();
    let failures = FakeFailures::new(&id);
    let (feed, settles, publisher) = (Feed::new(), Settles::new(), FakePublisher::new());
    let home = Arc::clone(&failures) as Arc<dyn FailureStore>;
    let publisher = publisher as Arc<dyn Publisher>;
    let engine = FakeEngine::new(
        Arc::clone(&publisher),
        Some(Arc::clone(&home)),
        &[Capability::Lag],
    );
    let clock = TokioClock::new();
    let runtime = Arc::new(Runtime::new(
        Arc::new(engine),
        publisher,
        Arc::clone(&clock) as Arc<dyn postrider_core::clock::Clock>,
        Seeded::new(1),
        Arc::new(Metrics::new()),
    ));
    let handler: Arc<dyn ErasedHandler> = Arc::new(Refuses);
    let handle = spawn(Setup {
        runtime: Arc::clone(&runtime),
        spec: SubscriptionSpec::new(id, InstanceId(1)),
        policy: Policy::default(),
        router: Arc::new(Router::new([handler]).map_err(|_| "twice").unwrap()),
        source: Source::Lease(Box::new(FakeLease::new(
            Arc::clone(&feed),
            Arc::clone(&settles),
            clock,
        ))),
        failures: Some(home),
        failures_in_engine: true,
        plan: None,
    });
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), Place::Engine, Arc::clone(&runtime)).unwrap();
    World {
        dir,
        runtime,
        server,
        feed,
        settles,
        handle,
    }
}

impl World {
    async fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, String) {
        let stream = UnixStream::connect(self.server.path()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "postrider");
        let request = request.body(Full::new(body.into())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.ask("GET", path, "").await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, body) = self.ask("POST", path, body.to_string()).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Two failures of one key.
    async fn fail_two(&self) {
        self.feed.push(1, &outgoing(1, Some("a")));
        self.feed.push(2, &outgoing(2, Some("a")));
        self.settles.wait_for(2).await;
    }
}

#[tokio::test]
async fn the_socket_is_closed_to_others_replaces_a_stale_one_and_goes_with_the_server() {
    let world = world().await;
    let path = world.server.path().to_owned();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A second bind on the same name: the first one is stale.
    let again = bind(&path).unwrap();
    assert!(UnixStream::connect(&path).await.is_ok());
    drop(again);
    drop(world);
    assert!(!path.exists());
}

#[tokio::test]
async fn in_a_directory_that_a_user_named_the_socket_of_another_process_stays() {
    let world = world().await;
    let fault = serve(world.dir.path(), Place::Named, world.runtime.clone()).unwrap_err();
    assert!(fault.to_string().contains("another process"), "{fault}");
    assert_eq!(world.get("/v1/status").await.0, 200);
    // A stale one is replaced: nobody answers on it.
    let other = tempfile::tempdir().unwrap();
    drop(bind(&other.path().join(SOCKET)).unwrap());
    drop(serve(other.path(), Place::Named, world.runtime.clone()).unwrap());
}

#[tokio::test]
async fn a_path_that_is_too_long_is_said_clearly() {
    let world = world().await;
    let deep = world.dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let fault = serve(&deep, Place::Engine, Arc::clone(&world.runtime)).unwrap_err();
    assert!(fault.to_string().starts_with("PR-1601"), "{fault}");
    assert!(
        fault.to_string().contains("at most about 100 bytes"),
        "{fault}"
    );
}

#[tokio::test]
async fn status_plan_topics_and_subscriptions_say_what_runs() {
    let world = world().await;
    let (code, status) = world.get("/v1/status").await;
    assert_eq!(code, 200);
    assert_eq!(status["engine"]["scheme"], "fake");
    assert_eq!(status["services"], json!(["inventory"]));
    assert_eq!(status["pid"], std::process::id());
    assert!(status["started_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(world.get("/v1/plan").await.0, 200);
    let (_, topics) = world.get("/v1/topics").await;
    assert_eq!(topics[0]["destination"], "topic:shop.order");
    assert_eq!(topics[0]["subscriptions"], json!([ID]));
    let (_, all) = world.get("/v1/subscriptions").await;
    assert_eq!(all[0]["id"], ID);
    assert_eq!(all[0]["phase"], "running");
    assert_eq!(all[0]["types"], json!(["placed"]));
    assert_eq!(all[0]["depth"]["oldest_age_ms"], 1500);
    assert_eq!(all[0]["policy"]["limits"]["concurrency"], 64);
    assert_eq!(all[0]["lease_ms"], 30_000);
    let (_, one) = world
        .get("/v1/subscriptions/inventory%40topic%3Ashop.order")
        .await;
    assert_eq!(one, all);
}

#[tokio::test]
async fn a_subscription_is_paused_and_resumed() {
    let world = world().await;
    let (code, told) = world
        .post(&format!("/v1/subscriptions/{ID}/pause"), json!(null))
        .await;
    assert_eq!(
        (code, &told["paused"], &told["members"]),
        (200, &json!(true), &json!(1))
    );
    let phase = |phase| {
        let handle = world.handle.clone();
        async move {
            while handle.status().phase != phase {
                tokio::task::yield_now().await;
            }
        }
    };
    phase(crate::driver::Phase::Paused).await;
    world
        .post(&format!("/v1/subscriptions/{ID}/resume"), json!(null))
        .await;
    phase(crate::driver::Phase::Running).await;
}

#[tokio::test]
async fn failures_are_grouped_listed_shown_redriven_and_discarded_with_a_reason() {
    let world = world().await;
    world.fail_two().await;
    let (_, groups) = world.get("/v1/failures").await;
    assert_eq!(groups.as_array().unwrap().len(), 2, "{groups}");
    let (_, of_one) = world.get(&format!("/v1/failures?subscription={ID}")).await;
    assert_eq!(groups, of_one);
    let base = format!("/v1/subscriptions/{ID}");
    let (_, page) = world.get(&format!("{base}/failures?limit=1")).await;
    assert_eq!(
        (&page["next"], page["records"].as_array().unwrap().len()),
        (&json!(1), 1)
    );
    let (_, page) = world.get(&format!("{base}/failures?after=1")).await;
    assert_eq!(
        (&page["next"], &page["records"][0]["cause"]),
        (&json!(null), &json!("follower"))
    );
    let (_, shown) = world.get(&format!("{base}/failures/1")).await;
    assert_eq!(shown["errors"], json!(["card 4711 declined"]));
    assert_eq!(shown["group"], "permanent · placed · card # declined");
    assert_eq!(shown["code"], "PR-1309");
    assert_eq!(shown["envelope"]["type"], "placed");
    assert_eq!(
        shown["payload"],
        json!({"bytes": 1, "truncated": false, "text": "1"})
    );
    assert_eq!(
        (&shown["key"], &shown["parked"]),
        (&json!("a"), &json!(true))
    );
    let wish = json!({"ids": [2], "reason": "a test order", "by": "ann"});
    assert_eq!(
        world.post(&format!("{base}/discard"), wish).await,
        (200, json!({"count": 1}))
    );
    let wish = json!({"key": "a", "reason": "the bank is back", "by": "bob"});
    assert_eq!(
        world.post(&format!("{base}/redrive"), wish).await,
        (200, json!({"count": 1}))
    );
    let (_, audit) = world.get(&format!("{base}/audit")).await;
    let last = (
        &audit[0]["action"],
        &audit[0]["by"],
        &audit[0]["reason"],
        &audit[0]["count"],
    );
    assert_eq!(
        last,
        (
            &json!("redrive"),
            &json!("bob"),
            &json!("the bank is back"),
            &json!(1)
        )
    );
    assert_eq!(audit[1]["action"], "discard");
}

#[tokio::test]
async fn bad_requests_are_answered_with_a_code_and_what_to_do() {
    let world = world().await;
    let base = format!("/v1/subscriptions/{ID}");
    let huge = json!({"all": true, "by": "ann", "reason": "x".repeat(BODY_BYTES_MAX)}).to_string();
    for (method, path, body, status, code) in [
        (
            "GET",
            "/v2/status".to_owned(),
            String::new(),
            404,
            "PR-1603",
        ),
        (
            "DELETE",
            "/v1/status".to_owned(),
            String::new(),
            405,
            "PR-1602",
        ),
        (
            "GET",
            "/v1/subscriptions/nonsense".to_owned(),
            String::new(),
            400,
            "PR-1602",
        ),
        (
            "POST",
            "/v1/subscriptions/other@topic:t/pause".to_owned(),
            String::new(),
            404,
            "PR-1603",
        ),
        (
            "GET",
            format!("{base}/failures/99"),
            String::new(),
            404,
            "PR-1603",
        ),
        (
            "GET",
            format!("{base}/failures/one"),
            String::new(),
            400,
            "PR-1602",
        ),
        (
            "GET",
            format!("{base}/failures?limit=1001"),
            String::new(),
            400,
            "PR-1602",
        ),
        (
            "GET",
            format!("{base}/failures?colour=red"),
            String::new(),
            400,
            "PR-1602",
        ),
        (
            "POST",
            format!("{base}/redrive"),
            "not json".to_owned(),
            400,
            "PR-1602",
        ),
        (
            "POST",
            format!("{base}/redrive"),
            r#"{"all":true,"ids":[1],"reason":"r","by":"b"}"#.to_owned(),
            400,
            "PR-1602",
        ),
        (
            "POST",
            format!("{base}/redrive"),
            r#"{"reason":"r","by":"b"}"#.to_owned(),
            400,
            "PR-1602",
        ),
        (
            "POST",
            format!("{base}/redrive"),
            r#"{"all":true,"reason":" ","by":"b"}"#.to_owned(),
            400,
            "PR-1602",
        ),
        (
            "POST",
            format!("{base}/discard"),
            r#"{"key_base64":"?","reason":"r","by":"b"}"#.to_owned(),
            400,
            "PR-1602",
        ),
        ("POST", format!("{base}/discard"), huge, 413, "PR-1602"),
    ] {
        let (got, text) = world.ask(method, &path, body).await;
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (got, error["code"].as_str().unwrap()),
            (status, code),
            "{method} {path}: {text}"
        );
        for field in ["what", "why", "remedy"] {
            assert!(
                !error[field].as_str().unwrap().is_empty(),
                "{method} {path}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text_with_fresh_depths() {
    let world = world().await;
    world.fail_two().await;
    let (status, text) = world.ask("GET", "/v1/metrics", "").await;
    assert_eq!(status, 200);
    for line in [
        format!("postrider_depth{{subscription=\"{ID}\"}} 5"),
        format!("postrider_lag_age_seconds{{subscription=\"{ID}\"}} 1.5"),
        format!("postrider_dead_total{{subscription=\"{ID}\",cause=\"permanent\"}} 1"),
        format!("postrider_failed_total{{subscription=\"{ID}\",outcome=\"permanent\"}} 1"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    world.handle.stop(Duration::from_secs(1)).await;
    assert_eq!(world.get("/v1/subscriptions").await.1, json!([]));
}

#[tokio::test]
async fn messages_are_published_with_what_they_say_or_with_defaults() {
    let world = world().await;
    let path = "/v1/topics/topic%3Ashop.order/messages";
    let messages = json!([
        {"type": "placed", "payload": "{\"n\":1}", "key": "a", "headers": {"origin": "test"}},
        {"type": "placed", "payload_base64": "/w==", "id": "0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10", "delay_ms": 60_000},
    ]);
    let (status, answer) = world.post(path, json!({ "messages": messages })).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[1]["id"], "0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10");
    assert!(
        results.iter().all(|result| result["error"].is_null()),
        "{answer}"
    );
    for (body, status) in [
        (json!({"messages": []}), 400),
        (json!({"messages": [{"type": "", "payload": "1"}]}), 400),
        (json!({"messages": [{"type": "placed"}]}), 400),
        (
            json!({"messages": [{"type": "placed", "payload": "1", "payload_base64": ""}]}),
            400,
        ),
        (
            json!({"messages": [{"type": "placed", "payload": "1", "id": "one"}]}),
            400,
        ),
        (
            json!({"messages": [{"type": "placed", "payload": "1", "headers": {"ce_id": "1"}}]}),
            400,
        ),
        (
            json!({"messages": [{"type": "placed", "payload": "1", "colour": 1}]}),
            400,
        ),
    ] {
        assert_eq!(world.post(path, body.clone()).await.0, status, "{body}");
    }
    let other = "/v1/topics/topic%3Aother/messages";
    let body = json!({"messages": [{"type": "placed", "payload": "1"}]});
    assert_eq!(world.post(other, body.clone()).await.0, 404);
    let made = json!({"messages": body["messages"], "create": true});
    assert_eq!(world.post(other, made).await.0, 200);
}

#[tokio::test]
async fn what_the_engine_or_the_store_cannot_do_is_501() {
    let world = world().await;
    world.fail_two().await;
    let base = format!("/v1/subscriptions/{ID}");
    for path in [
        "/v1/topics/topic:shop.order/messages",
        "/v1/topics/topic:shop.order/messages/3",
        "/v1/messages/0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10",
        "/v1/flows/order-7",
    ] {
        let (status, error) = world.get(path).await;
        assert_eq!(
            (status, &error["code"]),
            (501, &json!("PR-1603")),
            "{path}: {error}"
        );
    }
    for (path, body) in [
        (
            format!("{base}/seek"),
            json!({"to": "latest", "dry_run": true}),
        ),
        (
            format!("{base}/failures/1/edit"),
            json!({"payload": "2", "reason": "r", "by": "b"}),
        ),
        ("/v1/backup".to_owned(), json!({"target": "/nowhere"})),
    ] {
        assert_eq!(world.post(&path, body).await.0, 501, "{path}");
    }
    for (path, body) in [
        (
            format!("{base}/seek"),
            json!({"to": "noon", "dry_run": true}),
        ),
        (format!("{base}/seek"), json!({"to": "latest"})),
        (
            format!("{base}/failures/1/edit"),
            json!({"payload": "2", "reason": "", "by": "b"}),
        ),
        ("/v1/backup".to_owned(), json!({"target": "relative"})),
    ] {
        assert_eq!(world.post(&path, body).await.0, 400, "{path}");
    }
    let unchanged = json!({"payload": "1", "reason": "r", "by": "b"});
    let edit = world
        .post(&format!("{base}/failures/1/edit"), unchanged)
        .await;
    assert_eq!(edit, (200, json!({"edited": false})));
}

#[tokio::test]
async fn a_snapshot_has_counts_times_and_failures_of_each_subscription() {
    let world = world().await;
    world.fail_two().await;
    let (status, snapshot) = world.get("/v1/snapshot").await;
    assert_eq!(status, 200);
    let one = &snapshot["subscriptions"][0];
    assert_eq!((&one["id"], &one["failures"]), (&json!(ID), &json!(2)));
    assert_eq!(
        one["counts"]["failed"], 1,
        "the second never ran: its key was parked"
    );
    assert_eq!(one["counts"]["dead"], 2);
    assert_eq!(one["handler"]["count"], 1);
    assert_eq!(snapshot["topics"][0]["destination"], "topic:shop.order");
    world.handle.stop(Duration::from_secs(1)).await;
    let (_, all) = world.get("/v1/subscriptions?all=true").await;
    assert_eq!(
        (&all[0]["id"], &all[0]["phase"]),
        (&json!(ID), &json!("not_running"))
    );
}
