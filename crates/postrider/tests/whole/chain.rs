//! The chain: `a` → first (transaction) → `b` → second (transaction) → `c` → third (plain async) → `d` → last (asks a bank, then commits). Beside
//! it an audit of `a` that takes no heed of keys.
//!
//! Each handler says when it was started out of order, each transaction when the table does not end with the message before.
//!
//! Waits are in virtual time (`start_paused`); in a real process there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider::prelude::*;
use postrider::sqlite::rusqlite::{self, params};
use postrider::{Dependency, Sqlite};

use crate::dice::Dice;
use crate::garbled::Garbled;

pub const SERVICES: [&str; 5] = ["first", "second", "third", "last", "audit"];
/// It takes no heed of keys.
pub const AUDIT: usize = 4;
pub const TOPICS: [&str; 5] = ["whole.a", "whole.b", "whole.c", "whole.d", "whole.a"];
pub const SCHEMA: &str =
    "CREATE TABLE effect(key TEXT NOT NULL, n INTEGER NOT NULL, times INTEGER NOT NULL)";

macro_rules! steps {
    ($($name:ident on $topic:tt),*) => {$(
        #[derive(Message, Serialize, Deserialize, Clone, Debug)]
        #[message(topic = $topic, type = "step", key = key)]
        pub struct $name {
            pub key: String,
            pub n: u32,
            pub garbled: Garbled,
        }
    )*};
}

steps!(A on "whole.a", B on "whole.b", C on "whole.c", D on "whole.d");

/// What happened to one key at one stage.
#[derive(Clone, Debug, Default)]
struct Track {
    /// The last that was handled to its end.
    done: u32,
    /// Every start, in order.
    starts: Vec<u32>,
    /// Every end that was good, in order.
    ends: Vec<u32>,
}

pub struct World {
    pub dice: Dice,
    pub seed: u64,
    /// How often handlers fail, in thousandths.
    pub trouble: u64,
    /// In a real process in real time: no long waits, and ends are told to whoever watches.
    pub real: bool,
    /// Failures for good do not happen any more, nor any other.
    pub cured: AtomicBool,
    pub down: [AtomicBool; 5],
    tracks: Mutex<BTreeMap<(usize, String), Track>>,
    wrong: Mutex<Vec<String>>,
    /// Executed payments by idempotency key.
    paid: Mutex<BTreeSet<String>>,
}

pub type Shared = std::sync::Arc<World>;

impl World {
    pub fn new(seed: u64, dice: Dice, trouble: u64, real: bool) -> Shared {
        std::sync::Arc::new(Self {
            dice,
            seed,
            trouble,
            real,
            cured: AtomicBool::new(false),
            down: Default::default(),
            tracks: Mutex::default(),
            wrong: Mutex::default(),
            paid: Mutex::default(),
        })
    }

    pub fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// Decided by the message, not by the run: the same message fails each time.
    fn fails_for_good(&self, stage: usize, key: &str, n: u32) -> bool {
        let mut hash = self.seed ^ (stage as u64) << 32 ^ u64::from(n) << 40;
        for byte in key.bytes() {
            hash = hash.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        self.trouble > 0 && Dice::new(hash).one_in(40)
    }

    /// A handler starts: the order is looked at, and it may fail.
    fn begin(&self, stage: usize, key: &str, n: u32) -> Result<(), HandlerError> {
        {
            let mut tracks = self.tracks.lock().unwrap();
            let track = tracks.entry((stage, key.to_owned())).or_default();
            track.starts.push(n);
            // A new process does not know what the one before had done; the table does.
            if n > track.done + 1 && !self.real && stage != AUDIT {
                let text = format!(
                    "{} {key}: {n} started after {}",
                    SERVICES[stage], track.done
                );
                drop(tracks);
                self.wrong(text);
            }
        }
        if self.cured.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.fails_for_good(stage, key, n) {
            return Err(HandlerError::Permanent("never (a test)".into()));
        }
        if self.down[stage].load(Ordering::SeqCst) {
            let dependency = Dependency::new("bank");
            return Err(HandlerError::Unavailable(
                dependency,
                "down (a test)".into(),
            ));
        }
        match self.dice.below(1000) {
            x if x >= self.trouble => Ok(()),
            x if x % 8 == 0 => panic!("chaos"),
            x if x % 8 < 3 => {
                let longest = if self.real { 50 } else { 3000 };
                let wait = Duration::from_millis(self.dice.between(1, longest));
                Err(HandlerError::RetryAfter(wait, "later (a test)".into()))
            }
            _ => Err(HandlerError::Transient("once more (a test)".into())),
        }
    }

    fn end(&self, stage: usize, key: &str, n: u32) {
        let mut tracks = self.tracks.lock().unwrap();
        let track = tracks.entry((stage, key.to_owned())).or_default();
        let again = track.ends.contains(&n);
        track.ends.push(n);
        track.done = match stage {
            AUDIT => track.done + u32::from(!again),
            _ => track.done.max(n),
        };
        if self.real {
            println!("\nend {stage} {key} {n}");
        }
    }

    pub fn handled(&self, stage: usize, key: &str) -> u32 {
        let tracks = self.tracks.lock().unwrap();
        tracks.get(&(stage, key.to_owned())).map_or(0, |t| t.done)
    }

    /// Good ends beyond the first of each message.
    pub fn repeats(&self, stage: usize) -> usize {
        let tracks = self.tracks.lock().unwrap();
        let of_stage = tracks.iter().filter(|((s, _), _)| *s == stage);
        of_stage.map(|(_, t)| t.ends.len() - t.done as usize).sum()
    }

    pub fn story(&self) -> String {
        let tracks = self.tracks.lock().unwrap();
        let line = |((stage, key), t): (&(usize, String), &Track)| {
            format!(
                "{} {key}: done {}, starts {:?}\n",
                SERVICES[*stage], t.done, t.starts
            )
        };
        tracks.iter().map(line).collect()
    }

    /// Slow now and then, and once in a while very slow.
    async fn work(&self) {
        if self.trouble == 0 || self.cured.load(Ordering::SeqCst) {
            return;
        }
        let wait = match self.dice.below(60) {
            _ if self.real => return,
            0 => Duration::from_secs(self.dice.between(10, 90)),
            1..20 => Duration::from_millis(self.dice.below(200)),
            _ => return,
        };
        tokio::time::sleep(wait).await;
    }

    /// The row of this message. The table must end with the one before it.
    fn note(
        &self,
        tx: &rusqlite::Connection,
        stage: usize,
        key: &str,
        n: u32,
    ) -> rusqlite::Result<()> {
        let last: u32 = tx.query_row(
            "SELECT coalesce(max(n), 0) FROM effect WHERE key = ?1",
            [key],
            |row| row.get(0),
        )?;
        if last + 1 != n {
            self.wrong(format!(
                "{} {key}: {n} is committed after {last}",
                SERVICES[stage]
            ));
        }
        tx.execute(
            "INSERT INTO effect(key, n, times) VALUES (?1, ?2, 1)",
            params![key, n],
        )?;
        self.end(stage, key, n);
        Ok(())
    }
}

fn transient(error: rusqlite::Error) -> HandlerError {
    HandlerError::Transient(error.into())
}

fn first(m: A, tx: &mut Tx<Sqlite>, State(w): State<Shared>) -> Result<Publish<B>, HandlerError> {
    w.begin(0, &m.key, m.n)?;
    w.note(tx, 0, &m.key, m.n).map_err(transient)?;
    let A { key, n, garbled } = m;
    Ok(Publish(B { key, n, garbled }))
}

fn second(m: B, tx: &mut Tx<Sqlite>, State(w): State<Shared>) -> Result<Publish<C>, HandlerError> {
    // Its writes are undone when it fails after them.
    let noted = w.begin(1, &m.key, m.n);
    if noted.is_err() {
        let half = tx.execute("INSERT INTO effect VALUES (?1, 100000, 1)", [&m.key]);
        half.map_err(transient)?;
    }
    noted?;
    w.note(tx, 1, &m.key, m.n).map_err(transient)?;
    let B { key, n, garbled } = m;
    Ok(Publish(C { key, n, garbled }))
}

async fn third(m: C, State(w): State<Shared>) -> Result<Publish<D>, HandlerError> {
    w.begin(2, &m.key, m.n)?;
    w.work().await;
    w.end(2, &m.key, m.n);
    let C { key, n, garbled } = m;
    Ok(Publish(D { key, n, garbled }))
}

async fn audit_of(m: A, State(w): State<Shared>) -> Result<(), HandlerError> {
    w.begin(AUDIT, &m.key, m.n)?;
    w.work().await;
    w.end(AUDIT, &m.key, m.n);
    Ok(())
}

async fn last(m: D, State(w): State<Shared>, db: Db<Sqlite>) -> Result<Committed, HandlerError> {
    w.begin(3, &m.key, m.n)?;
    w.work().await;
    w.paid
        .lock()
        .unwrap()
        .insert(format!("pay:{}:{}", m.key, m.n));
    w.work().await;
    let within = w.clone();
    let work = move |tx: &mut Tx<Sqlite>| within.note(tx, 3, &m.key, m.n).map_err(transient);
    Ok(db.commit(work).await)
}

/// One member of a service. Its leases are short, so that they end within a freeze.
pub fn service(stage: usize, world: &Shared, store: &Sqlite) -> Service {
    let service = Service::new(SERVICES[stage])
        .announce(false)
        .state(world.clone());
    let longest = if world.real { millis(100) } else { secs(5) };
    let retry = || Retry::backoff(millis(50)..longest).times(4);
    let store = std::sync::Arc::new(store.clone());
    match stage {
        0 => service
            .shared_store(store)
            .on(first.retry(retry()).lease(secs(6))),
        1 => service
            .shared_store(store)
            .on(second.retry(retry()).lease(secs(6))),
        2 => service.on(third.retry(retry()).lease(secs(6)).timeout(secs(60))),
        AUDIT => service.on(audit_of.retry(retry()).lease(secs(6)).unordered()),
        _ => service
            .shared_store(store)
            .on(last.retry(retry()).lease(secs(6))),
    }
}

/// What must be true of a store in the end: each message once.
pub async fn audit(stage: usize, store: &Sqlite, keys: &[String], last: u32) -> Vec<String> {
    let rows = store.read(|conn| {
        let mut rows =
            conn.prepare("SELECT key, n, count(*) FROM effect GROUP BY key, n ORDER BY key, n")?;
        let rows = rows.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
        })?;
        rows.collect::<Result<Vec<(String, u32, u32)>, _>>()
    });
    let rows = rows.await.unwrap();
    let expected = keys
        .iter()
        .flat_map(|k| (1..=last).map(move |n| (k.clone(), n, 1)));
    let expected: Vec<_> = expected.collect();
    let missing = expected
        .iter()
        .filter(|r| !rows.contains(r))
        .map(|r| ("missing", r));
    let more = rows
        .iter()
        .filter(|r| !expected.contains(r))
        .map(|r| ("too many", r));
    missing
        .chain(more)
        .map(|(what, row)| format!("{}: {what}: {row:?}", SERVICES[stage]))
        .collect()
}

pub fn paid(world: &World) -> usize {
    world.paid.lock().unwrap().len()
}
