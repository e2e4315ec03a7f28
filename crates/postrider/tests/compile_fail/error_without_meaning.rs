//! A handler's error must say what it means for the delivery.
use postrider::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
}

#[derive(Debug)]
struct OutOfStock;

async fn reserve(_: OrderPlaced) -> Result<(), OutOfStock> {
    Err(OutOfStock)
}

fn main() {
    let _ = Service::new("shop").on(reserve);
}
