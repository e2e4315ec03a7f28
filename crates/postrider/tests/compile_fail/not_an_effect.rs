//! What a handler returns must be effects: an event alone is not published.
use postrider::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
}

async fn again(order: OrderPlaced) -> OrderPlaced {
    order
}

fn main() {
    let _ = Service::new("shop").on(again);
    let mut effects = Effects::new();
    effects.add(OrderPlaced { order_id: String::new() });
}
