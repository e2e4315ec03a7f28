//! A commit that fails: everyone runs again, nobody is blamed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use postrider_core::clock::Timestamp;
use postrider_core::id::{BodyHash, MessageId};
use postrider_core::name::SubscriptionId;
use postrider_core::store::{CommitFailure, Committed, Fence, InboxEntry, Store, TxStore, Unit};

use crate::Sqlite;

fn unit(n: u64) -> Unit {
    Unit {
        inbox: InboxEntry {
            subscription: SubscriptionId::parse("a@queue:b").unwrap(),
            message: MessageId::v7(Timestamp(n), [n, n]),
            body: BodyHash::of(b""),
            received_at: Timestamp(n),
        },
        fence: Fence::new(),
    }
}

async fn run_all(store: &Sqlite, runs: &Arc<AtomicU32>) -> Vec<Result<Committed, CommitFailure>> {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let (entered, at_work) = tokio::sync::oneshot::channel();
    let mut entered = Some(entered);
    let blocker = {
        let store = store.clone();
        tokio::spawn(async move {
            // Holds the writer, so that the others make one group with it.
            let wait = move |_: &mut rusqlite::Connection| {
                if let Some(entered) = entered.take() {
                    entered.send(()).unwrap();
                    held.recv().unwrap();
                }
                Ok(vec![])
            };
            store.write(Box::new(wait)).await
        })
    };
    at_work.await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (store, runs) = (store.clone(), runs.clone());
        tasks.push(tokio::spawn(async move {
            let work = move |conn: &mut rusqlite::Connection| {
                runs.fetch_add(1, Ordering::SeqCst);
                conn.execute("INSERT INTO t VALUES(1)", []).unwrap();
                Ok(vec![])
            };
            store.transact(unit(n), Box::new(work)).await
        }));
    }
    tokio::task::yield_now().await;
    hold.send(()).unwrap();
    drop(blocker.await.unwrap());
    let mut ends = Vec::new();
    for task in tasks {
        ends.push(task.await.unwrap());
    }
    ends
}

async fn rows(store: &Sqlite) -> (i64, i64) {
    let sql = "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM postrider_inbox)";
    store
        .read(move |c| c.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))))
        .await
        .unwrap()
}

fn store(dir: &tempfile::TempDir) -> Sqlite {
    Sqlite::options()
        .group(512, std::time::Duration::from_secs(60))
        .open(dir.path().join("g.db"))
        .unwrap()
        .migrate(&["CREATE TABLE t(n)"])
        .unwrap()
}

#[tokio::test]
async fn group_commit_failure_reruns_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let runs = Arc::new(AtomicU32::new(0));
    store.shared().fail_commits.store(1, Ordering::SeqCst);
    for end in run_all(&store, &runs).await {
        assert_eq!(end.unwrap(), Committed::Applied { outgoing: 0 });
    }
    assert_eq!(rows(&store).await, (8, 8));
    assert_eq!(
        runs.load(Ordering::SeqCst),
        16,
        "each ran in the group and again alone"
    );
}

#[tokio::test]
async fn a_commit_that_fails_twice_is_the_fault_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let runs = Arc::new(AtomicU32::new(0));
    store
        .shared()
        .fail_commits
        .store(u64::MAX, Ordering::SeqCst);
    for end in run_all(&store, &runs).await {
        let Err(CommitFailure::Store(fault)) = end else {
            panic!("{end:?}");
        };
        assert_eq!(fault.kind, postrider_core::fault::FaultKind::Full);
        assert!(fault.is_retriable());
    }
    store.shared().fail_commits.store(0, Ordering::SeqCst);
    assert_eq!(rows(&store).await, (0, 0));
    assert_eq!(store.outbox().unwrap().depth().await.unwrap(), 0);
    for end in run_all(&store, &runs).await {
        assert_eq!(end.unwrap(), Committed::Applied { outgoing: 0 });
    }
}

#[tokio::test]
async fn a_full_disk_in_a_handlers_statement_burns_no_attempt() {
    let store = Sqlite::in_memory()
        .unwrap()
        .migrate(&["CREATE TABLE t(n)", "PRAGMA max_page_count=60"])
        .unwrap();
    let work = |conn: &mut rusqlite::Connection| {
        conn.execute("INSERT INTO t VALUES(zeroblob(1000000))", [])
            .map_err(|e| postrider_core::fault::HandlerError::Transient(e.into()))?;
        Ok(vec![])
    };
    let end = store.transact(unit(1), Box::new(work)).await;
    assert!(matches!(end, Err(CommitFailure::Store(_))), "{end:?}");
    assert_eq!(rows(&store).await, (0, 0));
}
