//! The inventory service: sets stock aside, gives it back, and says when little is left.

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::sqlite::rusqlite::{self, Connection, OptionalExtension, params};

use super::{Shop, ShopFault, base, patient, see};
use crate::messages::{
    InventoryLow, OrderCancelled, OrderPlaced, OrderShipped, StockRejected, StockReleased,
    StockReserved,
};
use crate::seed::{self, ARTICLES, SOLD_OUT};

/// The service.
pub fn service(store: &Sqlite, shop: &Shop) -> Service {
    let chaos = || shop.chaos.layer();
    base("inventory", store, shop)
        .on(reserve.retry(patient()).concurrency(256).layer(chaos()))
        .on(release.retry(patient()).concurrency(256).layer(chaos()))
        .on(shipped.retry(patient()).concurrency(256).layer(chaos()))
}

/// Fills the shelves, once.
///
/// # Errors
/// The database refused.
pub fn fill(db: &Connection, stock: &[u64; ARTICLES]) -> rusqlite::Result<()> {
    let mut insert = db.prepare(
        "INSERT INTO stock(sku, initial, available) VALUES (?1, ?2, ?2) ON CONFLICT DO NOTHING",
    )?;
    for (n, initial) in stock.iter().enumerate() {
        insert.execute(params![seed::sku(Some(n)), *initial as i64])?;
    }
    insert.execute(params![SOLD_OUT, 0])?;
    Ok(())
}

pub(super) fn reserve(
    order: OrderPlaced,
    tx: &mut Tx<Sqlite>,
    State(shop): State<Shop>,
) -> Result<Effects, ShopFault> {
    see(tx, &order)?;
    let mut effects = Effects::new();
    if state_of(tx, &order.order_id)?.is_some() {
        // The tombstone of a cancellation that came first.
        return Ok(effects);
    }
    let sku = seed::sku(seed::article(shop.seed, &order.order_id));
    let taken: Option<(i64, i64, bool)> = tx
        .prepare_cached(
            "UPDATE stock SET available = available - ?2
             WHERE sku = ?1 AND available >= ?2 RETURNING available, initial, low",
        )?
        .query_row(params![sku, order.quantity], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?))
        })
        .optional()?;
    let state = if taken.is_some() {
        "reserved"
    } else {
        "rejected"
    };
    tx.prepare_cached(
        "INSERT INTO reservations(order_id, sku, quantity, state) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![order.order_id, sku, order.quantity, state])?;
    let order_id = order.order_id;
    let Some((left, initial, low)) = taken else {
        effects.add(Publish(StockRejected {
            order_id,
            sequence: 1,
        }));
        return Ok(effects);
    };
    effects.add(Publish(StockReserved {
        order_id,
        sequence: 1,
    }));
    if !low && left < initial / 10 {
        tx.execute("UPDATE stock SET low = 1 WHERE sku = ?1", [&sku])?;
        effects.add(Publish(InventoryLow {
            sku,
            left: left.unsigned_abs(),
        }));
    }
    Ok(effects)
}

pub(super) fn release(
    order: OrderCancelled,
    tx: &mut Tx<Sqlite>,
) -> Result<Option<Publish<StockReleased>>, ShopFault> {
    see(tx, &order)?;
    match state_of(tx, &order.order_id)?.as_deref() {
        None => {
            tx.execute(
                "INSERT INTO reservations(order_id, sku, quantity, state) VALUES (?1, '', 0, 'void')",
                [&order.order_id],
            )?;
            Ok(None)
        }
        Some("reserved") => {
            tx.execute(
                "UPDATE stock SET available = available + r.quantity FROM reservations r
                 WHERE r.order_id = ?1 AND stock.sku = r.sku",
                [&order.order_id],
            )?;
            tx.execute(
                "UPDATE reservations SET state = 'released' WHERE order_id = ?1",
                [&order.order_id],
            )?;
            Ok(Some(Publish(StockReleased {
                order_id: order.order_id,
                sequence: 2,
            })))
        }
        Some(_) => Ok(None),
    }
}

pub(super) fn shipped(order: OrderShipped, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    see(tx, &order)?;
    tx.prepare_cached(
        "UPDATE reservations SET state = 'shipped' WHERE order_id = ?1 AND state = 'reserved'",
    )?
    .execute([&order.order_id])?;
    Ok(())
}

fn state_of(tx: &Connection, order_id: &str) -> rusqlite::Result<Option<String>> {
    tx.prepare_cached("SELECT state FROM reservations WHERE order_id = ?1")?
        .query_row([order_id], |row| row.get(0))
        .optional()
}
