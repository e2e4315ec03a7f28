//! `kill -9` of a real process: nothing confirmed is lost, and the attempt in the handler is counted.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use postrider_core::settle::Settle;
use postrider_embedded::{Embedded, Options};
use support::*;

const CHILD: &str = "POSTRIDER_KILL_DIR";
const ROUNDS: u64 = 5;

/// Says one line, at once: what stands there was confirmed.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// The process that is killed: publishes without end, and handles what comes, but holds message 7 of its run for ever.
#[test]
fn child() {
    let Ok(directory) = std::env::var(CHILD) else {
        return;
    };
    let first: u64 = std::env::var("POSTRIDER_KILL_FIRST")
        .unwrap()
        .parse()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let engine = std::sync::Arc::new(Embedded::open(directory, Options::default()).unwrap());
        provision(&engine, &["inventory"]).await;
        let mut source = open(&engine, "inventory", 1).await;
        let publishes = std::sync::Arc::clone(&engine);
        tokio::spawn(async move {
            for n in first.. {
                publish(&publishes, vec![message(&format!("k-{}", n % 5), n)]).await;
                say(&format!("published {n}"));
            }
        });
        let mut held = Vec::new();
        loop {
            for leased in source.next(ROOM).await.unwrap() {
                let n = numbers(std::slice::from_ref(&leased))[0];
                if n % 1_000 == 7 {
                    say(&format!("holding {n} {}", leased.deliveries.unwrap()));
                    held.push(leased);
                    continue;
                }
                settle(&*source, leased.token, Settle::Ack).await.unwrap();
                say(&format!("handled {n}"));
            }
        }
    });
}

fn start(directory: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory)
        .env("POSTRIDER_KILL_FIRST", first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn nothing_confirmed_is_lost_to_kill_9_and_the_attempt_in_the_handler_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (mut published, mut handled, mut holding) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut child = start(dir.path(), round * 1_000 + 1);
        let mut seen = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines {
            let line = line.unwrap();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["published", n] => {
                    published.insert(n.parse::<u64>().unwrap());
                }
                ["handled", n] => {
                    handled.insert(n.parse::<u64>().unwrap());
                    seen += 1;
                }
                ["holding", n, before] => {
                    holding.push((n.parse::<u64>().unwrap(), before.parse::<u32>().unwrap()))
                }
                _ => {}
            }
            // Not before the one that is held was handed out, and at another moment each round.
            let held_this_round = holding.iter().any(|(n, _)| *n == round * 1_000 + 7);
            if held_this_round && seen >= 20 + round * 13 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    assert!(published.len() > 100, "{} published", published.len());
    let again: Vec<u32> = holding
        .iter()
        .filter(|(n, _)| *n == 7)
        .map(|(_, before)| *before)
        .collect();
    assert_eq!(
        again,
        (0..ROUNDS as u32).collect::<Vec<_>>(),
        "message 7 was handed out once in each run"
    );

    let engine = Embedded::open(dir.path(), Options::default()).unwrap();
    let mut source = open(&engine, "inventory", 1).await;
    let mut left = BTreeSet::new();
    while let Some(leased) = poll_ready(&mut source).await {
        for one in &leased {
            let n = numbers(std::slice::from_ref(one))[0];
            assert!(one.deliveries.unwrap() >= u32::from(n == 7) * ROUNDS as u32);
            left.insert(n);
        }
        ack_all(&*source, leased).await;
    }
    let lost: Vec<_> = published
        .iter()
        .filter(|n| !handled.contains(n) && !left.contains(n))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

/// The next messages, or `None` when the subscription is empty.
async fn poll_ready(
    source: &mut Box<dyn postrider_core::source::LeaseSource>,
) -> Option<Vec<postrider_core::source::Leased>> {
    let wait = std::time::Duration::from_secs(1);
    tokio::time::timeout(wait, source.next(ROOM))
        .await
        .ok()
        .map(Result::unwrap)
}
