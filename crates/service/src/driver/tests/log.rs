//! The log shape: watermark, revocation, fencing.

use std::time::Duration;

use postrider_core::clock::Clock as _;
use postrider_core::failure::Cause;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::source::{Commit, LogEvent, Position, ResumeState, ShardEpoch};

use super::super::DriverError;
use super::world::*;
use crate::delivery::Ending;
use crate::test_support::outgoing;

const AT: ShardEpoch = ShardEpoch { shard: 0, epoch: 1 };

fn assign(world: &World, resume: ResumeState) {
    world
        .log_feed
        .push(Ok(LogEvent::Assigned { at: AT, resume }));
}

fn records(world: &World, records: &[(u64, &str)]) {
    let record = |(n, key): &(u64, &str)| (*n, outgoing(*n, Some(key)));
    let records: Vec<_> = records.iter().map(record).collect();
    world.log_feed.records(AT, &records);
}

fn watermark(world: &World) -> Option<u64> {
    world
        .log_feed
        .commits
        .lock()
        .last()
        .map(|(_, c)| c.watermark.0)
}

#[tokio::test(start_paused = true)]
async fn the_watermark_waits_for_the_slowest_and_what_is_above_is_kept() {
    let script = Script::new(&[(0, 2)]);
    let world = World::log(Options::default(), script.handler());
    assign(&world, ResumeState::default());
    records(&world, &[(0, "a"), (1, "b"), (2, "a"), (3, "c")]);
    world.until(|w| !w.log_feed.commits.lock().is_empty()).await;
    let first = world.log_feed.commits.lock()[0].1.clone();
    assert_eq!(first.watermark, Position(0));
    assert!(!first.done_above.is_empty(), "{first:?}");
    world.until(|w| watermark(w) == Some(4)).await;
    assert_eq!(script.handled(), [1, 3, 0, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_the_last_owner_had_done_is_not_done_again() {
    let script = Script::new(&[]);
    let world = World::log(Options::default(), script.handler());
    let resume = ResumeState {
        watermark: Position(1),
        done_above: vec![(Position(2), 1)],
    };
    assign(&world, resume);
    records(&world, &[(1, "a"), (2, "b"), (3, "c")]);
    world.until(|w| watermark(w) == Some(4)).await;
    assert_eq!(script.handled(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_on_a_log_is_recorded_and_the_watermark_goes_on() {
    let world = World::log(Options::default(), |d| async move {
        if number(&d) == 0 {
            permanent("no")
        } else {
            Ending::Committed
        }
    });
    assign(&world, ResumeState::default());
    records(&world, &[(0, "a"), (1, "a"), (2, "b")]);
    world.until(|w| watermark(w) == Some(3)).await;
    let causes: Vec<Cause> = world
        .failures
        .records()
        .iter()
        .map(|r| r.draft.facts.cause)
        .collect();
    assert_eq!(causes, [Cause::Permanent, Cause::Follower]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_revoked_is_committed_and_given_back() {
    let world = World::log(Options::default(), |_| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ending::Committed
    });
    assign(&world, ResumeState::default());
    records(&world, &[(0, "a"), (1, "a"), (2, "b")]);
    world.until(|w| w.handle.status().running == 2).await;
    let deadline = world.clock.mono().plus(Duration::from_secs(10));
    world
        .log_feed
        .push(Ok(LogEvent::Revoking { at: AT, deadline }));
    world
        .log_feed
        .wait_until(|f| f.revoked.lock().contains(&AT))
        .await;
    let last = world.log_feed.commits.lock().last().cloned().unwrap();
    let expected = Commit {
        watermark: Position(1),
        done_above: vec![(Position(2), 1)],
    };
    assert_eq!(last, (AT, expected));
    world.until(|w| w.handle.status().held == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_fenced_commit_drops_the_shard_and_another_assignment_goes_on() {
    let script = Script::new(&[]);
    let world = World::log(Options::default(), script.handler());
    assign(&world, ResumeState::default());
    world.log_feed.fenced.lock().insert(AT);
    records(&world, &[(0, "a")]);
    world.until(|_| script.handled() == [0]).await;
    world.log_feed.push(Ok(LogEvent::Lost { at: AT }));
    let again = ShardEpoch { shard: 0, epoch: 2 };
    world.log_feed.push(Ok(LogEvent::Assigned {
        at: again,
        resume: ResumeState::default(),
    }));
    world
        .log_feed
        .records(again, &[(0, outgoing(0, Some("a")))]);
    world.until(|w| watermark(w) == Some(1)).await;
    assert_eq!(script.handled(), [0, 0]);
    assert_eq!(world.log_feed.commits.lock().last().unwrap().0, again);
}

#[tokio::test(start_paused = true)]
async fn data_loss_is_never_a_silent_reset() {
    let world = World::log(Options::default(), |_| async { Ending::Committed });
    assign(&world, ResumeState::default());
    world.log_feed.push(Ok(LogEvent::DataLoss {
        at: AT,
        asked: Position(3),
        first: Position(9),
    }));
    let ended = world.handle.ended().await;
    assert!(
        matches!(
            ended.error.as_deref(),
            Some(DriverError::DataLoss { first: 9, .. })
        ),
        "{ended:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_asked_within_the_lease_all_the_same() {
    let options = Options {
        lease: Duration::from_secs(8),
        ..Options::default()
    };
    let world = World::log(options, |_| async { Ending::Committed });
    for _ in 0..12 {
        let fault = Fault::new(FaultKind::Unreachable, Advice::Reconnect, "away");
        world.log_feed.push(Err(fault));
    }
    assign(&world, ResumeState::default());
    records(&world, &[(0, "a")]);
    let begin = world.clock.mono();
    world.until(|w| watermark(w) == Some(1)).await;
    let took = world.clock.mono().since(begin);
    // Twelve times a quarter of it at most; without that it would be more than a minute.
    assert!(took <= Duration::from_secs(25), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_commits_what_is_done() {
    let script = Script::new(&[]);
    let world = World::log(Options::default(), script.handler());
    assign(&world, ResumeState::default());
    records(&world, &[(0, "a"), (1, "b")]);
    world.until(|_| script.handled().len() == 2).await;
    let ended = world.handle.stop(Duration::from_secs(5)).await;
    assert!(ended.error.is_none());
    assert_eq!(watermark(&world), Some(2));
}
