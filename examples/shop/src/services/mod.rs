//! The six services. Each has its own database and hears of the others only through the bus.
//!
//! | service | hears | says |
//! |---|---|---|
//! | order | `shop.intake`, `shop.payment`, `shop.stock`, `shop.shipping` | `shop.order` placed, paid, shipped, cancelled, refunded |
//! | payment | `shop.order` placed, cancelled | `shop.payment` charged, declined, voided, refunded |
//! | inventory | `shop.order` placed, cancelled, shipped | `shop.stock` reserved, rejected, released; `shop.inventory` low |
//! | shipping | `shop.payment` charged, `shop.stock` reserved | `shop.shipping` left |
//! | notification | `shop.order`, `shop.inventory` | nothing |
//! | analytics | `shop.order` | nothing |

pub mod analytics;
mod chaos;
pub mod inventory;
pub mod notification;
pub mod order;
pub mod payment;
pub mod schema;
pub mod shipping;

use std::sync::Arc;

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::sqlite::rusqlite::{self, Connection, params};

pub use chaos::{Chaos, Counts};

use crate::provider::Client;
use crate::seed::ARTICLES;

#[cfg(test)]
mod tests;

/// What the services know of the run.
#[derive(Clone)]
pub struct Shop {
    /// What decides fates and faults.
    pub seed: u64,
    /// Stock at the start, per article.
    pub stock: [u64; ARTICLES],
    /// How payment reaches the provider.
    pub provider: Client,
    /// What goes wrong on purpose, and what is counted.
    pub chaos: Arc<Chaos>,
}

/// Why a handler failed.
#[derive(Debug, thiserror::Error, Fault)]
pub enum ShopFault {
    /// The database refused.
    #[error("the database refused: {0}")]
    #[fault(transient)]
    Database(#[from] rusqlite::Error),
    /// A look into the database failed.
    #[error("the database cannot be read: {0}")]
    #[fault(transient)]
    Look(#[from] postrider::sqlite::Error),
    /// The provider answered 503.
    #[error("the payment provider answered 503")]
    #[fault(transient)]
    Refused503,
    /// The provider gave no answer.
    #[error(transparent)]
    #[fault(unavailable = "provider")]
    NoAnswer(#[from] crate::provider::CallError),
    /// The provider will never do it.
    #[error("the payment provider refuses the request: {0}")]
    #[fault(permanent)]
    Refused(String),
    /// Another message about the order was handled at the same time.
    #[error("the order changed meanwhile")]
    #[fault(transient)]
    Changed,
}

/// A message that was counted by its sender.
pub(crate) trait Counted {
    /// Its topic, key and sequence.
    fn position(&self) -> (&'static str, &str, u64);
}

macro_rules! counted {
    ($($type:ty),*) => {$(
        impl Counted for $type {
            fn position(&self) -> (&'static str, &str, u64) {
                (<Self as Message>::DESTINATION, &self.order_id, self.sequence)
            }
        }
    )*};
}

use crate::messages::{
    OrderCancelled, OrderPaid, OrderPlaced, OrderRefunded, OrderShipped, ParcelLeft,
    PaymentCharged, PaymentDeclined, PaymentRefunded, PaymentVoided, StockRejected, StockReleased,
    StockReserved,
};

counted!(
    OrderCancelled,
    OrderPaid,
    OrderPlaced,
    OrderRefunded,
    OrderShipped,
    ParcelLeft,
    PaymentCharged,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
    StockRejected,
    StockReleased,
    StockReserved
);

/// Notes that a message was seen, and whether its sequence is above the last of its key. In the transaction of its effects, so that it is
/// noted exactly when they happen.
pub(crate) fn see(tx: &Connection, message: &impl Counted) -> rusqlite::Result<()> {
    let (topic, key, sequence) = message.position();
    tx.prepare_cached(
        "INSERT INTO seen(topic, key, last) VALUES (?1, ?2, ?3)
         ON CONFLICT(topic, key) DO UPDATE SET
             inversions = inversions + (excluded.last <= last), last = MAX(last, excluded.last)",
    )?
    .execute(params![topic, key, sequence as i64])?;
    Ok(())
}

/// The retries of all handlers: soon, then backing off, without end: the provider may be away for long, and an order waits.
#[must_use]
pub fn patient() -> Retry {
    Retry::backoff(millis(20)..secs(2)).immediately(1).forever()
}

/// A service of this name on this store, with what all of them have; handlers go on it.
pub(crate) fn base(name: &'static str, store: &Sqlite, shop: &Shop) -> Service {
    Service::new(name)
        .store(store.clone())
        .state(store.clone())
        .state(shop.clone())
        .announce(false)
        .grace(secs(5))
}

/// Builds the service of that name.
#[must_use]
pub fn build(name: &str, store: &Sqlite, shop: &Shop) -> Option<Service> {
    Some(match name {
        "order" => order::service(store, shop),
        "payment" => payment::service(store, shop),
        "inventory" => inventory::service(store, shop),
        "shipping" => shipping::service(store, shop),
        "notification" => notification::service(store, shop),
        "analytics" => analytics::service(store, shop),
        _ => return None,
    })
}
