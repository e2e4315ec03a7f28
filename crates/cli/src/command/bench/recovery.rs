//! `recovery`: opening a directory whose process was killed.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use postrider::embedded::{Embedded, Options};
use serde_json::{Value, json};

use super::flow::Flow;
use super::meter::Metered;
use super::place::Place;
use super::rounds::Rounds;
use super::row::Row;
use super::{Size, child, runtime};

const PAYLOAD: usize = 1024;
const BATCH: u64 = 512;

pub(super) fn run(place: &Place, size: Size) -> Result<Vec<Row>> {
    let (large, small): (u64, u64) = size.pick((24 << 20, 8 << 20), (5 << 30, 1 << 30));
    let (ours, theirs) = (place.path("large"), place.path("small"));
    let (mut time, mut read) = (Rounds::default(), Rounds::default());
    for round in 0..size.pick(1, 5) {
        // Later rounds add what fills a part of the way to the next checkpoint.
        let (large, small) = match round {
            0 => (large, small),
            _ => (48 << 20, 48 << 20),
        };
        child::kill_after_a_word(&["fill", child::text(&ours)?, &large.to_string()])?;
        child::kill_after_a_word(&["fill", child::text(&theirs)?, &small.to_string()])?;
        let ((took, bytes), (took_small, bytes_small)) = (open(&ours)?, open(&theirs)?);
        time.add(took, took_small);
        read.add(bytes, bytes_small);
    }
    let row = |name, unit, rounds: &Rounds| {
        Row::of(name, unit, rounds)
            .also("log_mib", child::on_disk(&ours) as f64 / f64::from(1 << 20))
            .also(
                "beside_log_mib",
                child::on_disk(&theirs) as f64 / f64::from(1 << 20),
            )
    };
    Ok(vec![
        row("recovery.time", "ms", &time),
        row("recovery.read", "MiB", &read),
    ])
}

/// Opens and closes. Gives milliseconds and MiB read.
fn open(dir: &Path) -> Result<(f64, f64)> {
    let (disk, meter) = Metered::new(dir);
    let mut options = Options::default();
    options.disk = Some(disk);
    let start = Instant::now();
    let engine = Embedded::open(dir, options)?;
    let took = start.elapsed().as_secs_f64() * 1e3;
    let read = meter.counts().read as f64 / f64::from(1 << 20);
    drop(engine);
    Ok((took, read))
}

/// Adds bytes that nobody takes, says so, and goes on until it is killed.
pub(super) fn fill(dir: &Path, bytes: u64) -> Result<Value> {
    runtime()?.block_on(async {
        let mut flow = Flow::open(dir, PAYLOAD, Options::default()).await?;
        let mut left = bytes / PAYLOAD as u64;
        while left > 0 {
            let batch = left.min(BATCH);
            flow.publish(batch).await?;
            left -= batch;
        }
        child::say(&json!({ "filled": true }))?;
        loop {
            flow.publish(1).await?;
        }
    })
}
