#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use crate::bus::{Bus, BusOptions};
use crate::delivery::Delivery;
use crate::fake::{self, FakeEngine, FakeStore};
use crate::handler::raw;
use crate::relay::tests::setup;
use crate::relay::{Relays, spawn};
use crate::service::{Running, Service};
use crate::test_support::outbox::FakeOutbox;
use crate::test_support::publisher::FakePublisher;
use crate::test_support::{TokioClock, number_of, outgoing};

async fn bus(engine: &Arc<FakeEngine>) -> Bus {
    let options = BusOptions {
        clock: TokioClock::new(),
        ..fake::options()
    };
    Bus::from_engine(engine.clone(), options).await.unwrap()
}

async fn member(bus: &Bus, name: &str, store: &Arc<FakeStore>) -> Running {
    let audit = raw("topic:shop.order", |_: Delivery| async {});
    let service = Service::new(name).announce(false).on(audit);
    let service = service.shared_store(store.clone());
    service.start(bus).await.unwrap()
}

fn published(engine: &FakeEngine) -> Vec<u64> {
    engine.published.lock().iter().map(number_of).collect()
}

async fn emptied(outbox: &FakeOutbox) {
    while !outbox.numbers().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn store(rows: u64) -> (Arc<FakeOutbox>, Arc<FakeStore>) {
    let outbox = FakeOutbox::new((1..=rows).map(|n| (n, outgoing(n, Some("a")))));
    let store = FakeStore::with(Some(outbox.clone()));
    (outbox, store)
}

#[tokio::test(start_paused = true)]
async fn services_that_share_a_store_share_its_relay_until_the_last_one_stops() {
    let engine = FakeEngine::new(1);
    let bus = bus(&engine).await;
    let (outbox, store) = store(3);
    let relays = bus.runtime().registry.relays().clone();
    let first = member(&bus, "shipping", &store).await;
    let second = member(&bus, "shipping", &store).await;
    let other = member(&bus, "billing", &store).await;
    assert_eq!(relays.all().len(), 1);
    emptied(&outbox).await;
    outbox.push(4, outgoing(4, Some("a")));
    emptied(&outbox).await;
    assert_eq!(published(&engine), [1, 2, 3, 4], "each once");

    let second = second.stop(Duration::from_secs(5)).await;
    assert!(second.is_nothing(), "{second}");
    drop(first);
    assert_eq!(relays.all().len(), 1, "the admin API shows it still");
    outbox.push(5, outgoing(5, Some("a")));
    emptied(&outbox).await;

    // The last one publishes what is committed before it goes.
    outbox.push(6, outgoing(6, Some("a")));
    let other = other.stop(Duration::from_secs(5)).await;
    assert!(other.is_nothing(), "{other}");
    assert_eq!(published(&engine), [1, 2, 3, 4, 5, 6]);
    assert!(relays.all().is_empty());
    outbox.push(7, outgoing(7, Some("a")));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outbox.numbers(), [7], "nobody is there to publish it");
}

#[tokio::test(start_paused = true)]
async fn stores_that_are_not_the_same_have_a_relay_each() {
    let engine = FakeEngine::new(1);
    let bus = bus(&engine).await;
    let relays = bus.runtime().registry.relays().clone();
    let (one, other) = (store(2), store(2));
    let members = [
        member(&bus, "shipping", &one.1).await,
        member(&bus, "billing", &other.1).await,
    ];
    assert_eq!(relays.all().len(), 2);
    emptied(&one.0).await;
    emptied(&other.0).await;
    let [shipping, billing] = members;
    shipping.stop(Duration::from_secs(5)).await;
    let left: Vec<_> = relays.all().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["billing"]);
    drop(billing);
    assert!(relays.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_relay_waits_for_the_end_of_the_one_before() {
    let outbox = FakeOutbox::new([(1, outgoing(1, Some("a")))]);
    let publisher = FakePublisher::new();
    publisher.delay(|| Duration::from_secs(1));
    let relays = Arc::new(Relays::default());
    let share = || {
        let setup = setup(&outbox, &publisher, 1, None).0;
        relays.share(1, "shipping", |before| spawn(setup, before))
    };
    let first = share();
    let before = first.relay().clone();
    while before.status().calls == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Cut off while it publishes: it ends when that is confirmed and removed.
    drop(first);
    let second = share();
    assert!(!second.relay().is(&before));
    assert!(!*before.ended.borrow());
    outbox.push(2, outgoing(2, Some("a")));
    emptied(&outbox).await;
    let stored: Vec<u64> = publisher.stored.lock().iter().map(number_of).collect();
    assert_eq!(stored, [1, 2]);
    assert!(*before.ended.borrow());
    assert!(second.stop(Duration::from_secs(5)).await);
}
