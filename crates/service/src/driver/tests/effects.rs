//! Effects are published before the delivery is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postrider_core::capability::Capability;
use postrider_core::code::Code;
use postrider_core::failure::Cause;
use postrider_core::fault::{Advice, Fault, FaultKind};

use super::world::*;
use crate::delivery::{Delivery, Ending};
use crate::metrics::{HANDLED, PUBLISHED};
use crate::test_support::{number_of, outgoing, passing, too_large};

/// Each message 1..=9 makes a message 10 times its number, counting the runs.
fn times_ten(runs: &Arc<AtomicU32>) -> impl Fn(Delivery) -> std::future::Ready<Ending> + use<> {
    let runs = Arc::clone(runs);
    move |d| {
        runs.fetch_add(1, Ordering::SeqCst);
        let n = number(&d);
        std::future::ready(Ending::Effects(vec![outgoing(n * 10, Some("out"))]))
    }
}

fn nobody_owns() -> Fault {
    let text = "nobody owns the queue";
    Fault::new(FaultKind::NoRoute, Advice::FixConfig, text).code(Code::PUBLISH_NO_ROUTE)
}

fn published(world: &World) -> Vec<u64> {
    let mut numbers: Vec<u64> = world
        .publisher
        .stored
        .lock()
        .iter()
        .map(number_of)
        .collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(start_paused = true)]
async fn effects_are_confirmed_before_the_acknowledgement() {
    let runs = Arc::new(AtomicU32::new(0));
    let world = World::lease(Options::default(), times_ten(&runs));
    world.publisher.delay(|| Duration::from_secs(5));
    world.push(&[(1, "a")]);
    world.until(|w| !w.publisher.stored.lock().is_empty()).await;
    assert!(
        world.settled().is_empty(),
        "acknowledged before the publish was confirmed"
    );
    assert_eq!(world.handle.status().publishing, 1);
    world.settles.wait_for(1).await;
    assert_eq!(world.settled(), [(1, "ack")]);
    assert_eq!(world.count(HANDLED), 1);
    assert_eq!(world.metrics.count(PUBLISHED, &["topic:shop.order"]), 1);
}

#[tokio::test(start_paused = true)]
async fn effects_and_acknowledgement_are_one_commit_where_the_engine_can() {
    let runs = Arc::new(AtomicU32::new(0));
    let world = World::lease(Options::atomic(), times_ten(&runs));
    world.push(&[(1, "a"), (2, "b"), (3, "c")]);
    world.settles.wait_for(3).await;
    assert!(world.settled().iter().all(|(_, what)| *what == "commit"));
    assert_eq!(published(&world), [10, 20, 30]);
    assert!(
        *world.publisher.calls.lock() < 3,
        "handlers that end together share a commit"
    );
    world.until(|w| w.handle.status().held == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_fails_holds_the_delivery_and_does_not_run_the_handler_again() {
    for options in [Options::default(), Options::atomic()] {
        let runs = Arc::new(AtomicU32::new(0));
        let world = World::lease(options, times_ten(&runs));
        let mut failures = 4;
        world.publisher.refuse(move |_| {
            failures -= i32::from(failures > 0);
            (failures > 0).then(passing)
        });
        world.push(&[(1, "a"), (2, "a")]);
        world.settles.wait_for(2).await;
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert_eq!(published(&world), [10, 20]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_engine_will_never_take_fails_its_delivery_alone() {
    for options in [Options::default(), Options::atomic()] {
        let runs = Arc::new(AtomicU32::new(0));
        let world = World::lease(options, times_ten(&runs));
        world
            .publisher
            .refuse(|m| (number_of(m) == 20).then(too_large));
        world.push(&[(1, "a"), (2, "b"), (3, "c")]);
        world.settles.wait_for(3).await;
        let stored = published(&world);
        assert!(stored.contains(&10) && !stored.contains(&20), "{stored:?}");
        let facts = world.failures.records().remove(0).draft.facts;
        assert_eq!(facts.cause, Cause::Permanent);
        assert!(facts.errors[0].starts_with("PR-1201"), "{facts:?}");
        assert_eq!(facts.position, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn deliveries_whose_messages_have_nowhere_to_go_free_their_slots_and_are_set_aside() {
    for options in [Options::default(), Options::atomic()] {
        let runs = Arc::new(AtomicU32::new(0));
        let world = World::lease(options, times_ten(&runs));
        world
            .publisher
            .refuse(|m| (number_of(m) < 1000).then(nobody_owns));
        // More than handlers may run at once; the last one has somewhere to go.
        let keys: Vec<(u64, String)> = (1..=70).map(|n| (n, format!("k{n}"))).collect();
        let mut all: Vec<(u64, &str)> = keys.iter().map(|(n, key)| (*n, key.as_str())).collect();
        all.push((100, "free"));
        world.push(&all);
        world.until(|w| published(w) == [1000]).await;
        world.until(|w| w.failures.records().len() == 70).await;
        let facts = world.failures.records().remove(0).draft.facts;
        assert_eq!(facts.cause, Cause::RetriesExhausted);
        assert!(facts.errors[0].starts_with("PR-1202"), "{facts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_commit_after_all_is_published_to_and_then_settled() {
    let runs = Arc::new(AtomicU32::new(0));
    let world = World::lease(Options::atomic(), times_ten(&runs));
    let mut first = true;
    world.publisher.refuse(move |_| {
        let kind = FaultKind::Unsupported(Capability::AtomicSettle);
        let refuse = std::mem::take(&mut first);
        refuse.then(|| Fault::new(kind, Advice::FixConfig, "not on this server"))
    });
    world.push(&[(1, "a")]);
    world.settles.wait_for(1).await;
    assert_eq!(world.settled(), [(1, "ack")]);
    assert_eq!(
        (published(&world), runs.load(Ordering::SeqCst)),
        (vec![10], 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_lease_was_lost_publishes_nothing() {
    let world = World::lease(Options::atomic(), |d| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ending::Effects(vec![outgoing(number(&d) * 10, None)])
    });
    world.push(&[(1, "a"), (2, "b")]);
    world.until(|w| w.handle.status().running == 2).await;
    world.settles.lose(1);
    world.settles.wait_for(1).await;
    world.until(|w| w.handle.status().held == 0).await;
    assert_eq!(published(&world), [20]);
    assert_eq!(world.settled(), [(2, "commit")]);
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_sends_stays_in_the_trace_of_its_message() {
    let world = World::lease(Options::default(), |d| async move {
        let mut message = outgoing(10, None);
        let entropy = crate::test_support::Seeded::new(3);
        crate::telemetry::inject(&mut message.envelope, &*entropy);
        let _ = d;
        Ending::Effects(vec![message])
    });
    let mut incoming = outgoing(1, Some("a"));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    incoming.envelope.traceparent = Some(parent.into());
    world.feed.push(1, &incoming);
    world.settles.wait_for(1).await;
    let sent = world.publisher.stored.lock()[0]
        .envelope
        .traceparent
        .clone()
        .unwrap();
    assert!(
        sent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && sent != parent,
        "{sent}"
    );
}
