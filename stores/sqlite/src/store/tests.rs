//! Who waits for whom.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::time::Duration;

use postrider_core::clock::Timestamp;
use postrider_core::id::{BodyHash, MessageId};
use postrider_core::name::SubscriptionId;
use postrider_core::store::{InboxEntry, Seen, Store};
use tokio::sync::oneshot;

use crate::Sqlite;

/// Whoever waits for another is let go then, and the test fails.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn entry() -> InboxEntry {
    InboxEntry {
        subscription: SubscriptionId::parse("a@queue:b").unwrap(),
        message: MessageId::v7(Timestamp(1), [1, 1]),
        body: BodyHash::of(b""),
        received_at: Timestamp(1),
    }
}

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
            wait_go.recv_timeout(WAIT_MAX).unwrap();
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

#[tokio::test]
async fn a_disk_that_stalls_holds_up_whoever_asks_the_inbox_and_no_thread_of_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(dir.path().join("s.db")).unwrap();
    // The only thread of this runtime asks while another one has the connection, and goes on.
    let stalled = store.clone();
    let (go, wait_go) = mpsc::channel();
    let (entered, at_work) = oneshot::channel();
    let disk = std::thread::spawn(move || {
        stalled.look_now(|_| {
            entered.send(()).unwrap();
            wait_go.recv_timeout(WAIT_MAX).unwrap();
            Ok(())
        })
    });
    at_work.await.unwrap();
    let seen = store.seen(&entry()).await.unwrap();
    assert_eq!(seen, Seen::New);
    go.send(()).unwrap();
    disk.join().unwrap().unwrap();
}
