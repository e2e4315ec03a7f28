//! Opening: what is verified, what is refused, and that what is refused stays untouched.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::fault::{Fault, FaultKind};
use postrider_core::store::{CommitFailure, Store};
use postrider_sqlite::rusqlite::{Connection, OpenFlags};
use postrider_sqlite::{Error, Sqlite, Synchronous};
use support::*;

#[tokio::test]
async fn wal_and_synchronous_full_are_on_where_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    for (level, number) in [(Synchronous::Full, 2_i64), (Synchronous::Extra, 3)] {
        let path = dir.path().join(format!("{number}.db"));
        let store = Sqlite::options().synchronous(level).open(path).unwrap();
        let store = store.migrate(&["CREATE TABLE seen(what, value)"]).unwrap();
        let look = |conn: &mut Connection| {
            for pragma in ["journal_mode", "synchronous", "foreign_keys"] {
                let sql = format!("SELECT * FROM pragma_{pragma}");
                let value: postrider_sqlite::rusqlite::types::Value =
                    conn.query_row(&sql, [], |r| r.get(0)).unwrap();
                conn.execute("INSERT INTO seen VALUES(?1, ?2)", (pragma, value))
                    .unwrap();
            }
            Ok(vec![])
        };
        postrider_core::store::TxStore::write(&store, Box::new(look))
            .await
            .unwrap();
        let seen: Vec<(String, String)> = store
            .read(|c| {
                c.prepare("SELECT what, CAST(value AS TEXT) FROM seen")?
                    .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                    .collect()
            })
            .await
            .unwrap();
        let expected = [
            ("journal_mode", "wal".to_owned()),
            ("synchronous", number.to_string()),
            ("foreign_keys", "1".to_owned()),
        ];
        assert_eq!(seen, expected.map(|(k, v)| (k.to_owned(), v)));
    }
}

#[tokio::test]
async fn one_writer_at_a_time_and_others_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let store = Sqlite::open(&path).unwrap().migrate(&[TABLES]).unwrap();
    deliver(&store, 1).await.unwrap();
    let second = Sqlite::open(&path).unwrap_err();
    assert!(matches!(second, Error::Locked { .. }), "{second}");
    assert_eq!(second.code(), Code::STORE_LOCKED);
    assert!(
        second
            .to_string()
            .contains(&format!("pid {}", std::process::id()))
    );
    // The same file by another name.
    let roundabout = dir.path().join(".").join("s.db");
    assert_eq!(
        Sqlite::open(roundabout).unwrap_err().code(),
        Code::STORE_LOCKED
    );
    let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    assert_eq!(read_counts(&reader).unwrap(), (1, 1, 1, 1));
    deliver(&store, 2).await.unwrap();
    assert_eq!(read_counts(&reader).unwrap(), (2, 2, 2, 2));
    drop(reader);
    let clone = store.clone();
    store.close(Duration::from_secs(10)).await.unwrap();
    store.close(Duration::from_secs(10)).await.unwrap();
    let Err(CommitFailure::Store(fault)) = deliver(&clone, 3).await else {
        panic!("a closed store took a unit");
    };
    assert_eq!(fault.kind, FaultKind::Closed);
    assert!(clone.seen(&entry(1)).await.is_err());
    assert!(clone.read(|_| Ok(())).await.is_err());
    assert!(
        !path.with_extension("db-wal").exists(),
        "the WAL was not folded in"
    );
    let again = Sqlite::open(&path).unwrap();
    assert_eq!(counts(&again).await, (2, 2, 2, 2));
}

#[test]
fn the_last_clone_closes_the_database() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let store = Sqlite::open(dir.path().join("s.db")).unwrap();
        let clone = store.clone();
        drop(store);
        drop(clone);
    }
}

/// Opens what must be refused, and asserts that it and its neighbours are as they were.
fn refused(path: &Path) -> Error {
    let listing = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .filter(|n| !n.to_string_lossy().ends_with(".lock"))
            .collect();
        names.sort();
        names
    };
    let dir = path.parent().unwrap();
    let before = (fs::read(path).ok(), dir.exists().then(|| listing(dir)));
    let error = Sqlite::open(path).unwrap_err();
    let after = (fs::read(path).ok(), dir.exists().then(|| listing(dir)));
    assert!(before == after, "{} was touched", path.display());
    assert!(
        error
            .to_string()
            .contains(&path.file_name().unwrap().to_string_lossy()[..])
    );
    assert!(!Fault::from(error.clone()).is_retriable());
    error
}

#[test]
fn what_is_not_a_database_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    fs::create_dir(&sub).unwrap();
    assert!(refused(&sub).to_string().contains("is a directory"));
    assert!(
        refused(&dir.path().join("none").join("s.db"))
            .to_string()
            .contains("make it first")
    );
    let text = dir.path().join("orders.csv");
    fs::write(&text, "order_id,customer_id\n1,2\n3,4\n").unwrap();
    assert!(
        refused(&text)
            .to_string()
            .contains("not an SQLite database")
    );
    let short = dir.path().join("short");
    fs::write(&short, "x").unwrap();
    assert!(
        refused(&short)
            .to_string()
            .contains("not an SQLite database")
    );
}

#[test]
fn a_read_only_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    drop(Sqlite::open(&path).unwrap());
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    assert!(refused(&path).to_string().contains("read-only"));
}

#[test]
fn a_damaged_database_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    drop(Sqlite::open(&path).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    // The page of the schema, behind the header.
    bytes[100..600].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let error = refused(&path);
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(Fault::from(error).kind, FaultKind::Corrupt);
    bytes.truncate(20);
    fs::write(&path, &bytes).unwrap();
    refused(&path);
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    drop(Sqlite::open(&path).unwrap());
    let conn = Connection::open(&path).unwrap();
    conn.execute(
        "UPDATE postrider_meta SET value = 3 WHERE name = 'schema'",
        [],
    )
    .unwrap();
    drop(conn);
    let error = refused(&path);
    assert_eq!(error.code(), Code::STORE_NEWER);
    assert!(error.to_string().contains("version 3"), "{error}");
}

#[test]
fn a_database_of_version_1_gets_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    drop(Sqlite::open(&path).unwrap());
    let conn = Connection::open(&path).unwrap();
    // What version 1 had, and nothing else.
    conn.execute_batch(
        "DROP TRIGGER postrider_original_goes; DROP TABLE postrider_original;
         UPDATE postrider_meta SET value = 1 WHERE name = 'schema'",
    )
    .unwrap();
    drop(conn);
    drop(Sqlite::open(&path).unwrap());
    drop(Sqlite::open(&path).unwrap());
    let conn = Connection::open(&path).unwrap();
    let (version, new): (i64, i64) = conn
        .query_row(
            "SELECT (SELECT value FROM postrider_meta WHERE name = 'schema'),
             (SELECT count(*) FROM sqlite_schema WHERE name LIKE 'postrider_original%')",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .unwrap();
    assert_eq!((version, new), (2, 2));
}

#[test]
fn a_database_of_somebody_else_keeps_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE mine(n); INSERT INTO mine VALUES(42)")
        .unwrap();
    drop(conn);
    drop(Sqlite::open(&path).unwrap());
    let conn = Connection::open(&path).unwrap();
    let n: i64 = conn
        .query_row("SELECT n FROM mine", [], |r| r.get(0))
        .unwrap();
    assert_eq!(n, 42);
}

#[test]
fn migrations_run_in_order_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let first = "CREATE TABLE a(n); INSERT INTO a VALUES(1)";
    let second = "INSERT INTO a SELECT n + 1 FROM a";
    let open = || Sqlite::open(&path).unwrap();
    drop(open().migrate(&[first]).unwrap());
    drop(open().migrate(&[first, second]).unwrap());
    drop(open().migrate(&[first, second]).unwrap());
    let changed = open().migrate(&["CREATE TABLE b(n)", second]).unwrap_err();
    assert!(
        matches!(changed, Error::Migration { number: 1, .. }),
        "{changed}"
    );
    let fewer = open().migrate(&[first]).unwrap_err();
    assert_eq!(fewer.code(), Code::STORE_NEWER);
    let wrong = open()
        .migrate(&[first, second, "CREATE TABLE c(n)", "nonsense"])
        .unwrap_err();
    assert!(
        matches!(wrong, Error::Migration { number: 4, .. }),
        "{wrong}"
    );
    let ends = open().migrate(&[first, second, "COMMIT"]).unwrap_err();
    assert!(matches!(ends, Error::Migration { number: 3, .. }), "{ends}");
    let conn = Connection::open(&path).unwrap();
    let rows: String = conn
        .query_row(
            "SELECT (SELECT group_concat(n) FROM a) || ' ' || (SELECT count(*) FROM sqlite_schema WHERE name IN ('b', 'c'))",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(rows, "1,2 0");
}
