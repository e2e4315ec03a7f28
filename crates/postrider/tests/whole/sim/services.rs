//! The services: `a` → first (transaction) → `b` → second (publishes and settles in one commit) → `c` → third (looks, then commits). Beside
//! them an audit of `a` without order, and messages for later.
//!
//! Waits are in virtual time (`start_paused`).

use std::time::Duration;

use postrider::contract::clock::Clock as _;
use postrider::prelude::*;

use super::ledger::Shared;
use super::store::SimStore;

pub const SERVICES: [&str; 5] = ["first", "second", "third", "audit", "later"];
pub const TOPICS: [&str; 5] = ["sim.a", "sim.b", "sim.c", "sim.a", "sim.later"];
pub const ORDERED: [bool; 5] = [true, true, true, false, false];
pub const LATER: usize = 4;
pub const RETRIES: u32 = 2;

macro_rules! steps {
    ($($name:ident on $topic:tt),*) => {$(
        #[derive(Message, Serialize, Deserialize, Clone, Debug)]
        #[message(topic = $topic, type = "step", key = key)]
        pub struct $name {
            pub key: String,
            pub n: u32,
            /// What must be read with these two.
            pub check: u64,
        }
    )*};
}

steps!(A on "sim.a", B on "sim.b", C on "sim.c");

/// A message without a key, for later.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(topic = "sim.later", type = "later")]
pub struct Later {
    pub n: u32,
    pub at: u64,
}

/// Of a message that was read as it was written.
pub fn check_of(key: &str, n: u32) -> u64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let text = format!("{key}/{n}");
    text.bytes().fold(0xcbf2_9ce4_8422_2325, hash)
}

fn look(w: &Shared, key: &str, n: u32, check: u64) {
    if check != check_of(key, n) {
        w.wrong(format!("{key}/{n} was read with the check {check:x}"));
    }
}

fn first(
    m: A,
    tx: &mut Tx<SimStore>,
    State(w): State<Shared>,
    meta: Meta,
) -> Result<Publish<B>, HandlerError> {
    look(&w, &m.key, m.n, m.check);
    let _running = w.begin(0, &m.key, m.n, &meta)?;
    w.note(tx, 0, &m.key, m.n);
    let A { key, n, check } = m;
    Ok(Publish(B { key, n, check }))
}

async fn second(m: B, State(w): State<Shared>, meta: Meta) -> Result<Publish<C>, HandlerError> {
    look(&w, &m.key, m.n, m.check);
    let _running = w.begin(1, &m.key, m.n, &meta)?;
    work(&w).await;
    w.ended(1, &m.key, m.n);
    let B { key, n, check } = m;
    Ok(Publish(C { key, n, check }))
}

async fn third(
    m: C,
    State(w): State<Shared>,
    meta: Meta,
    db: Db<SimStore>,
) -> Result<Committed, HandlerError> {
    look(&w, &m.key, m.n, m.check);
    let _running = w.begin(2, &m.key, m.n, &meta)?;
    work(&w).await;
    let within = w.clone();
    let commit = move |tx: &mut Tx<SimStore>| within.note(tx, 2, &m.key, m.n);
    Ok(db.commit(commit).await)
}

async fn audit(m: A, State(w): State<Shared>, meta: Meta) -> Result<(), HandlerError> {
    look(&w, &m.key, m.n, m.check);
    let _running = w.begin(3, &m.key, m.n, &meta)?;
    work(&w).await;
    w.ended(3, &m.key, m.n);
    Ok(())
}

fn later(
    m: Later,
    tx: &mut Tx<SimStore>,
    State(w): State<Shared>,
    meta: Meta,
) -> Result<(), HandlerError> {
    let now = w.life().clock.wall().millis();
    // A clock that was set back since then says nothing.
    if now < m.at && !w.scenario.jumps {
        w.wrong(format!("later {} came {} ms early", m.n, m.at - now));
    }
    let _running = w.begin(LATER, "later", m.n, &meta)?;
    w.note(tx, LATER, "later", m.n);
    Ok(())
}

/// Slow now and then, and once in a while slower than a lease.
async fn work(w: &Shared) {
    let wait = match w.dice.below(40) {
        0 => Duration::from_millis(w.dice.between(5000, 15_000)),
        1..12 => Duration::from_millis(w.dice.below(100)),
        _ => return,
    };
    tokio::time::sleep(wait).await;
}

/// One member of a service.
pub fn service(stage: usize, w: &Shared, store: &std::sync::Arc<SimStore>) -> Service {
    let service = Service::new(SERVICES[stage])
        .announce(false)
        .state(w.clone());
    let retry = || Retry::backoff(millis(20)..millis(500)).times(RETRIES);
    let lease = millis(3000);
    let stored = |service: Service| service.shared_store(store.clone());
    match stage {
        0 => stored(service).on(first.retry(retry()).lease(lease)),
        1 => service.on(second.retry(retry()).lease(lease)),
        2 => stored(service).on(third.retry(retry()).lease(lease)),
        3 => service.on(audit.retry(retry()).lease(lease).unordered()),
        _ => stored(service).on(later.retry(retry()).lease(lease).unordered()),
    }
}
