//! A handler's effects happen once, whatever happens to the others of its group.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use postrider_core::clock::Timestamp;
use postrider_core::fault::HandlerError;
use postrider_core::id::BodyHash;
use postrider_core::store::{CommitFailure, Committed, Look, ReadFailure, Seen, Store, TxStore};
use postrider_sqlite::Sqlite;
use postrider_sqlite::rusqlite::Connection;
use support::*;
use tempfile::TempDir;

const APPLIED: Committed = Committed::Applied { outgoing: 1 };

fn file() -> (TempDir, Sqlite) {
    let dir = tempfile::tempdir().unwrap();
    let store = Sqlite::open(dir.path().join("s.db")).unwrap();
    (dir, store.migrate(&[TABLES]).unwrap())
}

fn memory() -> Sqlite {
    Sqlite::in_memory().unwrap().migrate(&[TABLES]).unwrap()
}

async fn effects_once(store: &Sqlite) {
    assert_eq!(store.seen(&entry(1)).await.unwrap(), Seen::New);
    assert_eq!(deliver(store, 1).await.unwrap(), APPLIED);
    assert_eq!(store.seen(&entry(1)).await.unwrap(), Seen::Done);
    assert_eq!(deliver(store, 1).await.unwrap(), Committed::Duplicate);
    assert_eq!(counts(store).await, (1, 1, 1, 1));
}

#[tokio::test]
async fn effects_happen_once_when_redelivered() {
    let (_dir, store) = file();
    effects_once(&store).await;
}

#[tokio::test(start_paused = true)]
async fn effects_happen_once_in_memory_under_virtual_time() {
    effects_once(&memory()).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_waits_for_its_writer_under_virtual_time() {
    let (_dir, store) = file();
    effects_once(&store).await;
    store.close(Duration::from_millis(1)).await.unwrap();
}

#[tokio::test]
async fn long_reads_do_not_hold_up_the_relay() {
    let (_dir, store) = file();
    deliver(&store, 1).await.unwrap();
    let (go, wait_go) = std::sync::mpsc::channel::<()>();
    let wait_go = std::sync::Arc::new(std::sync::Mutex::new(wait_go));
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (store, wait_go) = (store.clone(), wait_go.clone());
        reads.spawn(async move {
            let wait = move |_: &Connection| {
                wait_go.lock().unwrap().recv().unwrap();
                Ok(())
            };
            store.read(wait).await.unwrap();
        });
    }
    tokio::task::yield_now().await;
    assert_eq!(store.outbox().unwrap().take(0, 10).await.unwrap().len(), 1);
    for _ in 0..4 {
        go.send(()).unwrap();
    }
    assert_eq!(reads.join_all().await.len(), 4);
}

#[tokio::test]
async fn another_subscription_of_the_same_message_has_its_own_effects() {
    let store = memory();
    deliver(&store, 1).await.unwrap();
    let mut other = unit(1);
    other.inbox.subscription =
        postrider_core::name::SubscriptionId::parse("audit@topic:shop.order").unwrap();
    assert_eq!(store.transact(other, effect(1)).await.unwrap(), APPLIED);
    assert_eq!(counts(&store).await, (2, 2, 2, 2));
}

#[tokio::test]
async fn same_id_other_body_is_a_conflict() {
    let (_dir, store) = file();
    deliver(&store, 1).await.unwrap();
    let mut other = unit(1);
    other.inbox.body = BodyHash::of(b"another");
    assert_eq!(store.seen(&other.inbox).await.unwrap(), Seen::Conflict);
    let end = store.transact(other, effect(1)).await;
    assert!(matches!(end, Err(CommitFailure::Conflict)), "{end:?}");
    assert_eq!(counts(&store).await, (1, 1, 1, 1));
}

/// Runs deliveries 0..12 at once, the seventh with `odd`, and gives how that one ended.
async fn among_others(
    store: &Sqlite,
    odd: postrider_core::store::Work<Connection>,
) -> Result<Committed, CommitFailure> {
    let mut tasks = Vec::new();
    let mut odd = Some(odd);
    for n in 0..12 {
        let work = match n {
            6 => odd.take().unwrap(),
            n => effect(n),
        };
        let store = store.clone();
        tasks.push(tokio::spawn(
            async move { store.transact(unit(n), work).await },
        ));
    }
    let mut end = None;
    for (n, task) in tasks.into_iter().enumerate() {
        let ended = task.await.unwrap();
        if n == 6 {
            end = Some(ended);
        } else {
            assert_eq!(ended.unwrap(), APPLIED, "delivery {n}");
        }
    }
    assert_eq!(counts(store).await, (11, 11, 11, 11));
    end.unwrap()
}

#[tokio::test]
async fn panic_in_handler_spares_the_group() {
    let (_dir, store) = file();
    let end = among_others(
        &store,
        Box::new(|conn| {
            write_effect(conn, 6).unwrap();
            panic!("boom {}", 6)
        }),
    )
    .await;
    let Err(CommitFailure::Handler(HandlerError::Transient(error))) = end else {
        panic!("{end:?}");
    };
    assert_eq!(error.to_string(), "handler panicked: boom 6");
    assert_eq!(deliver(&store, 6).await.unwrap(), APPLIED);
}

#[tokio::test]
async fn an_error_of_a_handler_writes_nothing_and_spares_the_group() {
    let (_dir, store) = file();
    let end = among_others(
        &store,
        Box::new(|conn| {
            write_effect(conn, 6).unwrap();
            Err(HandlerError::Permanent("no".into()))
        }),
    )
    .await;
    assert!(
        matches!(end, Err(CommitFailure::Handler(HandlerError::Permanent(_)))),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_handler_that_ends_the_transaction_is_refused_and_spares_the_group() {
    let statements = [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "COMMIT; BEGIN",
        "RELEASE postrider_unit",
        "ROLLBACK TO postrider_unit",
        "PRAGMA synchronous=OFF",
        "DELETE FROM postrider_inbox",
        "DROP TABLE postrider_outbox",
        // The guard sees nothing of this one: SQLite itself ends the transaction.
        "INSERT OR ROLLBACK INTO total VALUES(1, 0)",
    ];
    for sql in statements {
        for swallowed in [true, false] {
            let (_dir, store) = file();
            let end = among_others(
                &store,
                Box::new(move |conn| {
                    write_effect(conn, 6).unwrap();
                    match conn.execute_batch(sql) {
                        Err(e) if !swallowed => Err(HandlerError::Transient(e.into())),
                        _ => Ok(vec![message(6)]),
                    }
                }),
            )
            .await;
            let Err(CommitFailure::Handler(error)) = end else {
                panic!("{sql}: {end:?}");
            };
            if swallowed || !sql.contains("OR ROLLBACK") {
                assert!(matches!(error, HandlerError::Permanent(_)), "{sql}");
                let text = error.source_error().to_string();
                assert!(text.contains("write no BEGIN, COMMIT"), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_deferred_constraint_is_the_fault_of_the_handler_that_broke_it() {
    let (_dir, store) = file();
    let store = store
        .migrate(&[
            TABLES,
            "CREATE TABLE child(of INTEGER REFERENCES total(id) DEFERRABLE INITIALLY DEFERRED)",
        ])
        .unwrap();
    let end = among_others(
        &store,
        Box::new(|conn| {
            conn.execute("INSERT INTO child VALUES(99)", []).unwrap();
            Ok(vec![])
        }),
    )
    .await;
    assert!(
        matches!(end, Err(CommitFailure::Handler(HandlerError::Transient(_)))),
        "{end:?}"
    );
}

#[tokio::test]
async fn broken_fence_writes_nothing() {
    let (_dir, store) = file();
    let unit_1 = unit(1);
    let fence = unit_1.fence.clone();
    let mut inner = effect(1);
    let end = store
        .transact(
            unit_1,
            Box::new(move |conn| {
                let messages = inner(conn);
                fence.break_off();
                messages
            }),
        )
        .await;
    assert!(matches!(end, Err(CommitFailure::Fenced)), "{end:?}");
    assert_eq!(counts(&store).await, (0, 0, 0, 0));
    let broken = unit(2);
    broken.fence.break_off();
    let end = store
        .transact(broken, Box::new(|_| panic!("it must not run")))
        .await;
    assert!(matches!(end, Err(CommitFailure::Fenced)), "{end:?}");
}

#[tokio::test]
async fn outbox_order_is_commit_order_and_messages_survive_whole() {
    let (_dir, store) = file();
    let outbox = store.outbox().unwrap();
    let mut tasks = Vec::new();
    for n in 0..64 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move { deliver(&store, n).await }));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let committed: Vec<i64> = store
        .read(|c| {
            c.prepare("SELECT n FROM effect ORDER BY rowid")?
                .query_map([], |r| r.get(0))?
                .collect()
        })
        .await
        .unwrap();
    let rows = outbox.take(0, 1000).await.unwrap();
    assert_eq!(rows.len(), 64);
    for (row, n) in rows.iter().zip(&committed) {
        assert_eq!(row.message, message(n.unsigned_abs()));
    }
    assert!(rows.windows(2).all(|w| w[0].number < w[1].number));
    let rest = outbox.take(rows[9].number, 5).await.unwrap();
    assert_eq!(rest, rows[10..15]);
}

#[tokio::test]
async fn every_field_of_an_outgoing_message_survives_the_outbox() {
    let store = memory();
    let mut full = message(7);
    let e = &mut full.envelope;
    e.version = 3;
    e.content_type = "application/octet-stream".into();
    e.schema = Some("urn:x".into());
    e.subject = Some("ü".into());
    e.key = Some(postrider_core::message::Key::new(vec![0xff, 0, 1]));
    e.sequence = Some(u64::MAX);
    e.correlation_id = Some("c".into());
    e.causation_id = Some("d".into());
    e.traceparent = Some("t".into());
    e.tracestate = Some("s".into());
    e.reply_to = Some(postrider_core::name::Destination::inbox("me").unwrap());
    e.expires_at = Some(Timestamp(1_800_000_000_001));
    e.deliver_at = Some(Timestamp(1_800_000_000_000));
    e.data_ref = Some("s3://x".into());
    e.tenant = Some("a".into());
    // Names that look like fields stay what they are.
    e.headers.push("ce_id", vec![0xfe, 0]);
    e.headers.push("postrider-envelope", vec![1]);
    e.headers.push("content-type", vec![]);
    full.payload = vec![0, 159, 146, 150].into();
    let mut plain = message(8);
    plain.envelope.key = None;
    let sent = vec![full, plain];
    let work = sent.clone();
    let count = store.write(Box::new(move |_| Ok(work.clone()))).await;
    assert_eq!(count.unwrap(), 2);
    let rows = store.outbox().unwrap().take(0, 10).await.unwrap();
    let back: Vec<_> = rows.into_iter().map(|r| r.message).collect();
    assert_eq!(back, sent);
}

#[tokio::test]
async fn removed_rows_are_gone_and_numbers_are_not_used_again() {
    let (dir, store) = file();
    let outbox = store.outbox().unwrap();
    for n in 0..3 {
        deliver(&store, n).await.unwrap();
    }
    outbox.changed().await;
    let rows = outbox.take(0, 10).await.unwrap();
    let numbers: Vec<u64> = rows.iter().map(|r| r.number).collect();
    outbox.remove(numbers.clone()).await.unwrap();
    assert_eq!(outbox.depth().await.unwrap(), 0);
    store.close(Duration::from_secs(10)).await.unwrap();
    drop((store, outbox));
    let store = Sqlite::open(dir.path().join("s.db")).unwrap();
    deliver(&store, 3).await.unwrap();
    let rows = store.outbox().unwrap().take(0, 10).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert!(rows[0].number > numbers[2]);
}

#[tokio::test]
async fn a_waiting_relay_wakes_when_a_commit_added_rows() {
    let store = memory();
    let outbox = store.outbox().unwrap();
    let relay = tokio::spawn(async move {
        loop {
            let rows = outbox.take(0, 1).await.unwrap();
            if !rows.is_empty() {
                return rows.len();
            }
            outbox.changed().await;
        }
    });
    tokio::task::yield_now().await;
    deliver(&store, 1).await.unwrap();
    assert_eq!(relay.await.unwrap(), 1);
}

#[tokio::test]
async fn a_unit_that_nobody_waits_for_is_not_run() {
    let (_dir, store) = file();
    let (entered, wait_entered) = std::sync::mpsc::channel();
    let (go, wait_go) = std::sync::mpsc::channel::<()>();
    let blocker = {
        let store = store.clone();
        tokio::spawn(async move {
            let work = Box::new(move |_: &mut Connection| {
                entered.send(()).unwrap();
                wait_go.recv().unwrap();
                Ok(vec![])
            });
            store.transact(unit(1), work).await
        })
    };
    tokio::task::spawn_blocking(move || wait_entered.recv().unwrap())
        .await
        .unwrap();
    {
        let mut dropped = deliver_boxed(&store, 2);
        // Polled once, so that it is in the queue.
        let waker = std::task::Waker::noop();
        let mut cx = std::task::Context::from_waker(waker);
        assert!(dropped.as_mut().poll(&mut cx).is_pending());
    }
    go.send(()).unwrap();
    blocker.await.unwrap().unwrap();
    deliver(&store, 3).await.unwrap();
    assert_eq!(counts(&store).await, (1, 1, 2, 1));
}

fn deliver_boxed(
    store: &Sqlite,
    n: u64,
) -> postrider_core::Fut<'_, Result<Committed, CommitFailure>> {
    store.transact(unit(n), effect(n))
}

#[tokio::test]
async fn a_read_cannot_write() {
    let (_dir, file) = file();
    for store in [file, memory()] {
        let end = store.read(|c| c.execute("DELETE FROM total", [])).await;
        assert!(end.is_err());
        assert_eq!(deliver(&store, 1).await.unwrap(), APPLIED);
    }
}

#[tokio::test]
async fn inbox_rows_are_kept_for_the_retention_and_not_much_longer() {
    let day = 24 * 60 * 60 * 1000;
    let store = Sqlite::options()
        .inbox_retention(Duration::from_secs(24 * 60 * 60))
        .in_memory()
        .unwrap();
    let arrive = |n: u64, at: u64| {
        let mut unit = unit(n);
        unit.inbox.received_at = Timestamp(at);
        let store = store.clone();
        async move {
            store
                .transact(unit, Box::new(|_| Ok(vec![])))
                .await
                .unwrap()
        }
    };
    let old = || async {
        store
            .read(move |c| {
                c.query_row(
                    "SELECT count(*) FROM postrider_inbox WHERE received_at < ?1",
                    [i64::try_from(9 * day).unwrap()],
                    |r| r.get::<_, i64>(0),
                )
            })
            .await
            .unwrap()
    };
    for n in 0..1000 {
        arrive(n, 8 * day + n).await;
    }
    for n in 1000..2000 {
        arrive(n, 9 * day).await;
    }
    // All within a day of the newest: none may go.
    assert_eq!(old().await, 1000);
    for n in 2000..3000 {
        arrive(n, 9 * day + 1000).await;
    }
    assert_eq!(old().await, 0, "rows older than the retention are left");
    let before = Timestamp(9 * day + 1);
    assert_eq!(store.prune_inbox(before).await.unwrap(), 1000);
    assert_eq!(store.prune_inbox(before).await.unwrap(), 0);
}

fn look<T: Send + 'static>(
    look: impl FnOnce(&Connection) -> postrider_sqlite::rusqlite::Result<T> + Send + 'static,
) -> (Look<Connection>, std::sync::mpsc::Receiver<T>) {
    let (put, value) = std::sync::mpsc::channel();
    let look: Look<Connection> = Box::new(move |conn| {
        let value = look(conn).map_err(|e| HandlerError::Permanent(e.into()))?;
        put.send(value).unwrap();
        Ok(())
    });
    (look, value)
}

async fn reads_change_nothing(store: &Sqlite) {
    deliver(store, 1).await.unwrap();
    let (counts_look, seen) = look(read_counts);
    TxStore::read(store, counts_look).await.unwrap();
    assert_eq!(seen.recv().unwrap(), (1, 1, 1, 1));
    for statement in [
        "INSERT INTO effect VALUES(7)",
        "UPDATE total SET sum = 7",
        "DELETE FROM postrider_inbox",
        "CREATE TABLE mine(x)",
        "DROP TABLE effect",
        "PRAGMA query_only = off; INSERT INTO effect VALUES(7)",
    ] {
        let (write, _) = look(move |conn| conn.execute_batch(statement));
        let refused = TxStore::read(store, write).await.unwrap_err();
        assert!(matches!(refused, ReadFailure::Handler(_)), "{statement}");
    }
    assert_eq!(counts(store).await, (1, 1, 1, 1));
    // The handler's own error comes back as it is.
    let refuse = Box::new(|_: &Connection| Err(HandlerError::Stop("enough".into())));
    let failure = TxStore::read(store, refuse).await.unwrap_err();
    assert!(matches!(
        failure,
        ReadFailure::Handler(HandlerError::Stop(_))
    ));
    // Writes go on as before.
    assert_eq!(deliver(store, 2).await.unwrap(), APPLIED);
}

#[tokio::test]
async fn a_read_changes_nothing() {
    let (_dir, store) = file();
    reads_change_nothing(&store).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_changes_nothing_in_memory() {
    reads_change_nothing(&memory()).await;
}

#[tokio::test]
async fn a_read_does_not_wait_for_the_writer_and_sees_what_is_committed() {
    let (_dir, store) = file();
    deliver(&store, 1).await.unwrap();
    let (go, wait_go) = std::sync::mpsc::channel::<()>();
    let (begun, began) = tokio::sync::oneshot::channel();
    let mut begun = Some(begun);
    let writer = store.clone();
    let write = tokio::spawn(async move {
        let work = Box::new(move |conn: &mut Connection| {
            write_effect(conn, 2).map_err(|e| HandlerError::Transient(e.into()))?;
            if let Some(begun) = begun.take() {
                begun.send(()).unwrap();
                wait_go.recv().unwrap();
            }
            Ok(vec![message(2)])
        });
        writer.transact(unit(2), work).await
    });
    began.await.unwrap();
    let (counts_look, seen) = look(read_counts);
    TxStore::read(&store, counts_look).await.unwrap();
    assert_eq!(seen.recv().unwrap(), (1, 1, 1, 1), "not what is open");
    go.send(()).unwrap();
    assert_eq!(write.await.unwrap().unwrap(), APPLIED);
    store.close(Duration::from_secs(10)).await.unwrap();
    let (late, _) = look(read_counts);
    let closed = TxStore::read(&store, late).await.unwrap_err();
    assert!(matches!(closed, ReadFailure::Store(_)));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_panics_leaves_the_store_as_it_was() {
    let store = memory();
    let reader = store.clone();
    let panicked = tokio::spawn(async move {
        let look: Look<Connection> = Box::new(|_| panic!("a broken look"));
        TxStore::read(&reader, look).await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(deliver(&store, 1).await.unwrap(), APPLIED);
}

#[tokio::test]
async fn a_read_that_leaves_a_transaction_open_is_the_last_of_its_connection() {
    let (_dir, store) = file();
    let count = |conn: &Connection| {
        conn.query_row("SELECT count(*) FROM effect", [], |r| r.get::<_, i64>(0))
    };
    for n in 0..3 {
        deliver(&store, 2 * n).await.unwrap();
        // One goes wrong within, one forgets the end.
        let failed = store.read(move |conn| {
            conn.execute_batch("BEGIN")?;
            count(conn)?;
            match n {
                0 => Ok(()),
                _ => conn.execute_batch("SELECT nothing"),
            }
        });
        assert_eq!(failed.await.is_ok(), n == 0);
        deliver(&store, 2 * n + 1).await.unwrap();
        assert_eq!(
            store.read(count).await.unwrap(),
            2 * i64::try_from(n).unwrap() + 2,
            "what was committed meanwhile is seen"
        );
    }
}
