//! Computes the sheet from what is on disk: the provider's file and the six databases.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{Cents, RunFacts, Sheet};
use crate::error::{Error, Result, STORE_FAILED};
use crate::protocol::COMMAND_ORDERS_MAX;
use crate::provider::Op;
use crate::services::schema::SERVICES;

/// Unfinished orders that are named.
const NAMED_MAX: usize = 10;

/// What the audit cannot read from the directory.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Rows of the input; `None`: made up, each placed order is a row.
    pub rows: Option<u64>,
    /// Distinct valid ids; `None`: made up, each placed order is one.
    pub accepted: Option<u64>,
    /// Rows that do not parse.
    pub rejected: u64,
    /// Later valid rows of an id.
    pub repeated: u64,
    /// Whether the whole input was placed: an accepted order that is not in the database then is lost.
    pub intake_done: bool,
    /// Messages that wait in the engine and in the outboxes.
    pub waiting: u64,
    /// Keys of failure records and parked keys.
    pub set_aside: HashSet<String>,
    /// What is of this run.
    pub run: RunFacts,
}

/// The sheet, and the orders that have not ended.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// The sheet.
    pub sheet: Sheet,
    /// Some of the orders that have not ended: id and state.
    pub unfinished: Vec<(String, String)>,
}

#[derive(Default)]
struct Money {
    charged: u64,
    refunded: u64,
    charges: u64,
}

/// Computes the sheet of a run's directory.
///
/// # Errors
/// A database or the provider's file cannot be read.
pub fn audit(dir: &Path, given: &Given) -> Result<Audit> {
    let mut sheet = Sheet {
        rejected: given.rejected,
        repeated: given.repeated,
        run: given.run.clone(),
        ..Sheet::default()
    };
    let money = read_provider(dir, &mut sheet)?;
    let unfinished = read_orders(dir, given, &money, &mut sheet)?;
    read_reasons_and_stock(dir, &mut sheet)?;
    read_effects(dir, given.waiting, &mut sheet)?;
    for service in SERVICES {
        let db = Db::open(dir, service)?;
        sheet.out_of_order += db.number("seen", "SELECT COALESCE(SUM(inversions), 0) FROM seen")?;
    }
    sheet.balanced = sheet.adds_up();
    Ok(Audit { sheet, unfinished })
}

fn read_provider(dir: &Path, sheet: &mut Sheet) -> Result<HashMap<String, Money>> {
    let path = dir.join("provider.jsonl");
    let mut money: HashMap<String, Money> = HashMap::new();
    if !path.exists() {
        return Ok(money);
    }
    crate::provider::read_entries(&path, |entry| {
        if entry.replayed {
            sheet.provider_replays += 1;
            return;
        }
        let of_order = money.entry(entry.order).or_default();
        match entry.op {
            Op::Charge => {
                of_order.charged += entry.cents;
                of_order.charges += 1;
                sheet.cents.charged += entry.cents;
            }
            Op::Refund => {
                of_order.refunded += entry.cents;
                sheet.cents.refunded += entry.cents;
            }
        }
    })?;
    sheet.double_charged = money.values().map(|m| m.charges.saturating_sub(1)).sum();
    Ok(money)
}

fn read_orders(
    dir: &Path,
    given: &Given,
    money: &HashMap<String, Money>,
    sheet: &mut Sheet,
) -> Result<Vec<(String, String)>> {
    let (mut placed, mut unexplained) = (0_u64, 0_u64);
    let mut unfinished = Vec::new();
    let Cents {
        mut shipped,
        mut in_flight,
        ..
    } = Cents::default();
    let db = Db::open(dir, "order")?;
    db.each(
        "orders",
        "SELECT order_id, cents, state FROM orders",
        |row| {
            let (order_id, cents, state) = (
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?.unsigned_abs(),
                row.get::<_, String>(2)?,
            );
            placed += 1;
            match state.as_str() {
                "shipped" => {
                    sheet.shipped += 1;
                    shipped += cents;
                }
                "refunded" => sheet.refunded += 1,
                "cancelled" => sheet.cancelled += 1,
                _ => {
                    if let Some(money) = money.get(&order_id) {
                        in_flight += money.charged.saturating_sub(money.refunded);
                    }
                    unexplained += u64::from(!given.set_aside.contains(&order_id));
                    if unfinished.len() < NAMED_MAX {
                        unfinished.push((order_id, state));
                    }
                }
            }
            Ok(())
        },
    )?;
    sheet.cents.shipped = shipped;
    sheet.cents.in_flight = in_flight;
    sheet.accepted = given.accepted.unwrap_or(placed);
    sheet.rows = given.rows.unwrap_or(placed);
    let ended = sheet.shipped + sheet.refunded + sheet.cancelled;
    sheet.in_flight = sheet.accepted.saturating_sub(ended);
    let never_placed = if given.intake_done {
        // A message that waits may be a command with orders to place.
        let on_their_way = given.waiting.saturating_mul(COMMAND_ORDERS_MAX as u64);
        sheet
            .accepted
            .saturating_sub(placed)
            .saturating_sub(on_their_way)
    } else {
        0
    };
    // An order that has not ended has a message somewhere; where fewer messages wait than such orders, the rest is lost.
    sheet.lost = unexplained.saturating_sub(given.waiting) + never_placed;
    Ok(unfinished)
}

fn read_reasons_and_stock(dir: &Path, sheet: &mut Sheet) -> Result<()> {
    sheet.declined = Db::open(dir, "payment")?.number(
        "payments",
        "SELECT COUNT(*) FROM payments WHERE state = 'declined'",
    )?;
    let db = Db::open(dir, "inventory")?;
    sheet.out_of_stock = db.number(
        "reservations",
        "SELECT COUNT(*) FROM reservations WHERE state = 'rejected'",
    )?;
    // `available` is counted down and up; reserved and shipped are summed from the reservations.
    db.each(
        "reservations",
        "SELECT initial - available - COALESCE((SELECT SUM(quantity) FROM reservations r
             WHERE r.sku = stock.sku AND r.state IN ('reserved', 'shipped')), 0) FROM stock",
        |row| {
            sheet.stock_difference += row.get::<_, i64>(0)?.abs();
            Ok(())
        },
    )
}

fn read_effects(dir: &Path, waiting: u64, sheet: &mut Sheet) -> Result<()> {
    let orders = Db::open(dir, "order")?;
    let events = orders.signed("orders", "SELECT COALESCE(SUM(events), 0) FROM orders")?;
    let cents = orders.signed("orders", "SELECT COALESCE(SUM(cents), 0) FROM orders")?;
    let low =
        Db::open(dir, "inventory")?.signed("stock", "SELECT COUNT(*) FROM stock WHERE low > 0")?;
    let sent =
        Db::open(dir, "notification")?.signed("sent", "SELECT COALESCE(SUM(n), 0) FROM sent")?;
    let analytics = Db::open(dir, "analytics")?;
    let counted = analytics.signed("totals", "SELECT COALESCE(SUM(n), 0) FROM totals")?;
    let counted_cents = analytics.signed(
        "totals",
        "SELECT COALESCE(SUM(cents), 0) FROM totals WHERE kind = 'placed'",
    )?;
    sheet.notifications_difference = missing(events + low - sent, waiting);
    let still = missing(events - counted, waiting);
    // While messages wait, events that are not counted yet are not counted in cents either.
    let of_cents = if waiting == 0 {
        (cents - counted_cents).abs()
    } else {
        0
    };
    sheet.analytics_difference = still.abs() + of_cents;
    Ok(())
}

/// Effects that are missing and cannot be on their way; negative: effects that happened twice.
fn missing(difference: i64, waiting: u64) -> i64 {
    let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
    if difference > 0 {
        (difference - waiting).max(0)
    } else {
        difference
    }
}

/// A database of a service, as it is. One that was not made yet is empty.
struct Db(Option<Connection>);

impl Db {
    fn open(dir: &Path, service: &str) -> Result<Self> {
        let path = dir.join(format!("{service}.db"));
        if !path.exists() {
            return Ok(Self(None));
        }
        // Written to by nobody here; a connection that may write can also recover the log of a killed writer.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&path, flags).map_err(|e| failed(service, e))?;
        db.busy_timeout(std::time::Duration::from_secs(5))
            .map_err(|e| failed(service, e))?;
        Ok(Self(Some(db)))
    }

    fn each(
        &self,
        table: &str,
        sql: &str,
        mut row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let Some(db) = &self.0 else { return Ok(()) };
        let read = || {
            if !db.table_exists(None, table)? {
                return Ok(());
            }
            let mut statement = db.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(found) = rows.next()? {
                row(found)?;
            }
            Ok(())
        };
        let mut read = read;
        read().map_err(|e| failed(table, e))
    }

    fn signed(&self, table: &str, sql: &str) -> Result<i64> {
        let mut number = 0;
        self.each(table, sql, |row| {
            number = row.get(0)?;
            Ok(())
        })?;
        Ok(number)
    }

    fn number(&self, table: &str, sql: &str) -> Result<u64> {
        Ok(u64::try_from(self.signed(table, sql)?).unwrap_or(0))
    }
}

fn failed(what: &str, error: rusqlite::Error) -> Error {
    Error::new(
        STORE_FAILED,
        format!("cannot read {what} of the run's databases"),
    )
    .because(error)
}
