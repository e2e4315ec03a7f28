//! The same chain in a real process on a real directory, killed at random moments with SIGKILL, and started again until all is done.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider::contract::failure::FailureStore;
use postrider::contract::store::Store as _;
use postrider::prelude::*;
use postrider::sqlite::SqliteFailures;
use postrider::{Running, Sqlite};

use crate::chain::{self, A, SERVICES, World};
use crate::dice::Dice;
use crate::garbled::Garbled;
use crate::run::{id_of, redrive, sealed};

const DIRECTORY: &str = "POSTRIDER_WHOLE_DIR";
const LIFE: &str = "POSTRIDER_WHOLE_LIFE";
/// Failures are kept beside the engine, not in it.
const BESIDE: &str = "POSTRIDER_WHOLE_BESIDE";
const KILLS: u64 = 5;
const KEYS: usize = 5;
const PER_KEY: u32 = 24;

fn keys() -> Vec<String> {
    (0..KEYS).map(|k| format!("k{k}")).collect()
}

fn store(directory: &Path, stage: usize) -> Sqlite {
    let path = directory.join(format!("{}.db", SERVICES[stage]));
    Sqlite::open(path)
        .unwrap()
        .migrate(&[chain::SCHEMA])
        .unwrap()
}

/// The process that is killed. In its last life nothing fails any more, and it ends when all is done.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    crate::quiet();
    let life: u64 = std::env::var(LIFE).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(live(Path::new(&directory), life));
}

async fn live(directory: &Path, life: u64) {
    let world = World::new(1, Dice::new(life), 60, true);
    world.cured.store(life == KILLS, Ordering::SeqCst);
    let bus = Bus::connect(&format!("embedded:{}", directory.join("log").display()))
        .await
        .unwrap();
    let stores: Vec<Sqlite> = (0..SERVICES.len()).map(|s| store(directory, s)).collect();
    let beside = std::env::var_os(BESIDE)
        .map(|_| SqliteFailures::open(directory.join("failures.db")).unwrap());
    let failures: Arc<dyn FailureStore> = match &beside {
        Some(beside) => Arc::new(beside.clone()),
        None => bus.failure_store().unwrap(),
    };
    let mut members = Vec::new();
    for (stage, store) in stores.iter().enumerate() {
        let mut service = chain::service(stage, &world, store);
        if let Some(beside) = &beside {
            service = service.failures(Arc::new(beside.clone()));
        }
        members.push(service.start(&bus).await.unwrap());
    }
    publish(&bus, &stores[0]).await;
    if life < KILLS {
        return std::future::pending().await;
    }
    finish(&bus, &*failures, &stores, &members).await;
    for member in members {
        assert!(member.stop(secs(5)).await.is_nothing());
    }
    bus.close(secs(5)).await.unwrap();
    for wrong in world.wrongs() {
        println!("\nwrong {wrong}");
    }
    println!("\ndone");
}

/// Everything that was not handled, whether an earlier life had published it or not: the ids are the same.
async fn publish(bus: &Bus, first: &Sqlite) {
    let publisher = bus.engine().publisher().await.unwrap();
    for n in 1..=PER_KEY {
        for key in keys() {
            let of = key.clone();
            let handled = first.read(move |conn| {
                let sql = "SELECT count(*) FROM effect WHERE key = ?1 AND n = ?2";
                conn.query_row(sql, (of, n), |row| row.get::<_, u32>(0))
            });
            if handled.await.unwrap() == 0 {
                let garbled = Garbled(false);
                let message = sealed(A { key, n, garbled }, bus.now());
                publisher.publish(vec![message]).await.remove(0).unwrap();
            }
        }
    }
}

async fn finish(bus: &Bus, failures: &dyn FailureStore, stores: &[Sqlite], members: &[Running]) {
    // Looked at again and again until it is so: nothing hangs on how long that takes.
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    loop {
        looks.tick().await;
        let mut left = 0;
        for (stage, store) in stores.iter().enumerate() {
            let id = id_of(stage);
            redrive(failures, &id).await;
            let admin = bus.engine().admin().unwrap();
            left += admin.depth(&id).await.unwrap().depth;
            let records = failures.list(&id, None, None, 1).await;
            left += records.map_or(0, |records| records.len() as u64);
            left += store.outbox().unwrap().depth().await.unwrap();
        }
        let drivers = members.iter().flat_map(Running::subscriptions);
        left += drivers.map(|d| u64::from(d.status().held)).sum::<u64>();
        if left == 0
            && chain::audit(3, &stores[3], &keys(), PER_KEY)
                .await
                .is_empty()
        {
            return;
        }
    }
}

fn start(directory: &Path, life: u64, beside: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .envs(beside.then_some((BESIDE, "1")))
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(LIFE, life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn effects_happen_once_and_in_order_through_kill_9() {
    kills(false).await;
}

#[tokio::test]
async fn so_they_do_with_failures_beside_the_engine() {
    kills(true).await;
}

async fn kills(beside: bool) {
    let directory = tempfile::tempdir().unwrap();
    let dice = Dice::new(u64::from(std::process::id()));
    let mut last: BTreeMap<(String, String), u32> = BTreeMap::new();
    let (mut wrong, mut done) = (Vec::new(), false);
    for life in 0..=KILLS {
        let mut child = start(directory.path(), life, beside);
        let mut left = dice.between(20, 80);
        let mut of_life: BTreeMap<(String, String), u32> = BTreeMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["end", stage, key, n] => {
                    let (key, n) = ((stage.to_owned(), key.to_owned()), n.parse().unwrap());
                    let before = last.entry(key.clone()).or_default();
                    // A repeat of a suffix: from anywhere that was reached, then each in turn.
                    let next = of_life.insert(key.clone(), n).map(|n| n + 1);
                    let in_order = n <= *before + 1 && next.is_none_or(|next| next == n);
                    if !in_order && key.0 != chain::AUDIT.to_string() {
                        wrong.push(format!(
                            "life {life}: {key:?}: {n} after {before}, {next:?} was next"
                        ));
                    }
                    *before = n.max(*before);
                    left -= 1;
                }
                ["done"] => done = true,
                ["wrong", ..] => wrong.push(line),
                _ => {}
            }
            if left == 0 && life < KILLS {
                child.kill().unwrap();
            }
            left = left.max(1);
        }
        child.wait().unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(done, "the last life ends when all is done");
    for stage in [0, 1, 3] {
        let store = store(directory.path(), stage);
        let found = chain::audit(stage, &store, &keys(), PER_KEY).await;
        assert!(found.is_empty(), "{found:#?}");
        assert_eq!(store.outbox().unwrap().depth().await.unwrap(), 0);
    }
}
