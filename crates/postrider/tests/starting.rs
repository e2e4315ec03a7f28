//! What a service is told at its start, and when it does not start; what becomes of one that is dropped.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use postrider::contract::failure::{Reason, Selection};
use postrider::contract::plan::{Need, Verdict};
use postrider::prelude::*;
use postrider::{Code, Durability};
use support::SOON;
use tokio::sync::mpsc;
use tokio::time::timeout;

#[derive(Message, Serialize, Deserialize, Debug, PartialEq)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct Placed {
    order_id: String,
    n: u32,
}

fn placed(n: u32) -> Placed {
    Placed {
        order_id: "o-1".into(),
        n,
    }
}

type Seen = mpsc::UnboundedSender<u32>;

async fn see(order: Placed, State(seen): State<Seen>) {
    let _ = seen.send(order.n);
}

async fn ignore(_: Placed) {}

fn quiet(name: &'static str) -> Service {
    Service::new(name).announce(false)
}

async fn memory() -> Bus {
    Bus::connect("memory:").await.unwrap()
}

/// Nobody subscribed, nobody will get it.
async fn nothing_started(bus: &Bus) {
    assert_eq!(bus.publish(placed(1)).await.unwrap().subscriptions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_need_that_is_refused_names_itself_and_nothing_starts() {
    let bus = memory().await;
    let service = quiet("shipping").on(ignore).durability(Durability::Flushed);
    let error = service.start(&bus).await.err().unwrap();
    assert_eq!(error.code(), Code::PLAN_REFUSED);
    let text = error.to_string();
    assert!(text.starts_with("PR-1401: "), "{text}");
    assert!(text.contains("shipping@topic:shop.order"), "{text}");
    assert!(text.contains("survive a power cut"), "{text}");
    assert!(text.contains("the engine gives Memory"), "{text}");
    nothing_started(&bus).await;
    // The same through `run`, which must end and not wait for a signal.
    let service = quiet("shipping").on(ignore).durability(Durability::Flushed);
    let run = service.run_until(bus.clone(), std::future::pending());
    let error = timeout(SOON, run).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::PLAN_REFUSED);
}

#[tokio::test(start_paused = true)]
async fn emulation_is_refused_where_it_is_denied() {
    let bus = memory().await;
    let running = quiet("lenient").on(ignore).start(&bus).await.unwrap();
    let emulated =
        |row: &postrider::contract::plan::PlanRow| matches!(row.verdict, Verdict::Emulated { .. });
    assert!(running.plans()[0].rows.iter().any(emulated));
    running.stop(secs(1)).await;
    let strict = quiet("strict").on(ignore).deny_emulation();
    let error = strict.start(&bus).await.err().unwrap();
    assert_eq!(error.code(), Code::PLAN_REFUSED);
    let text = error.to_string();
    assert!(text.contains("effects once"), "{text}");
    assert!(text.contains("emulation is denied"), "{text}");
    assert!(!text.contains("order per key"), "that is native: {text}");
}

#[tokio::test(start_paused = true)]
async fn the_plan_says_what_a_confirmed_publish_survives() {
    let bus = memory().await;
    let running = quiet("shipping").on(ignore).start(&bus).await.unwrap();
    let durability = Need::Durability {
        at_least: Durability::Memory,
    };
    let rows = &running.plans()[0].rows;
    assert!(
        rows.iter()
            .any(|r| r.need == durability && r.verdict == Verdict::Native),
        "{rows:?}"
    );
    let text = running.plan_text();
    assert!(
        text.contains("native    confirmed messages live in memory only"),
        "{text}"
    );
    running.stop(secs(1)).await;
}

#[tokio::test]
async fn the_plan_of_a_directory_says_that_a_power_cut_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("embedded:{}", dir.path().display());
    let bus = Bus::connect(&url).await.unwrap();
    let service = quiet("shipping").on(ignore).durability(Durability::Os);
    let running = service.start(&bus).await.unwrap();
    let text = running.plan_text();
    assert!(
        text.contains("native    confirmed messages survive the death of the process"),
        "{text}"
    );
    assert!(text.contains(", flushed\n"), "and what it is: {text}");
    running.stop(secs(1)).await;
    bus.close(secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_dropped_does_not_go_on_unseen_and_loses_nothing() {
    let bus = memory().await;
    let began = Arc::new(tokio::sync::Notify::new());
    let (note, finished) = (began.clone(), Arc::new(AtomicBool::new(false)));
    let done = finished.clone();
    let forever = move |_: Placed| {
        let (note, done) = (note.clone(), done.clone());
        async move {
            note.notify_one();
            std::future::pending::<()>().await;
            done.store(true, Ordering::SeqCst);
        }
    };
    let running = quiet("shipping").on(forever).start(&bus).await.unwrap();
    let handle = running.subscriptions()[0].clone();
    bus.publish(placed(1)).await.unwrap();
    bus.publish(placed(2)).await.unwrap();
    timeout(SOON, began.notified()).await.unwrap();
    drop(running);
    let ended = timeout(SOON, handle.ended()).await.unwrap();
    let error = ended.error.unwrap().to_string();
    assert!(error.contains("the service was dropped"), "{error}");
    assert_eq!(bus.failures().groups(None).await.unwrap(), []);
    // Another one gets both, in order, long before a lease would have ended.
    let (sender, mut seen) = mpsc::unbounded_channel::<u32>();
    let again = quiet("shipping").state(sender).on(see);
    let running = again.start(&bus).await.unwrap();
    for n in [1, 2] {
        let got = timeout(secs(5), seen.recv()).await.unwrap().unwrap();
        assert_eq!(got, n);
    }
    running.stop(secs(1)).await;
    assert!(!finished.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_service_had_claimed_is_redriven_by_the_next() {
    let bus = memory().await;
    // The first attempt is refused for good, the redriven one never returns, the next service handles it.
    let calls = Arc::new(AtomicU32::new(0));
    let began = Arc::new(tokio::sync::Notify::new());
    let (count, note) = (calls.clone(), began.clone());
    let handler = move |_: Placed| {
        let (call, note) = (count.fetch_add(1, Ordering::SeqCst), note.clone());
        async move {
            if call == 0 {
                return Err(HandlerError::Permanent("no such article".into()));
            }
            note.notify_one();
            std::future::pending::<()>().await;
            Ok(())
        }
    };
    // Beside the engine, where only the contract gives claims back.
    let beside = memory().await;
    let home = beside.failure_store().unwrap();
    let service = quiet("shipping").failures(home.clone()).on(handler);
    let running = service.start(&bus).await.unwrap();
    let id = running.subscriptions()[0].subscription().clone();
    bus.publish(placed(1)).await.unwrap();
    let recorded = async {
        while home.list(&id, None, None, 10).await.map_or(0, |l| l.len()) == 0 {
            tokio::time::sleep(millis(10)).await;
        }
    };
    timeout(SOON, recorded).await.unwrap();
    let reason = Reason {
        by: "test".into(),
        text: "mended".into(),
        at: bus.now(),
    };
    home.redrive(&id, Selection::All, reason).await.unwrap();
    timeout(SOON, began.notified()).await.unwrap();
    drop(running);
    let (sender, mut seen) = mpsc::unbounded_channel::<u32>();
    let again = quiet("shipping")
        .failures(home.clone())
        .state(sender)
        .on(see);
    let running = again.start(&bus).await.unwrap();
    assert_eq!(timeout(SOON, seen.recv()).await.unwrap(), Some(1));
    running.stop(secs(1)).await;
    assert_eq!(home.list(&id, None, None, 10).await.unwrap(), []);
}

#[cfg(feature = "sqlite")]
mod stores {
    use super::*;
    use postrider::contract::store::{
        CommitFailure, Committed as Commit, InboxEntry, Look, Outbox, ReadFailure, Seen, StoreInfo,
        Unit, Work,
    };
    use postrider::contract::{Fut, fault::Fault};
    use postrider::{Store, TxStore};
    use std::time::Duration;

    #[derive(Message, Serialize, Deserialize, Debug)]
    #[message(topic = "shop.order", type = "paid", key = order_id)]
    struct Paid {
        order_id: String,
    }

    /// A store that holds a number.
    struct Number(StoreInfo);

    impl Store for Number {
        fn info(&self) -> &StoreInfo {
            &self.0
        }
        fn seen<'a>(&'a self, _: &'a InboxEntry) -> Fut<'a, Result<Seen, Fault>> {
            Box::pin(async { Ok(Seen::New) })
        }
        fn prune_inbox(&self, _: Timestamp) -> Fut<'_, Result<u64, Fault>> {
            Box::pin(async { Ok(0) })
        }
        fn outbox(&self) -> Option<Arc<dyn Outbox>> {
            None
        }
        fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
            Box::pin(async { Ok(()) })
        }
    }

    impl TxStore for Number {
        type Conn = u64;
        fn transact<'a>(
            &'a self,
            _: Unit,
            mut work: Work<u64>,
        ) -> Fut<'a, Result<Commit, CommitFailure>> {
            Box::pin(async move {
                work(&mut 0).map_err(CommitFailure::Handler)?;
                Ok(Commit::Applied { outgoing: 0 })
            })
        }
        fn write<'a>(&'a self, mut work: Work<u64>) -> Fut<'a, Result<u32, CommitFailure>> {
            Box::pin(async move {
                work(&mut 0).map_err(CommitFailure::Handler)?;
                Ok(0)
            })
        }
        fn read<'a>(&'a self, look: Look<u64>) -> Fut<'a, Result<(), ReadFailure>> {
            Box::pin(async move { look(&0).map_err(ReadFailure::Handler) })
        }
    }

    fn in_sqlite(_: Placed, _: &mut Tx<Sqlite>) {}
    fn in_number(_: Paid, _: &mut Tx<Number>) {}

    fn number() -> Number {
        Number(StoreInfo {
            product: "Number",
            version: "1".into(),
            location: "the moon".into(),
            holds_messages: false,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_plan_names_each_store_that_a_subscription_commits_in() {
        let bus = memory().await;
        let both = quiet("both")
            .store(number())
            .store(Sqlite::in_memory().unwrap())
            .on(in_sqlite)
            .on(in_number);
        let running = both.start(&bus).await.unwrap();
        let text = running.plan_text();
        assert!(
            text.contains("SQLite (:memory:) and Number (the moon)"),
            "{text}"
        );
        running.stop(secs(1)).await;
        // A store that none of its handlers uses is not its store.
        let one = quiet("one")
            .store(number())
            .store(Sqlite::in_memory().unwrap())
            .on(in_sqlite);
        let running = one.start(&bus).await.unwrap();
        let effects = running.plans()[0]
            .rows
            .iter()
            .find_map(|row| match &row.need {
                Need::EffectsOnce { store } => store.clone(),
                _ => None,
            });
        assert_eq!(effects.as_deref(), Some("SQLite (:memory:)"));
        running.stop(secs(1)).await;
    }
}
