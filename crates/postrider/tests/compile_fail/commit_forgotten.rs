//! A handler that says it commits must commit.
use postrider::prelude::*;
use postrider::TxStore;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
}

async fn charge<S: TxStore>(_: OrderPlaced, db: Db<S>) -> Committed {
    db.seen().await;
}

fn main() {}
