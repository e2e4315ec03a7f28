//! The rules of the order file, case by case.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::error::Error;

const HEADER: &str = "order_id,customer_id,placed_at,quantity,amount\n";

fn rows(csv: &[u8]) -> Vec<(u64, Result<Order, String>)> {
    let mut file = OrderFile::new(csv, "test".into()).unwrap();
    let mut all = Vec::new();
    while let Some(row) = file.next_row().unwrap() {
        all.push((row.line, row.order.map_err(|e| e.into_owned())));
    }
    all
}

fn cents_of(amount: &str) -> Option<u64> {
    let rows = rows(format!("{HEADER}a,c,2026-01-01,1,{amount}\n").as_bytes());
    rows[0].1.as_ref().ok().map(|o| o.cents)
}

fn refused(csv: &[u8]) -> Error {
    OrderFile::new(csv, "test".into()).err().unwrap()
}

#[test]
fn an_amount_is_exact_cents() {
    for (amount, cents) in [
        ("0", 0),
        ("0.00", 0),
        ("12", 1200),
        ("12.5", 1250),
        ("0.07", 7),
        ("007.10", 710),
        ("1000000", 100_000_000),
        ("1000000.00", 100_000_000),
        (" 4.29 ", 429),
    ] {
        assert_eq!(cents_of(amount), Some(cents), "{amount:?}");
    }
    for amount in [
        "",
        "-1",
        "+1",
        "1e3",
        "1.234",
        "1.",
        ".5",
        "1000000.01",
        "1,5",
        "NaN",
        "0x10",
        "１",
        "99999999999999999999999",
    ] {
        assert_eq!(cents_of(&format!("\"{amount}\"")), None, "{amount:?}");
    }
}

#[test]
fn a_quantity_is_a_whole_number_within_its_bounds() {
    let ok = |q: &str| {
        rows(format!("{HEADER}a,c,2026-01-01,{q},1\n").as_bytes())[0]
            .1
            .is_ok()
    };
    for q in ["1", "10000", "007"] {
        assert!(ok(q), "{q}");
    }
    for q in ["0", "10001", "-1", "1.0", "+1", "", "x", "99999999999"] {
        assert!(!ok(q), "{q}");
    }
}

#[test]
fn a_time_is_a_date_or_rfc_3339() {
    let ok = |t: &str| {
        rows(format!("{HEADER}a,c,{t},1,1\n").as_bytes())[0]
            .1
            .is_ok()
    };
    for t in [
        "2026-02-28",
        "2024-02-29",
        "2026-01-31T23:59:59Z",
        "2026-01-31T23:59:59.123+02:00",
        "2026-01-31 23:59:59Z",
    ] {
        assert!(ok(t), "{t}");
    }
    for t in [
        "",
        "yesterday",
        "2026-02-29",
        "2026-13-01",
        "2026-01-31T23:59:59",
        "31.01.2026",
        "20260131",
    ] {
        assert!(!ok(t), "{t}");
    }
}

#[test]
fn ids_are_not_empty() {
    let all = rows(
        format!("{HEADER},c,2026-01-01,1,1\na,,2026-01-01,1,1\n\" \",c,2026-01-01,1,1\n")
            .as_bytes(),
    );
    assert!(all.iter().all(|(_, o)| o.is_err()), "{all:?}");
}

#[test]
fn bom_crlf_quotes_further_columns_and_any_order_are_read() {
    let csv = "\u{feff}amount,note,quantity,\"order_id\",customer_id,placed_at\r\n\
               12.50,\"says \"\"hi\"\",\r\nand more\",3,\"o,1\",c-1,2026-01-01\r\n\
               \r\n\
               x,,3,o-2,c-1,2026-01-01\r\n\
               1,,3,o-3,c-1,2026-01-01";
    let all = rows(csv.as_bytes());
    assert_eq!(all.len(), 3);
    let first = all[0].1.as_ref().unwrap();
    assert_eq!(
        (first.order_id.as_str(), first.quantity, first.cents),
        ("o,1", 3, 1250)
    );
    assert_eq!(all[0].0, 2);
    assert_eq!(
        all[1].0, 5,
        "the line after a row of two lines and a blank one"
    );
    assert!(all[1].1.is_err());
    assert_eq!(all[2].0, 6, "the last line needs no line break");
    assert!(all[2].1.is_ok());
}

#[test]
fn a_row_that_is_short_or_not_text_is_rejected_and_the_next_is_read() {
    let mut csv = HEADER.as_bytes().to_vec();
    csv.extend_from_slice(b"a,c\n\xff\xfe,c,2026-01-01,1,1\nb,c,2026-01-01,1,1\n");
    let all = rows(&csv);
    assert!(all[0].1.as_ref().unwrap_err().contains("placed_at"));
    assert!(all[1].1.as_ref().unwrap_err().contains("UTF-8"));
    assert!(all[2].1.is_ok());
}

#[test]
fn a_file_without_header_or_column_has_its_code() {
    assert_eq!(refused(b"").code, 1701);
    assert_eq!(refused(b"\xef\xbb\xbf").code, 1701);
    assert_eq!(refused(b"\n\n").code, 1701);
    let error = refused(b"order_id,customer_id,placed_at,quantity\n");
    assert_eq!(error.code, 1701);
    assert!(error.what.contains("amount"), "{error}");
    assert_eq!(refused(b"\xff\x00\x13\n").code, 1702);
}

#[test]
fn a_file_that_cannot_be_read_has_its_code() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(OrderFile::open(dir.path()).err().unwrap().code, 1702);
    assert_eq!(
        OrderFile::open(&dir.path().join("none"))
            .err()
            .unwrap()
            .code,
        1702
    );
}

#[test]
fn accepted_rejected_and_repeated_add_up_to_rows() {
    let dir = tempfile::tempdir().unwrap();
    let orders = dir.path().join("in.csv");
    let rejected = dir.path().join("rejected.csv");
    std::fs::write(&rejected, "old\n").unwrap();
    let body = "a,c,2026-01-01,2,1\nb,c,2026-01-01,1,x\na,c,2026-01-01,9,1\nb,c,2026-01-01,5,1\n,c,2026-01-01,5,1\n";
    std::fs::write(&orders, format!("{HEADER}{body}")).unwrap();
    let scan = scan(&orders, 1, &rejected).unwrap();
    assert_eq!(
        (scan.rows, scan.accepted, scan.rejected, scan.repeated),
        (5, 2, 2, 1)
    );
    let wanted: u64 = scan.wanted.iter().sum();
    assert!(wanted <= 7, "the repeated row asks for nothing");
    let text = std::fs::read_to_string(&rejected).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "line,reason");
    assert!(
        lines[1].starts_with("3,") && lines[2].starts_with("6,"),
        "{text}"
    );
    assert_eq!(lines.len(), 3);
}

#[test]
fn an_empty_standard_input_keeps_what_was_spooled() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("orders.csv");
    assert_eq!(spool(&b"one"[..], &to).unwrap(), 3);
    assert_eq!(spool(&b""[..], &to).unwrap(), 0);
    assert_eq!(std::fs::read(&to).unwrap(), b"one");
}

#[test]
fn made_up_orders_are_the_same_each_time() {
    assert_eq!(made_up(5, 9), made_up(5, 9));
    assert_ne!(made_up(5, 9), made_up(6, 9));
    assert_ne!(made_up(5, 9).order_id, made_up(5, 10).order_id);
    assert!((1..500).any(|n| made_up(5, n).cents == 0));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_hang(bytes: Vec<u8>) {
        let mut csv = HEADER.as_bytes().to_vec();
        csv.extend(bytes);
        rows(&csv);
    }
}
