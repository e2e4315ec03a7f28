//! `ordered`: many keys in order beside one message at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use postrider::prelude::*;
use tokio::sync::Notify;

use super::place::Place;
use super::rounds::Rounds;
use super::row::Row;
use super::{GRACE, Size, runtime};

const KEYS: u64 = 1000;
/// What a handler waits for.
const WORK: Duration = Duration::from_millis(5);

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "bench.ordered", type = "step", key = key)]
struct Step {
    key: u64,
    n: u64,
}

/// What is left to do.
struct Left {
    count: AtomicU64,
    none: Notify,
}

async fn work(step: Step, State(left): State<Arc<Left>>) {
    std::hint::black_box(step.n);
    tokio::time::sleep(WORK).await;
    if left.count.fetch_sub(1, Ordering::SeqCst) == 1 {
        left.none.notify_one();
    }
}

pub(super) fn run(place: &Place, size: Size) -> Result<Vec<Row>> {
    let runtime = runtime()?;
    let (many, alone) = (size.pick(2, 40) * KEYS, size.pick(10, 200));
    let mut rounds = Rounds::default();
    for _ in 0..size.pick(1, 3) {
        let ours = handle(place, many, 1000);
        let ours = runtime.block_on(ours)?;
        let theirs = runtime.block_on(handle(place, alone, 1))?;
        rounds.add(ours, theirs);
    }
    let row = Row::of("ordered", "msg/s", &rounds)
        .also("keys", KEYS as f64)
        .also("handler_ms", WORK.as_secs_f64() * 1e3);
    Ok(vec![row])
}

/// Messages per second of one subscription, from its start with a backlog until the last is handled.
async fn handle(place: &Place, messages: u64, concurrency: u32) -> Result<f64> {
    let bus = Bus::connect(&format!("embedded:{}", place.path("ordered").display())).await?;
    let left = Arc::new(Left {
        count: AtomicU64::new(messages),
        none: Notify::new(),
    });
    let service = || {
        Service::new("bench")
            .state(Arc::clone(&left))
            .announce(false)
            .on(work.concurrency(concurrency))
    };
    // The first start makes the subscription, so that what is published is kept for it.
    service().start(&bus).await?.stop(GRACE).await;
    let steps = (0..messages).map(|n| Step { key: n % KEYS, n });
    let published = bus.publish_all(steps).await;
    published
        .into_iter()
        .collect::<postrider::Result<Vec<_>>>()?;
    let start = Instant::now();
    let running = service().start(&bus).await?;
    left.none.notified().await;
    let took = start.elapsed().as_secs_f64();
    running.stop(GRACE).await;
    bus.close(GRACE).await?;
    Ok(messages as f64 / took)
}
