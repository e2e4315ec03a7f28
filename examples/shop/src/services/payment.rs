//! The payment service: asks the provider first, then commits once. What it asks carries a key from the order's identity, so that a repeated
//! request moves nothing; a cancellation that comes before the charge leaves a tombstone, and no charge follows.

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::sqlite::rusqlite::{self, Connection, OptionalExtension, params};

use super::{Shop, ShopFault, base, patient, see};
use crate::messages::{
    OrderCancelled, OrderPlaced, PaymentCharged, PaymentDeclined, PaymentRefunded, PaymentVoided,
    RefundOrder,
};
use crate::provider::Answer;

/// Requests to the provider at once.
const REQUESTS_MAX: u32 = 256;

/// The service.
pub fn service(store: &Sqlite, shop: &Shop) -> Service {
    let chaos = || shop.chaos.layer();
    base("payment", store, shop)
        .on(charge
            .retry(patient())
            .concurrency(REQUESTS_MAX)
            .layer(chaos()))
        .on(cancel
            .retry(patient())
            .concurrency(REQUESTS_MAX)
            .layer(chaos()))
        .on(refund.retry(patient()).concurrency(16).layer(chaos()))
}

async fn charge(
    order: OrderPlaced,
    State(shop): State<Shop>,
    State(store): State<Sqlite>,
    db: Db<Sqlite>,
) -> Result<Committed, ShopFault> {
    if payment_of(&store, &order.order_id).await?.is_some() {
        // The tombstone of a cancellation that came first, or the order was charged before.
        return Ok(db
            .commit(move |tx| see(tx, &order).map_err(ShopFault::from))
            .await);
    }
    let state = if order.cents == 0 {
        "free"
    } else {
        match shop.provider.charge(&order.order_id, order.cents).await? {
            Answer::Done | Answer::Replayed => "charged",
            Answer::Declined => "declined",
            Answer::Unavailable => return Err(ShopFault::Refused503),
            Answer::Refused => {
                return Err(ShopFault::Refused(format!("charge of {}", order.order_id)));
            }
        }
    };
    Ok(db.commit(move |tx| note_charge(tx, &order, state)).await)
}

pub(super) fn note_charge(
    tx: &Connection,
    order: &OrderPlaced,
    state: &str,
) -> Result<Effects, ShopFault> {
    see(tx, order)?;
    let new = tx
        .prepare_cached(
            "INSERT INTO payments(order_id, cents, state, events) VALUES (?1, ?2, ?3, 1)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![order.order_id, order.cents as i64, state])?;
    let order_id = order.order_id.clone();
    let mut effects = Effects::new();
    match (new, state) {
        (0, "charged") => {
            // A cancellation was committed while the provider took the money: it goes back.
            effects.add(postrider::Send(RefundOrder {
                order_id,
                cents: order.cents,
            }));
        }
        (0, _) => {}
        (_, "declined") => {
            effects.add(Publish(PaymentDeclined {
                order_id,
                sequence: 1,
            }));
        }
        _ => {
            effects.add(Publish(PaymentCharged {
                order_id,
                sequence: 1,
            }));
        }
    }
    Ok(effects)
}

async fn cancel(
    order: OrderCancelled,
    State(shop): State<Shop>,
    State(store): State<Sqlite>,
    db: Db<Sqlite>,
) -> Result<Committed, ShopFault> {
    let known = payment_of(&store, &order.order_id).await?;
    match known {
        Some((state, cents)) if state == "charged" => {
            give_back(&shop, &order.order_id, cents).await?;
            Ok(db
                .commit(move |tx| {
                    see(tx, &order)?;
                    note_refund(tx, &order.order_id)
                })
                .await)
        }
        known => Ok(db
            .commit(move |tx| note_void(tx, &order, known.is_some()))
            .await),
    }
}

/// Nothing was charged. Where the order is not known here yet, the row is the tombstone that a late charge finds.
pub(super) fn note_void(
    tx: &Connection,
    order: &OrderCancelled,
    known: bool,
) -> Result<Option<Publish<PaymentVoided>>, ShopFault> {
    see(tx, order)?;
    let sequence: Option<i64> = if known {
        tx.prepare_cached(
            "UPDATE payments SET events = events + 1
             WHERE order_id = ?1 AND state IN ('free', 'declined') RETURNING events",
        )?
        .query_row([&order.order_id], |row| row.get(0))
        .optional()?
    } else {
        let new = tx
            .prepare_cached(
                "INSERT INTO payments(order_id, cents, state, events) VALUES (?1, 0, 'void', 1)
                 ON CONFLICT DO NOTHING",
            )?
            .execute([&order.order_id])?;
        if new == 0 {
            return Err(ShopFault::Changed);
        }
        Some(1)
    };
    Ok(sequence.map(|sequence| {
        Publish(PaymentVoided {
            order_id: order.order_id.clone(),
            sequence: sequence.unsigned_abs(),
        })
    }))
}

async fn refund(
    order: RefundOrder,
    State(shop): State<Shop>,
    db: Db<Sqlite>,
) -> Result<Committed, ShopFault> {
    give_back(&shop, &order.order_id, order.cents).await?;
    Ok(db.commit(move |tx| note_refund(tx, &order.order_id)).await)
}

async fn give_back(shop: &Shop, order_id: &str, cents: u64) -> Result<(), ShopFault> {
    match shop.provider.refund(order_id, cents).await? {
        Answer::Done | Answer::Replayed => Ok(()),
        Answer::Unavailable => Err(ShopFault::Refused503),
        Answer::Declined | Answer::Refused => {
            Err(ShopFault::Refused(format!("refund of {order_id}")))
        }
    }
}

pub(super) fn note_refund(
    tx: &Connection,
    order_id: &str,
) -> Result<Option<Publish<PaymentRefunded>>, ShopFault> {
    let sequence: Option<i64> = tx
        .prepare_cached(
            "UPDATE payments SET state = 'refunded', events = events + 1
             WHERE order_id = ?1 AND state IN ('charged', 'void') RETURNING events",
        )?
        .query_row([order_id], |row| row.get(0))
        .optional()?;
    Ok(sequence.map(|sequence| {
        Publish(PaymentRefunded {
            order_id: order_id.to_owned(),
            sequence: sequence.unsigned_abs(),
        })
    }))
}

async fn payment_of(store: &Sqlite, order_id: &str) -> Result<Option<(String, u64)>, ShopFault> {
    let order_id = order_id.to_owned();
    Ok(store.read(move |db| find(db, &order_id)).await?)
}

/// State and amount of an order's payment, where there is one.
pub(super) fn find(db: &Connection, order_id: &str) -> rusqlite::Result<Option<(String, u64)>> {
    db.prepare_cached("SELECT state, cents FROM payments WHERE order_id = ?1")?
        .query_row([order_id], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
        })
        .optional()
}
