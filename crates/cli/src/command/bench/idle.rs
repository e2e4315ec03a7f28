//! `idle`: what subscriptions cost that have nothing to do.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use postrider::contract::engine::Engine as _;
use postrider::contract::name::SubscriptionId;
use postrider::contract::topology::{ProvisionMode, Topology};
use postrider::embedded::{Embedded, Options};
use serde_json::{Value, json};

use super::place::Place;
use super::rounds::Rounds;
use super::row::Row;
use super::{GRACE, Size, child, flow, runtime};

/// Subscriptions of one topic.
const PER_TOPIC: u64 = 100;

pub(super) fn run(place: &Place, size: Size) -> Result<Vec<Row>> {
    let count = size.pick(1_000, 100_000);
    let (many, none) = (place.path("idle"), place.path("empty"));
    child::run(&["subscribe", child::text(&many)?, &count.to_string()])?;
    child::run(&["subscribe", child::text(&none)?, "0"])?;
    let (mut bytes, mut opening) = (Rounds::default(), Rounds::default());
    for _ in 0..size.pick(1, 5) {
        let ours = child::run(&["open", child::text(&many)?])?;
        let theirs = child::run(&["open", child::text(&none)?])?;
        let both =
            |name: &str| anyhow::Ok((child::number(&ours, name)?, child::number(&theirs, name)?));
        let (with, without) = both("resident_mib")?;
        bytes.add(with, without);
        let (with, without) = both("open_ms")?;
        opening.add(with, without);
    }
    let beyond = bytes.ours() - bytes.theirs();
    let memory = Row::of("idle.memory", "MiB", &bytes)
        .also("subscriptions", count as f64)
        .also("beyond_mib", beyond)
        .also("each_bytes", beyond * f64::from(1 << 20) / count as f64);
    let opening = Row::of("idle.open", "ms", &opening).also("subscriptions", count as f64);
    Ok(vec![memory, opening])
}

/// Makes subscriptions, and closes.
pub(super) fn subscribe(dir: &Path, count: u64) -> Result<Value> {
    runtime()?.block_on(async {
        let engine = Embedded::open(dir, Options::default())?;
        for topic in 0..count.div_ceil(PER_TOPIC) {
            let of =
                |n: u64| SubscriptionId::parse(&format!("service-{n}@topic:bench.idle-{topic}"));
            let rest = PER_TOPIC.min(count - topic * PER_TOPIC);
            let ids = (0..rest).map(of).collect::<Result<Vec<_>, _>>()?;
            let topology = Topology {
                destinations: Vec::new(),
                subscriptions: ids.into_iter().map(flow::need).collect(),
            };
            let made = engine.provision(&topology, ProvisionMode::Create).await;
            made.map_err(flow::fault)?;
        }
        let closed = engine.close(GRACE).await;
        closed.map_err(flow::fault)?;
        Ok(json!({}))
    })
}

/// Opens, and says what that took.
pub(super) fn open(dir: &Path) -> Result<Value> {
    let start = Instant::now();
    let engine = Embedded::open(dir, Options::default())?;
    let took = start.elapsed();
    let resident = child::resident();
    drop(engine);
    Ok(json!({
        "open_ms": took.as_secs_f64() * 1e3,
        "resident_mib": resident as f64 / f64::from(1 << 20),
    }))
}
