//! The services: `a` → first (transaction) → `b` → second (publishes and settles in one commit) → `c` → third (looks, then commits). Beside
//! them an audit of `a` without order, and messages for later.
//!
//! Waits are in virtual time (`start_paused`).

use std::sync::Arc;
use std::time::Duration;

use postrider::contract::clock::Clock as _;
use postrider::prelude::*;

use super::ledger::{Member, Running, Shared, World};
use super::store::SimStore;
use crate::garbled::Garbled;
use crate::line::Line;

pub const SERVICES: [&str; 5] = ["first", "second", "third", "audit", "later"];
pub const TOPICS: [&str; 5] = ["sim.a", "sim.b", "sim.c", "sim.a", "sim.later"];
pub const ORDERED: [bool; 5] = [true, true, true, false, false];
pub const LATER: usize = 4;
pub const RETRIES: u32 = 2;

/// How long a delivery is held before it is extended or given to another.
pub const LEASE: Duration = Duration::from_secs(3);

/// A member: what its handlers know of the world, and what lies between.
#[derive(Clone)]
pub struct Here {
    pub world: Shared,
    pub line: Arc<Line>,
    pub member: Arc<Member>,
}

impl std::ops::Deref for Here {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Here {
    /// A handler starts: the order is looked at, and it may fail.
    fn begin(&self, stage: usize, key: &str, n: u32, meta: &Meta) -> Result<Running, HandlerError> {
        World::begin(self, stage, key, n, meta)
    }

    /// Slow now and then, and once in a while slower than a lease. Afterwards the delivery must still be this member's.
    async fn work(&self, running: &Running) {
        let slow_one_in = if self.scenario.freezes { 10 } else { 40 };
        let wait = match self.dice.below(slow_one_in) {
            0 => Duration::from_millis(self.dice.between(5000, 15_000)),
            n if n <= slow_one_in * 3 / 10 => Duration::from_millis(self.dice.below(100)),
            _ => return,
        };
        tokio::time::sleep(wait).await;
        self.line.live().await;
        running.look();
    }
}

macro_rules! steps {
    ($($name:ident on $topic:tt),*) => {$(
        #[derive(Message, Serialize, Deserialize, Clone, Debug)]
        #[message(topic = $topic, type = "step", key = key)]
        pub struct $name {
            pub key: String,
            pub n: u32,
            /// What must be read with these two.
            pub check: u64,
            pub garbled: Garbled,
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

fn look(w: &World, key: &str, n: u32, check: u64) {
    if check != check_of(key, n) {
        w.wrong(format!("{key}/{n} was read with the check {check:x}"));
    }
}

fn first(
    m: A,
    tx: &mut Tx<SimStore>,
    State(w): State<Here>,
    meta: Meta,
) -> Result<Publish<B>, HandlerError> {
    look(&w, &m.key, m.n, m.check);
    let _running = w.begin(0, &m.key, m.n, &meta)?;
    w.note(tx, 0, &m.key, m.n);
    let A {
        key,
        n,
        check,
        garbled,
    } = m;
    Ok(Publish(B {
        key,
        n,
        check,
        garbled,
    }))
}

async fn second(m: B, State(w): State<Here>, meta: Meta) -> Result<Publish<C>, HandlerError> {
    w.line.live().await;
    look(&w, &m.key, m.n, m.check);
    let running = w.begin(1, &m.key, m.n, &meta)?;
    w.work(&running).await;
    w.ended(1, &m.key, m.n);
    let B {
        key,
        n,
        check,
        garbled,
    } = m;
    Ok(Publish(C {
        key,
        n,
        check,
        garbled,
    }))
}

async fn third(
    m: C,
    State(w): State<Here>,
    meta: Meta,
    db: Db<SimStore>,
) -> Result<Committed, HandlerError> {
    w.line.live().await;
    look(&w, &m.key, m.n, m.check);
    let running = w.begin(2, &m.key, m.n, &meta)?;
    w.work(&running).await;
    let within = w.clone();
    let commit = move |tx: &mut Tx<SimStore>| within.note(tx, 2, &m.key, m.n);
    Ok(db.commit(commit).await)
}

async fn audit(m: A, State(w): State<Here>, meta: Meta) -> Result<(), HandlerError> {
    w.line.live().await;
    look(&w, &m.key, m.n, m.check);
    let running = w.begin(3, &m.key, m.n, &meta)?;
    w.work(&running).await;
    w.ended(3, &m.key, m.n);
    Ok(())
}

fn later(
    m: Later,
    tx: &mut Tx<SimStore>,
    State(w): State<Here>,
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

/// One member of a service.
pub fn service(stage: usize, here: &Here, store: &Arc<SimStore>) -> Service {
    let service = Service::new(SERVICES[stage])
        .announce(false)
        .state(here.clone());
    let retry = || Retry::backoff(millis(20)..millis(500)).times(RETRIES);
    let lease = LEASE;
    let stored = |service: Service| service.shared_store(store.clone());
    match stage {
        0 => stored(service).on(first.retry(retry()).lease(lease)),
        1 => service.on(second.retry(retry()).lease(lease)),
        2 => stored(service).on(third.retry(retry()).lease(lease)),
        3 => service.on(audit.retry(retry()).lease(lease).unordered()),
        _ => stored(service).on(later.retry(retry()).lease(lease).unordered()),
    }
}
