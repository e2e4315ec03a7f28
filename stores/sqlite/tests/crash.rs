//! `kill -9` in the middle: inbox, state and outbox agree, and everything that was acknowledged is there.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use postrider_core::failure::{FailureStore, Selection};
use postrider_core::id::InstanceId;
use postrider_core::store::Store;
use postrider_sqlite::rusqlite::{Connection, OpenFlags};
use postrider_sqlite::{Sqlite, SqliteFailures};
use support::*;

const DIR: &str = "POSTRIDER_SQLITE_CRASH_DIR";

/// The process that is killed: handles deliveries without end and prints the number of each that was acknowledged. A test by name only, so
/// that this binary can start itself; without its variable there is nothing to do.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Sqlite::open(Path::new(&dir).join("s.db"))
            .unwrap()
            .migrate(&[TABLES])
            .unwrap();
        let failures = store.failures();
        failures
            .park(&subscription(), "k".into(), vec![failure(1, false)])
            .await
            .unwrap();
        failures
            .redrive(&subscription(), Selection::All, reason())
            .await
            .unwrap();
        let claimed = failures
            .claim(&subscription(), InstanceId(7), 10)
            .await
            .unwrap();
        assert_eq!(
            claimed.len(),
            1,
            "the claim of the killed process was not void"
        );
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0.. {
            let store = store.clone();
            tasks.spawn(async move {
                deliver(&store, n).await.unwrap();
                n
            });
            if tasks.len() >= 32 {
                let n = tasks.join_next().await.unwrap().unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {n}").unwrap();
                out.flush().unwrap();
            }
        }
    });
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn inbox_state_and_outbox_agree_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for lines in [1, 40, 3, 400, 150] {
        let mut child = start(dir.path());
        let out = BufReader::new(child.stdout.take().unwrap());
        // The pipe stays open until the process is dead: it dies of the signal, and of nothing else.
        let mut numbers = out
            .lines()
            .map_while(Result::ok)
            .filter_map(|l| l.split_once("acknowledged ")?.1.parse::<u64>().ok());
        acknowledged.extend(numbers.by_ref().take(lines));
        others_may_only_read(dir.path(), child.id());
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it ended before it was killed");
        acknowledged.extend(numbers);
        check(dir.path(), &acknowledged).await;
    }
    assert!(acknowledged.len() >= 300, "{}", acknowledged.len());
}

fn others_may_only_read(dir: &Path, holder: u32) {
    let path = dir.join("s.db");
    let refused = Sqlite::open(&path).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains(&format!("held by process {holder};")),
        "{refused}"
    );
    let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    reader
        .busy_timeout(std::time::Duration::from_secs(10))
        .unwrap();
    let (effects, sum, inbox, outbox) = read_counts(&reader).unwrap();
    assert_eq!([effects; 3], [sum, inbox, outbox]);
}

async fn check(dir: &Path, acknowledged: &BTreeSet<u64>) {
    let store = Sqlite::open(dir.join("s.db")).unwrap();
    let effects: Vec<i64> = store
        .read(|c| {
            c.prepare("SELECT n FROM effect")?
                .query_map([], |r| r.get(0))?
                .collect()
        })
        .await
        .unwrap();
    let distinct: BTreeSet<u64> = effects.iter().map(|n| n.unsigned_abs()).collect();
    let all = i64::try_from(effects.len()).unwrap();
    assert_eq!(distinct.len(), effects.len(), "an effect happened twice");
    assert!(
        distinct.is_superset(acknowledged),
        "an acknowledged effect is lost"
    );
    assert_eq!(counts(&store).await, (all, all, all, all));
    let outbox = store.outbox().unwrap();
    let rows = outbox.take(0, u32::MAX).await.unwrap();
    let sent: BTreeSet<_> = rows.iter().map(|r| r.message.envelope.id).collect();
    let expected: BTreeSet<_> = distinct.iter().map(|n| message(*n).envelope.id).collect();
    assert_eq!(sent, expected);
    // The claim of the killed process is void: its record is handed out again.
    let failures: SqliteFailures = store.failures();
    let claimed = failures.claim(&subscription(), InstanceId(8), 10).await;
    assert_eq!(claimed.unwrap().len(), 1);
}
