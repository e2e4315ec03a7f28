//! Several members of one service, and services that are started again: what they share and what they must not.
#![cfg(all(feature = "sqlite", feature = "embedded"))]
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use postrider::contract::failure::{Cause, CrashState, Selection};
use postrider::contract::name::SubscriptionId;
use postrider::prelude::*;
use postrider::{BusOptions, Running, Sqlite};

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
    n: u32,
}

#[derive(Clone, Default)]
struct World {
    broken: Arc<AtomicBool>,
    handled: Arc<Mutex<Vec<u32>>>,
}

async fn ship(order: OrderPlaced, State(world): State<World>) -> Result<(), HandlerError> {
    if world.broken.load(Ordering::SeqCst) {
        return Err(HandlerError::Permanent("the shelf is gone".into()));
    }
    // Long enough for another member to come between, if it may.
    tokio::time::sleep(millis(100)).await;
    world.handled.lock().unwrap().push(order.n);
    Ok(())
}

async fn start(bus: &Bus, world: &World) -> Running {
    let service = Service::new("shipping")
        .announce(false)
        .state(world.clone());
    service.on(ship.lease(secs(6))).start(bus).await.unwrap()
}

async fn publish(bus: &Bus, order_id: &str, n: u32) {
    let order_id = order_id.into();
    bus.publish(OrderPlaced { order_id, n }).await.unwrap();
}

fn id() -> SubscriptionId {
    SubscriptionId::parse("shipping@topic:shop.order").unwrap()
}

async fn failures(bus: &Bus) -> usize {
    bus.failures()
        .list(&id(), None, None, 1000)
        .await
        .unwrap()
        .len()
}

async fn redrive(bus: &Bus) {
    let failures = bus.failures();
    let redriven = failures
        .redrive(&id(), Selection::All, "ann", "the shelf is back")
        .await;
    redriven.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_is_redriven_in_order_by_members_that_share_a_bus() {
    let bus = Bus::connect("memory:").await.unwrap();
    let world = World::default();
    world.broken.store(true, Ordering::SeqCst);
    let members = [start(&bus, &world).await, start(&bus, &world).await];
    for n in 0..4 {
        publish(&bus, "o", n).await;
    }
    while failures(&bus).await < 4 {
        tokio::time::sleep(millis(10)).await;
    }
    world.broken.store(false, Ordering::SeqCst);
    redrive(&bus).await;
    // One of the members has claimed them. What comes now is parked behind them, and redriven too.
    tokio::time::sleep(millis(50)).await;
    for n in 4..8 {
        publish(&bus, "o", n).await;
    }
    while world.handled.lock().unwrap().len() < 8 || failures(&bus).await > 0 {
        redrive(&bus).await;
        tokio::time::sleep(millis(10)).await;
    }
    assert_eq!(*world.handled.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
    for member in members {
        assert!(member.stop(secs(5)).await.is_nothing());
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stops_leaves_the_store_that_it_shares_open() {
    fn keep(order: OrderPlaced, tx: &mut Tx<Sqlite>) -> Result<(), HandlerError> {
        let kept = tx.execute("INSERT INTO kept VALUES (?1)", [order.n]);
        kept.map(drop)
            .map_err(|e| HandlerError::Transient(e.into()))
    }
    let bus = Bus::connect("memory:").await.unwrap();
    let store = Sqlite::in_memory().unwrap();
    let store = Arc::new(store.migrate(&["CREATE TABLE kept(n INTEGER)"]).unwrap());
    let member = || {
        Service::new("shipping")
            .announce(false)
            .shared_store(store.clone())
            .on(keep)
    };
    let first = member().start(&bus).await.unwrap();
    let second = member().start(&bus).await.unwrap();
    first.stop(secs(5)).await;
    publish(&bus, "o", 7).await;
    tokio::time::sleep(secs(1)).await;
    let kept =
        store.read(|conn| conn.query_row("SELECT n FROM kept", [], |row| row.get::<_, u32>(0)));
    assert_eq!(kept.await.unwrap(), 7);
    second.stop(secs(5)).await;

    // Its own it closes.
    let own = (*store).clone();
    let third = Service::new("billing").announce(false).store(own).on(keep);
    third.start(&bus).await.unwrap().stop(secs(5)).await;
    let closed = store.read(|conn| conn.query_row("SELECT 1", [], |row| row.get::<_, u32>(0)));
    assert!(closed.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn clean_stops_are_no_crashes() {
    async fn fail(_: OrderPlaced) -> Result<(), HandlerError> {
        Err(HandlerError::Transient("not yet".into()))
    }
    async fn hang(_: OrderPlaced) {
        std::future::pending().await
    }
    let bus = Bus::connect("memory:").await.unwrap();
    publish(&bus, "o", 1).await;
    for stop in 0..6 {
        let service = Service::new("shipping").announce(false);
        let service = match stop % 2 {
            0 => service.on(fail.retry(Retry::backoff(secs(1)..secs(5)).forever())),
            _ => service.on(hang.lease(secs(6))),
        };
        let running = service.start(&bus).await.unwrap();
        tokio::time::sleep(secs(10)).await;
        running.stop(secs(1)).await;
        let state = bus.failure_store().unwrap().open(&id()).await.unwrap();
        assert_eq!(state.crash, CrashState::default(), "after {stop} stops");
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_start_while_others_work_are_no_crashes() {
    async fn slow(order: OrderPlaced, State(world): State<World>) {
        tokio::time::sleep(secs(60)).await;
        world.handled.lock().unwrap().push(order.n);
    }
    let bus = Bus::connect("memory:").await.unwrap();
    let world = World::default();
    let mut members = Vec::new();
    for n in 0..6 {
        let service = Service::new("shipping")
            .announce(false)
            .state(world.clone());
        members.push(service.on(slow.concurrency(2)).start(&bus).await.unwrap());
        for k in 0..2 {
            publish(&bus, &format!("o-{n}-{k}"), 2 * n + k).await;
        }
        tokio::time::sleep(secs(1)).await;
    }
    tokio::time::sleep(secs(70)).await;
    assert_eq!(
        world.handled.lock().unwrap().len(),
        12,
        "none waits for another member's"
    );
    let records = bus.failures().list(&id(), None, None, 10).await.unwrap();
    let crashed = records
        .iter()
        .filter(|r| r.draft.facts.cause == Cause::CrashLoop);
    assert_eq!(crashed.count(), 0);
    let state = bus.failure_store().unwrap().open(&id()).await.unwrap();
    assert_eq!(state.crash, CrashState::default());
    for member in members {
        member.stop(secs(5)).await;
    }
}

#[derive(Message, Serialize, Deserialize)]
#[message(queue = "prices", type = "ask", key = sku)]
struct AskPrice {
    sku: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply, type = "price")]
struct Price {
    cents: u64,
}

/// Nobody waits for the answer any more: it is dropped, and holds up nothing.
#[tokio::test(start_paused = true)]
async fn an_answer_to_a_process_that_is_gone_holds_up_nothing() {
    async fn price(_: AskPrice) -> Reply<Price> {
        tokio::time::sleep(secs(2)).await;
        Reply(Price { cents: 30 })
    }
    fn price_in_store(_: AskPrice, _: &mut Tx<Sqlite>) -> Reply<Price> {
        Reply(Price { cents: 30 })
    }
    for in_store in [false, true] {
        let bus = Bus::connect("memory:").await.unwrap();
        let service = Service::new("prices").announce(false);
        let service = || match in_store {
            false => service.on(price),
            true => service
                .store(Sqlite::in_memory().unwrap())
                .on(price_in_store),
        };
        let running = service().start(&bus).await.unwrap();
        if in_store {
            running.subscriptions()[0].pause().await;
        }
        let asker = Bus::from_engine(bus.engine().clone(), BusOptions::default());
        let asker = asker.await.unwrap();
        let sku = "apple".into();
        let asked =
            tokio::spawn(async move { asker.request::<Price>(AskPrice { sku }, secs(60)).await });
        tokio::time::sleep(secs(1)).await;
        asked.abort();
        assert!(asked.await.is_err_and(|e| e.is_cancelled()));
        tokio::time::sleep(millis(1)).await;
        running.subscriptions()[0].resume().await;
        tokio::time::sleep(secs(10)).await;
        let status = running.subscriptions()[0].status();
        assert_eq!(
            (status.held, status.publishing),
            (0, 0),
            "in store: {in_store}"
        );
        let left = running.stop(secs(5)).await;
        assert!(left.is_nothing(), "in store: {in_store}: {left}");
    }
}
