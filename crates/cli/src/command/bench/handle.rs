//! `handle`: the whole way of a message in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use postrider::prelude::*;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};

use super::place::Place;
use super::rounds::{Rounds, median};
use super::row::Row;
use super::{GRACE, Size, child, runtime};

/// Messages that are published and not handled yet: as many as a channel of the other side takes.
const AHEAD: u64 = 1024;
/// How often a handler says how far it is.
const TELL: u64 = 128;

/// About 170 bytes of JSON.
#[derive(Message, Serialize, Deserialize, Clone)]
#[message(topic = "bench.handle", type = "order-placed", key = order_id)]
struct Order {
    order_id: u64,
    customer: String,
    sku: String,
    quantity: u32,
    cents: u64,
    placed_at: String,
    note: String,
}

fn order(n: u64) -> Order {
    Order {
        order_id: n % 1000,
        customer: "customer-4711".into(),
        sku: "A-100-XL".into(),
        quantity: 3,
        cents: 4995,
        placed_at: "2026-11-21T18:00:00Z".into(),
        note: "leave it at the back door".into(),
    }
}

/// How many were handled.
#[derive(Default)]
struct Handled {
    count: AtomicU64,
    further: Notify,
}

impl Handled {
    fn one(&self) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(TELL) {
            self.further.notify_one();
        }
    }

    async fn reach(&self, count: u64) {
        while self.count.load(Ordering::Relaxed) < count {
            let further = self.further.notified();
            tokio::pin!(further);
            further.as_mut().enable();
            if self.count.load(Ordering::Relaxed) < count {
                further.await;
            }
        }
    }
}

async fn handle(order: Order, State(handled): State<Arc<Handled>>) {
    std::hint::black_box(&order);
    handled.one();
}

pub(super) fn run(_: &Place, size: Size) -> Result<Vec<Row>> {
    let messages = size.pick(2 * AHEAD, 150 * AHEAD);
    let count = size.pick(1, 7);
    let runtime = runtime()?;
    let mut rows = vec![row(
        &runtime,
        "handle.unordered",
        Order::unordered,
        messages,
        count,
    )?];
    rows.extend(allocations(messages / 8)?);
    // From here on every span is recorded; there is no way back, so it comes last.
    let spans = tracing_subscriber::registry();
    tracing::subscriber::set_global_default(spans).context("somebody else records spans")?;
    rows.push(row(
        &runtime,
        "handle.ordered",
        Order::ordered,
        messages,
        count,
    )?);
    Ok(rows)
}

impl Order {
    fn unordered() -> Service {
        Service::new("bench").on(handle.unordered())
    }

    fn ordered() -> Service {
        Service::new("bench").on(handle)
    }
}

fn row(
    runtime: &Runtime,
    name: &'static str,
    service: fn() -> Service,
    messages: u64,
    count: usize,
) -> Result<Row> {
    let mut rounds = Rounds::default();
    let rate = |took: f64| messages as f64 / took;
    let mut cpu_us = Vec::new();
    for _ in 0..count {
        let before = child::cpu_s();
        let ours = runtime.block_on(async { tokio::spawn(ours(service(), messages)).await? })?;
        cpu_us.push((child::cpu_s() - before) * 1e6 / messages as f64);
        let theirs = runtime.block_on(async { tokio::spawn(theirs(messages)).await? })?;
        rounds.add(rate(ours), rate(theirs));
    }
    let bytes = serde_json::to_vec(&order(100))?.len();
    Ok(Row::of(name, "msg/s", &rounds)
        .also("cpu_us_per_message", median(cpu_us))
        .also("payload_bytes", bytes as f64))
}

/// Through a bus and a service. Gives seconds.
async fn ours(service: Service, messages: u64) -> Result<f64> {
    let bus = Bus::connect("memory:").await?;
    let handled = Arc::new(Handled::default());
    let running = service
        .state(Arc::clone(&handled))
        .announce(false)
        .start(&bus)
        .await?;
    let start = Instant::now();
    publish_and_wait(&bus, &handled, messages).await?;
    let took = start.elapsed().as_secs_f64();
    running.stop(GRACE).await;
    bus.close(GRACE).await?;
    Ok(took)
}

async fn publish_and_wait(bus: &Bus, handled: &Handled, messages: u64) -> Result<()> {
    let before = handled.count.load(Ordering::Relaxed);
    for n in 0..messages {
        bus.publish(order(n)).await?;
        if (n + 1).is_multiple_of(TELL) {
            handled.reach(before + (n + 1).saturating_sub(AHEAD)).await;
        }
    }
    handled.reach(before + messages).await;
    Ok(())
}

/// Through a channel, encoded and decoded. Gives seconds.
async fn theirs(messages: u64) -> Result<f64> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(AHEAD as usize);
    let start = Instant::now();
    let reads = tokio::spawn(async move {
        while let Some(bytes) = receiver.recv().await {
            let order: Order = serde_json::from_slice(&bytes)?;
            std::hint::black_box(order);
        }
        anyhow::Ok(())
    });
    for n in 0..messages {
        sender.send(serde_json::to_vec(&order(n))?).await?;
    }
    drop(sender);
    reads.await??;
    Ok(start.elapsed().as_secs_f64())
}

/// Allocations per message, where this program was built to count them.
#[cfg(feature = "allocations")]
fn allocations(messages: u64) -> Result<Option<Row>> {
    let messages = messages.next_multiple_of(TELL);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let each = |count: u64| count as f64 / messages as f64;
    let (bus, handled, running) = runtime.block_on(async {
        let bus = Bus::connect("memory:").await?;
        let handled = Arc::new(Handled::default());
        let service = Order::unordered().state(Arc::clone(&handled));
        let running = service.announce(false).start(&bus).await?;
        // What is made once is not what a message costs.
        publish_and_wait(&bus, &handled, messages).await?;
        anyhow::Ok((bus, handled, running))
    })?;
    let ours = allocation_counter::measure(|| {
        // An error shows in the wait that follows it, which would never end: the engine is in memory and takes all.
        let _ = runtime.block_on(publish_and_wait(&bus, &handled, messages));
    });
    let theirs = allocation_counter::measure(|| {
        let _ = runtime.block_on(theirs(messages));
    });
    runtime.block_on(running.stop(GRACE));
    let (ours, theirs) = (each(ours.count_total), each(theirs.count_total));
    let row = Row::new("handle.allocations", "per message", ours, theirs);
    Ok(Some(row.also("beyond_the_payload", ours - theirs)))
}

#[cfg(not(feature = "allocations"))]
fn allocations(_: u64) -> Result<Option<Row>> {
    Ok(None)
}
