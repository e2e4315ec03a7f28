//! A parameter after the message is not an extractor.
use postrider::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
}

struct Bank;

async fn charge(_: OrderPlaced, _: Bank) {}

fn main() {
    let _ = Service::new("shop").on(charge.retry(Retry::never()));
}
