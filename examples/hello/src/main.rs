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

/// This update, the message that it returns and the mark that the order was handled are one commit.
fn reserve(order: OrderPlaced, tx: &mut Tx<Sqlite>) -> Result<Publish<StockReserved>, SqlError> {
    let take = "UPDATE stock SET left = left - ?1 RETURNING left";
    let left = tx.query_row(take, [order.quantity], |row| row.get(0))?;
    let order_id = order.order_id;
    Ok(Publish(StockReserved { order_id, left }))
}

#[tokio::main]
async fn main() -> postrider::Result {
    let bus = Bus::connect("embedded:./hello-data").await?;
    let (told, enough) = send_three_orders(&bus);
    inventory(Sqlite::open("inventory.db")?.migrate(&[STOCK])?)
        .state(told)
        .on(tell)
        .run_until(bus, enough)
        .await
}

fn inventory(store: Sqlite) -> Service {
    let patient = Retry::backoff(secs(1)..mins(5)).times(8);
    Service::new("inventory")
        .store(store)
        .on(reserve.retry(patient))
}
// README: end

const STOCK: &str = "CREATE TABLE stock (left INTEGER NOT NULL); INSERT INTO stock VALUES (1000)";

/// A plain handler, at least once: it says what it heard.
async fn tell(event: StockReserved, State(told): State<Arc<Semaphore>>) {
    println!("order {}: reserved, {} left", event.order_id, event.left);
    told.add_permits(1);
}

/// Somebody has to place orders; gives what `tell` counts with, and what is done after three.
fn send_three_orders(bus: &Bus) -> (Arc<Semaphore>, impl Future<Output = ()> + use<>) {
    let told = Arc::new(Semaphore::new(0));
    let (bus, counted) = (bus.clone(), told.clone());
    let enough = async move {
        for order_id in ["o-1", "o-2", "o-3"] {
            let order = OrderPlaced {
                order_id: order_id.into(),
                quantity: 2,
            };
            if let Err(error) = bus.publish(order).await {
                eprintln!("{error}");
                return;
            }
        }
        drop(counted.acquire_many(3).await);
    };
    (told, enough)
}

#[cfg(test)]
mod tests;
