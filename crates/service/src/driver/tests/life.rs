//! Leases, faults of the source, pause, stop, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider_core::carriage::{Carriage, write};
use postrider_core::clock::Clock as _;
use postrider_core::fault::{Advice, Fault, FaultKind, HandlerError};
use postrider_core::policy::WhenExhausted;

use super::super::{DrainReport, DriverError, Phase};
use super::world::*;
use crate::delivery::{Delivery, Ending};
use crate::metrics::LEASES_LOST;
use crate::test_support::{outgoing, passing};

/// Notes that it was dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn leased(world: &World, number: u64, lease: Duration) {
    let raw = write(&outgoing(number, Some("a")), Carriage::Binary);
    let until = world.clock.mono().plus(lease);
    world
        .feed
        .push_leased(number, raw, Some(0), false, Some(until));
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_cancels_the_handler_and_breaks_its_fence() {
    let dropped = Arc::new(AtomicBool::new(false));
    let seen: Arc<parking_lot::Mutex<Option<Delivery>>> = Arc::default();
    let (flag, slot) = (Arc::clone(&dropped), Arc::clone(&seen));
    let world = World::lease(Options::default(), move |d| {
        *slot.lock() = Some(d);
        let guard = OnDrop(Arc::clone(&flag));
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    leased(&world, 1, Duration::from_secs(30));
    world.until(|w| w.handle.status().running == 1).await;
    assert!(seen.lock().as_ref().unwrap().is_ours());
    // It is kept alive as long as the engine extends it.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(world.settles.extended.lock()[&1] >= 20);
    assert!(!dropped.load(Ordering::SeqCst));
    world.settles.lose(1);
    world.until(|w| w.handle.status().held == 0).await;
    assert!(dropped.load(Ordering::SeqCst), "the handler goes on");
    assert!(!seen.lock().as_ref().unwrap().is_ours(), "the fence holds");
    assert!(world.settled().is_empty());
    assert_eq!(world.count(LEASES_LOST), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_cancels_its_handlers_at_once() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let world = World::lease(Options::default(), move |_| {
        let guard = OnDrop(Arc::clone(&flag));
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    // Leases without a time: nothing is ever extended.
    world.push(&[(1, "a"), (2, "a"), (3, "b")]);
    world.until(|w| w.handle.status().running == 2).await;
    let before = world.clock.mono();
    world.settles.end(9);
    world.settles.end(1);
    world.until(|w| w.handle.status().held == 0).await;
    assert!(dropped.load(Ordering::SeqCst), "a handler goes on");
    let took = world.clock.mono().since(before);
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    assert!(world.settled().is_empty());
    assert_eq!(world.count(LEASES_LOST), 3);
}

#[tokio::test(start_paused = true)]
async fn a_settle_that_fails_again_and_again_ends_no_lease() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let lease = Duration::from_secs(3);
    let options = Options {
        lease,
        ..Options::default()
    };
    let world = World::lease(options, move |d| {
        let guard = OnDrop(Arc::clone(&flag));
        async move {
            if number(&d) == 2 {
                std::mem::forget(guard);
                return Ending::Committed;
            }
            let _guard = guard;
            std::future::pending().await
        }
    });
    // The waits between its tries grow far beyond the lease.
    let faults = (0..12).map(|_| passing());
    world.settles.faults.lock().extend(faults);
    for (position, key) in [(1, "a"), (2, "b")] {
        let raw = write(&outgoing(position, Some(key)), Carriage::Binary);
        let until = world.clock.mono().plus(lease);
        world
            .feed
            .push_leased(position, raw, Some(0), false, Some(until));
    }
    world.settles.wait_for(1).await;
    assert_eq!(world.settled(), [(2, "ack")]);
    let took = world.clock.mono().0;
    assert!(took > Duration::from_secs(60), "it took {took:?}");
    assert!(!dropped.load(Ordering::SeqCst), "a handler was cancelled");
    assert_eq!(world.count(LEASES_LOST), 0);
    let extended = world.settles.extended.lock().clone();
    let least = (took.as_secs() / lease.as_secs()) as u32;
    assert!(extended[&1] > least, "{extended:?} of {least}");
}

#[tokio::test(start_paused = true)]
async fn a_settle_that_fails_is_tried_again_while_the_delivery_is_held() {
    let script = Script::new(&[]);
    let world = World::lease(Options::default(), script.handler());
    world
        .settles
        .faults
        .lock()
        .extend([passing(), passing(), passing()]);
    world.push(&[(1, "a"), (2, "a")]);
    world.settles.wait_for(2).await;
    assert_eq!(world.settled(), [(1, "ack"), (2, "ack")]);
    assert_eq!(script.handled(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_for_a_while_is_asked_again() {
    let script = Script::new(&[]);
    let world = World::lease(Options::default(), script.handler());
    for _ in 0..3 {
        let fault = Fault::new(
            FaultKind::Unreachable,
            Advice::Reconnect,
            "connection reset",
        );
        world.feed.push_fault(fault);
    }
    world
        .until(|w| w.handle.status().source_fault.is_some())
        .await;
    world.push(&[(1, "a")]);
    world.settles.wait_for(1).await;
    assert_eq!(world.handle.status().source_fault, None);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_finished_ends_the_driver_with_its_reason() {
    let script = Script::new(&[]);
    let world = World::lease(Options::default(), script.handler());
    world.push(&[(1, "a")]);
    world.feed.push_fault(Fault::closed("the engine"));
    let ended = world.handle.ended().await;
    assert!(
        matches!(ended.error.as_deref(), Some(DriverError::Source { .. })),
        "{ended:?}"
    );
    assert_eq!(world.settled(), [(1, "ack")]);
    assert_eq!(world.handle.status().phase, Phase::Ended);
    assert!(world.registry.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_says_stop_ends_the_driver_and_settles_nothing() {
    let world = World::lease(Options::default(), |_| async {
        Ending::Failed(HandlerError::Stop("the ledger does not balance".into()))
    });
    world.push(&[(1, "a"), (2, "a")]);
    let ended = world.handle.ended().await;
    let error = ended.error.unwrap().to_string();
    assert!(error.contains("the ledger does not balance"), "{error}");
    assert!(world.settled().iter().all(|(_, what)| *what == "release"));
    assert_eq!(world.settled().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_policy_stop_ends_the_driver_and_settles_nothing() {
    let options = Options::default().when_exhausted(WhenExhausted::Stop);
    let world = World::lease(options, |_| async { permanent("never") });
    world.push(&[(1, "a")]);
    let ended = world.handle.ended().await;
    assert!(
        matches!(ended.error.as_deref(), Some(DriverError::Stopped { .. })),
        "{ended:?}"
    );
    assert_eq!(world.settled(), [(1, "release")]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_runs_and_gives_the_rest_back() {
    let world = World::lease(Options::default(), |d| async move {
        match number(&d) {
            1 => tokio::time::sleep(Duration::from_secs(3)).await,
            _ => std::future::pending().await,
        }
        Ending::Committed
    });
    world.push(&[(1, "a"), (2, "a"), (3, "b")]);
    world.until(|w| w.handle.status().running == 2).await;
    let ended = world.handle.stop(Duration::from_secs(10)).await;
    assert!(ended.error.is_none());
    let report = DrainReport {
        cancelled: 1,
        released: 2,
        left: 0,
    };
    assert_eq!(ended.report, report);
    assert_eq!(world.settles.of(1), ["ack"]);
    assert_eq!(
        (world.settles.of(2), world.settles.of(3)),
        (vec!["release"], vec!["release"])
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_an_idle_driver_ends_at_once_and_twice_is_fine() {
    let world = World::lease(Options::default(), |_| async { Ending::Committed });
    let before = world.clock.mono();
    assert_eq!(
        world.handle.stop(Duration::from_secs(60)).await.report,
        DrainReport::default()
    );
    assert!(world.clock.mono().since(before) < Duration::from_secs(1));
    assert_eq!(
        world.handle.stop(Duration::from_secs(60)).await.report,
        DrainReport::default()
    );
    assert!(world.registry.members(&world.id).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_takes_no_settle_does_not_hold_up_the_end() {
    let world = World::lease(Options::default(), |_| async { Ending::Committed });
    world
        .settles
        .faults
        .lock()
        .extend((0..100).map(|_| passing()));
    world.push(&[(1, "a")]);
    world.until(|w| w.settles.faults.lock().len() < 100).await;
    let before = world.clock.mono();
    let ended = world.handle.stop(Duration::from_secs(10)).await;
    assert_eq!(ended.report.left, 1);
    assert!(world.clock.mono().since(before) < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_pause_takes_nothing_and_a_resume_goes_on() {
    let script = Script::new(&[]);
    let world = World::lease(Options::default(), script.handler());
    world.push(&[(1, "a")]);
    world.settles.wait_for(1).await;
    world.handle.pause().await;
    world
        .until(|w| w.handle.status().phase == Phase::Paused)
        .await;
    world.push(&[(2, "a")]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(script.handled(), [1]);
    world.handle.resume().await;
    world.until(|w| w.settles.of(2) == ["ack"]).await;
    assert_eq!(world.handle.status().phase, Phase::Running);
}

/// Only a real thread can be blocked: this test takes the second of grace in real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_is_given_up_and_its_result_ignored() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Arc::new(parking_lot::Mutex::new(blocked));
    let world = World::lease(Options::default(), move |_| {
        let blocked = Arc::clone(&blocked);
        async move {
            let _ = blocked.lock().recv();
            Ending::Committed
        }
    });
    world.push(&[(1, "a")]);
    world.until(|w| w.handle.status().running == 1).await;
    let ended = world.handle.stop(Duration::ZERO).await;
    assert_eq!(ended.report.cancelled, 1);
    drop(release);
    assert!(
        world.settled().iter().all(|(_, what)| *what == "release"),
        "{:?}",
        world.settled()
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_while_the_failure_store_is_away_is_kept() {
    let script = Script::new(&[]);
    let failures = crate::test_support::failures::FakeFailures::new(&subscription());
    failures.faults.lock().extend([passing(), passing()]);
    let handler = script.handler();
    let world = World::start_with(Options::default(), handler, false, failures);
    world.handle.pause().await;
    world.push(&[(1, "a")]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.handle.status().phase, Phase::Paused);
    assert_eq!(script.handled(), Vec::<u64>::new());
    world.handle.resume().await;
    world.settles.wait_for(1).await;
    assert_eq!(script.handled(), [1]);
}
