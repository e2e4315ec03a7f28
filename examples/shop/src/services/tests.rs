//! The choreography as plain functions: whatever the order in which topics are heard, an order ends the same way.
#![allow(clippy::unwrap_used)]
#![allow(clippy::unit_arg, reason = "no effect is an effect")]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde::de::DeserializeOwned;

use super::*;
use crate::faults::{Dial, Level};
use crate::input::Order;
use crate::messages::{PlaceOrders, Poison, Reason, RefundOrder};
use crate::seed::{Fate, fate, hash};
use crate::services::schema::{SERVICES, tables};

const SEED: u64 = 1;

/// The four topics' subscriptions of all services.
const HEARS: [(&str, &str); 9] = [
    ("payment", "order"),
    ("inventory", "order"),
    ("notification", "order"),
    ("analytics", "order"),
    ("order", "payment"),
    ("shipping", "payment"),
    ("order", "inventory"),
    ("shipping", "inventory"),
    ("order", "shipping"),
];

type Lane = (&'static str, &'static str, String);

/// Six databases, and lanes per (service, sender, key) between them, served in a seeded order.
struct World {
    databases: HashMap<&'static str, Connection>,
    lanes: BTreeMap<Lane, VecDeque<(String, Vec<u8>)>>,
    shop: Shop,
    charged: HashMap<String, u64>,
    refunded: HashMap<String, u64>,
    unreadable: u32,
    low: u32,
}

fn shop(level: Level) -> Shop {
    let (again, _) = tokio::sync::mpsc::channel(1);
    Shop {
        seed: SEED,
        stock: [1000; ARTICLES],
        provider: Client::new("/nowhere".into()),
        chaos: Chaos::new(SEED, Dial::new(level), || {}, again),
    }
}

fn database(service: &str) -> Connection {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(&tables(service)).unwrap();
    db
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> T {
    serde_json::from_slice(payload).unwrap()
}

fn order(order_id: &str, cents: u64) -> Order {
    Order {
        order_id: order_id.to_owned(),
        customer_id: "c".into(),
        placed_at: "2026-01-01".into(),
        quantity: 2,
        cents,
    }
}

impl World {
    fn new(level: Level) -> Self {
        let world = Self {
            databases: SERVICES.iter().map(|s| (*s, database(s))).collect(),
            lanes: BTreeMap::new(),
            shop: shop(level),
            charged: HashMap::new(),
            refunded: HashMap::new(),
            unreadable: 0,
            low: 0,
        };
        inventory::fill(&world.databases["inventory"], &world.shop.stock).unwrap();
        world
    }

    fn run(&mut self, orders: Vec<Order>, interleaving: u64) {
        let placed =
            self.order(|tx, shop| order::place(PlaceOrders { orders }, tx, State(shop)).unwrap());
        self.spread("order", placed);
        let mut step = 0;
        while let Some(lane) = self.pick(interleaving, step) {
            step += 1;
            let (kind, payload) = self.lanes.get_mut(&lane).unwrap().pop_front().unwrap();
            let effects = self.handle(lane.0, lane.1, &kind, &payload);
            self.spread(lane.0, effects);
        }
    }

    fn pick(&self, interleaving: u64, step: u64) -> Option<Lane> {
        let ready: Vec<_> = self.lanes.iter().filter(|(_, q)| !q.is_empty()).collect();
        let n = hash(interleaving, "step", &step.to_string()) as usize;
        ready
            .get(n % ready.len().max(1))
            .map(|(lane, _)| (*lane).clone())
    }

    fn spread(&mut self, from: &'static str, effects: Effects) {
        for (kind, payload) in effects.messages() {
            let Ok(body) = serde_json::from_slice::<serde_json::Value>(payload) else {
                self.unreadable += 1;
                continue;
            };
            self.low += u32::from(kind == "low");
            let Some(key) = body.get("order_id").and_then(|v| v.as_str()) else {
                continue;
            };
            for (to, _) in HEARS.iter().filter(|(_, hears)| *hears == from) {
                let lane = (*to, from, key.to_owned());
                let message = (kind.to_owned(), payload.to_vec());
                self.lanes.entry(lane).or_default().push_back(message);
            }
        }
    }

    fn order(&mut self, work: impl FnOnce(&mut Tx<'_, Sqlite>, Shop) -> Effects) -> Effects {
        let shop = self.shop.clone();
        work(
            &mut Tx::over(self.databases.get_mut("order").unwrap()),
            shop,
        )
    }

    fn handle(&mut self, to: &'static str, from: &str, kind: &str, payload: &[u8]) -> Effects {
        if to == "payment" {
            return self.pay(kind, payload);
        }
        let shop = self.shop.clone();
        let tx = &mut Tx::<Sqlite>::over(self.databases.get_mut(to).unwrap());
        let none = Effects::new();
        match (to, from, kind) {
            ("order", "payment", "charged") => {
                none.with(order::charged(read(payload), tx).unwrap())
            }
            ("order", "payment", "declined") => {
                none.with(order::declined(read(payload), tx).unwrap())
            }
            ("order", "payment", "voided") => none.with(order::voided(read(payload), tx).unwrap()),
            ("order", "payment", "refunded") => {
                none.with(order::refunded(read(payload), tx).unwrap())
            }
            ("order", "inventory", "reserved") => {
                none.with(order::reserved(read(payload), tx).unwrap())
            }
            ("order", "inventory", "rejected") => {
                none.with(order::rejected(read(payload), tx).unwrap())
            }
            ("order", "inventory", "released") => {
                none.with(order::released(read(payload), tx).unwrap())
            }
            ("order", "shipping", "left") => order::left(read(payload), tx).unwrap(),
            ("inventory", _, "placed") => {
                inventory::reserve(read(payload), tx, State(shop)).unwrap()
            }
            ("inventory", _, "cancelled") => {
                none.with(inventory::release(read(payload), tx).unwrap())
            }
            ("inventory", _, "shipped") => {
                none.with(inventory::shipped(read(payload), tx).unwrap())
            }
            ("shipping", _, "charged") => none.with(shipping::charged(read(payload), tx).unwrap()),
            ("shipping", _, "reserved") => {
                none.with(shipping::reserved(read(payload), tx).unwrap())
            }
            ("notification", _, "placed") => {
                none.with(notification::tell::<OrderPlaced>(read(payload), tx).unwrap())
            }
            ("notification", _, "paid") => {
                none.with(notification::tell::<OrderPaid>(read(payload), tx).unwrap())
            }
            ("notification", _, "shipped") => {
                none.with(notification::tell::<OrderShipped>(read(payload), tx).unwrap())
            }
            ("notification", _, "cancelled") => {
                none.with(notification::tell::<OrderCancelled>(read(payload), tx).unwrap())
            }
            ("notification", _, "refunded") => {
                none.with(notification::tell::<OrderRefunded>(read(payload), tx).unwrap())
            }
            ("analytics", _, "placed") => none.with(analytics::placed(read(payload), tx).unwrap()),
            ("analytics", _, "paid") => {
                none.with(analytics::count::<OrderPaid>(read(payload), tx).unwrap())
            }
            _ => none,
        }
    }

    /// Payment with the provider as two maps.
    fn pay(&mut self, kind: &str, payload: &[u8]) -> Effects {
        let db = &self.databases["payment"];
        let known = |id: &str| payment::find(db, id).unwrap();
        match kind {
            "placed" => {
                let placed: OrderPlaced = read(payload);
                if known(&placed.order_id).is_some() {
                    see(db, &placed).unwrap();
                    return Effects::new();
                }
                let state = match (placed.cents, fate(SEED, &placed.order_id)) {
                    (0, _) => "free",
                    (_, Fate::Declined) => "declined",
                    _ => {
                        *self.charged.entry(placed.order_id.clone()).or_default() += placed.cents;
                        "charged"
                    }
                };
                payment::note_charge(db, &placed, state).unwrap()
            }
            "cancelled" => {
                let cancelled: OrderCancelled = read(payload);
                let id = cancelled.order_id.clone();
                match known(&id) {
                    Some((state, cents)) if state == "charged" => {
                        *self.refunded.entry(id.clone()).or_default() += cents;
                        see(db, &cancelled).unwrap();
                        Effects::new().with(payment::note_refund(db, &id).unwrap())
                    }
                    known => Effects::new()
                        .with(payment::note_void(db, &cancelled, known.is_some()).unwrap()),
                }
            }
            _ => Effects::new(),
        }
    }

    fn state(&self, service: &str, table: &str, order_id: &str) -> String {
        let sql = format!("SELECT state FROM {table} WHERE order_id = ?1");
        self.databases[service]
            .query_row(&sql, [order_id], |r| r.get(0))
            .unwrap()
    }

    fn number(&self, service: &str, sql: &str) -> i64 {
        self.databases[service]
            .query_row(sql, [], |r| r.get(0))
            .unwrap()
    }
}

fn with_fate(wanted: Fate) -> String {
    (0..)
        .map(|n| format!("o-{n}"))
        .find(|id| fate(SEED, id) == wanted)
        .unwrap()
}

fn one_of_each() -> Vec<Order> {
    let id = with_fate;
    vec![
        order(&id(Fate::Ordinary), 500),
        order(&id(Fate::OutOfStock), 300),
        order(&id(Fate::Declined), 200),
        order(&id(Fate::CancelledFirst), 100),
    ]
}

#[test]
fn every_interleaving_of_the_topics_ends_the_same_way() {
    for interleaving in 0..300 {
        let mut world = World::new(Level::None);
        world.run(one_of_each(), interleaving);
        for (wanted, order_state, payment_state, reservation) in [
            (Fate::Ordinary, "shipped", "charged", "shipped"),
            (Fate::OutOfStock, "refunded", "refunded", "rejected"),
            (Fate::Declined, "cancelled", "declined", "released"),
            (Fate::CancelledFirst, "cancelled", "void", "void"),
        ] {
            let id = with_fate(wanted);
            let at = format!("{wanted:?} in interleaving {interleaving}");
            assert_eq!(world.state("order", "orders", &id), order_state, "{at}");
            assert_eq!(
                world.state("payment", "payments", &id),
                payment_state,
                "{at}"
            );
            assert_eq!(
                world.state("inventory", "reservations", &id),
                reservation,
                "{at}"
            );
        }
        let charged: HashSet<_> = world.charged.values().copied().collect();
        assert_eq!(
            charged,
            [500, 300].into(),
            "a tombstone or a decline was charged"
        );
        assert_eq!(world.refunded.values().sum::<u64>(), 300);
        let events = world.number("order", "SELECT SUM(events) FROM orders");
        assert_eq!(
            world.number("notification", "SELECT SUM(n) FROM sent"),
            events
        );
        for service in SERVICES {
            let sql = "SELECT COALESCE(SUM(inversions), 0) FROM seen";
            assert_eq!(world.number(service, sql), 0, "{service} in {interleaving}");
        }
        let sql = "SELECT SUM(initial - available) FROM stock";
        assert_eq!(
            world.number("inventory", sql),
            2,
            "only the shipped order keeps its stock"
        );
    }
}

#[test]
fn an_order_of_nothing_is_shipped_without_a_charge_and_cancelled_without_a_refund() {
    for interleaving in 0..50 {
        let mut world = World::new(Level::None);
        let (good, sold_out) = (with_fate(Fate::Ordinary), with_fate(Fate::OutOfStock));
        world.run(vec![order(&good, 0), order(&sold_out, 0)], interleaving);
        assert_eq!(world.state("order", "orders", &good), "shipped");
        assert_eq!(world.state("order", "orders", &sold_out), "cancelled");
        assert!(world.charged.is_empty() && world.refunded.is_empty());
    }
}

#[test]
fn an_order_is_placed_once_however_often_it_is_sent() {
    let mut world = World::new(Level::None);
    world.run(one_of_each(), 1);
    let again = world.order(|tx, shop| {
        let orders = one_of_each();
        order::place(PlaceOrders { orders }, tx, State(shop)).unwrap()
    });
    assert!(again.is_empty());
    assert_eq!(world.number("order", "SELECT COUNT(*) FROM orders"), 4);
}

#[test]
fn a_cancellation_that_overtakes_a_charge_in_the_air_sends_the_money_back() {
    let db = database("payment");
    let cancelled = OrderCancelled {
        order_id: "a".into(),
        reason: Reason::Customer,
        sequence: 1,
    };
    let placed = OrderPlaced {
        order_id: "a".into(),
        customer_id: "c".into(),
        cents: 700,
        quantity: 1,
        sequence: 2,
    };
    assert!(
        payment::note_void(&db, &cancelled, false)
            .unwrap()
            .is_some()
    );
    // The provider had said yes before the tombstone was written.
    let effects = payment::note_charge(&db, &placed, "charged").unwrap();
    let sent: Vec<_> = effects.messages().collect();
    assert_eq!(sent.len(), 1);
    let back: RefundOrder = read(sent[0].1);
    assert_eq!((sent[0].0, back.cents), ("refund", 700));
    assert!(payment::note_refund(&db, "a").unwrap().is_some());
    assert!(
        payment::note_refund(&db, "a").unwrap().is_none(),
        "it goes back once"
    );
    // And the other way round: the charge is committed while the cancellation looks.
    let db = database("payment");
    assert_eq!(
        payment::note_charge(&db, &placed, "charged").unwrap().len(),
        1
    );
    assert!(matches!(
        payment::note_void(&db, &cancelled, false),
        Err(ShopFault::Changed)
    ));
}

#[test]
fn low_stock_is_said_once_per_article() {
    let mut world = World::new(Level::None);
    world.databases["inventory"]
        .execute(
            "UPDATE stock SET initial = 100, available = 13 WHERE sku != ?1",
            [crate::seed::SOLD_OUT],
        )
        .unwrap();
    let orders = (0..500)
        .map(|n| format!("o-{n}"))
        .filter(|id| crate::seed::article(SEED, id) == Some(0))
        .take(5)
        .map(|id| order(&id, 1))
        .collect();
    world.run(orders, 1);
    assert_eq!(world.low, 1);
}

#[test]
fn an_inversion_and_a_repetition_are_counted_and_a_gap_is_not() {
    let db = database("analytics");
    let paid = |sequence| OrderPaid {
        order_id: "a".into(),
        sequence,
    };
    for sequence in [1, 2, 5] {
        see(&db, &paid(sequence)).unwrap();
    }
    let inversions = || -> i64 {
        db.query_row("SELECT SUM(inversions) FROM seen", [], |r| r.get(0))
            .unwrap()
    };
    assert_eq!(inversions(), 0);
    see(&db, &paid(4)).unwrap();
    see(&db, &paid(5)).unwrap();
    assert_eq!(inversions(), 2);
}

#[test]
fn poison_says_that_it_is_an_order_and_cannot_be_read() {
    let mut world = World::new(Level::Heavy);
    let orders = (0..400).map(|n| order(&format!("o-{n}"), 1)).collect();
    world.run(orders, 1);
    assert!(world.unreadable > 0, "heavy faults bring no poison");
    let poison = Poison { key: "p".into() };
    assert_eq!(Poison::TYPE, OrderPlaced::TYPE);
    let content_type = postrider::Text::from_static(Poison::CONTENT_TYPE);
    assert!(OrderPlaced::decode(&content_type, &poison.encode().unwrap()).is_err());
    assert_eq!(poison.key().unwrap().as_bytes().as_ref(), b"p");
}
