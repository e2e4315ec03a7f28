//! Bad input at the face: a clear error with its code, nothing lost, nothing hangs, no panic.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use postrider::contract::carriage::Raw;
use postrider::contract::engine::Publisher;
use postrider::contract::envelope::{Envelope, Outgoing};
use postrider::contract::failure::{Cause, FailureRecord, FailureStore};
use postrider::contract::name::{Destination, SubscriptionId};
use postrider::prelude::*;
use postrider::{BusOptions, Code, Running};
use support::{SOON, Wrapped};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

#[derive(Message, Serialize, Deserialize, Debug, PartialEq)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct Placed {
    order_id: String,
    text: String,
}

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(topic = "shop.order", type = "paid", key = order_id)]
struct Paid {
    order_id: String,
}

fn placed(order_id: &str) -> Placed {
    Placed {
        order_id: order_id.into(),
        text: String::new(),
    }
}

type Seen = mpsc::UnboundedSender<String>;
type Watch = mpsc::UnboundedReceiver<String>;

async fn see(order: Placed, State(seen): State<Seen>) {
    let _ = seen.send(order.order_id);
}

async fn placed_handler(_: Placed) {}
async fn paid_handler(_: Paid) {}

async fn memory() -> Bus {
    Bus::connect("memory:").await.unwrap()
}

async fn watched(bus: &Bus) -> (Running, Watch) {
    let (sender, seen) = mpsc::unbounded_channel();
    let service = Service::new("shipping").announce(false).state(sender);
    (service.on(see).start(bus).await.unwrap(), seen)
}

async fn next(seen: &mut Watch) -> String {
    timeout(SOON, seen.recv()).await.unwrap().unwrap()
}

/// The subscription's failures once there are so many, each with its bytes.
async fn failures(
    home: &dyn FailureStore,
    id: &SubscriptionId,
    count: usize,
) -> Vec<FailureRecord> {
    let listed = async {
        loop {
            match home.list(id, None, None, 10).await {
                Ok(listed) if listed.len() >= count => break listed,
                _ => tokio::time::sleep(millis(20)).await,
            }
        }
    };
    let listed = timeout(SOON, listed).await.unwrap();
    let mut records = Vec::new();
    for record in listed {
        records.push(home.get(id, record.id).await.unwrap());
    }
    assert_eq!(records.len(), count);
    records
}

fn id_of(running: &Running) -> SubscriptionId {
    running.subscriptions()[0].subscription().clone()
}

#[tokio::test(start_paused = true)]
async fn a_key_of_1_mib_is_refused_with_its_limit_and_the_next_message_goes_on() {
    let bus = memory().await;
    let (running, mut seen) = watched(&bus).await;
    let giant = Key::new("k".repeat(1 << 20));
    let error = bus
        .publish(Publish(placed("a")).key(giant.clone()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PUBLISH_BAD_ENVELOPE);
    let text = error.to_string();
    assert!(text.contains("4096"), "the limit is named: {text}");
    assert!(!error.is_retriable());
    assert!(text.len() < 1000, "the key is not in the error");
    // The longest that goes.
    let longest = Key::new("k".repeat(Key::BYTES_MAX));
    bus.publish(Publish(placed("b")).key(longest))
        .await
        .unwrap();
    assert_eq!(next(&mut seen).await, "b");
    let scheduled = Publish(placed("c")).key(giant);
    assert!(bus.schedule(secs(1), scheduled).await.is_err());
    assert_eq!(bus.in_flight(), (0, 0), "its room in the window came back");
    running.stop(secs(1)).await;
}

/// One in two records is of a foreign hand: a header whose name is no text, a key beyond any limit.
fn foreign(mut raw: Raw) -> Raw {
    if raw.body.as_ref().ends_with(b"\"foreign\"}") {
        raw.headers
            .push((vec![0xff, 0xfe, b'x'].into(), b"value".to_vec().into()));
    }
    raw
}

#[tokio::test(start_paused = true)]
async fn a_header_name_that_is_no_utf8_is_a_failure_record_with_its_bytes_and_others_go_on() {
    let bus = Wrapped::bus(Duration::ZERO, foreign, BusOptions::default()).await;
    // Beside the engine, so that the record holds what the service saw.
    let beside = memory().await;
    let home = beside.failure_store().unwrap();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let service = Service::new("shipping").announce(false).state(sender);
    let running = service
        .failures(home.clone())
        .on(see)
        .start(&bus)
        .await
        .unwrap();
    let mut bad = placed("a");
    bad.text = "foreign".into();
    bus.publish(bad).await.unwrap();
    bus.publish(placed("b")).await.unwrap();
    assert_eq!(next(&mut seen).await, "b");
    let records = failures(&*home, &id_of(&running), 1).await;
    let draft = &records[0].draft;
    assert_eq!(draft.facts.cause, Cause::Unreadable);
    assert_eq!(draft.facts.cause.code(), Code::PAYLOAD_UNREADABLE);
    assert!(
        draft.facts.errors[0].contains("UTF-8"),
        "{:?}",
        draft.facts.errors
    );
    let strange = draft.raw.headers.iter();
    let strange =
        strange.filter(|(name, value)| name[..] == [0xff, 0xfe, b'x'] && value == "value");
    assert_eq!(strange.count(), 1, "not a byte was changed");
    assert_eq!(draft.raw.body, r#"{"order_id":"a","text":"foreign"}"#);
    running.stop(secs(1)).await;
}

async fn publisher(bus: &Bus) -> Arc<dyn Publisher> {
    bus.engine().publisher().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_decode_is_a_failure_record_with_its_bytes_and_others_go_on() {
    let bus = memory().await;
    let (running, mut seen) = watched(&bus).await;
    let outgoing = |n: u64, body: &'static [u8]| {
        let id = MessageId::v7(bus.now(), [n, n]);
        let mut envelope = Envelope::new(id, "stranger".into(), "placed".into(), bus.now());
        envelope.key = Some(Key::of(&n));
        Outgoing {
            destination: Destination::topic("shop.order").unwrap(),
            envelope,
            payload: body.into(),
        }
    };
    let bodies: [&[u8]; 4] = [
        b"{\"order_id\":17}",
        b"\xff\x00garbage",
        b"",
        b"{\"order_id\":\"good\",\"text\":\"\"}",
    ];
    let messages = (0..).zip(bodies).map(|(n, body)| outgoing(n, body));
    for result in publisher(&bus).await.publish(messages.collect()).await {
        result.unwrap();
    }
    assert_eq!(next(&mut seen).await, "good");
    let home = bus.failure_store().unwrap();
    let records = failures(&*home, &id_of(&running), 3).await;
    for (record, body) in records.iter().zip(bodies) {
        assert_eq!(record.draft.facts.cause, Cause::Unreadable);
        assert_eq!(record.draft.raw.body, body);
        assert_eq!(record.draft.facts.attempts, 1, "it is not tried again");
    }
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_is_too_large_is_refused_with_its_limit() {
    let bus = Bus::connect("memory:?message_bytes_max=10000")
        .await
        .unwrap();
    let (running, mut seen) = watched(&bus).await;
    let mut large = placed("a");
    large.text = "x".repeat(10_000);
    let error = bus.publish(large).await.unwrap_err();
    assert_eq!(error.code(), Code::PUBLISH_TOO_LARGE);
    let text = error.to_string();
    assert!(text.contains("10000"), "the limit is named: {text}");
    assert!(!error.is_retriable());
    bus.publish(placed("b")).await.unwrap();
    assert_eq!(next(&mut seen).await, "b");
    running.stop(secs(1)).await;
}

/// Never returns for order `stuck`.
async fn stuck(order: Placed, State(seen): State<Seen>) {
    let _ = seen.send(order.order_id.clone());
    if order.order_id == "stuck" {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_returns_is_cancelled_at_its_timeout_and_is_a_failure_in_the_end() {
    let bus = memory().await;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let handler = stuck
        .timeout(secs(5))
        .retry(Retry::backoff(secs(1)..secs(2)).times(2));
    let service = Service::new("shipping").announce(false).state(sender);
    let running = service.on(handler).start(&bus).await.unwrap();
    bus.publish(placed("stuck")).await.unwrap();
    bus.publish(placed("b")).await.unwrap();
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(next(&mut seen).await);
    }
    calls.sort();
    assert_eq!(calls, ["b", "stuck", "stuck", "stuck"]);
    let home = bus.failure_store().unwrap();
    let records = failures(&*home, &id_of(&running), 1).await;
    let facts = &records[0].draft.facts;
    assert_eq!((facts.cause, facts.attempts), (Cause::RetriesExhausted, 3));
    assert!(facts.errors[0].contains("PR-1302"), "{:?}", facts.errors);
    assert!(
        facts.errors[0].contains("longer than 5s"),
        "{:?}",
        facts.errors
    );
    let left = running.stop(secs(1)).await;
    assert!(left.is_nothing(), "{left}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_returns_keeps_its_lease_and_others_go_on_and_a_stop_ends_it() {
    let bus = memory().await;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let service = Service::new("shipping").announce(false);
    let service = service.state(sender.clone()).on(stuck.lease(secs(10)));
    let running = service.start(&bus).await.unwrap();
    // A second member of the same subscription: it must not get what the first one holds.
    let twin = Service::new("shipping").announce(false);
    let twin = twin.state(sender).on(stuck.lease(secs(10)));
    let second = twin.start(&bus).await.unwrap();
    bus.publish(placed("stuck")).await.unwrap();
    assert_eq!(next(&mut seen).await, "stuck");
    // Many leases long, nobody else is called for it, and its key alone waits.
    bus.publish(placed("stuck")).await.unwrap();
    let nothing = timeout(mins(10), seen.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    bus.publish(placed("b")).await.unwrap();
    assert_eq!(next(&mut seen).await, "b");
    let begin = Instant::now();
    let stops = tokio::join!(running.stop(secs(3)), second.stop(secs(3)));
    assert!(begin.elapsed() < secs(10), "a stop does not hang");
    assert_eq!(stops.0.cancelled + stops.1.cancelled, 1);
    // Nothing is lost: whoever comes next gets both, in order.
    let (running, mut seen) = watched(&bus).await;
    for _ in 0..2 {
        assert_eq!(next(&mut seen).await, "stuck");
    }
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_config_that_contradicts_itself_says_both_sides_and_nothing_starts() {
    let bus = memory().await;
    let service = || Service::new("shipping").announce(false);
    let cases = [
        (
            service()
                .on(placed_handler.concurrency(3))
                .on(paid_handler.concurrency(4)),
            Code::CONFIG_CONTRADICTS,
            ["concurrency 3", "says 4"],
        ),
        (
            service().on(placed_handler.unordered()).on(paid_handler),
            Code::CONFIG_CONTRADICTS,
            ["says unordered", "keeps its order"],
        ),
        (
            service().on(placed_handler.unordered().dead_letter(DeadLetter::Park)),
            Code::CONFIG_CONTRADICTS,
            ["is unordered", "parks a key"],
        ),
        (
            service().on(placed_handler).on(see),
            Code::STATE_MISSING,
            ["State<T>", "Sender<alloc::string::String>"],
        ),
        (
            service().on(placed_handler).on(placed_handler),
            Code::HANDLER_DUPLICATE,
            ["both take `placed`", "topic:shop.order"],
        ),
        (
            Service::new("not a name").on(placed_handler),
            Code::NAME_MALFORMED,
            ["`not a name`", "is not a name"],
        ),
        (
            service().on(raw("nowhere", |_: Delivery| async {})),
            Code::NAME_MALFORMED,
            ["nowhere", "PR-"],
        ),
    ];
    for (service, code, texts) in cases {
        let error = service.start(&bus).await.err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        for text in texts {
            assert!(error.to_string().contains(text), "`{text}` in: {error}");
        }
    }
    let receipt = bus.publish(placed("a")).await.unwrap();
    assert_eq!(receipt.subscriptions, Some(0), "nothing was started");
}
