//! The face as a user writes against it: every shape of handler is taken by `Service::on`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use postrider::prelude::*;
use postrider::{Store, TxStore};
use postrider_core::Fut;
use postrider_core::clock::Timestamp;
use postrider_core::fault::Fault;
use postrider_core::store::{
    CommitFailure, Committed as Commit, InboxEntry, Look, Outbox, ReadFailure, Seen, StoreInfo,
    Unit, Work,
};

#[derive(Message, Serialize, Deserialize, Debug, PartialEq)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
    cents: u64,
}

#[derive(Message, Serialize, Deserialize, Debug, PartialEq)]
#[message(topic = "shop.stock", type = "reserved", key = order_id)]
struct StockReserved {
    order_id: String,
}

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(queue = "payments", type = "charge", key = order_id)]
struct Charge {
    order_id: String,
}

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(reply, type = "charged")]
struct Charged {
    ok: bool,
}

#[derive(Fault, Debug)]
#[fault(permanent)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refused {}

/// A store whose connection is a list of rows.
struct Rows {
    info: StoreInfo,
}

impl Store for Rows {
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
        None
    }
    fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
}

impl TxStore for Rows {
    type Conn = Vec<String>;
    fn transact<'a>(
        &'a self,
        _: Unit,
        mut work: Work<Vec<String>>,
    ) -> Fut<'a, Result<Commit, CommitFailure>> {
        Box::pin(async move {
            let outgoing = work(&mut Vec::new()).map_err(CommitFailure::Handler)?;
            let outgoing = u32::try_from(outgoing.len()).unwrap();
            Ok(Commit::Applied { outgoing })
        })
    }
    fn write<'a>(&'a self, mut work: Work<Vec<String>>) -> Fut<'a, Result<u32, CommitFailure>> {
        Box::pin(async move {
            let outgoing = work(&mut Vec::new()).map_err(CommitFailure::Handler)?;
            Ok(u32::try_from(outgoing.len()).unwrap())
        })
    }
    fn read<'a>(&'a self, look: Look<Vec<String>>) -> Fut<'a, Result<(), ReadFailure>> {
        Box::pin(async move { look(&Vec::new()).map_err(ReadFailure::Handler) })
    }
}

fn reserve(order: OrderPlaced, tx: &mut Tx<Rows>) -> Result<Publish<StockReserved>, Refused> {
    if order.cents == 0 {
        return Err(Refused);
    }
    tx.push(order.order_id.clone());
    Ok(Publish(StockReserved {
        order_id: order.order_id,
    }))
}

fn with_extractors(order: OrderPlaced, tx: &mut Tx<Rows>, State(n): State<u32>, meta: Meta) {
    tx.push(format!("{} {n} {}", order.order_id, meta.attempt()));
}

async fn greet(order: OrderPlaced) {
    let _ = order;
}

async fn many(
    order: OrderPlaced,
    State(n): State<u32>,
    headers: Headers,
    ctx: Ctx,
    bus: Bus,
    delivery: Delivery,
) -> (Option<Publish<StockReserved>>, Vec<postrider::Send<Charge>>) {
    let _ = (
        n,
        headers.len(),
        ctx.now(),
        bus.in_flight(),
        delivery.attempt(),
    );
    let order_id = order.order_id;
    (Some(Publish(StockReserved { order_id })), Vec::new())
}

async fn charge(_: Charge, State(n): State<u32>, db: Db<Rows>) -> Result<Committed, Refused> {
    let rows = db.read(|rows| Ok::<_, Refused>(rows.len())).await;
    if rows.is_err() || n == 0 {
        return Err(Refused);
    }
    let commit = db.commit(move |tx| {
        tx.push("charged".into());
        let again = postrider::Send(Charge {
            order_id: "o".into(),
        });
        Ok::<_, Refused>((Reply(Charged { ok: true }), After(secs(3), again)))
    });
    Ok(commit.await)
}

async fn audit(delivery: Delivery) -> Effects {
    let _ = delivery.payload();
    Effects::new()
}

#[test]
fn every_shape_of_handler_is_taken() {
    let info = StoreInfo {
        product: "rows",
        version: "1".into(),
        location: "memory".into(),
        holds_messages: false,
    };
    let service = Service::new("shop")
        .store(Rows { info })
        .state(7u32)
        .on(reserve.retry(Retry::backoff(secs(1)..mins(5)).times(8)))
        .on(reserve)
        .on(with_extractors)
        .on(greet
            .timeout(secs(5))
            .concurrency(3)
            .dead_letter(DeadLetter::Park))
        .on(many.unordered())
        .on(charge.lease(secs(10)))
        .on(|order: OrderPlaced| async move {
            Publish(StockReserved {
                order_id: order.order_id,
            })
        })
        .on(raw("topic:shop.audit", audit).retry(Retry::never()));
    drop(service);
}

#[test]
fn a_handler_is_a_plain_function_in_a_test() {
    let mut rows = Vec::new();
    let order = |cents| OrderPlaced {
        order_id: "o-1".into(),
        cents,
    };
    let event = reserve(order(5), &mut Tx::over(&mut rows)).unwrap();
    assert_eq!(event.message().order_id, "o-1");
    assert_eq!(rows, ["o-1"]);
    assert!(reserve(order(0), &mut Tx::over(&mut rows)).is_err());
}

/// Never run: that it compiles is the test.
#[allow(dead_code)]
async fn a_bus_takes_messages_and_options(bus: Bus) -> postrider::Result {
    let order_id = || "o-1".to_owned();
    let reserved = || StockReserved {
        order_id: order_id(),
    };
    bus.publish(reserved()).await?;
    bus.publish(Publish(reserved()).header("a", "b").expires_in(secs(5)))
        .await?;
    bus.try_publish(reserved()).await?;
    bus.send(Charge {
        order_id: order_id(),
    })
    .await?;
    bus.send(
        postrider::Send(Charge {
            order_id: order_id(),
        })
        .key(Key::of(&7)),
    )
    .await?;
    let charged: Charged = bus
        .request(
            Charge {
                order_id: order_id(),
            },
            secs(2),
        )
        .await?;
    assert!(charged.ok);
    let scheduled = bus.schedule(secs(60), Publish(reserved())).await?;
    bus.cancel(&scheduled).await?;
    for result in bus.publish_all(vec![reserved()]).await {
        result?;
    }
    let running = Service::new("x").on(greet).start(&bus).await?;
    running.stop(secs(1)).await;
    Service::new("x").on(greet).run(bus).await
}
