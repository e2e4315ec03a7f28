//! What `settle` waits for, and what it says where it waits for nothing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::clock::Timestamp;
use postrider::contract::name::Destination;
use postrider::contract::store::{
    CommitFailure, Committed, InboxEntry, Look, Outbox, OutboxRow, ReadFailure, Seen, Store,
    StoreInfo, TxStore, Unit, Work,
};
use postrider::prelude::*;
use postrider::{Envelope, HandlerError, Key, MessageId, Outgoing};
use postrider_testkit::App;
use tokio::time::Instant;

type Fault = postrider::contract::fault::Fault;

#[derive(Debug, Clone, PartialEq, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order)]
struct Placed {
    order: String,
}

fn placed(order: impl Into<String>) -> Placed {
    Placed {
        order: order.into(),
    }
}

/// A store that holds nothing but an outbox.
struct Shelf {
    info: StoreInfo,
    outbox: Arc<Rows>,
}

#[derive(Default)]
struct Rows {
    rows: Mutex<BTreeMap<u64, Outgoing>>,
}

impl Rows {
    fn put(&self, number: u64, placed: &Placed) {
        let id = MessageId::v7(Timestamp(number), [number, number]);
        let mut envelope = Envelope::new(id, "test".into(), "placed".into(), Timestamp(number));
        envelope.key = Some(Key::of(&placed.order));
        let message = Outgoing {
            destination: Destination::topic("shop.order").unwrap(),
            envelope,
            payload: placed.encode().unwrap(),
        };
        self.rows.lock().unwrap().insert(number, message);
    }
}

impl Outbox for Rows {
    fn take<'a>(&'a self, after: u64, limit: u32) -> Fut<'a, Result<Vec<OutboxRow>, Fault>> {
        let rows = self.rows.lock().unwrap();
        let rows = rows.range(after + 1..).take(limit as usize);
        let rows = rows.map(|(number, message)| OutboxRow {
            number: *number,
            message: message.clone(),
        });
        let rows = rows.collect();
        Box::pin(async { Ok(rows) })
    }
    fn remove<'a>(&'a self, numbers: Vec<u64>) -> Fut<'a, Result<(), Fault>> {
        let mut rows = self.rows.lock().unwrap();
        rows.retain(|number, _| !numbers.contains(number));
        Box::pin(async { Ok(()) })
    }
    /// Nobody says so: the relay looks every five seconds.
    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(std::future::pending())
    }
    fn depth(&self) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(self.rows.lock().unwrap().len() as u64) })
    }
}

impl Store for Shelf {
    fn info(&self) -> &StoreInfo {
        &self.info
    }
    fn seen<'a>(&'a self, _: &'a InboxEntry) -> Fut<'a, Result<Seen, Fault>> {
        Box::pin(async { Ok(Seen::New) })
    }
    fn prune_inbox(&self, _: Timestamp) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(0) })
    }
    fn outbox(&self) -> Option<Arc<dyn Outbox>> {
        Some(self.outbox.clone())
    }
    fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
}

impl TxStore for Shelf {
    type Conn = ();

    fn transact<'a>(&'a self, _: Unit, _: Work<()>) -> Fut<'a, Result<Committed, CommitFailure>> {
        Box::pin(async { Ok(Committed::Duplicate) })
    }
    fn write<'a>(&'a self, _: Work<()>) -> Fut<'a, Result<u32, CommitFailure>> {
        Box::pin(async { Ok(0) })
    }
    fn read<'a>(&'a self, _: Look<()>) -> Fut<'a, Result<(), ReadFailure>> {
        Box::pin(async { Ok(()) })
    }
}

async fn audit(_: Placed) {}

/// An app whose service has a store, and that store's outbox.
async fn app() -> (App, Arc<Rows>) {
    let outbox = Arc::new(Rows::default());
    let store = Shelf {
        info: StoreInfo {
            product: "Shelf",
            version: "1".into(),
            location: "memory".into(),
            holds_messages: false,
        },
        outbox: outbox.clone(),
    };
    let service = Service::new("audit").store(store).on(audit);
    (App::start([service]).await.unwrap(), outbox)
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_an_outbox_is_not_settled() {
    let (app, outbox) = app().await;
    app.settle().await;
    outbox.put(1, &placed("a"));
    app.settle().await;
    assert_eq!(app.published::<Placed>(), [placed("a")]);
    app.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outbox_row_that_the_engine_refuses_for_good_is_named() {
    let (app, outbox) = app().await;
    outbox.put(1, &placed("x".repeat(Key::BYTES_MAX + 1)));
    let stuck = app.try_settle().await.unwrap_err();
    let [left] = &stuck.outboxes[..] else {
        panic!("{stuck}");
    };
    assert_eq!((left.depth, left.stuck_keys), (1, 1));
    let text = stuck.to_string();
    assert!(
        text.contains("the outbox of audit (1, 1 keys stuck"),
        "{text}"
    );
    app.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_closed_is_not_settled_and_says_so_at_once() {
    let (app, _) = app().await;
    app.given(placed("a")).await.unwrap();
    app.bus().close(Duration::from_secs(1)).await.unwrap();
    let began = Instant::now();
    let stuck = app.try_settle().await.unwrap_err();
    let error = stuck.error.as_ref().expect("it says why");
    assert!(error.contains("closed"), "{stuck}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn failures_are_seen_to_the_last_and_redrives_too() {
    async fn refuse(_: Placed) -> Result<(), HandlerError> {
        Err(HandlerError::Permanent("no".into()))
    }
    let app = App::start([Service::new("audit").on(refuse)]).await;
    let app = app.unwrap();
    let orders = (0..1100).map(|n| placed(n.to_string()));
    for result in app.bus().publish_all(orders).await {
        result.unwrap();
    }
    app.settle().await;
    assert_eq!(app.failures().await.unwrap().len(), 1100);
    assert_eq!(app.redrive_all().await.unwrap(), 1100);
    app.settle().await;
    let failures = app.failures().await.unwrap();
    assert_eq!(failures.len(), 1100);
    assert!(failures.iter().all(|f| f.redrives == 1));
    app.stop().await.unwrap();
}
