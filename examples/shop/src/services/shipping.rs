//! The shipping service: ships what is both charged and reserved, once.

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::sqlite::rusqlite::{Connection, OptionalExtension};

use super::{Shop, ShopFault, base, patient, see};
use crate::messages::{ParcelLeft, PaymentCharged, StockReserved};

/// The service.
pub fn service(store: &Sqlite, shop: &Shop) -> Service {
    let chaos = || shop.chaos.layer();
    base("shipping", store, shop)
        .on(charged.retry(patient()).concurrency(256).layer(chaos()))
        .on(reserved.retry(patient()).concurrency(256).layer(chaos()))
}

pub(super) fn charged(
    event: PaymentCharged,
    tx: &mut Tx<Sqlite>,
) -> Result<Option<Publish<ParcelLeft>>, ShopFault> {
    see(tx, &event)?;
    tx.prepare_cached(
        "INSERT INTO shipments(order_id, charged) VALUES (?1, 1)
         ON CONFLICT(order_id) DO UPDATE SET charged = 1",
    )?
    .execute([&event.order_id])?;
    ship(tx, event.order_id)
}

pub(super) fn reserved(
    event: StockReserved,
    tx: &mut Tx<Sqlite>,
) -> Result<Option<Publish<ParcelLeft>>, ShopFault> {
    see(tx, &event)?;
    tx.prepare_cached(
        "INSERT INTO shipments(order_id, reserved) VALUES (?1, 1)
         ON CONFLICT(order_id) DO UPDATE SET reserved = 1",
    )?
    .execute([&event.order_id])?;
    ship(tx, event.order_id)
}

fn ship(tx: &Connection, order_id: String) -> Result<Option<Publish<ParcelLeft>>, ShopFault> {
    let both: Option<i64> = tx
        .prepare_cached(
            "UPDATE shipments SET shipped = 1
             WHERE order_id = ?1 AND charged AND reserved AND NOT shipped RETURNING 1",
        )?
        .query_row([&order_id], |row| row.get(0))
        .optional()?;
    Ok(both.map(|_| {
        Publish(ParcelLeft {
            order_id,
            sequence: 1,
        })
    }))
}
