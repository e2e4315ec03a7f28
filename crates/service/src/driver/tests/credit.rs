//! What the driver takes in is never more than the kernel granted, however intake and grants fall together; and what is left where a driver panics.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider_core::carriage::{Carriage, write};
use postrider_core::failure::{
    Cause, FailureDraft, FailureFacts, FailureStore as _, Reason, Selection,
};

use postrider_core::envelope::Outgoing;
use postrider_core::source::{LogEvent, Position, ResumeState, ShardEpoch};
use tokio::sync::Notify;

use super::super::{DriverError, Phase};
use super::world::*;
use crate::delivery::Ending;
use crate::metrics::REDRIVEN;
use crate::test_support::outgoing;

fn window(messages_max: u32) -> Options {
    let mut options = Options::default();
    options.policy.limits.window_messages_max = messages_max;
    options
}

/// Puts a failure of the numbered message into the store.
fn set_aside(world: &World, number: u64) {
    let message = outgoing(number, Some(&format!("k{number}")));
    let facts = FailureFacts {
        message_id: Some(message.envelope.id),
        cause: Cause::Permanent,
        group: "a group".into(),
        message_type: Some("placed".into()),
        attempts: 1,
        errors: vec!["no luck".into()],
        first_seen: Default::default(),
        failed_at: Default::default(),
        position: number,
    };
    let draft = FailureDraft {
        key: Some(key(&format!("k{number}"))),
        facts,
        raw: write(&message, Carriage::Binary),
    };
    world.failures.insert(draft, false);
}

async fn redrive_all(world: &World) -> u64 {
    let reason = Reason {
        by: "ann".into(),
        text: "mended".into(),
        at: Default::default(),
    };
    let marked = world.failures.redrive(&world.id, Selection::All, reason);
    marked.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_in_while_a_lost_connection_gives_credit_back_use_that_credit() {
    let world = World::lease(window(8), |d| async move {
        let long = number(&d) == 1;
        tokio::time::sleep(Duration::from_secs(if long { 60 } else { 1 })).await;
        Ending::Committed
    });
    world.feed.later.store(1, Ordering::SeqCst);
    world.push(&[(1, "a")]);
    world.feed.later.store(0, Ordering::SeqCst);
    world.push(&[(2, "a"), (3, "a"), (4, "a")]);
    world.until(|w| w.handle.status().held == 4).await;
    // In one turn: the connection of these three, which wait behind the first, is lost; and four messages of another one are there.
    world.feed.later.store(1, Ordering::SeqCst);
    *world.feed.ends_next.lock() = Some(1);
    world.push(&[(10, "b"), (11, "c"), (12, "d"), (13, "e")]);
    world.until(|w| w.feed.ends_next.lock().is_none()).await;
    let more: Vec<u64> = (20..50).collect();
    for number in &more {
        world.push(&[(*number, &format!("k{number}"))]);
    }
    let all = 5 + more.len();
    let most = Cell::new(0);
    world
        .until(|w| {
            let status = w.handle.status();
            most.set(status.held.max(most.get()));
            w.settled().len() == all || status.phase == Phase::Ended
        })
        .await;
    assert!((5..=8).contains(&most.get()), "{most:?} of a window of 8");
    assert_eq!(world.settled().len(), all, "{:?}", world.handle.status());
    assert_eq!(world.handle.status().phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn records_that_are_claimed_while_handlers_end_use_the_room_that_was_granted() {
    let (gate, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (opens, tells) = (Arc::clone(&gate), Arc::clone(&done));
    // Three redriven records at once.
    let world = World::log(window(24), move |d| {
        let (gate, done) = (Arc::clone(&opens), Arc::clone(&tells));
        async move {
            match d.is_redriven() {
                true => tokio::time::sleep(Duration::from_secs(1)).await,
                false => gate.notified().await,
            }
            if number(&d) == 7 {
                done.notify_one();
            }
            Ending::Committed
        }
    });
    let at = ShardEpoch { shard: 0, epoch: 1 };
    let resume = ResumeState {
        watermark: Position(0),
        done_above: Vec::new(),
    };
    world.log_feed.push(Ok(LogEvent::Assigned { at, resume }));
    let records: Vec<(u64, Outgoing)> = (0..8).map(|n| (n, outgoing(n, None))).collect();
    world.log_feed.records(at, &records);
    world.until(|w| w.handle.status().running == 8).await;
    for number in 101..=120 {
        set_aside(&world, number);
    }
    // In one turn: handlers end, which gives credit back, and the claim comes back full.
    *world.failures.claim_waits.lock() = Some((gate, done));
    assert_eq!(redrive_all(&world).await, 20);
    let most = Cell::new(0);
    world
        .until(|w| {
            most.set(w.failures.claimed().max(most.get()));
            w.failures.records().is_empty() || w.handle.status().phase == Phase::Ended
        })
        .await;
    let status = world.handle.status();
    assert_eq!(status.phase, Phase::Running, "{status:?}");
    assert_eq!((most.get(), world.count(REDRIVEN)), (3, 20));
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_leaves_no_claims_no_entry_and_says_why() {
    let world = World::lease(window(24), |_| std::future::pending());
    set_aside(&world, 1);
    redrive_all(&world).await;
    world
        .until(|w| w.failures.claimed() == 1 && w.handle.status().running == 1)
        .await;
    assert_eq!(world.registry.all().len(), 1);
    world.feed.panic();
    let ended = tokio::time::timeout(Duration::from_secs(60), world.handle.ended());
    let ended = ended.await.unwrap();
    let error = ended.error.unwrap();
    assert!(matches!(&*error, DriverError::Panicked { text, .. } if text == "a defect"));
    assert_eq!(ended.report.left, 1);
    assert_eq!(world.failures.claimed(), 0, "another member may claim it");
    assert!(world.registry.all().is_empty());
    assert_eq!(world.handle.status().phase, Phase::Ended);
    assert_eq!(Arc::strong_count(&world.feed), 1, "the source is dropped");
}
