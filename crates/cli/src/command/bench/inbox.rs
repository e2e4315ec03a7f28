//! `inbox`: effects once on SQLite.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use postrider::SubscriptionId;
use postrider::contract::carriage::{self, Carriage};
use postrider::contract::clock::Timestamp;
use postrider::contract::envelope::{Envelope, Outgoing};
use postrider::contract::id::BodyHash;
use postrider::contract::name::Destination;
use postrider::contract::store::{Fence, InboxEntry, Outbox, Store as _, TxStore as _, Unit, Work};
use postrider::prelude::*;
use postrider::sqlite::SqlError;
use postrider::sqlite::rusqlite::{Connection, params};
use tokio::runtime::Runtime;

use super::place::Place;
use super::rounds::Rounds;
use super::row::Row;
use super::{GRACE, Size, runtime};

const TABLE: &str = "CREATE TABLE reserved(order_id INTEGER NOT NULL, sku TEXT NOT NULL, quantity INTEGER NOT NULL)";
const INSERT: &str = "INSERT INTO reserved(order_id, sku, quantity) VALUES(?1, ?2, ?3)";
/// Messages in one commit of the side that is written by hand.
const PER_COMMIT: u64 = 100;
/// How often the outbox is asked whether it is empty.
const ASK_EVERY: Duration = Duration::from_millis(5);

#[derive(Message, Serialize, Deserialize, Clone)]
#[message(topic = "bench.orders", type = "placed", key = key)]
struct Placed {
    key: u64,
    sku: String,
    quantity: u32,
    note: String,
}

#[derive(Message, Serialize, Deserialize, Clone)]
#[message(topic = "bench.stock", type = "reserved", key = key)]
struct Reserved {
    key: u64,
    sku: String,
    left: u32,
    note: String,
}

fn placed(n: u64, keys: u64) -> Placed {
    Placed {
        key: n % keys,
        sku: "A-100-XL".into(),
        quantity: 3,
        note: "x".repeat(110),
    }
}

fn reserved(order: Placed) -> Reserved {
    Reserved {
        key: order.key,
        sku: order.sku,
        left: 997,
        note: order.note,
    }
}

pub(super) fn run(place: &Place, size: Size) -> Result<Vec<Row>> {
    let messages = size.pick(400, 20_000);
    let count = size.pick(1, 5);
    let runtime = runtime()?;
    let mut rows = Vec::new();
    for (name, keys) in [("inbox.store.64", 64), ("inbox.store.1024", 1024)] {
        let ours = || runtime.block_on(store_alone(&place.path("store"), messages, keys));
        rows.push(row(place, name, messages, count, ours)?);
    }
    for (name, keys) in [("inbox.relay.64", 64), ("inbox.relay.1024", 1024)] {
        let ours = || service(&runtime, &place.path("service"), messages, keys);
        rows.push(row(place, name, messages, count, ours)?);
    }
    Ok(rows)
}

/// Rounds beside the same rows by hand. Both sides give seconds.
fn row(
    place: &Place,
    name: &'static str,
    messages: u64,
    count: usize,
    ours: impl Fn() -> Result<f64>,
) -> Result<Row> {
    let mut rounds = Rounds::default();
    for _ in 0..count {
        let theirs = by_hand(&place.path("hand"), messages)?;
        rounds.add(messages as f64 / ours()?, messages as f64 / theirs);
    }
    Ok(Row::of(name, "msg/s", &rounds).also("messages", messages as f64))
}

/// A new database in a directory of its own.
fn database(dir: &Path) -> Result<Sqlite> {
    std::fs::create_dir(dir)?;
    Ok(Sqlite::open(dir.join("bench.db"))?.migrate(&[TABLE])?)
}

/// Without a log and a relay: as many callers as keys, each with one delivery after the other.
async fn store_alone(dir: &Path, messages: u64, keys: u64) -> Result<f64> {
    let store = Arc::new(database(dir)?);
    let subscription = SubscriptionId::parse("bench@topic:bench.orders")?;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for key in 0..keys {
        let (store, subscription) = (Arc::clone(&store), subscription.clone());
        tasks.spawn(async move {
            for n in (key..messages).step_by(usize::try_from(keys)?) {
                deliver(&store, &subscription, n, keys).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let took = start.elapsed().as_secs_f64();
    store
        .close(GRACE)
        .await
        .map_err(|fault| anyhow!("{fault}"))?;
    Ok(took)
}

/// What the framework does for one delivery, without the framework.
async fn deliver(store: &Sqlite, subscription: &SubscriptionId, n: u64, keys: u64) -> Result<()> {
    let order = placed(n, keys);
    let body = serde_json::to_vec(&order)?;
    let unit = Unit {
        inbox: InboxEntry {
            subscription: subscription.clone(),
            message: id(n),
            body: BodyHash::of(&body),
            received_at: Timestamp(1_763_735_534_000),
        },
        fence: Fence::new(),
    };
    let work: Work<Connection> = Box::new(move |conn| {
        insert(conn, &order).map_err(|e| HandlerError::Transient(e.into()))?;
        Ok(vec![outgoing(n, reserved(order.clone()))])
    });
    let done = store.transact(unit, work).await;
    done.map(drop).map_err(|failure| anyhow!("{failure:?}"))
}

fn insert(conn: &Connection, order: &Placed) -> postrider::sqlite::rusqlite::Result<usize> {
    let mut insert = conn.prepare_cached(INSERT)?;
    insert.execute(params![order.key as i64, order.sku, order.quantity])
}

fn id(n: u64) -> MessageId {
    // Ids come from a clock and a random source: ascending, then anything.
    MessageId::v7(
        Timestamp(1_763_735_534_000 + n / 16),
        [n, n.wrapping_mul(0x9E37_79B9)],
    )
}

fn outgoing(n: u64, message: Reserved) -> Outgoing {
    let id = MessageId::derived(id(n), "bench@topic:bench.orders", "reserved", None, 0);
    let mut envelope = Envelope::new(
        id,
        "bench".into(),
        "reserved".into(),
        Timestamp(1_763_735_534_000),
    );
    envelope.key = Some(Key::of(&message.key));
    Outgoing {
        destination: Destination::topic("bench.stock").expect("it is a name"),
        envelope,
        payload: serde_json::to_vec(&message)
            .expect("it is plain data")
            .into(),
    }
}

/// With the log before and the relay behind: everything is published, and the clock runs until the last outgoing message is on the log.
fn service(runtime: &Runtime, dir: &Path, messages: u64, keys: u64) -> Result<f64> {
    runtime.block_on(async {
        let store = Arc::new(database(dir)?);
        let bus = Bus::connect(&format!("embedded:{}", dir.join("log").display())).await?;
        let count = Arc::new(AtomicU64::new(0));
        let service = || {
            let concurrency = u32::try_from(keys).unwrap_or(u32::MAX);
            Service::new("bench")
                .shared_store(Arc::clone(&store))
                .state(Arc::clone(&count))
                .announce(false)
                .on(reserve.concurrency(concurrency))
        };
        // The first start makes the subscription, so that what is published is kept for it.
        service().start(&bus).await?.stop(GRACE).await;
        for results in (0..messages).collect::<Vec<_>>().chunks(512) {
            let events = results.iter().map(|n| placed(*n, keys));
            bus.publish_all(events)
                .await
                .into_iter()
                .collect::<postrider::Result<Vec<_>>>()?;
        }
        let start = Instant::now();
        let running = service().start(&bus).await?;
        let outbox = store.outbox().expect("SQLite has an outbox");
        while count.load(Ordering::Relaxed) < messages || depth(&*outbox).await? > 0 {
            tokio::time::sleep(ASK_EVERY).await;
        }
        let took = start.elapsed().as_secs_f64();
        running.stop(GRACE).await;
        bus.close(GRACE).await?;
        store
            .close(GRACE)
            .await
            .map_err(|fault| anyhow!("{fault}"))?;
        Ok(took)
    })
}

async fn depth(outbox: &dyn Outbox) -> Result<u64> {
    outbox.depth().await.map_err(|fault| anyhow!("{fault}"))
}

fn reserve(
    order: Placed,
    tx: &mut Tx<'_, Sqlite>,
    State(count): State<Arc<AtomicU64>>,
) -> Result<Publish<Reserved>, SqlError> {
    insert(tx, &order)?;
    count.fetch_add(1, Ordering::Relaxed);
    Ok(Publish(reserved(order)))
}

/// The same rows with the same statements, 100 messages per commit, `synchronous=FULL`. Gives seconds.
fn by_hand(dir: &Path, messages: u64) -> Result<f64> {
    std::fs::create_dir(dir)?;
    let mut conn = Connection::open(dir.join("hand.db"))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch(TABLE)?;
    conn.execute_batch(
        "CREATE TABLE inbox(subscription INTEGER NOT NULL, message_id BLOB NOT NULL, body BLOB NOT NULL,
             received_at INTEGER NOT NULL, PRIMARY KEY(subscription, message_id)) STRICT, WITHOUT ROWID;
         CREATE TABLE outbox(number INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, key BLOB,
             envelope TEXT NOT NULL, headers BLOB, payload BLOB NOT NULL) STRICT;",
    )?;
    let start = Instant::now();
    let mut n = 0;
    while n < messages {
        let tx = conn.transaction()?;
        let end = messages.min(n + PER_COMMIT);
        for n in n..end {
            rows_by_hand(&tx, n)?;
        }
        tx.commit()?;
        n = end;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn rows_by_hand(conn: &Connection, n: u64) -> Result<()> {
    let order = placed(n, 1024);
    let body = BodyHash::of(&serde_json::to_vec(&order)?);
    conn.prepare_cached("INSERT INTO inbox(subscription, message_id, body, received_at) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
        .execute(params![1, id(n).as_bytes(), body.0, 1_763_735_534_000i64])?;
    insert(conn, &order)?;
    let out = outgoing(n, reserved(order));
    // The same text, from the same writer: what differs is who puts it there.
    let packed = carriage::write(&out, Carriage::Packed);
    let envelope = packed
        .headers
        .first()
        .map(|(_, text)| String::from_utf8_lossy(text));
    conn.prepare_cached("INSERT INTO outbox(destination, key, envelope, headers, payload) VALUES(?1, ?2, ?3, NULL, ?4)")?
        .execute(params![out.destination.to_string(), out.envelope.key.as_ref().map(|k| &k.as_bytes()[..]), envelope, &out.payload[..]])?;
    Ok(())
}
