//! A command is sent, not published.
use postrider::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(queue = "payments", type = "charge", key = order_id)]
struct Charge {
    order_id: String,
}

async fn place(charge: Charge) -> Publish<Charge> {
    Publish(charge)
}

async fn tell(bus: Bus, charge: Charge) -> postrider::Result {
    bus.publish(charge).await?;
    Ok(())
}

fn main() {}
