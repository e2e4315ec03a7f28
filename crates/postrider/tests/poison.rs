//! A message that kills its process, in processes that really die: it is named, and nobody else.
#![allow(clippy::unwrap_used)]
#![cfg(all(unix, feature = "embedded"))]

use std::collections::BTreeSet;
use std::future::pending;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::contract::failure::Cause;
use postrider::contract::name::SubscriptionId;
use postrider::prelude::*;
use tokio::sync::Barrier;

const CHILD: &str = "POSTRIDER_POISON_DIR";
const LIFE: &str = "POSTRIDER_POISON_LIFE";
/// What lives before this one have handled.
const HANDLED: &str = "POSTRIDER_POISON_HANDLED";
const WATCHDOG: Duration = Duration::from_secs(60);
/// With the poison they are one group of suspects.
const OTHERS: usize = 15;
/// Until then all others are in their handlers when the poison kills: in the last of these lives as suspects.
const LIVES_TOGETHER: u32 = 4;
/// What `docs/decisions/0010` promises.
const DEATHS_MAX: u32 = 7;

#[derive(Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct Placed {
    order_id: String,
}

#[derive(Clone)]
struct World {
    life: u32,
    all_are_here: Arc<Barrier>,
    handled: Arc<Mutex<BTreeSet<String>>>,
}

/// Says one line, at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

async fn handle(order: Placed, State(world): State<World>) {
    let is_together = world.life <= LIVES_TOGETHER;
    if is_together {
        world.all_are_here.wait().await;
    }
    if order.order_id == "poison" {
        std::process::abort();
    }
    if is_together {
        pending::<()>().await;
    }
    say(&format!("handled {}", order.order_id));
    world.handled.lock().unwrap().insert(order.order_id);
}

fn service(world: &World) -> Service {
    let service = Service::new("shipping").announce(false);
    service.state(world.clone()).on(handle.concurrency(32))
}

/// One life: it ends by the poison, or when the poison is set aside and all others are handled.
async fn live(directory: &str, life: u32, handled: BTreeSet<String>) {
    let bus = Bus::connect(&format!("embedded:{directory}"))
        .await
        .unwrap();
    let world = World {
        life,
        all_are_here: Arc::new(Barrier::new(OTHERS + 1)),
        handled: Arc::new(Mutex::new(handled)),
    };
    if life == 1 {
        // The subscription first: what nobody subscribes to is kept for nobody.
        service(&world)
            .start(&bus)
            .await
            .unwrap()
            .stop(secs(1))
            .await;
        let others = (0..OTHERS).map(|n| format!("o-{n}"));
        for order_id in others.chain(["poison".to_owned()]) {
            bus.publish(Placed { order_id }).await.unwrap();
        }
    }
    let running = service(&world).start(&bus).await.unwrap();
    let id = SubscriptionId::parse("shipping@topic:shop.order").unwrap();
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let records = loop {
        look.tick().await;
        let records = bus.failures().list(&id, None, None, 100).await.unwrap();
        let handled = world.handled.lock().unwrap().len();
        if !records.is_empty() && handled == OTHERS {
            break records;
        }
    };
    running.stop(secs(10)).await;
    for record in records {
        let key =
            String::from_utf8_lossy(record.draft.key.as_deref().unwrap_or_default()).into_owned();
        assert_eq!(record.draft.facts.cause, Cause::CrashLoop, "{key}");
        say(&format!("condemned {key}"));
    }
}

#[test]
fn child() {
    let variable = |name: &str| std::env::var(name);
    let (Ok(directory), Ok(life), Ok(handled)) =
        (variable(CHILD), variable(LIFE), variable(HANDLED))
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let handled = handled.split_whitespace().map(str::to_owned).collect();
        let life = live(&directory, life.parse().unwrap(), handled);
        tokio::time::timeout(WATCHDOG, life).await.unwrap();
    });
}

/// What all lives said behind this word.
fn of(said: &[String], word: &str) -> BTreeSet<String> {
    let lines = said.iter().filter_map(|line| line.strip_prefix(word));
    lines.map(str::to_owned).collect()
}

/// Whether it ended by itself, and the lines that it said.
fn run(directory: &Path, life: u32, handled: &BTreeSet<String>) -> (bool, Vec<String>) {
    let handled: Vec<&str> = handled.iter().map(String::as_str).collect();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory)
        .env(LIFE, life.to_string())
        .env(HANDLED, handled.join(" "))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let died = output.status.signal().is_some();
    assert!(died || output.status.success(), "life {life}: {stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    (!died, text.lines().map(str::to_owned).collect())
}

#[test]
fn a_message_that_kills_its_process_is_named_within_seven_deaths_and_all_others_are_handled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut deaths, mut said) = (0, Vec::new());
    for life in 1.. {
        let (ended, lines) = run(dir.path(), life, &of(&said, "handled "));
        said.extend(lines);
        if ended {
            break;
        }
        deaths += 1;
        assert!(deaths <= DEATHS_MAX, "{deaths} deaths: {said:?}");
    }
    let condemned = of(&said, "condemned ");
    assert_eq!(condemned, BTreeSet::from(["poison".to_owned()]));
    let others: BTreeSet<String> = (0..OTHERS).map(|n| format!("o-{n}")).collect();
    assert_eq!(of(&said, "handled "), others);
    println!(
        r#"proof: {{"name":"poison","what":"a message that aborts its process, among others that were in handlers with it: it alone is set aside, they are handled","deaths":{deaths},"deaths_max":{DEATHS_MAX},"condemned":1,"handled":{OTHERS}}}"#
    );
}
