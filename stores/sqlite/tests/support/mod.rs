//! What the tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use bytes::Bytes;
use postrider_core::clock::Timestamp;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::fault::HandlerError;
use postrider_core::id::{BodyHash, MessageId};
use postrider_core::message::Key;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::store::{CommitFailure, Committed, Fence, InboxEntry, TxStore, Unit, Work};
use postrider_sqlite::Sqlite;
use postrider_sqlite::rusqlite::Connection;

pub const TABLES: &str = "CREATE TABLE effect(n INTEGER NOT NULL);
    CREATE TABLE total(id INTEGER PRIMARY KEY CHECK (id = 1), sum INTEGER NOT NULL);
    INSERT INTO total VALUES(1, 0);";

pub fn subscription() -> SubscriptionId {
    SubscriptionId::parse("inventory@topic:shop.order").unwrap()
}

pub fn id(n: u64) -> MessageId {
    MessageId::v7(Timestamp(1_763_735_534_000 + n), [n, n])
}

pub fn entry(n: u64) -> InboxEntry {
    InboxEntry {
        subscription: subscription(),
        message: id(n),
        body: BodyHash::of(&n.to_le_bytes()),
        received_at: Timestamp(1_763_735_534_000 + n),
    }
}

pub fn unit(n: u64) -> Unit {
    Unit {
        inbox: entry(n),
        fence: Fence::new(),
    }
}

pub fn message(n: u64) -> Outgoing {
    let mut envelope = Envelope::new(
        MessageId::derived(id(n), "inventory@topic:shop.order", "reserved", None, 0),
        "inventory".into(),
        "reserved".into(),
        Timestamp(1_763_735_534_000 + n),
    );
    envelope.key = Some(Key::of(&n));
    Outgoing {
        destination: Destination::topic("shop.stock").unwrap(),
        envelope,
        payload: Bytes::from(n.to_string()),
    }
}

/// The effect of delivery `n`: a row, a plain increment that a duplicate would break, and a message.
pub fn effect(n: u64) -> Work<Connection> {
    Box::new(move |conn| {
        write_effect(conn, n).map_err(|e| HandlerError::Transient(e.into()))?;
        Ok(vec![message(n)])
    })
}

pub fn write_effect(conn: &Connection, n: u64) -> postrider_sqlite::rusqlite::Result<()> {
    conn.execute("INSERT INTO effect VALUES(?1)", [i64::try_from(n).unwrap()])?;
    conn.execute("UPDATE total SET sum = sum + 1", [])?;
    Ok(())
}

pub async fn deliver(store: &Sqlite, n: u64) -> Result<Committed, CommitFailure> {
    store.transact(unit(n), effect(n)).await
}

/// (effects, sum of increments, inbox rows, outbox rows)
pub async fn counts(store: &Sqlite) -> (i64, i64, i64, i64) {
    store.read(read_counts).await.unwrap()
}

pub fn read_counts(conn: &Connection) -> postrider_sqlite::rusqlite::Result<(i64, i64, i64, i64)> {
    conn.query_row(
        "SELECT (SELECT count(*) FROM effect), (SELECT sum FROM total),
                (SELECT count(*) FROM postrider_inbox), (SELECT count(*) FROM postrider_outbox)",
        [],
        |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)),
    )
}

pub fn reason() -> postrider_core::failure::Reason {
    postrider_core::failure::Reason {
        by: "ann".into(),
        text: "mended".into(),
        at: Timestamp(1_800_000_000_000),
    }
}

/// A failure of message `n`, at position `n`.
pub fn failure(n: u64, follower: bool) -> postrider_core::failure::FailureDraft {
    use postrider_core::failure::{Cause, FailureDraft, FailureFacts};
    let cause = if follower {
        Cause::Follower
    } else {
        Cause::Permanent
    };
    FailureDraft {
        key: None,
        facts: FailureFacts {
            message_id: Some(id(n)),
            message_type: Some("placed".into()),
            cause,
            group: if follower {
                "behind a parked key".into()
            } else {
                "no such item".into()
            },
            errors: vec!["no such item".into(), "item 17".into()],
            attempts: 3,
            first_seen: Timestamp(n),
            failed_at: Timestamp(1000 + n),
            position: n,
        },
        raw: postrider_core::carriage::Raw {
            key: Some(Bytes::from_static(b"raw")),
            headers: vec![(Bytes::from_static(b"\xff"), Bytes::from_static(b"\0"))],
            body: Bytes::from(format!("body {n}")),
        },
    }
}

/// The writer, in the middle of a group that does not end: nothing is committed.
pub struct HeldWriter {
    go: std::sync::mpsc::Sender<()>,
    group: tokio::task::JoinHandle<()>,
}

impl HeldWriter {
    /// Lets the group go on, and waits for its end.
    pub async fn let_go(self) {
        self.go.send(()).unwrap();
        self.group.await.unwrap();
    }
}

/// Holds the writer of a file.
pub async fn hold_writer(store: &Sqlite) -> HeldWriter {
    let (go, wait_go) = std::sync::mpsc::channel();
    let (entered, at_work) = tokio::sync::oneshot::channel();
    let mut entered = Some(entered);
    let store = store.clone();
    let group = tokio::spawn(async move {
        let work = move |_: &mut Connection| {
            if let Some(entered) = entered.take() {
                entered.send(()).unwrap();
                wait_go.recv().unwrap();
            }
            Ok(vec![])
        };
        store.write(Box::new(work)).await.unwrap();
    });
    at_work.await.unwrap();
    HeldWriter { go, group }
}
