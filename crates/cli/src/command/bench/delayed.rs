//! `delayed`: many messages that are due later.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use postrider::contract::clock::Timestamp;
use postrider::embedded::Options;
use serde_json::{Value, json};

use super::flow::{self, Flow};
use super::place::Place;
use super::rounds::percentile;
use super::row::Row;
use super::{Size, child, runtime};

const PAYLOAD: usize = 100;
const BATCH: u64 = 1000;
/// Messages that are published in a second at the least, so that all are there before the first is due.
const PUBLISHED_PER_S: u64 = 50_000;

pub(super) fn run(place: &Place, size: Size) -> Result<Vec<Row>> {
    let (count, spread) = size.pick(("2000", "500"), ("1000000", "20000"));
    let ours = child::run(&[
        "delayed",
        child::text(&place.path("delayed"))?,
        count,
        spread,
    ])?;
    let theirs = child::run(&["timers", count, spread])?;
    let row = |name, unit, field| {
        let (ours, theirs) = (child::number(&ours, field)?, child::number(&theirs, field)?);
        anyhow::Ok(Row::new(name, unit, ours, theirs).also("messages", count.parse()?))
    };
    Ok(vec![
        row("delayed.lateness", "ms p99", "lateness_ms_p99")?.also("spread_ms", spread.parse()?),
        row("delayed.memory", "MiB", "grown_mib")?,
    ])
}

fn answer(mut late_ms: Vec<f64>, before: u64, peak: u64) -> Value {
    json!({
        "lateness_ms_p99": percentile(&mut late_ms, 0.99),
        "grown_mib": peak.saturating_sub(before) as f64 / f64::from(1 << 20),
    })
}

fn wall_ms() -> f64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs_f64() * 1e3
}

/// Publishes them all, and says how late they come.
pub(super) fn ours(dir: &Path, count: u64, spread_ms: u64) -> Result<Value> {
    runtime()?.block_on(async {
        let mut flow = Flow::open(dir, PAYLOAD, Options::default()).await?;
        let mut reader = flow.reader().await?;
        let mut late = Vec::with_capacity(usize::try_from(count)?);
        late.resize(usize::try_from(count)?, 0.0);
        late.clear();
        let before = child::resident();
        let lead = 1000 + 1000 * count / PUBLISHED_PER_S;
        let first = wall_ms() as u64 + lead;
        let due = |n: u64| first + n * spread_ms / count;
        for from in (0..count).step_by(BATCH as usize) {
            let messages =
                flow.messages(BATCH.min(count - from), |n| Some(Timestamp(due(from + n))));
            flow::publish(&*flow.publisher, messages).await?;
        }
        let mut peak = child::resident();
        let mut acks = tokio::task::JoinSet::new();
        while (late.len() as u64) < count {
            let leased = reader.next().await?;
            let now = wall_ms();
            for one in &leased {
                let content = one
                    .record
                    .content
                    .as_ref()
                    .ok()
                    .context("a message is unreadable")?;
                let due = content.0.deliver_at.context("a delay is gone")?;
                late.push((now - due.millis() as f64).max(0.0));
            }
            // Whoever handles messages does not wait for one acknowledgement before it takes the next.
            acks.spawn(reader.acks(leased));
            while let Some(acked) = acks.try_join_next() {
                acked??;
            }
            peak = peak.max(child::resident());
        }
        while let Some(acked) = acks.join_next().await {
            acked??;
        }
        drop(reader);
        flow.close().await?;
        Ok(answer(late, before, peak))
    })
}

/// The same with a timer of the runtime for each.
pub(super) fn theirs(count: u64, spread_ms: u64) -> Result<Value> {
    runtime()?.block_on(async {
        let before = child::resident();
        let first = Instant::now() + Duration::from_millis(1000 + count / 1000);
        let mut timers = tokio::task::JoinSet::new();
        for n in 0..count {
            let due = first + Duration::from_millis(n * spread_ms / count);
            timers.spawn(async move {
                tokio::time::sleep_until(due.into()).await;
                due.elapsed().as_secs_f64() * 1e3
            });
        }
        let peak = child::resident();
        let late = timers.join_all().await;
        Ok(answer(late, before, peak))
    })
}
