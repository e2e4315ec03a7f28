//! The tables of the six databases. Each service writes its own; the balance sheet reads all of them.

/// The last sequence that a service saw per topic and key, and how often one came that was not above the last.
const SEEN: &str = "
CREATE TABLE IF NOT EXISTS seen(
    topic TEXT NOT NULL, key TEXT NOT NULL, last INTEGER NOT NULL, inversions INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(topic, key)) WITHOUT ROWID;";

const ORDER: &str = "
CREATE TABLE IF NOT EXISTS orders(
    order_id TEXT NOT NULL PRIMARY KEY, customer_id TEXT NOT NULL, cents INTEGER NOT NULL,
    state TEXT NOT NULL CHECK(state IN ('placed','paid','shipped','cancelled','refunded')),
    quantity INTEGER NOT NULL, placed_at TEXT NOT NULL,
    -- how many events of the order were published; the sequence of the last
    events INTEGER NOT NULL,
    -- cancelled, and payment has not said yet what became of the money
    closing INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
-- small, whatever the table holds: how many orders have not ended
CREATE INDEX IF NOT EXISTS open_orders ON orders(order_id) WHERE state IN ('placed','paid');";

const PAYMENT: &str = "
CREATE TABLE IF NOT EXISTS payments(
    order_id TEXT NOT NULL PRIMARY KEY, cents INTEGER NOT NULL,
    -- void: a cancellation came before the charge; the tombstone that keeps a late charge from happening
    state TEXT NOT NULL CHECK(state IN ('charged','free','declined','void','refunded')),
    events INTEGER NOT NULL) WITHOUT ROWID;";

const INVENTORY: &str = "
CREATE TABLE IF NOT EXISTS stock(
    sku TEXT NOT NULL PRIMARY KEY, initial INTEGER NOT NULL, available INTEGER NOT NULL,
    low INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations(
    order_id TEXT NOT NULL PRIMARY KEY, sku TEXT NOT NULL, quantity INTEGER NOT NULL,
    state TEXT NOT NULL CHECK(state IN ('reserved','rejected','released','shipped','void'))) WITHOUT ROWID;";

const SHIPPING: &str = "
CREATE TABLE IF NOT EXISTS shipments(
    order_id TEXT NOT NULL PRIMARY KEY, charged INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0,
    shipped INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;";

const NOTIFICATION: &str = "
CREATE TABLE IF NOT EXISTS sent(kind TEXT NOT NULL PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;";

const ANALYTICS: &str = "
CREATE TABLE IF NOT EXISTS totals(
    kind TEXT NOT NULL PRIMARY KEY, n INTEGER NOT NULL, cents INTEGER NOT NULL) WITHOUT ROWID;";

/// The services, in the order of the way of an order.
pub const SERVICES: [&str; 6] = [
    "order",
    "payment",
    "inventory",
    "shipping",
    "notification",
    "analytics",
];

/// The statements that make the tables of a service; they may run again.
#[must_use]
pub fn tables(service: &str) -> String {
    let own = match service {
        "order" => ORDER,
        "payment" => PAYMENT,
        "inventory" => INVENTORY,
        "shipping" => SHIPPING,
        "notification" => NOTIFICATION,
        "analytics" => ANALYTICS,
        _ => "",
    };
    format!("{own}{SEEN}")
}
