//! What a program does with a bus beside publishing one message: schedule and cancel, batches, a full window.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use postrider::prelude::*;
use postrider::{BusOptions, Cancel, Code};
use support::{SOON, VirtualClock, Wrapped, as_it_is};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

#[derive(Message, Serialize, Deserialize, Debug, PartialEq)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct Placed {
    order_id: String,
    n: u32,
    text: String,
}

fn placed(order_id: &str, n: u32) -> Placed {
    Placed {
        order_id: order_id.into(),
        n,
        text: String::new(),
    }
}

type Seen = mpsc::UnboundedSender<(u32, Instant)>;

async fn see(order: Placed, State(seen): State<Seen>) {
    let _ = seen.send((order.n, Instant::now()));
}

async fn watched(bus: &Bus) -> (postrider::Running, mpsc::UnboundedReceiver<(u32, Instant)>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let service = Service::new("shipping").announce(false).state(sender);
    (service.on(see).start(bus).await.unwrap(), seen)
}

/// With a wall clock that goes with virtual time.
async fn virtual_memory(url: &str) -> Bus {
    let options = BusOptions {
        clock: Arc::new(VirtualClock::new()),
        ..BusOptions::default()
    };
    Bus::connect_with(url, options).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_message_comes_at_its_time_and_not_before() {
    let bus = virtual_memory("memory:").await;
    let (running, mut seen) = watched(&bus).await;
    let begin = Instant::now();
    bus.schedule(secs(60), Publish(placed("a", 1)))
        .await
        .unwrap();
    let at = bus.now().plus(secs(30));
    bus.schedule(at, Publish(placed("b", 2))).await.unwrap();
    bus.publish(placed("c", 3)).await.unwrap();
    let mut order = Vec::new();
    for _ in 0..3 {
        let (n, at) = timeout(SOON, seen.recv()).await.unwrap().unwrap();
        order.push((n, at.duration_since(begin).as_secs()));
    }
    assert_eq!(order, [(3, 0), (2, 30), (1, 60)]);
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_taken_back_before_its_time_is_never_delivered() {
    let bus = virtual_memory("memory:").await;
    let (running, mut seen) = watched(&bus).await;
    let first = bus
        .schedule(secs(60), Publish(placed("a", 1)))
        .await
        .unwrap();
    bus.schedule(secs(61), Publish(placed("a", 2)))
        .await
        .unwrap();
    tokio::time::advance(secs(59)).await;
    assert_eq!(bus.cancel(&first).await.unwrap(), Cancel::Cancelled);
    let (n, _) = timeout(SOON, seen.recv()).await.unwrap().unwrap();
    assert_eq!(n, 2, "the first was taken back");
    let more = timeout(hours(1), seen.recv()).await;
    assert!(more.is_err(), "{more:?}");
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_delivered_cannot_be_taken_back() {
    let bus = virtual_memory("memory:").await;
    let (running, mut seen) = watched(&bus).await;
    let scheduled = bus
        .schedule(secs(60), Publish(placed("a", 1)))
        .await
        .unwrap();
    timeout(SOON, seen.recv()).await.unwrap().unwrap();
    assert_eq!(bus.cancel(&scheduled).await.unwrap(), Cancel::AlreadyFired);
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn only_one_message_is_scheduled_at_a_time() {
    let bus = virtual_memory("memory:").await;
    let two = (Publish(placed("a", 1)), Publish(placed("a", 2)));
    let error = bus.schedule(secs(1), two).await.unwrap_err();
    assert_eq!(error.code(), Code::PUBLISH_BAD_ENVELOPE);
    assert!(
        error.to_string().contains("schedule them one by one"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_its_order_and_answers_each_message() {
    let bus = Bus::connect("memory:?message_bytes_max=4096")
        .await
        .unwrap();
    let (running, mut seen) = watched(&bus).await;
    // More than one call of the engine takes.
    let mut batch: Vec<Placed> = (0..1500).map(|n| placed("a", n)).collect();
    batch.push(placed("b", 9001));
    batch[1200].text = "x".repeat(10_000);
    let results = bus.publish_all(batch).await;
    assert_eq!(results.len(), 1501);
    for (n, result) in results.iter().enumerate() {
        match result {
            Ok(receipt) => assert_eq!(receipt.subscriptions, Some(1), "{n}"),
            Err(error) if n == 1200 => assert_eq!(error.code(), Code::PUBLISH_TOO_LARGE, "{error}"),
            // Of its key, in its call of the engine: none may pass it.
            Err(_) => assert!((1201..1500).contains(&n), "{n}: {result:?}"),
        }
    }
    assert!(results[1199].is_ok() && results[1201].is_err() && results[1500].is_ok());
    let accepted = results.iter().filter(|r| r.is_ok()).count();
    let mut numbers = Vec::new();
    for _ in 0..accepted {
        numbers.push(timeout(SOON, seen.recv()).await.unwrap().unwrap().0);
    }
    numbers.retain(|n| *n != 9001);
    assert!(numbers.is_sorted(), "the key's order holds");
    assert_eq!(numbers.last(), Some(&1199));
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_window_says_overloaded_at_once_and_nothing_was_published() {
    let options = BusOptions {
        window_messages_max: 2,
        ..BusOptions::default()
    };
    let bus = Wrapped::bus(secs(5), as_it_is, options).await;
    let (running, mut seen) = watched(&bus).await;
    let (one, two) = (bus.publish(placed("a", 1)), bus.publish(placed("b", 2)));
    let third = async {
        assert_eq!(bus.in_flight().0, 2);
        let begin = Instant::now();
        let error = bus.try_publish(placed("c", 3)).await.unwrap_err();
        assert_eq!(begin.elapsed(), Duration::ZERO, "it does not wait");
        error
    };
    let (one, two, error) = tokio::join!(one, two, third);
    one.unwrap();
    two.unwrap();
    assert_eq!(error.code(), Code::PUBLISH_OVERLOADED);
    assert!(error.is_retriable());
    assert!(error.what().contains("the window is 2 messages"), "{error}");
    // There is room again.
    bus.try_publish(placed("d", 4)).await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..3 {
        numbers.push(timeout(SOON, seen.recv()).await.unwrap().unwrap().0);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 4], "the third was not published");
    running.stop(secs(1)).await;
}

/// 02 §4.4, 10, as a program sees it: the disk is full, and that is all that it has to know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acceptance_10_a_full_disk_is_told_to_publishers_with_what_to_do_and_passes_when_consumers_settle()
 {
    let dir = tempfile::tempdir().unwrap();
    let mut options = postrider::embedded::Options::default();
    options.message_bytes_max = 64 << 10;
    options.disk_bytes_max = Some(4 << 20);
    let engine = postrider::embedded::Embedded::open(dir.path(), options).unwrap();
    let bus = Bus::from_engine(Arc::new(engine), BusOptions::default())
        .await
        .unwrap();
    let (running, mut seen) = watched(&bus).await;
    let subscription = running.subscriptions()[0].clone();
    // Nobody settles for now.
    subscription.pause().await;
    let large = |n| Placed {
        text: "x".repeat(32 << 10),
        ..placed("a", n)
    };
    let mut confirmed = 0;
    let error = loop {
        match bus.publish(large(confirmed + 1)).await {
            Ok(_) => confirmed += 1,
            Err(error) => break error,
        }
        assert!(confirmed < 1000, "it never was full");
    };
    assert!(confirmed > 10, "{confirmed}");
    assert_eq!(error.code(), Code::DISK_FULL, "{error}");
    assert!(error.is_retriable(), "{error}");
    let text = error.to_string();
    assert!(text.contains("settle messages"), "what to do: {text}");

    subscription.resume().await;
    // Nothing but consumers settling makes room; the publisher tries again, and that is all.
    let resumed = async {
        loop {
            match bus.publish(large(confirmed + 1)).await {
                Ok(_) => return,
                Err(error) => assert_eq!(error.code(), Code::DISK_FULL, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(secs(60), resumed)
        .await
        .expect("it resumes unaided");
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(confirmed + 1)) {
        let one = timeout(secs(60), seen.recv())
            .await
            .expect("each one comes");
        numbers.push(one.unwrap().0);
    }
    numbers.dedup();
    let all: Vec<u32> = (1..=confirmed + 1).collect();
    assert_eq!(
        numbers, all,
        "what was confirmed, and nothing that was refused"
    );
    running.stop(secs(5)).await;
    bus.close(secs(5)).await.unwrap();
}
