//! The analytics service: counts events and sums amounts. Plain increments: a duplicate would show.

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::sqlite::rusqlite::params;

use super::{Counted, Shop, ShopFault, base, patient, see};
use crate::messages::{OrderCancelled, OrderPaid, OrderPlaced, OrderRefunded, OrderShipped};

/// The service.
pub fn service(store: &Sqlite, shop: &Shop) -> Service {
    let chaos = || shop.chaos.layer();
    base("analytics", store, shop)
        .on(placed.retry(patient()).concurrency(256).layer(chaos()))
        .on(count::<OrderPaid>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(count::<OrderShipped>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(count::<OrderCancelled>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(count::<OrderRefunded>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
}

pub(super) fn placed(event: OrderPlaced, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    let cents = event.cents;
    add(&event, cents, tx)
}

pub(super) fn count<E: Event + Counted>(event: E, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    add(&event, 0, tx)
}

fn add<E: Event + Counted>(event: &E, cents: u64, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    see(tx, event)?;
    tx.prepare_cached(
        "INSERT INTO totals(kind, n, cents) VALUES (?1, 1, ?2)
         ON CONFLICT(kind) DO UPDATE SET n = n + 1, cents = cents + excluded.cents",
    )?
    .execute(params![E::TYPE, cents as i64])?;
    Ok(())
}
