//! The notification service: tells the customer of each event, and the buyers of low stock. A plain increment per event: a duplicate would
//! show.

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::sqlite::rusqlite::{self, Connection};

use super::{Counted, Shop, ShopFault, base, patient, see};
use crate::messages::{
    InventoryLow, OrderCancelled, OrderPaid, OrderPlaced, OrderRefunded, OrderShipped,
};

/// The service.
pub fn service(store: &Sqlite, shop: &Shop) -> Service {
    let chaos = || shop.chaos.layer();
    base("notification", store, shop)
        .on(tell::<OrderPlaced>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(tell::<OrderPaid>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(tell::<OrderShipped>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(tell::<OrderCancelled>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(tell::<OrderRefunded>
            .retry(patient())
            .concurrency(256)
            .layer(chaos()))
        .on(low.retry(patient()).layer(chaos()))
}

pub(super) fn tell<E: Event + Counted>(event: E, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    see(tx, &event)?;
    Ok(count(tx, E::TYPE)?)
}

fn low(_: InventoryLow, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    Ok(count(tx, "low")?)
}

fn count(tx: &Connection, kind: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO sent(kind, n) VALUES (?1, 1) ON CONFLICT(kind) DO UPDATE SET n = n + 1",
    )?
    .execute([kind])?;
    Ok(())
}
