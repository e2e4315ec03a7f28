//! The first parameter is not a message.
use postrider::prelude::*;

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order_id: String,
}

async fn greet(order: OrderPlaced) {
    let _ = order;
}

fn main() {
    let _ = Service::new("shop").on(greet);
}
