//! Services on `memory:`: what a user sees, from publish to handled.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postrider::prelude::*;
use postrider::{Code, Running};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
    n: u32,
}

#[derive(Message, Serialize, Deserialize, Debug, PartialEq)]
#[message(topic = "shop.stock", type = "reserved", key = order_id)]
struct StockReserved {
    order_id: String,
    n: u32,
}

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(queue = "prices", type = "ask")]
struct AskPrice {
    sku: String,
}

#[derive(Message, Serialize, Deserialize, Debug, PartialEq)]
#[message(reply, type = "price")]
struct Price {
    cents: u64,
}

type Seen = mpsc::UnboundedSender<StockReserved>;

async fn reserve(order: OrderPlaced) -> Publish<StockReserved> {
    let OrderPlaced { order_id, n } = order;
    Publish(StockReserved { order_id, n })
}

async fn see(reserved: StockReserved, State(seen): State<Seen>) {
    let _ = seen.send(reserved);
}

async fn price(ask: AskPrice) -> Result<Reply<Price>, HandlerError> {
    match ask.sku.as_str() {
        "apple" => Ok(Reply(Price { cents: 30 })),
        other => Err(HandlerError::Permanent(
            format!("no article `{other}`").into(),
        )),
    }
}

async fn memory() -> Bus {
    Bus::connect("memory:").await.unwrap()
}

async fn start(service: Service, bus: &Bus) -> Running {
    service.announce(false).start(bus).await.unwrap()
}

fn order(n: u32) -> OrderPlaced {
    OrderPlaced {
        order_id: "o-1".into(),
        n,
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_through_two_services_in_the_order_of_its_key() {
    let bus = memory().await;
    let (sender, mut seen) = mpsc::unbounded_channel::<StockReserved>();
    let inventory = start(Service::new("inventory").on(reserve), &bus).await;
    let shipping = start(Service::new("shipping").state(sender).on(see), &bus).await;
    for n in 0..20 {
        let receipt = bus.publish(order(n)).await.unwrap();
        assert_eq!(receipt.subscriptions, Some(1));
    }
    for n in 0..20 {
        let reserved = timeout(SOON, seen.recv()).await.unwrap().unwrap();
        assert_eq!(reserved.n, n);
    }
    assert!(
        inventory.plan_text().contains("native    order per key"),
        "{}",
        inventory.plan_text()
    );
    assert!(inventory.plan_json().contains("inventory"));
    for running in [inventory, shipping] {
        let left = running.stop(secs(1)).await;
        assert!(left.is_nothing(), "{left}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_is_tried_again_and_others_go_on() {
    let bus = memory().await;
    let (sender, mut seen) = mpsc::unbounded_channel::<StockReserved>();
    let tries = Arc::new(AtomicU32::new(0));
    let count = tries.clone();
    let flaky = move |reserved: StockReserved, State(seen): State<Seen>| {
        let tries = count.clone();
        async move {
            if reserved.n == 1 && tries.fetch_add(1, Ordering::SeqCst) < 3 {
                return Err(HandlerError::Transient("not yet".into()));
            }
            let _ = seen.send(reserved);
            Ok(())
        }
    };
    let service = Service::new("shipping").state(sender);
    let retry = Retry::backoff(secs(1)..mins(1)).times(8);
    let running = start(service.on(flaky.retry(retry)), &bus).await;
    for (order_id, n) in [("a", 1), ("a", 2), ("b", 3)] {
        let order_id = order_id.into();
        bus.publish(StockReserved { order_id, n }).await.unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(timeout(SOON, seen.recv()).await.unwrap().unwrap().n);
    }
    assert_eq!(order, [3, 1, 2], "another key passes, the same key waits");
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_refused_or_fails_at_once() {
    let bus = memory().await;
    let ask = |sku: &str| AskPrice { sku: sku.into() };
    let error = bus
        .request::<Price>(ask("apple"), secs(5))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::REQUEST_NO_RESPONDER);
    let running = start(Service::new("prices").on(price), &bus).await;
    let answer: Price = bus.request(ask("apple"), secs(5)).await.unwrap();
    assert_eq!(answer, Price { cents: 30 });
    let error = bus
        .request::<Price>(ask("pear"), secs(5))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::REPLY_FAILED);
    assert!(error.what().contains("no article `pear`"), "{error}");
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_for_good_is_a_record_that_can_be_redriven() {
    let bus = memory().await;
    let (sender, mut seen) = mpsc::unbounded_channel::<StockReserved>();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let flag = broken.clone();
    let handler = move |reserved: StockReserved, State(seen): State<Seen>| {
        let broken = flag.load(Ordering::SeqCst);
        async move {
            if broken {
                return Err(HandlerError::Permanent("shelf is gone".into()));
            }
            let _ = seen.send(reserved);
            Ok(())
        }
    };
    let running = start(Service::new("shipping").state(sender).on(handler), &bus).await;
    for n in 0..3 {
        bus.publish(StockReserved {
            order_id: "o".into(),
            n,
        })
        .await
        .unwrap();
    }
    let store = bus.failure_store().unwrap();
    let subscription = running.subscriptions()[0].subscription().clone();
    let records = || async { store.list(&subscription, None, None, 10).await.unwrap() };
    let recorded = async {
        while records().await.len() < 3 {
            tokio::time::sleep(millis(10)).await;
        }
    };
    let within = timeout(SOON, recorded).await;
    assert!(
        within.is_ok(),
        "{:?} {:?}",
        records().await,
        running.subscriptions()[0].status()
    );
    broken.store(false, Ordering::SeqCst);
    let reason = postrider_core::failure::Reason {
        by: "test".into(),
        text: "the shelf is back".into(),
        at: bus.now(),
    };
    let all = postrider_core::failure::Selection::All;
    assert_eq!(store.redrive(&subscription, all, reason).await.unwrap(), 3);
    for n in 0..3 {
        assert_eq!(
            timeout(SOON, seen.recv()).await.unwrap().unwrap().n,
            n,
            "the key's order holds"
        );
    }
    running.stop(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_stops_itself_ends_the_service_with_its_reason() {
    async fn stop(_: OrderPlaced) -> Result<(), HandlerError> {
        Err(HandlerError::Stop("the disk is on fire".into()))
    }
    let bus = memory().await;
    let feed = bus.clone();
    let service = Service::new("inventory").announce(false).on(stop);
    let run = tokio::spawn(service.run_until(bus.clone(), std::future::pending()));
    while feed.publish(order(1)).await.unwrap().subscriptions != Some(1) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = timeout(SOON, run).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::SUBSCRIPTION_STOPPED);
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn run_until_stops_and_closes_the_bus() {
    let bus = memory().await;
    let service = Service::new("inventory").announce(false).on(reserve);
    service
        .run_until(bus.clone(), tokio::time::sleep(secs(3)))
        .await
        .unwrap();
    assert!(
        bus.publish(order(1)).await.is_err(),
        "the last service closes the bus"
    );
}
