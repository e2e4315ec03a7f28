//! The service of the README, and something that sends to it. It ends by itself after three orders.

use std::sync::Arc;

use tokio::sync::Semaphore;

// README: begin
use postrider::prelude::*;
use postrider::sqlite::{SqlError, Sqlite};

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
    quantity: u32,
}

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.stock", type = "reserved", key = order_id)]
struct StockReserved {
    order_id: String,
    left: u32,
}

/// Inbox row, this update and the outgoing message are one commit: however often the order comes, stock is taken once.
fn reserve(order: OrderPlaced, tx: &mut Tx<Sqlite>) -> Result<Publish<StockReserved>, SqlError> {
    let take = "UPDATE stock SET left = left - ?1 RETURNING left";
    let left = tx.query_row(take, [order.quantity], |row| row.get(0))?;
    Ok(Publish(StockReserved {
        order_id: order.order_id,
        left,
    }))
}

fn inventory(store: Sqlite) -> Service {
    Service::new("inventory")
        .store(store)
        .on(reserve.retry(Retry::backoff(secs(1)..mins(5)).times(8)))
}
// README: end

const TABLE: &str = "CREATE TABLE stock (left INTEGER NOT NULL); INSERT INTO stock VALUES (1000)";

/// Another service, on the other topic: it says what it heard.
async fn tell(event: StockReserved, State(told): State<Arc<Semaphore>>) {
    println!("{}: reserved, {} left", event.order_id, event.left);
    told.add_permits(1);
}

#[tokio::main]
async fn main() -> postrider::Result {
    let bus = Bus::connect("embedded:./hello-data").await?;
    let store = Sqlite::open("hello-data/inventory.db")?.migrate(&[TABLE])?;
    let told = Arc::new(Semaphore::new(0));
    let inventory = inventory(store).start(&bus).await?;
    let teller = Service::new("teller")
        .state(told.clone())
        .on(tell)
        .start(&bus)
        .await?;
    for order in ["o-1", "o-2", "o-3"] {
        bus.publish(OrderPlaced {
            order_id: order.into(),
            quantity: 2,
        })
        .await?;
    }
    let _three = told.acquire_many(3).await;
    inventory.stop(secs(5)).await;
    teller.stop(secs(5)).await;
    bus.close(secs(5)).await
}

#[cfg(test)]
mod tests;
