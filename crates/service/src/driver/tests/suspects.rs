//! Messages that may have killed a process.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::carriage::{Carriage, Raw, write};
use postrider_core::crash::{
    ALONE_DEATHS, CONDEMNED_DEATHS, CrashState, GROUP_MAX, SUSPECT_DEATHS, Watched,
};
use postrider_core::failure::Cause;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::{InstanceId, MessageId};

use super::world::*;
use crate::delivery::Ending;
use crate::test_support::failures::FakeFailures;
use crate::test_support::outgoing;

const DEAD: InstanceId = InstanceId(77);

fn message_id(n: u64) -> MessageId {
    outgoing(n, None).envelope.id
}

fn raw(n: u64, key: &str) -> Raw {
    write(&outgoing(n, Some(key)), Carriage::Binary)
}

fn watched(n: u64, deaths: u32) -> Watched {
    Watched {
        id: message_id(n),
        deaths,
        life: Some(DEAD),
        running: true,
        ran_ms: 0,
    }
}

fn known(watched: Vec<Watched>) -> Arc<FakeFailures> {
    let failures = FakeFailures::new(&subscription());
    failures.set_crash(CrashState {
        watched,
        ..CrashState::default()
    });
    failures
}

fn ids(state: &CrashState) -> Vec<MessageId> {
    state.watched.iter().map(|w| w.id).collect()
}

#[tokio::test(start_paused = true)]
async fn what_came_back_is_noted_before_its_handler_starts_and_not_after_it_ended() {
    let failures = known(Vec::new());
    let store = Arc::clone(&failures);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let handle = move |_| {
        log.lock().push(ids(&store.crash()));
        async { Ending::Committed }
    };
    let world = World::start_with(Options::default(), handle, false, Arc::clone(&failures));
    world.feed.push_leased(1, raw(1, "a"), Some(0), false, None);
    world.settles.wait_for(1).await;
    world.feed.push_leased(2, raw(2, "a"), Some(1), false, None);
    world.settles.wait_for(2).await;
    assert_eq!(*seen.lock(), [vec![], vec![message_id(2)]]);
    world
        .until(|_| failures.crash() == CrashState::default())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_killed_the_process_often_enough_is_set_aside_without_a_handler() {
    let failures = known(vec![watched(1, CONDEMNED_DEATHS - 1)]);
    let script = Script::new(&[]);
    let world = World::start_with(
        Options::default(),
        script.handler(),
        false,
        Arc::clone(&failures),
    );
    world.feed.push_leased(1, raw(1, "a"), Some(4), false, None);
    world.feed.push_leased(2, raw(2, "b"), Some(0), false, None);
    world.settles.wait_for(2).await;
    assert_eq!(script.handled(), [2], "the other is handled");
    let causes: Vec<Cause> = failures
        .records()
        .iter()
        .map(|r| r.draft.facts.cause)
        .collect();
    assert_eq!(causes, [Cause::CrashLoop]);
    world.until(|_| failures.crash().watched.is_empty()).await;
}

/// So many suspects with a handler of 2 s, and one message that is none. How many of them ran together at most.
async fn tried_together(suspects: u64, deaths: u32) -> u32 {
    // At the next hand-over they were in a handler once more.
    let failures = known((1..=suspects).map(|n| watched(n, deaths - 1)).collect());
    let running = Arc::new(Mutex::new((0, 0)));
    let began = Arc::new(Mutex::new(Vec::new()));
    let (counts, log) = (Arc::clone(&running), Arc::clone(&began));
    let handle = move |delivery: crate::delivery::Delivery| {
        let suspect = delivery.envelope().id != message_id(99);
        log.lock().push((tokio::time::Instant::now(), suspect));
        let counts = Arc::clone(&counts);
        async move {
            {
                let mut count = counts.lock();
                count.0 += u32::from(suspect);
                count.1 = count.0.max(count.1);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            counts.lock().0 -= u32::from(suspect);
            Ending::Committed
        }
    };
    let start = tokio::time::Instant::now();
    let world = World::start_with(Options::default(), handle, false, Arc::clone(&failures));
    let all = || (1..=suspects).chain([99]);
    for n in all() {
        let key = n.to_string();
        world
            .feed
            .push_leased(n, raw(n, &key), Some(1), false, None);
    }
    world.settles.wait_for(all().count()).await;
    for (at, suspect) in began.lock().iter() {
        let late = at.duration_since(start) >= Duration::from_secs(1);
        assert_eq!(late, *suspect, "only a suspect waits");
    }
    world.until(|_| failures.crash().watched.is_empty()).await;
    assert_eq!(failures.records(), []);
    running.lock().1
}

#[tokio::test(start_paused = true)]
async fn suspects_are_tried_in_groups_after_a_calm_while_others_go_on() {
    let together = tried_together(20, SUSPECT_DEATHS).await;
    assert_eq!(together, GROUP_MAX as u32);
}

#[tokio::test(start_paused = true)]
async fn who_was_in_a_group_that_died_is_tried_alone() {
    assert_eq!(tried_together(3, ALONE_DEATHS).await, 1);
}

#[tokio::test(start_paused = true)]
async fn how_long_a_watched_handler_runs_is_noted() {
    let failures = known(Vec::new());
    let handle = move |_| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ending::Committed
    };
    let world = World::start_with(Options::default(), handle, false, Arc::clone(&failures));
    world.feed.push_leased(1, raw(1, "a"), Some(1), false, None);
    let ran = |ms| {
        let failures = &failures;
        move |_: &World| {
            failures
                .crash()
                .watched
                .first()
                .is_some_and(|w| w.ran_ms == ms)
        }
    };
    world.until(ran(250)).await;
    world.until(ran(4000)).await;
    world.settles.wait_for(1).await;
    world.until(|_| failures.crash().watched.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_store_that_is_away_keeps_only_what_came_back_waiting() {
    let failures = known(Vec::new());
    let away = || {
        Fault::new(
            FaultKind::Unreachable,
            Advice::Retry {
                after: Duration::ZERO,
            },
            "away",
        )
    };
    let script = Script::new(&[]);
    let handler = script.handler();
    let world = World::start_with(Options::default(), handler, false, Arc::clone(&failures));
    world.until(|w| *w.failures.looks.lock() > 0).await;
    failures.faults.lock().extend([away(), away(), away()]);
    world.feed.push_leased(1, raw(1, "a"), Some(1), false, None);
    world.feed.push_leased(2, raw(2, "b"), Some(0), false, None);
    world.settles.wait_for(1).await;
    assert_eq!(script.handled(), [2]);
    world.settles.wait_for(2).await;
    assert_eq!(script.handled(), [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_nothing_against_a_handler_that_was_cancelled() {
    let failures = known(vec![watched(2, SUSPECT_DEATHS)]);
    let handle = move |_| std::future::pending();
    let world = World::start_with(Options::default(), handle, false, Arc::clone(&failures));
    world.feed.push_leased(1, raw(1, "a"), Some(1), false, None);
    world.feed.push_leased(2, raw(2, "b"), Some(1), false, None);
    world.until(|w| w.handle.status().running == 1).await;
    let ended = world.handle.stop(Duration::ZERO).await;
    assert_eq!(ended.report.left, 0);
    let left = failures.crash().watched;
    let suspect = Watched {
        life: None,
        running: false,
        ..watched(2, SUSPECT_DEATHS + 1)
    };
    assert_eq!(
        left,
        [suspect],
        "what is known of it stays, and says no more"
    );
}
