#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::code::Code;
use postrider_core::envelope::Outgoing;
use postrider_core::fault::Effect;
use postrider_core::id::MessageId;
use postrider_core::text::Text;
use postrider_macros::Message;
use serde::{Deserialize, Serialize};

use super::*;
use crate::fake::{self, FakeEngine};

#[derive(Message, Serialize, Deserialize)]
#[message(queue = "prices", type = "ask", crate = postrider_core)]
struct Ask;

#[derive(Debug, PartialEq, Message, Serialize, Deserialize)]
#[message(reply, type = "price", crate = postrider_core)]
struct Price {
    cents: u64,
}

const DEADLINE: Duration = Duration::from_secs(2);

async fn request(engine: &Arc<FakeEngine>) -> (Bus, tokio::task::JoinHandle<Result<Price>>) {
    let bus = fake::bus(engine).await;
    let asker = bus.clone();
    let task = tokio::spawn(async move { asker.request::<Price>(Ask, DEADLINE).await });
    while engine.published.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    (bus, task)
}

/// What waits for an answer in the open inbox.
async fn waiting(bus: &Bus) -> Vec<Text> {
    let inbox = bus.requests().inbox(bus).await.unwrap();
    match &*inbox.state.lock() {
        State::Open(waiting) => waiting.keys().cloned().collect(),
        State::Ended(why) => panic!("{why}"),
    }
}

/// What a responder would send.
fn answer(engine: &FakeEngine, message_type: &'static str, payload: &'static str) -> Outgoing {
    let asked = engine.published.lock()[0].clone();
    let id = MessageId::derived(asked.envelope.id, "prices", message_type, None, 0);
    let now = asked.envelope.time;
    let mut envelope = Envelope::new(
        id,
        Text::from_static("prices"),
        Text::from_static(message_type),
        now,
    );
    crate::effect::follow(&mut envelope, &asked.envelope);
    Outgoing {
        destination: asked.envelope.reply_to.unwrap(),
        envelope,
        payload: Bytes::from_static(payload.as_bytes()),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_finds_its_request_and_a_second_one_is_late() {
    let engine = FakeEngine::new(1);
    let (bus, task) = request(&engine).await;
    let asked = engine.published.lock()[0].envelope.clone();
    assert_eq!(
        asked.expires_at,
        Some(asked.time.plus(DEADLINE)),
        "the deadline travels"
    );
    let reply = answer(&engine, "price", r#"{"cents":5}"#);
    engine.replies.send(reply.clone()).unwrap();
    assert_eq!(task.await.unwrap().unwrap(), Price { cents: 5 });
    engine.replies.send(reply).unwrap();
    while bus.late_replies() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bus.late_replies(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_answer_by_the_deadline_is_a_timeout() {
    let engine = FakeEngine::new(1);
    let (bus, task) = request(&engine).await;
    assert_eq!(
        task.await.unwrap().unwrap_err().code(),
        Code::REQUEST_TIMED_OUT
    );
    assert!(
        waiting(&bus).await.is_empty(),
        "nothing is kept of it: {:?}",
        waiting(&bus).await
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_answers_fails_at_once() {
    let engine = FakeEngine::new(0);
    let began = tokio::time::Instant::now();
    let bus = fake::bus(&engine).await;
    let error = bus.request::<Price>(Ask, DEADLINE).await.unwrap_err();
    assert_eq!(error.code(), Code::REQUEST_NO_RESPONDER);
    assert!(began.elapsed() < DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn an_error_reply_is_an_error_with_its_text() {
    let engine = FakeEngine::new(1);
    let (_bus, task) = request(&engine).await;
    let asked = engine.published.lock()[0].clone();
    let runtime = fake::delivery().inner.runtime.clone();
    let delivery = fake::delivery_of(asked.envelope, "null", runtime);
    let reply = error_reply(&delivery, Code::HANDLER_PERMANENT, "no such article").unwrap();
    engine.replies.send(reply).unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::REPLY_FAILED);
    assert!(
        error.what().contains("no such article (PR-1309)"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_type_is_an_error_that_names_both() {
    let engine = FakeEngine::new(1);
    let (_bus, task) = request(&engine).await;
    engine
        .replies
        .send(answer(&engine, "weather", "{}"))
        .unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::PAYLOAD_UNREADABLE);
    assert!(error.what().contains("`weather`") && error.what().contains("`price`"));
}

#[test]
fn nobody_asked_so_nobody_is_told() {
    assert!(error_reply(&fake::delivery(), Code::HANDLER_PERMANENT, "x").is_none());
}

#[tokio::test(start_paused = true)]
async fn after_a_fault_of_the_inbox_what_waits_fails_at_once_and_the_next_request_is_answered() {
    let engine = FakeEngine::new(1);
    let began = tokio::time::Instant::now();
    let (bus, task) = request(&engine).await;
    engine.inbox_ends.notify_one();
    let error = task.await.unwrap().unwrap_err();
    assert!(began.elapsed() < DEADLINE, "it waited for the deadline");
    assert!(
        error.what().contains("the connection is closed"),
        "it says why: {error}"
    );
    assert!(error.is_retriable());
    assert_eq!(error.effect(), Effect::Unknown, "it was sent");
    engine.published.lock().clear();
    let again = bus.clone();
    let task = tokio::spawn(async move { again.request::<Price>(Ask, DEADLINE).await });
    while engine.published.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let reply = answer(&engine, "price", r#"{"cents":7}"#);
    engine.replies.send(reply).unwrap();
    assert_eq!(task.await.unwrap().unwrap(), Price { cents: 7 });
}

#[tokio::test(start_paused = true)]
async fn a_request_on_a_closed_bus_fails_at_once() {
    let engine = FakeEngine::new(1);
    let (bus, task) = request(&engine).await;
    bus.close(DEADLINE).await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(error.what().contains("the bus was closed"), "{error}");
    let began = tokio::time::Instant::now();
    let error = bus.request::<Price>(Ask, DEADLINE).await.unwrap_err();
    assert!(error.what().contains("the bus is closed"), "{error}");
    assert!(began.elapsed() < DEADLINE);
}
