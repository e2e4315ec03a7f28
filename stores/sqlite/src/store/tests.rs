//! Who waits for whom.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;

use postrider_core::store::Store;
use tokio::sync::oneshot;

use crate::Sqlite;

/// A look that holds its place until it is let go.
async fn long_listing(
    store: &Sqlite,
) -> (
    mpsc::Sender<()>,
    tokio::task::JoinHandle<Result<(), crate::Error>>,
) {
    let (go, wait_go) = mpsc::channel();
    let (entered, at_work) = oneshot::channel();
    let store = store.clone();
    let listing = tokio::spawn(async move {
        let look = move |_: &rusqlite::Connection| {
            entered.send(()).unwrap();
            wait_go.recv().unwrap();
            Ok(())
        };
        store.look_async(look).await
    });
    at_work.await.unwrap();
    (go, listing)
}

#[tokio::test]
async fn a_long_listing_holds_up_neither_the_relay_nor_the_services_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(dir.path().join("s.db")).unwrap();
    let outbox = store.outbox().unwrap();
    // What is there when a database is opened is read from the table.
    store.shared().handoff.lock().begin(1);
    let (go, listing) = long_listing(&store).await;
    assert!(outbox.take(0, 10).await.unwrap().is_empty());
    let one = store.read(|conn| conn.query_row("SELECT 1", [], |r| r.get::<_, i64>(0)));
    assert_eq!(one.await.unwrap(), 1);
    go.send(()).unwrap();
    listing.await.unwrap().unwrap();
}
