#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use postrider_core::envelope::Outgoing;
use postrider_core::message::Key;

use super::*;
use crate::metrics::{Metrics, OUTBOX_DEPTH, RELAY_STUCK};
use crate::test_support::outbox::FakeOutbox;
use crate::test_support::publisher::FakePublisher;
use crate::test_support::{Seeded, TokioClock, number_of, outgoing, passing, too_large};

pub(super) fn setup(
    outbox: &Arc<FakeOutbox>,
    publisher: &Arc<FakePublisher>,
    seed: u64,
    probe: Option<Probe>,
) -> (RelaySetup, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let recorder = Arc::clone(&metrics) as Arc<dyn Recorder>;
    let setup = RelaySetup {
        service: "shop".into(),
        outbox: Arc::clone(outbox) as Arc<dyn Outbox>,
        publisher: Arc::clone(publisher) as Arc<dyn Publisher>,
        clock: TokioClock::new(),
        entropy: Seeded::new(seed),
        recorder,
        probe,
    };
    (setup, metrics)
}

/// Runs one relay, as a future that can be dropped in the middle, until it was killed or there is nothing left.
async fn run_once(setup: RelaySetup, outbox: &FakeOutbox, at_most: Duration) {
    let (_stop, stopped) = mpsc::channel(1);
    let relay = run::Relay::new(setup, Arc::default(), stopped);
    let empty = async {
        while !outbox.numbers().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = relay.run() => {}
        () = empty => {}
        () = tokio::time::sleep(at_most) => {}
    }
}

/// Every id was published, with its content; per key, the first time of each is in order, and a repeat begins no earlier than what was
/// not removed: it never comes after a later row that was confirmed for good.
fn check(stored: &[Outgoing], rows: &BTreeMap<u64, Outgoing>, context: &str) {
    let ids: BTreeSet<_> = stored.iter().map(|m| m.envelope.id).collect();
    assert_eq!(ids.len(), rows.len(), "{context}: rows lost or made up");
    let mut last: BTreeMap<Option<Key>, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for message in stored {
        let number = number_of(message);
        assert_eq!(
            rows.get(&number),
            Some(message),
            "{context}: row {number} changed"
        );
        let key = message.envelope.key.clone();
        if seen.insert(number) && key.is_some() {
            let before = last.insert(key, number);
            assert!(
                before.is_none_or(|b| b < number),
                "{context}: {number} came after {before:?}"
            );
        }
    }
}

fn made_up(random: &Seeded, count: u64) -> BTreeMap<u64, Outgoing> {
    let row = |number| {
        let key = match random.below(8) {
            0 => None,
            k => Some(format!("k{}", k % 5)),
        };
        (number, outgoing(number, key.as_deref()))
    };
    (1..=count).map(row).collect()
}

/// Fails one message in four, half of these with unknown effect.
fn unreliable(publisher: &FakePublisher, seed: u64) {
    let random = Seeded::new(seed);
    publisher.refuse(move |_| match random.below(8) {
        0 => Some(passing()),
        1 => Some(passing().unknown_effect()),
        _ => None,
    });
}

#[tokio::test(start_paused = true)]
async fn a_relay_killed_at_every_step_publishes_everything_in_order() {
    for point in POINTS {
        for seed in 0..20 {
            let context = format!("point {point:?} seed {seed}");
            let random = Seeded::new(seed);
            let rows = made_up(&random, 60);
            let outbox = FakeOutbox::new(rows.clone());
            let publisher = FakePublisher::new();
            unreliable(&publisher, seed);
            let mut kills = 0;
            for life in 0.. {
                assert!(life < 10_000, "{context}: no end");
                let skip = if life == 0 { 0 } else { random.below(3) as u32 };
                let left = Arc::new(AtomicU32::new(skip));
                let reached = Arc::new(AtomicU32::new(0));
                let (counter, hit) = (Arc::clone(&left), Arc::clone(&reached));
                let probe: Probe = Arc::new(move |at| {
                    if at != point {
                        return ControlFlow::Continue(());
                    }
                    if counter.fetch_sub(1, Ordering::Relaxed) == 0 {
                        hit.store(1, Ordering::Relaxed);
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                });
                // After a few lives one may finish: killed for ever at its first step, nothing could be published.
                let probe = (life < 8).then_some(probe);
                let (setup, _) = setup(&outbox, &publisher, seed, probe);
                run_once(setup, &outbox, Duration::from_secs(3600)).await;
                kills += reached.load(Ordering::Relaxed);
                if outbox.numbers().is_empty() {
                    break;
                }
                outbox.crash(|| random.below(2) == 0);
            }
            assert!(kills > 0, "{context}: the point was never reached");
            check(&publisher.stored.lock(), &rows, &context);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_dropped_in_the_middle_of_a_call_publishes_everything_in_order() {
    for seed in 0..20 {
        let random = Seeded::new(seed);
        let rows = made_up(&random, 400);
        let outbox = FakeOutbox::new(rows.clone());
        let publisher = FakePublisher::new();
        unreliable(&publisher, seed);
        let slow = Seeded::new(seed ^ 1);
        publisher.delay(move || Duration::from_millis(slow.below(20)));
        let mut lives = 0;
        while !outbox.numbers().is_empty() {
            let (setup, _) = setup(&outbox, &publisher, seed, None);
            let at_most = Duration::from_millis(20 + random.below(200));
            run_once(setup, &outbox, at_most).await;
            if !outbox.numbers().is_empty() {
                outbox.crash(|| random.below(2) == 0);
            }
            lives += 1;
            assert!(lives < 10_000, "seed {seed}: no end");
        }
        check(&publisher.stored.lock(), &rows, &format!("seed {seed}"));
    }
}

/// A relay that is never killed, before an engine that takes everything: reads, publishes and removals overlap, and each row goes out once.
async fn published_twice(seed: u64) -> Result<(), String> {
    const ROWS: u64 = 1500;
    let random = Seeded::new(seed);
    let rows = made_up(&random, ROWS);
    let outbox = FakeOutbox::new([]);
    let slow = Seeded::new(seed ^ 1);
    outbox.delay(move || Duration::from_millis(slow.below(120)));
    let publisher = FakePublisher::new();
    let slow = Seeded::new(seed ^ 2);
    publisher.delay(move || Duration::from_millis(slow.below(20)));
    let (setup, _) = setup(&outbox, &publisher, seed, None);
    let relay = spawn(setup, None);
    // Time for several polls, each of which reads from the beginning.
    for (number, message) in rows.clone() {
        tokio::time::sleep(Duration::from_millis(random.below(40))).await;
        outbox.push(number, message);
    }
    until(|| outbox.numbers().is_empty()).await;
    assert!(relay.stop(Duration::from_secs(60)).await);
    let stored = publisher.stored.lock();
    check(&stored, &rows, &format!("seed {seed}"));
    let mut seen = BTreeSet::new();
    let twice = stored.iter().map(number_of).find(|n| !seen.insert(*n));
    twice.map_or(Ok(()), |n| {
        Err(format!("seed {seed}: row {n} was published twice"))
    })
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_not_killed_publishes_each_row_once() {
    #[cfg(feature = "planted")]
    let _nothing = postrider_core::planted::none();
    for seed in 0..5 {
        assert_eq!(published_twice(seed).await, Ok(()));
    }
}

#[cfg(feature = "planted")]
#[tokio::test(start_paused = true)]
async fn a_relay_that_forgets_what_it_removed_is_found() {
    use postrider_core::planted::{Plant, plant};
    let _bug = plant(Plant::RelayForgetsRemoved);
    for seed in 0..10 {
        if published_twice(seed).await.is_err() {
            println!(
                r#"proof: {{"name":"planted","bug":"RelayForgetsRemoved","found_in_seeds":{seed},"within":10,"by":"a relay that is not killed"}}"#
            );
            return;
        }
    }
    panic!("planted and not found");
}

async fn until(what: impl Fn() -> bool) {
    let met = async {
        let mut pause = Duration::from_millis(1);
        while !what() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(20));
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(7200), met)
            .await
            .is_ok(),
        "not in two hours"
    );
}

fn published(publisher: &FakePublisher) -> Vec<u64> {
    publisher.stored.lock().iter().map(number_of).collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_waits_and_others_flow() {
    let rows = [(1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, "b")];
    let outbox = FakeOutbox::new(rows.map(|(n, k)| (n, outgoing(n, Some(k)))));
    let publisher = FakePublisher::new();
    let mut failures = 5;
    publisher.refuse(move |m| {
        let fails = number_of(m) == 1 && failures > 0;
        failures -= u32::from(fails);
        fails.then(passing)
    });
    let (setup, _) = setup(&outbox, &publisher, 1, None);
    let relay = spawn(setup, None);
    until(|| outbox.numbers().is_empty()).await;
    assert_eq!(published(&publisher), [3, 5, 1, 2, 4]);
    assert!(relay.stop(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_can_never_be_published_stops_its_key_alone_and_is_kept() {
    let rows = [
        (1, Some("a")),
        (2, Some("a")),
        (3, Some("b")),
        (4, None),
        (5, None),
    ];
    let outbox = FakeOutbox::new(rows.map(|(n, k)| (n, outgoing(n, k))));
    let publisher = FakePublisher::new();
    let raised = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let limit = Arc::clone(&raised);
    publisher.refuse(move |m| {
        let too_big = [1, 4].contains(&number_of(m)) && !limit.load(Ordering::SeqCst);
        too_big.then(too_large)
    });
    let (setup, metrics) = setup(&outbox, &publisher, 1, None);
    let relay = spawn(setup, None);
    until(|| outbox.numbers() == [1, 2, 4]).await;
    assert_eq!(published(&publisher), [3, 5]);
    assert_eq!(relay.status().stuck_keys, 2);
    assert!(relay.status().last_fault.unwrap().contains("too large"));
    let text = metrics.text();
    assert!(
        text.contains(&format!("{}{{service=\"shop\"}} 2", RELAY_STUCK.name)),
        "{text}"
    );
    outbox.push(6, outgoing(6, Some("b")));
    until(|| outbox.numbers() == [1, 2, 4]).await;
    raised.store(true, Ordering::SeqCst);
    until(|| outbox.numbers().is_empty()).await;
    assert_eq!(published(&publisher)[..3], [3, 5, 6]);
    assert_eq!(relay.status().stuck_keys, 0);
}

#[tokio::test(start_paused = true)]
async fn more_blocked_rows_than_the_window_holds_do_not_stop_others() {
    let count = (WINDOW_ROWS_MAX * 2) as u64;
    let blocked = (1..=count).map(|n| (n, outgoing(n, Some(&format!("bad{}", n % 3)))));
    let flowing = (count + 1..=count + 10).map(|n| (n, outgoing(n, Some("good"))));
    let outbox = FakeOutbox::new(blocked.chain(flowing));
    let publisher = FakePublisher::new();
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let gate = Arc::clone(&open);
    publisher.refuse(move |m| {
        let bad = number_of(m) <= count && !gate.load(Ordering::SeqCst);
        bad.then(too_large)
    });
    let (setup, _) = setup(&outbox, &publisher, 1, None);
    let relay = spawn(setup, None);
    until(|| outbox.numbers().len() as u64 == count).await;
    assert_eq!(published(&publisher).len(), 10);
    assert!(relay.status().waiting <= WINDOW_ROWS_MAX);
    open.store(true, Ordering::SeqCst);
    until(|| outbox.numbers().is_empty()).await;
    let rows: BTreeMap<u64, Outgoing> = publisher
        .stored
        .lock()
        .iter()
        .map(|m| (number_of(m), m.clone()))
        .collect();
    check(&publisher.stored.lock(), &rows, "blocked");
    assert_eq!(rows.len() as u64, count + 10);
}

#[tokio::test(start_paused = true)]
async fn a_store_and_an_engine_that_are_away_are_waited_for() {
    let outbox = FakeOutbox::new((1..=9).map(|n| (n, outgoing(n, Some(&n.to_string())))));
    outbox.faults.lock().extend([passing(), passing()]);
    let publisher = FakePublisher::new();
    let mut calls = 0;
    publisher.refuse(move |_| {
        calls += 1;
        (calls < 100).then(passing)
    });
    let (setup, _) = setup(&outbox, &publisher, 1, None);
    let _relay = spawn(setup, None);
    until(|| outbox.numbers().is_empty()).await;
    assert_eq!(published(&publisher).len(), 9);
}

#[tokio::test(start_paused = true)]
async fn stopping_finishes_what_is_outstanding_and_keeps_the_rest() {
    let outbox = FakeOutbox::new((1..=3).map(|n| (n, outgoing(n, Some("a")))));
    let publisher = FakePublisher::new();
    publisher.delay(|| Duration::from_millis(50));
    let (setup, _) = setup(&outbox, &publisher, 1, None);
    let relay = spawn(setup, None);
    until(|| relay.status().calls == 1).await;
    outbox.push(4, outgoing(4, Some("a")));
    assert!(relay.stop(Duration::from_secs(1)).await);
    assert_eq!(published(&publisher), [1, 2, 3]);
    assert_eq!(outbox.numbers(), [4]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_takes_too_long_says_so() {
    let outbox = FakeOutbox::new([(1, outgoing(1, None))]);
    let publisher = FakePublisher::new();
    publisher.delay(|| Duration::from_secs(60));
    let (setup, _) = setup(&outbox, &publisher, 1, None);
    let relay = spawn(setup, None);
    until(|| relay.status().calls == 1).await;
    assert!(!relay.stop(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_counts_slowly_is_asked_once_at_a_time_and_again() {
    let outbox = FakeOutbox::new([(1, outgoing(1, None))]);
    *outbox.counts_take.lock() = POLL * 10;
    let publisher = FakePublisher::new();
    publisher.refuse(|_| Some(too_large()));
    let (setup, metrics) = setup(&outbox, &publisher, 1, None);
    let relay = spawn(setup, None);
    let depth = |n: u64| format!("{}{{service=\"shop\"}} {n}\n", OUTBOX_DEPTH.name);
    until(|| metrics.text().contains(&depth(1))).await;
    outbox.push(2, outgoing(2, None));
    until(|| metrics.text().contains(&depth(2))).await;
    assert_eq!(outbox.counts_max(), 1);
    assert!(relay.stop(Duration::from_secs(1)).await);
}
