//! A transactional handler is a plain function: nobody awaits inside a transaction.
use postrider::prelude::*;
use postrider::TxStore;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
}

async fn reserve<S: TxStore>(_: OrderPlaced, _: &mut Tx<'_, S>) {}

fn service<S: TxStore>() {
    let _ = Service::new("shop").on(reserve::<S>);
}

fn main() {}
