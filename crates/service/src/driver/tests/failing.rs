//! Handlers that fail, and what becomes of their messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider_core::failure::{Cause, FailureState, FailureStore, Reason, Selection};
use postrider_core::fault::{Advice, Dependency, Fault, FaultKind, HandlerError};
use postrider_core::policy::WhenExhausted;

use super::super::error::DriverError;
use super::world::*;
use crate::delivery::Ending;
use crate::metrics::{DEAD, DUPLICATES, EXPIRED, FAILED, REDRIVEN, RETRIED, UNHANDLED_TYPES};
use crate::test_support::sources::garbage;
use crate::test_support::{outgoing, passing};

fn reason() -> Reason {
    Reason {
        by: "ann".into(),
        text: "mended".into(),
        at: Default::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_order_under_retry_and_others_flow() {
    let script = Script::new(&[(1, 2)]);
    let world = World::lease(Options::default(), script.handler());
    world.push(&[(1, "a"), (2, "a"), (3, "b"), (4, "a")]);
    world.settles.wait_for(4).await;
    assert_eq!(script.handled(), [3, 1, 2, 4]);
    assert_eq!(world.count(RETRIED), 2);
    assert!(world.settled().iter().all(|(_, what)| *what == "ack"));
}

async fn park_and_redrive(options: Options) {
    let script = Script::new(&[(1, 99)]);
    let world = World::lease(options, script.handler());
    world.push(&[(1, "a"), (2, "a"), (3, "b"), (4, "a")]);
    world.until(|w| w.failures.records().len() == 3).await;
    assert_eq!(script.handled(), [3]);
    let records = world.failures.records();
    assert!(
        records
            .iter()
            .all(|r| r.parked && r.draft.key == Some(key("a")))
    );
    let facts = &records[0].draft.facts;
    assert_eq!((facts.cause, facts.attempts), (Cause::RetriesExhausted, 3));
    assert_eq!(facts.group, "retries_exhausted · placed · no luck with #");
    assert_eq!(facts.errors, ["no luck with 1"]);
    assert_eq!(records[0].draft.raw.body, "1");
    assert_eq!(records[1].draft.facts.cause, Cause::Follower);
    // What comes now goes behind the parked key.
    world.push(&[(5, "a"), (6, "b")]);
    world
        .until(|w| w.failures.records().len() == 4 && w.settled().len() == 6)
        .await;
    assert_eq!(script.handled(), [3, 6]);
    assert_eq!(
        world
            .metrics
            .count(DEAD, &[&world.id.to_string(), "follower"]),
        3
    );
    script.mend();
    let marked = world
        .failures
        .redrive(&world.id, Selection::All, reason())
        .await;
    assert_eq!(marked.unwrap(), 4);
    world.until(|w| w.failures.records().is_empty()).await;
    world.push(&[(7, "a")]);
    world.settles.wait_for(7).await;
    assert_eq!(script.handled(), [3, 6, 1, 2, 4, 5, 7]);
    assert_eq!(world.count(REDRIVEN), 4);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_parked_and_redriven_in_order_with_a_failure_store_beside_the_engine() {
    park_and_redrive(Options::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_parked_and_redriven_in_order_within_the_engine() {
    park_and_redrive(Options::atomic()).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_behind_a_key_that_another_member_parked_follows_it() {
    let script = Script::new(&[(1, 99)]);
    let one = World::lease(Options::default(), script.handler());
    let failures = Arc::clone(&one.failures);
    let two = World::start_with(Options::default(), script.handler(), false, failures);
    // It is open, and knows of no parked key.
    two.push(&[(2, "b")]);
    two.settles.wait_for(1).await;
    one.push(&[(1, "a")]);
    one.settles.wait_for(1).await;
    two.push(&[(3, "a"), (4, "b")]);
    two.settles.wait_for(3).await;
    assert_eq!(script.handled(), [2, 4]);
    let followers = one.failures.records();
    let causes: Vec<Cause> = followers.iter().map(|r| r.draft.facts.cause).collect();
    assert_eq!(causes, [Cause::RetriesExhausted, Cause::Follower]);
}

#[tokio::test(start_paused = true)]
async fn a_redrive_that_fails_again_waits_again_with_its_key() {
    let script = Script::new(&[(1, 99)]);
    let world = World::lease(Options::default(), script.handler());
    world.push(&[(1, "a"), (2, "a")]);
    world.until(|w| w.failures.records().len() == 2).await;
    world
        .failures
        .redrive(&world.id, Selection::All, reason())
        .await
        .unwrap();
    world.until(|w| w.failures.records()[0].redrives == 1).await;
    let records = world.failures.records();
    assert!(
        records
            .iter()
            .all(|r| r.state == FailureState::Waiting && r.parked)
    );
    assert_eq!(records[0].draft.facts.attempts, 6);
    assert_eq!(script.handled(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn a_redrive_whose_end_the_store_did_not_take_is_ended_again_and_not_handled_again() {
    let script = Script::new(&[(1, 99)]);
    let world = World::lease(Options::default(), script.handler());
    world.push(&[(1, "a")]);
    world.until(|w| w.failures.records().len() == 1).await;
    script.mend();
    *world.failures.finishes_fail.lock() = 2;
    let failures = &world.failures;
    failures
        .redrive(&world.id, Selection::All, reason())
        .await
        .unwrap();
    world.until(|w| w.failures.records().is_empty()).await;
    assert_eq!(
        *world.failures.finishes_fail.lock(),
        0,
        "it was tried again"
    );
    assert_eq!(script.handled(), [1]);
}

/// A driver whose handler refuses the first attempt for good and never returns from the redriven one.
async fn redriving_for_ever() -> World {
    let calls = std::sync::atomic::AtomicU32::new(0);
    let world = World::lease(Options::default(), move |_| {
        let first = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        async move {
            if first {
                return permanent("no");
            }
            std::future::pending().await
        }
    });
    world.push(&[(1, "a")]);
    world.until(|w| w.failures.records().len() == 1).await;
    let failures = &world.failures;
    failures
        .redrive(&world.id, Selection::All, reason())
        .await
        .unwrap();
    world.until(|w| w.failures.claimed() == 1).await;
    world
}

#[tokio::test(start_paused = true)]
async fn claims_of_a_driver_that_is_cut_off_are_given_back() {
    let world = redriving_for_ever().await;
    world.handle.cut();
    let ended = world.handle.ended().await;
    assert!(matches!(
        ended.error.as_deref(),
        Some(DriverError::Vanished { .. })
    ));
    assert_eq!(world.failures.claimed(), 0);
    assert!(world.registry.all().is_empty());
    assert_eq!(world.handle.status().phase, super::super::Phase::Ended);
}

#[tokio::test(start_paused = true)]
async fn claims_that_a_drain_could_not_give_back_go_with_the_driver() {
    let world = redriving_for_ever().await;
    // The store takes no end of a claim while the drain lasts.
    *world.failures.finishes_fail.lock() = u32::MAX;
    world.handle.stop(Duration::from_secs(1)).await;
    assert_eq!(world.failures.claimed(), 0);
    assert_eq!(world.failures.records().len(), 1, "the failure stays");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_without_parking_lets_the_key_go_on() {
    let script = Script::new(&[(1, 99)]);
    let options = Options::default().when_exhausted(WhenExhausted::DeadLetterAndContinue);
    let world = World::lease(options, script.handler());
    world.push(&[(1, "a"), (2, "a")]);
    world.settles.wait_for(2).await;
    assert_eq!(script.handled(), [2]);
    assert!(!world.failures.records()[0].parked);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_recorded_before_its_message_is_acknowledged() {
    let world = World::lease(Options::default(), |_| async { permanent("no") });
    world.failures.faults.lock().extend([passing(), passing()]);
    world.push(&[(1, "a")]);
    world.settles.wait_for(1).await;
    assert_eq!(world.failures.records().len(), 1);
    assert_eq!(world.settled(), [(1, "ack")]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_store_that_is_away_stops_failures_only() {
    let world = World::lease(Options::default(), |d| async move {
        if number(&d) == 1 {
            permanent("no")
        } else {
            Ending::Committed
        }
    });
    world
        .until(|w| w.handle.status().phase == super::super::Phase::Running)
        .await;
    world
        .failures
        .faults
        .lock()
        .extend((0..12).map(|_| passing()));
    world.push(&[(1, "a"), (2, "b"), (3, "a"), (4, "c")]);
    world.settles.wait_for(2).await;
    assert_eq!(world.settled(), [(2, "ack"), (4, "ack")]);
    world.settles.wait_for(4).await;
    assert_eq!(world.failures.records().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_retried_and_then_a_failure_with_its_text() {
    let script = Script::new(&[]);
    let handled = script.handler();
    let world = World::lease(Options::default(), move |d| {
        let ok = (number(&d) != 1).then(|| handled(d));
        async move {
            match ok {
                Some(ok) => ok.await,
                None => panic!("index {} out of bounds", 17),
            }
        }
    });
    world.push(&[(1, "a"), (2, "b")]);
    world.until(|w| !w.failures.records().is_empty()).await;
    let record = world.failures.records().remove(0);
    assert_eq!(
        record.draft.facts.errors,
        ["the handler panicked: index 17 out of bounds"]
    );
    assert_eq!(record.draft.facts.cause, Cause::Panicked);
    assert_eq!(script.handled(), [2]);
    assert!(
        world
            .metrics
            .count(FAILED, &[&world.id.to_string(), "panicked"])
            >= 2
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_readable_envelope_is_a_failure_and_others_go_on() {
    let script = Script::new(&[]);
    let world = World::lease(Options::default(), script.handler());
    world.feed.push_raw(1, garbage(Some("a")));
    world.push(&[(2, "b")]);
    world.settles.wait_for(2).await;
    assert_eq!(script.handled(), [2]);
    let record = world.failures.records().remove(0);
    assert_eq!(record.draft.facts.cause, Cause::Unreadable);
    assert_eq!(record.draft.raw, garbage(Some("a")));
    assert_eq!(record.draft.facts.message_id, None);
    assert!(
        record.draft.facts.errors[0].contains("no CloudEvents envelope"),
        "{:?}",
        record.draft.facts
    );
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_decode_is_a_failure_at_once() {
    let world = World::lease(Options::default(), |_| async {
        Ending::Unreadable("expected a number at column 3".into())
    });
    world.push(&[(1, "a")]);
    world.settles.wait_for(1).await;
    let facts = world.failures.records().remove(0).draft.facts;
    assert_eq!((facts.cause, facts.attempts), (Cause::Unreadable, 1));
}

#[tokio::test(start_paused = true)]
async fn types_without_a_handler_and_expired_messages_are_acknowledged_and_counted() {
    let script = Script::new(&[]);
    let world = World::lease(Options::default(), script.handler());
    let mut expired = outgoing(1, Some("a"));
    expired.envelope.expires_at = Some(postrider_core::clock::Timestamp(1));
    world.feed.push(1, &expired);
    world.feed.push(2, &of_type(2, "refunded"));
    world.push(&[(3, "a")]);
    world.settles.wait_for(3).await;
    assert_eq!(script.handled(), [3]);
    assert_eq!((world.count(EXPIRED), world.count(UNHANDLED_TYPES)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_expires_while_it_waits_for_a_retry_is_not_started_again() {
    let script = Script::new(&[(1, 1)]);
    let world = World::lease(Options::default(), script.handler());
    let mut expiring = outgoing(1, Some("a"));
    use postrider_core::clock::Clock as _;
    expiring.envelope.expires_at = Some(world.clock.wall().plus(Duration::from_millis(500)));
    world.feed.push(1, &expiring);
    world.settles.wait_for(1).await;
    assert_eq!(script.lines(), ["1 failed"]);
    assert_eq!(world.count(EXPIRED), 1);
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_counted_and_a_conflict_is_a_failure() {
    let world = World::lease(Options::default(), |d| async move {
        if number(&d) == 1 {
            Ending::Duplicate
        } else {
            Ending::Conflict
        }
    });
    world.push(&[(1, "a"), (2, "b")]);
    world.settles.wait_for(2).await;
    assert_eq!(world.count(DUPLICATES), 1);
    let facts = world.failures.records().remove(0).draft.facts;
    assert_eq!(facts.cause, Cause::InboxConflict);
    assert!(facts.errors[0].starts_with("PR-1501"));
}

async fn unavailable_for_a_while(ending: fn() -> Ending) {
    let down = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&down);
    let script = Script::new(&[]);
    let handled = script.handler();
    let world = World::lease(Options::default(), move |d| {
        let ok = (!gate.load(Ordering::SeqCst)).then(|| handled(d));
        async move {
            match ok {
                Some(ok) => ok.await,
                None => ending(),
            }
        }
    });
    world.push(&[(1, "a"), (2, "b")]);
    world.until(|w| w.handle.status().waits_for.is_some()).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(
        world.failures.records().is_empty() && world.settled().is_empty(),
        "an attempt was burned"
    );
    down.store(false, Ordering::SeqCst);
    world.settles.wait_for(2).await;
    assert_eq!(script.handled().len(), 2);
    world.until(|w| w.handle.status().waits_for.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_dependency_pauses_and_burns_no_attempt() {
    unavailable_for_a_while(|| {
        let error = HandlerError::Unavailable(Dependency::new("bank"), "503".into());
        Ending::Failed(error)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_pauses_and_burns_no_attempt() {
    unavailable_for_a_while(|| {
        let advice = Advice::FixConfig;
        Ending::StoreFault(Fault::new(FaultKind::Full, advice, "the disk is full"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_failure_store_a_message_that_fails_for_good_is_held() {
    let options = Options {
        no_failures: true,
        ..Options::default()
    };
    let script = Script::new(&[(1, 6)]);
    let world = World::lease(options, script.handler());
    world.push(&[(1, "a"), (2, "a"), (3, "b")]);
    world.settles.wait_for(3).await;
    assert_eq!(script.handled(), [3, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_store_that_always_says_changed_does_not_keep_the_driver_busy() {
    let failures = crate::test_support::failures::FakeFailures::new(&subscription());
    *failures.always_changed.lock() = true;
    let script = Script::new(&[(1, 99)]);
    let handler = script.handler();
    let world = World::start_with(Options::default(), handler, false, Arc::clone(&failures));
    world.push(&[(1, "a")]);
    world.until(|w| !w.failures.records().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let looks = *failures.looks.lock();
    assert!((50..200).contains(&looks), "{looks} looks in 100 s");
    script.mend();
    failures
        .redrive(&world.id, Selection::All, reason())
        .await
        .unwrap();
    world.until(|w| w.failures.records().is_empty()).await;
    assert_eq!(script.handled(), [1]);
}
