//! What the relay is given, and what it is not given again.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use postrider_core::store::{CommitFailure, Outbox, Store, TxStore};
use postrider_sqlite::Sqlite;
use postrider_sqlite::rusqlite::Connection;
use support::*;
use tempfile::TempDir;

async fn with_rows(dir: &TempDir, rows: u64) -> (Sqlite, Arc<dyn Outbox>) {
    let options = Sqlite::options().busy(Duration::from_millis(20));
    let store = options.open(dir.path().join("s.db")).unwrap();
    let store = store.migrate(&[TABLES]).unwrap();
    for n in 0..rows {
        deliver(&store, n).await.unwrap();
    }
    let outbox = store.outbox().unwrap();
    (store, outbox)
}

async fn take(outbox: &Arc<dyn Outbox>, after: u64, limit: u32) -> Vec<u64> {
    let rows = outbox.take(after, limit).await.unwrap();
    rows.iter().map(|row| row.number).collect()
}

#[tokio::test]
async fn a_removed_row_is_not_given_again_before_its_removal_is_committed() {
    #[cfg(feature = "planted")]
    let _nothing = postrider_core::planted::none();
    let dir = tempfile::tempdir().unwrap();
    let (store, outbox) = with_rows(&dir, 5).await;
    assert_eq!(take(&outbox, 0, 10).await, [1, 2, 3, 4, 5]);
    let writer = hold_writer(&store).await;
    outbox.remove(vec![1, 2, 4]).await.unwrap();
    assert_eq!(
        counts(&store).await.3,
        5,
        "the removals wait for the next commit"
    );
    assert_eq!(take(&outbox, 0, 10).await, [3, 5]);
    assert_eq!(take(&outbox, 3, 10).await, [5]);
    assert_eq!(
        take(&outbox, 0, 1).await,
        [3],
        "what was removed does not count: an empty answer means that there is no more"
    );
    writer.let_go().await;
    assert_eq!(outbox.depth().await.unwrap(), 2);
    assert_eq!(take(&outbox, 0, 10).await, [3, 5]);
    store.close(Duration::from_secs(10)).await.unwrap();
    drop((store, outbox));
    let (_store, outbox) = with_rows(&dir, 0).await;
    assert_eq!(take(&outbox, 0, 10).await, [3, 5]);
}

#[tokio::test]
async fn rows_that_cannot_be_removed_yet_are_not_given_again() {
    #[cfg(feature = "planted")]
    let _nothing = postrider_core::planted::none();
    let dir = tempfile::tempdir().unwrap();
    let (store, outbox) = with_rows(&dir, 3).await;
    assert_eq!(take(&outbox, 0, 10).await, [1, 2, 3]);
    // Another program holds the database: no group commits.
    let other = Connection::open(dir.path().join("s.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        outbox.remove(vec![1, 2]).await.unwrap();
        let failed = store.write(Box::new(|_| Ok(vec![]))).await;
        assert!(matches!(failed, Err(CommitFailure::Store(_))), "{failed:?}");
        assert_eq!(take(&outbox, 0, 10).await, [3]);
    }
    other.execute_batch("ROLLBACK").unwrap();
    // Only who waited when a group gave up was told so.
    assert_eq!(outbox.depth().await.unwrap(), 1);
    assert_eq!(counts(&store).await.3, 1);
    assert_eq!(take(&outbox, 0, 10).await, [3]);
}

#[tokio::test]
async fn a_removed_row_is_not_given_again_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (store, outbox) = with_rows(&dir, 3).await;
    store.close(Duration::from_secs(10)).await.unwrap();
    drop((store, outbox));
    let (store, outbox) = with_rows(&dir, 0).await;
    for n in 3..5 {
        deliver(&store, n).await.unwrap();
    }
    // Those of before are in the table alone, the others in memory too.
    assert_eq!(take(&outbox, 0, 10).await, [1, 2, 3, 4, 5]);
    outbox.remove(vec![4]).await.unwrap();
    assert_eq!(take(&outbox, 3, 10).await, [5]);
}
