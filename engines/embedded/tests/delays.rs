//! Many delayed messages: how late they come, and what they cost. A process of its own, whose memory is looked at.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::{Clock as _, Timestamp};
use postrider_core::source::Credit;
use postrider_embedded::{Embedded, Options};
use postrider_log::disk::FileDisk;
use support::*;

/// A third of the million of the list.
const MESSAGES: u64 = 300_000;
/// With so many what is bounded (the cache of what was written last, say) is as large as it gets.
const FIRST: u64 = 100_000;
const BATCH: u64 = 1000;
const PAYLOAD: usize = 100;
/// They are due over this time, the first an hour from the start.
const SPREAD_MS: u64 = 2_000;
/// Of the list: 100 MB for a million.
const BYTES_MAX: u64 = (MESSAGES - FIRST) * 100;
const LATENESS_P99_MS_MAX: u64 = 50;

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() << 10
}

/// 02 §4.4, 19, on a real directory, in virtual time: what is late there is late by the engine's own doing.
#[tokio::test(start_paused = true)]
async fn acceptance_19_delayed_messages_come_in_time_and_cost_little() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TokioClock::new();
    let mut options = Options::default();
    options.clock = clock.clone();
    options.disk = Some(Arc::new(FileDisk::new(dir.path())));
    let log = postrider_log::Options::default();
    let (engine, mut stepper) = Embedded::stepped(options, log).unwrap();
    let _steps = tokio::spawn(async move {
        while stepper.step() {
            tokio::task::yield_now().await;
            stepper.wanted().await;
        }
    });
    provision(&engine, &["inventory"]).await;
    let first = clock.wall().plus(Duration::from_secs(3600)).millis();
    let due = |n: u64| first + n * SPREAD_MS / MESSAGES;
    let batch = |from: u64| {
        let one = |n| {
            let mut one = message(&format!("o-{}", n % 1000), n);
            one.envelope.deliver_at = Some(Timestamp(due(n)));
            one.payload = Bytes::from(vec![b'x'; PAYLOAD]);
            one
        };
        (from..from + BATCH).map(one).collect::<Vec<_>>()
    };
    for from in (0..FIRST).step_by(BATCH as usize) {
        publish(&engine, batch(from)).await;
    }
    let before = resident();
    for from in (FIRST..MESSAGES).step_by(BATCH as usize) {
        publish(&engine, batch(from)).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown <= BYTES_MAX, "{grown} bytes, {BYTES_MAX} are allowed");

    let mut source = open(&engine, "inventory", 1).await;
    let room = Credit {
        messages: 1000,
        bytes: 8 << 20,
    };
    let mut late = Vec::new();
    while (late.len() as u64) < MESSAGES {
        let leased = source.next(room).await.unwrap();
        let now = clock.wall().millis();
        for n in numbers(&leased) {
            let due = due(n);
            assert!(now >= due, "{n} comes {} ms early", due - now);
            late.push(now - due);
        }
        ack_all(&*source, leased).await;
    }
    late.sort_unstable();
    let p99 = late[late.len() * 99 / 100];
    assert!(p99 <= LATENESS_P99_MS_MAX, "{p99} ms late at p99");
    println!(
        r#"proof: {{"name":"acceptance_19","what":"messages delayed by an hour, due over 2 s, on a real directory in virtual time","messages":{MESSAGES},"lateness_ms_p99":{p99},"bytes_of_memory":{grown},"early":0}}"#
    );
}
