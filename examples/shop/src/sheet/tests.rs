//! The sheet finds what is planted: each number that must be zero can be something else.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::services::schema::{SERVICES, tables};

fn sql(dir: &Path, service: &str, statements: &str) {
    let db = Connection::open(dir.join(format!("{service}.db"))).unwrap();
    db.execute_batch(statements).unwrap();
}

fn pay(dir: &Path, op: &str, order: &str, cents: u64, replayed: bool) {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("provider.jsonl"))
        .unwrap();
    writeln!(
        file,
        r#"{{"op":"{op}","key":"{op}:{order}","order":"{order}","cents":{cents},"replayed":{replayed},"at":"t"}}"#
    )
    .unwrap();
}

/// A run of four orders that ended well: shipped, refunded for missing stock, declined, cancelled first.
fn good() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    for service in SERVICES {
        sql(path, service, &tables(service));
    }
    sql(
        path,
        "order",
        "INSERT INTO orders VALUES
        ('a','c',500,'shipped',2,'t',3,0), ('b','c',300,'refunded',1,'t',4,0),
        ('c','c',200,'cancelled',1,'t',2,0), ('d','c',100,'cancelled',1,'t',2,0);",
    );
    sql(
        path,
        "payment",
        "INSERT INTO payments VALUES
        ('a',500,'charged',1), ('b',300,'refunded',2), ('c',200,'declined',1), ('d',0,'void',1);",
    );
    sql(path, "inventory", "INSERT INTO stock VALUES ('sku-00',10,8,1), ('sku-01',5,5,0);
        INSERT INTO reservations VALUES ('a','sku-00',2,'shipped'), ('b','sku-sold-out',1,'rejected'),
        ('c','sku-01',1,'released'), ('d','sku-00',1,'void');");
    sql(
        path,
        "notification",
        "INSERT INTO sent VALUES ('placed',4), ('other',7), ('low',1);",
    );
    sql(
        path,
        "analytics",
        "INSERT INTO totals VALUES ('placed',4,1100), ('other',7,0);",
    );
    sql(
        path,
        "analytics",
        "INSERT INTO seen VALUES ('shop.order','a',3,0);",
    );
    pay(path, "charge", "a", 500, false);
    pay(path, "charge", "b", 300, false);
    pay(path, "charge", "b", 300, true);
    pay(path, "refund", "b", 300, false);
    dir
}

fn given() -> Given {
    Given {
        rows: Some(6),
        accepted: Some(4),
        rejected: 1,
        repeated: 1,
        intake_done: true,
        ..Given::default()
    }
}

fn sheet(dir: &TempDir) -> Sheet {
    audit(dir.path(), &given()).unwrap().sheet
}

#[test]
fn a_good_run_balances() {
    let dir = good();
    let sheet = sheet(&dir);
    assert!(sheet.balanced, "{:?}", sheet.faults());
    assert_eq!(
        (
            sheet.shipped,
            sheet.refunded,
            sheet.cancelled,
            sheet.in_flight
        ),
        (1, 1, 2, 0)
    );
    assert_eq!(
        (sheet.declined, sheet.out_of_stock, sheet.provider_replays),
        (1, 1, 1)
    );
    let cents = Cents {
        charged: 800,
        shipped: 500,
        refunded: 300,
        in_flight: 0,
    };
    assert_eq!(sheet.cents, cents);
}

#[test]
fn an_order_without_any_message_is_lost_and_one_with_a_message_is_in_flight() {
    let dir = good();
    sql(
        dir.path(),
        "order",
        "UPDATE orders SET state = 'paid' WHERE order_id = 'a';",
    );
    let lost = sheet(&dir);
    assert_eq!(
        (lost.lost, lost.in_flight, lost.cents.in_flight),
        (1, 1, 500)
    );
    assert!(!lost.balanced);
    let found = Given {
        set_aside: ["a".to_owned()].into(),
        ..given()
    };
    let audit_found = audit(dir.path(), &found).unwrap();
    assert_eq!(audit_found.sheet.lost, 0);
    assert!(
        audit_found.sheet.balanced,
        "{:?}",
        audit_found.sheet.faults()
    );
    assert_eq!(
        audit_found.unfinished,
        [("a".to_owned(), "paid".to_owned())]
    );
    let waiting = Given {
        waiting: 1,
        ..given()
    };
    assert_eq!(audit(dir.path(), &waiting).unwrap().sheet.lost, 0);
}

#[test]
fn an_accepted_order_that_was_never_placed_is_lost_once_all_are_placed() {
    let dir = good();
    sql(
        dir.path(),
        "order",
        "DELETE FROM orders WHERE order_id = 'd';",
    );
    assert_eq!(sheet(&dir).lost, 1);
    let placing = Given {
        intake_done: false,
        ..given()
    };
    let placing = audit(dir.path(), &placing).unwrap().sheet;
    assert_eq!((placing.lost, placing.in_flight), (0, 1));
}

#[test]
fn a_double_charge_is_found_and_a_replay_is_none() {
    let dir = good();
    pay(dir.path(), "charge", "a", 500, false);
    let sheet = sheet(&dir);
    assert_eq!(sheet.double_charged, 1);
    assert!(!sheet.balanced);
}

#[test]
fn a_charge_of_a_cancelled_order_that_was_not_refunded_does_not_balance() {
    let dir = good();
    pay(dir.path(), "charge", "d", 100, false);
    let sheet = sheet(&dir);
    assert_eq!(sheet.cents.charged, 900);
    assert!(!sheet.balanced);
}

#[test]
fn an_inversion_is_found_in_any_database() {
    for service in SERVICES {
        let dir = good();
        sql(
            dir.path(),
            service,
            "INSERT INTO seen VALUES ('t','x',3,1);",
        );
        let sheet = sheet(&dir);
        assert_eq!(sheet.out_of_order, 1, "{service}");
        assert!(!sheet.balanced);
    }
}

#[test]
fn stock_that_leaks_or_doubles_is_found_and_does_not_cancel_out() {
    let dir = good();
    sql(
        dir.path(),
        "inventory",
        "UPDATE stock SET available = available - 1 WHERE sku = 'sku-00';
        UPDATE stock SET available = available + 1 WHERE sku = 'sku-01';",
    );
    let sheet = sheet(&dir);
    assert_eq!(sheet.stock_difference, 2);
    assert!(!sheet.balanced);
}

#[test]
fn a_lost_and_a_doubled_notification_are_found() {
    for (change, difference) in [("n - 1", 1), ("n + 1", -1)] {
        let dir = good();
        sql(
            dir.path(),
            "notification",
            &format!("UPDATE sent SET n = {change} WHERE kind = 'low';"),
        );
        let sheet = sheet(&dir);
        assert_eq!(sheet.notifications_difference, difference);
        assert!(!sheet.balanced);
    }
}

#[test]
fn a_lost_count_and_a_doubled_amount_are_found_in_analytics() {
    for change in [
        "n = n - 1",
        "n = n + 1",
        "cents = cents + 1",
        "cents = cents - 1",
    ] {
        let dir = good();
        sql(
            dir.path(),
            "analytics",
            &format!("UPDATE totals SET {change} WHERE kind = 'placed';"),
        );
        let sheet = sheet(&dir);
        assert_eq!(sheet.analytics_difference, 1, "{change}");
        assert!(!sheet.balanced);
    }
}

#[test]
fn effects_on_their_way_are_no_difference_but_doubled_ones_are() {
    let dir = good();
    sql(
        dir.path(),
        "notification",
        "UPDATE sent SET n = n - 2 WHERE kind = 'other';",
    );
    let waiting = Given {
        waiting: 2,
        ..given()
    };
    assert_eq!(
        audit(dir.path(), &waiting)
            .unwrap()
            .sheet
            .notifications_difference,
        0
    );
    sql(
        dir.path(),
        "notification",
        "UPDATE sent SET n = n + 3 WHERE kind = 'other';",
    );
    assert_eq!(
        audit(dir.path(), &waiting)
            .unwrap()
            .sheet
            .notifications_difference,
        -1
    );
}

#[test]
fn a_directory_where_nothing_ran_yet_is_all_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let given = Given {
        intake_done: false,
        ..given()
    };
    let sheet = audit(dir.path(), &given).unwrap().sheet;
    assert_eq!((sheet.accepted, sheet.in_flight, sheet.lost), (4, 4, 0));
}

#[test]
fn the_text_fits_into_eighty_columns_and_the_json_holds_each_name() {
    let dir = good();
    let mut sheet = sheet(&dir);
    sheet.rows = 99_999_999;
    sheet.cents.charged = 999_999_999_999;
    for line in render(&sheet).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let json = serde_json::to_value(&sheet).unwrap();
    for name in [
        "rows",
        "accepted",
        "rejected",
        "repeated",
        "shipped",
        "refunded",
        "cancelled",
        "in_flight",
        "declined",
        "out_of_stock",
        "cents",
        "provider_replays",
        "lost",
        "double_charged",
        "out_of_order",
        "stock_difference",
        "notifications_difference",
        "analytics_difference",
        "retries",
        "dead_letters",
        "redriven",
        "duplicates_suppressed",
        "kills",
        "recovery_ms",
        "orders_per_s",
        "engine",
        "durability",
        "balanced",
    ] {
        assert!(json.get(name).is_some(), "{name}");
    }
    assert_eq!(grouped(1_234_567), "1 234 567");
    assert_eq!(cents(123_456), "1 234.56");
}
