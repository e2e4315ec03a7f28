//! The order service: owns the state of each order, and says what happens to it on `shop.order`.

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::sqlite::rusqlite::{Connection, OptionalExtension, params};

use super::{Shop, ShopFault, base, patient, see};
use crate::messages::{
    OrderCancelled, OrderPaid, OrderPlaced, OrderRefunded, OrderShipped, ParcelLeft,
    PaymentCharged, PaymentDeclined, PaymentRefunded, PaymentVoided, PlaceOrders, Poison, Reason,
    StockRejected, StockReleased, StockReserved,
};
use crate::seed::{self, Fate};

/// The service.
pub fn service(store: &Sqlite, shop: &Shop) -> Service {
    let chaos = || shop.chaos.layer();
    base("order", store, shop)
        .on(place.retry(patient()).concurrency(16).layer(chaos()))
        .on(charged.retry(patient()).concurrency(256).layer(chaos()))
        .on(declined.retry(patient()).concurrency(256).layer(chaos()))
        .on(voided.retry(patient()).concurrency(256).layer(chaos()))
        .on(refunded.retry(patient()).concurrency(256).layer(chaos()))
        .on(reserved.retry(patient()).concurrency(256).layer(chaos()))
        .on(rejected.retry(patient()).concurrency(256).layer(chaos()))
        .on(released.retry(patient()).concurrency(256).layer(chaos()))
        .on(left.retry(patient()).concurrency(256).layer(chaos()))
}

/// The table decides what is new: an order is placed once, however often it is sent.
pub(super) fn place(
    batch: PlaceOrders,
    tx: &mut Tx<Sqlite>,
    State(shop): State<Shop>,
) -> Result<Effects, ShopFault> {
    let mut effects = Effects::new();
    let rates = shop.chaos.rates();
    let mut insert = tx.prepare_cached(
        "INSERT INTO orders(order_id, customer_id, cents, state, quantity, placed_at, events, closing)
         VALUES (?1, ?2, ?3, 'placed', ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
    )?;
    for order in batch.orders {
        let cancelled_first = seed::fate(shop.seed, &order.order_id) == Fate::CancelledFirst;
        let sequence = if cancelled_first { 2 } else { 1 };
        let new = insert.execute(params![
            order.order_id,
            order.customer_id,
            order.cents as i64,
            order.quantity,
            order.placed_at,
            sequence as i64,
            cancelled_first
        ])?;
        if new == 0 {
            continue;
        }
        if cancelled_first {
            // The customer's cancellation came through a second channel and was accepted before the order.
            effects.add(Publish(OrderCancelled {
                order_id: order.order_id.clone(),
                reason: Reason::Customer,
                sequence: 1,
            }));
        }
        if seed::happens(shop.seed, "poison", &order.order_id, rates.poison) {
            effects.add(Publish(Poison {
                key: format!("!poison beside {}", order.order_id),
            }));
        }
        effects.add(Publish(OrderPlaced {
            order_id: order.order_id,
            customer_id: order.customer_id,
            cents: order.cents,
            quantity: order.quantity,
            sequence,
        }));
    }
    Ok(effects)
}

pub(super) fn charged(
    event: PaymentCharged,
    tx: &mut Tx<Sqlite>,
) -> Result<Option<Publish<OrderPaid>>, ShopFault> {
    see(tx, &event)?;
    let sequence = step(
        tx,
        "UPDATE orders SET state = 'paid', events = events + 1
         WHERE order_id = ?1 AND state = 'placed' AND closing = 0 RETURNING events",
        &event.order_id,
    )?;
    Ok(sequence.map(|sequence| {
        Publish(OrderPaid {
            order_id: event.order_id,
            sequence,
        })
    }))
}

pub(super) fn declined(
    event: PaymentDeclined,
    tx: &mut Tx<Sqlite>,
) -> Result<Option<Publish<OrderCancelled>>, ShopFault> {
    see(tx, &event)?;
    let sequence = step(
        tx,
        "UPDATE orders SET state = 'cancelled', closing = 1, events = events + 1
         WHERE order_id = ?1 AND state = 'placed' AND closing = 0 RETURNING events",
        &event.order_id,
    )?;
    Ok(sequence.map(|sequence| {
        Publish(OrderCancelled {
            order_id: event.order_id,
            reason: Reason::Declined,
            sequence,
        })
    }))
}

/// Not ended yet: payment says whether there is money to give back.
pub(super) fn rejected(
    event: StockRejected,
    tx: &mut Tx<Sqlite>,
) -> Result<Option<Publish<OrderCancelled>>, ShopFault> {
    see(tx, &event)?;
    let sequence = step(
        tx,
        "UPDATE orders SET closing = 1, events = events + 1
         WHERE order_id = ?1 AND state IN ('placed', 'paid') AND closing = 0 RETURNING events",
        &event.order_id,
    )?;
    Ok(sequence.map(|sequence| {
        Publish(OrderCancelled {
            order_id: event.order_id,
            reason: Reason::OutOfStock,
            sequence,
        })
    }))
}

pub(super) fn voided(event: PaymentVoided, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    see(tx, &event)?;
    tx.prepare_cached(
        "UPDATE orders SET state = 'cancelled'
         WHERE order_id = ?1 AND state IN ('placed', 'paid') AND closing = 1",
    )?
    .execute([&event.order_id])?;
    Ok(())
}

pub(super) fn refunded(
    event: PaymentRefunded,
    tx: &mut Tx<Sqlite>,
) -> Result<Option<Publish<OrderRefunded>>, ShopFault> {
    see(tx, &event)?;
    let sequence = step(
        tx,
        "UPDATE orders SET state = 'refunded', events = events + 1
         WHERE order_id = ?1 AND state != 'refunded' RETURNING events",
        &event.order_id,
    )?;
    Ok(sequence.map(|sequence| {
        Publish(OrderRefunded {
            order_id: event.order_id,
            sequence,
        })
    }))
}

pub(super) fn reserved(event: StockReserved, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    Ok(see(tx, &event)?)
}

pub(super) fn released(event: StockReleased, tx: &mut Tx<Sqlite>) -> Result<(), ShopFault> {
    Ok(see(tx, &event)?)
}

/// There is no order between topics: the parcel may have left before this service heard of the charge. The order was paid all the same.
pub(super) fn left(event: ParcelLeft, tx: &mut Tx<Sqlite>) -> Result<Effects, ShopFault> {
    see(tx, &event)?;
    let mut effects = Effects::new();
    let paid = step(
        tx,
        "UPDATE orders SET state = 'paid', events = events + 1
         WHERE order_id = ?1 AND state = 'placed' RETURNING events",
        &event.order_id,
    )?;
    if let Some(sequence) = paid {
        effects.add(Publish(OrderPaid {
            order_id: event.order_id.clone(),
            sequence,
        }));
    }
    let shipped = step(
        tx,
        "UPDATE orders SET state = 'shipped', events = events + 1
         WHERE order_id = ?1 AND state = 'paid' RETURNING events",
        &event.order_id,
    )?;
    if let Some(sequence) = shipped {
        effects.add(Publish(OrderShipped {
            order_id: event.order_id,
            sequence,
        }));
    }
    Ok(effects)
}

/// Moves an order on, where it is in the state for it; gives the sequence of the event that says so.
fn step(tx: &Connection, sql: &str, order_id: &str) -> Result<Option<u64>, ShopFault> {
    let events: Option<i64> = tx
        .prepare_cached(sql)?
        .query_row([order_id], |row| row.get(0))
        .optional()?;
    Ok(events.map(i64::unsigned_abs))
}
