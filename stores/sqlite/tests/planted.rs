//! Bugs on purpose in the store: each is found, and nothing where none is planted.
#![cfg(feature = "planted")]
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use postrider_core::planted::{self, Plant};
use postrider_core::store::{CommitFailure, Committed, Store, TxStore};
use postrider_sqlite::Sqlite;
use support::*;

const COMMITS: u64 = 12;
const CHILD: &str = "POSTRIDER_SQLITE_COMMITS";
const PLANTED: &str = "POSTRIDER_SQLITE_PLANTED";

type Check = fn() -> Result<(), String>;

/// A bug, who finds it.
const BUGS: [(Plant, &str, Check); 5] = [
    (Plant::SynchronousNormal, "the pragma of the writer", level),
    (
        Plant::SynchronousNormal,
        "strace: a sync for each commit",
        synced,
    ),
    (Plant::InboxForgotten, "the same delivery twice", once),
    (
        Plant::FenceUnchecked,
        "a handler that outlives its lease",
        fenced,
    ),
    (
        Plant::RemovedRowGivenAgain,
        "a look at the outbox before a removal is committed",
        gone,
    ),
];

fn on_file<T>(run: impl AsyncFnOnce(Sqlite) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(dir.path().join("s.db")).unwrap();
    let store = store.migrate(&[TABLES]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(run(store))
}

/// What the connection that commits says of itself.
fn level() -> Result<(), String> {
    on_file(async |store| {
        let (sender, level) = std::sync::mpsc::channel();
        let work = move |conn: &mut postrider_sqlite::rusqlite::Connection| {
            let level = conn.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0));
            sender.send(level.unwrap()).unwrap();
            Ok(Vec::new())
        };
        store.write(Box::new(work)).await.unwrap();
        match level.recv().unwrap() {
            2 => Ok(()),
            level => Err(format!("synchronous is {level}")),
        }
    })
}

/// Whether a process may be traced here.
fn can_trace() -> bool {
    let traced = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    let can = traced.is_ok_and(|output| output.status.success());
    if !can {
        println!(
            "NOT TESTED: no process can be traced with strace here, so the syncs of SQLite were not counted"
        );
    }
    can
}

/// What can be looked at here.
fn checks() -> impl Iterator<Item = (Plant, &'static str, Check)> {
    let trace = can_trace();
    BUGS.into_iter()
        .filter(move |(_, by, _)| trace || !by.starts_with("strace"))
}

/// The kernel is asked: a process that commits one by one syncs as often.
fn synced() -> Result<(), String> {
    let exe = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=fsync,fdatasync", "-o"]);
    strace
        .arg(&trace)
        .arg(exe)
        .args(["commits_one_by_one", "--exact"]);
    strace.env(CHILD, dir.path());
    if planted::is(Plant::SynchronousNormal) {
        strace.env(PLANTED, "1");
    }
    let output = strace.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let calls = std::fs::read_to_string(&trace).unwrap();
    let syncs = calls.lines().filter(|line| line.contains("sync(")).count() as u64;
    match syncs >= COMMITS {
        true => Ok(()),
        false => Err(format!("{COMMITS} commits made {syncs} syncs")),
    }
}

/// The process under strace.
#[test]
fn commits_one_by_one() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let bug = std::env::var_os(PLANTED).map(|_| planted::plant(Plant::SynchronousNormal));
    let store = Sqlite::open(std::path::Path::new(&dir).join("s.db")).unwrap();
    let store = store.migrate(&[TABLES]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        for n in 0..COMMITS {
            deliver(&store, n).await.unwrap();
        }
    });
    drop(bug);
}

fn once() -> Result<(), String> {
    on_file(async |store| {
        deliver(&store, 1).await.unwrap();
        let again = deliver(&store, 1).await;
        match again {
            Ok(Committed::Duplicate) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn fenced() -> Result<(), String> {
    on_file(async |store| {
        let unit = unit(1);
        let (fence, mut work) = (unit.fence.clone(), effect(1));
        let outlives = move |conn: &mut postrider_sqlite::rusqlite::Connection| {
            fence.break_off();
            work(conn)
        };
        match store.transact(unit, Box::new(outlives)).await {
            Err(CommitFailure::Fenced) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn gone() -> Result<(), String> {
    on_file(async |store| {
        deliver(&store, 1).await.unwrap();
        let outbox = store.outbox().unwrap();
        let rows = outbox.take(0, 10).await.unwrap();
        let writer = hold_writer(&store).await;
        outbox.remove(vec![rows[0].number]).await.unwrap();
        let again = outbox.take(0, 10).await.unwrap();
        writer.let_go().await;
        match again.is_empty() {
            true => Ok(()),
            false => Err(format!("{again:?}")),
        }
    })
}

#[test]
fn every_planted_bug_is_found() {
    for (bug, by, check) in checks() {
        let planted = planted::plant(bug);
        assert!(
            check().is_err(),
            "{bug:?} is planted, and {by} does not find it"
        );
        drop(planted);
        println!(
            r#"proof: {{"name":"planted","bug":"{bug:?}","found_in_seeds":1,"within":1,"by":"{by}"}}"#
        );
    }
}

#[test]
fn without_a_planted_bug_everything_passes() {
    let _nothing = planted::none();
    for (bug, by, check) in checks() {
        assert_eq!(check(), Ok(()), "{by}, which looks for {bug:?}");
    }
}
