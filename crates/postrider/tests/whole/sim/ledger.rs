//! What the world knows: who was handled when, what was confirmed, what went wrong. It outlives every process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use postrider::extract::Meta;
use postrider::{Dependency, HandlerError, Timestamp};
use tokio::sync::Notify;

use super::clock::{LifeClock, Time};
use super::scenario::{Fate, Scenario};
use super::services::{LATER, ORDERED, RETRIES, SERVICES};
use super::store::Disk;
use crate::dice::Dice;

/// How long after a handler's end its acknowledgement is surely synced, in milliseconds: the lazy sync, and a few slow ones before it.
const UNCONFIRMED_MS: u64 = 1000;
const UNCONFIRMED_SLOW_MS: u64 = 6000;
/// A story is cut off here.
const LINES_MAX: usize = 20_000;

/// What happened to one message, or to one key, at one stage.
#[derive(Clone, Debug, Default)]
struct Track {
    /// The last that was handled to its end.
    done: u32,
    /// When each was last handled to its end.
    ends: BTreeMap<u32, u64>,
    /// Failures that count of what has not ended, since the last disturbance or redrive.
    tries: BTreeMap<u32, u32>,
    /// In the handler now.
    running: u32,
}

/// A topic, and a position in it.
type Place = (&'static str, u64);

/// A life of the process.
pub struct Life {
    pub fate: Fate,
    pub clock: Arc<LifeClock>,
    /// The power failed in a store.
    pub cut: Notify,
    commits: AtomicU64,
}

impl Life {
    pub fn new(fate: Fate, clock: Arc<LifeClock>) -> Arc<Self> {
        Arc::new(Self {
            fate,
            clock,
            cut: Notify::new(),
            commits: AtomicU64::new(0),
        })
    }

    /// A store commits: whether the power fails in it.
    pub fn commit(&self) -> Option<Fate> {
        let nth = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        matches!(self.fate, Fate::StoreCut(at, _) if at == nth).then_some(self.fate)
    }
}

pub struct World {
    pub scenario: Scenario,
    pub dice: Dice,
    pub time: Arc<Time>,
    pub stores: Vec<Disk>,
    /// Nothing fails any more.
    pub cured: AtomicBool,
    life: Mutex<Option<Arc<Life>>>,
    tracks: Mutex<BTreeMap<(usize, String), Track>>,
    /// From and to, in milliseconds: what was being settled then may come again.
    disturbed: Mutex<Vec<(u64, u64)>>,
    paused: Mutex<Vec<(u64, u64)>>,
    /// Topic and position to what stands there.
    positions: Mutex<BTreeMap<Place, (String, u32)>>,
    wrong: Mutex<Vec<String>>,
    story: Mutex<Vec<String>>,
    pub confirmed: Mutex<BTreeSet<(String, u32)>>,
    /// When what is delayed is due.
    pub due: Mutex<BTreeMap<u32, Timestamp>>,
}

pub type Shared = Arc<World>;

impl World {
    pub fn new(scenario: &Scenario) -> Shared {
        Arc::new(Self {
            dice: Dice::new(scenario.seed),
            scenario: scenario.clone(),
            time: Arc::default(),
            stores: SERVICES.iter().map(|_| Disk::default()).collect(),
            cured: AtomicBool::new(false),
            life: Mutex::default(),
            tracks: Mutex::default(),
            disturbed: Mutex::default(),
            paused: Mutex::default(),
            positions: Mutex::default(),
            wrong: Mutex::default(),
            story: Mutex::default(),
            confirmed: Mutex::default(),
            due: Mutex::default(),
        })
    }

    pub fn begin_life(&self, life: Arc<Life>) {
        self.tracks.lock().unwrap().values_mut().for_each(|track| {
            track.running = 0;
            track.tries.clear();
        });
        *self.life.lock().unwrap() = Some(life);
    }

    pub fn life(&self) -> Arc<Life> {
        let life = self.life.lock().unwrap().clone();
        life.expect("services run within a life")
    }

    pub fn now_ms(&self) -> u64 {
        self.life().clock.world_ms()
    }

    pub fn say(&self, what: impl std::fmt::Display) {
        let line = format!("{:>7} ms  {what}", self.now_ms());
        let mut story = self.story.lock().unwrap();
        if story.len() < LINES_MAX {
            story.push(line);
        }
    }

    pub fn story(&self) -> Vec<String> {
        self.story.lock().unwrap().clone()
    }

    pub fn wrong(&self, what: impl std::fmt::Display) {
        self.say(format!("WRONG: {what}"));
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < 20 {
            wrong.push(what.to_string());
        }
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// For this long from now, what was not surely settled before may come again.
    pub fn disturb(&self, for_ms: u64) {
        let now = self.now_ms();
        self.disturbed.lock().unwrap().push((now, now + for_ms));
        self.tries_begin_anew();
    }

    /// What is redriven, or comes back after a disturbance, has all its tries again.
    pub fn tries_begin_anew(&self) {
        let mut tracks = self.tracks.lock().unwrap();
        tracks.values_mut().for_each(|track| track.tries.clear());
    }

    /// For this long from now a member is paused: of an ordered subscription it gives back what failed without its count, and whoever gets it tries it
    /// anew. When the time is over, so do the counts here.
    pub fn pause(&self, for_ms: u64) {
        let now = self.now_ms();
        self.paused.lock().unwrap().push((now, now + for_ms));
    }

    fn is_disturbed(&self, now: u64) -> bool {
        is_within(&self.disturbed, now)
    }

    /// Whether the tries of a message are counted now.
    fn counts_tries(&self, stage: usize, now: u64) -> bool {
        // What failed for good while nothing could be kept comes again when its lease has ended.
        let anew = ORDERED[stage] && is_within(&self.paused, now);
        !(anew || self.is_disturbed(now))
    }

    fn may_come_again(&self, ended: u64) -> bool {
        let window = match self.scenario.slow {
            true => UNCONFIRMED_SLOW_MS,
            false => UNCONFIRMED_MS,
        };
        // The dedupe window is one of wall time: a day later a relay's repeat is a new message.
        let disturbed = self.disturbed.lock().unwrap();
        self.scenario.jumps
            || disturbed
                .iter()
                .any(|(from, to)| ended <= *to && ended + window >= *from)
    }

    /// Decided by the message, not by the run: the same message fails each time.
    fn fails(&self, stage: usize, key: &str, n: u32, salt: u64, one_in: u64) -> bool {
        let mut hash = self.scenario.seed ^ salt ^ (stage as u64) << 32 ^ u64::from(n) << 40;
        for byte in key.bytes() {
            hash = hash.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        self.scenario.trouble > 0 && Dice::new(hash).one_in(one_in)
    }

    /// A handler starts: the order is looked at, and it may fail.
    pub fn begin(
        self: &Arc<Self>,
        stage: usize,
        key: &str,
        n: u32,
        meta: &Meta,
    ) -> Result<Running, HandlerError> {
        let (at, attempt) = (meta.position(), meta.attempt());
        self.say(format!(
            "{} starts {key}/{n} at {at}, attempt {attempt}",
            SERVICES[stage]
        ));
        self.look_at_start(stage, key, n);
        let running = Running {
            world: self.clone(),
            at: (stage, key.to_owned()),
        };
        if self.cured.load(Ordering::SeqCst) {
            return Ok(running);
        }
        if self.fails(stage, key, n, 1, 30) {
            return Err(HandlerError::Permanent("never (a test)".into()));
        }
        if self.fails(stage, key, n, 2, 30) {
            self.counted(stage, key, n);
            return Err(HandlerError::Transient("not this one (a test)".into()));
        }
        match self.dice.below(1000) {
            x if x >= self.scenario.trouble => Ok(running),
            x if x % 8 == 2 => {
                let bank = Dependency::new("bank");
                Err(HandlerError::Unavailable(bank, "down (a test)".into()))
            }
            x => {
                self.counted(stage, key, n);
                match x % 8 {
                    0 => panic!("chaos"),
                    1 => {
                        let wait = std::time::Duration::from_millis(self.dice.between(1, 2000));
                        Err(HandlerError::RetryAfter(wait, "later (a test)".into()))
                    }
                    _ => Err(HandlerError::Transient("once more (a test)".into())),
                }
            }
        }
    }

    /// A failure that burns an attempt.
    fn counted(&self, stage: usize, key: &str, n: u32) {
        let mut tracks = self.tracks.lock().unwrap();
        let track = tracks.entry((stage, key.to_owned())).or_default();
        *track.tries.entry(n).or_default() += 1;
    }

    fn look_at_start(&self, stage: usize, key: &str, n: u32) {
        let mut wrong = Vec::new();
        let now = self.now_ms();
        let counts_tries = self.counts_tries(stage, now);
        {
            let name = SERVICES[stage];
            let mut tracks = self.tracks.lock().unwrap();
            let track = tracks.entry((stage, key.to_owned())).or_default();
            if ORDERED[stage] && n > track.done + 1 {
                wrong.push(format!("{name} {key}: {n} started after {}", track.done));
            }
            if ORDERED[stage] && track.running > 0 {
                wrong.push(format!("{name} {key}: {n} started beside another"));
            }
            track.running += 1;
            let ended = track.ends.get(&n).copied();
            if let Some(at) = ended.filter(|at| !self.may_come_again(*at)) {
                wrong.push(format!("{name} {key}: {n}, settled at {at} ms, came again"));
            }
            let tries = track.tries.get(&n).copied().unwrap_or(0);
            if tries > RETRIES && counts_tries {
                wrong.push(format!(
                    "{name} {key}: {n} is tried again after {tries} failures"
                ));
            }
        }
        wrong.into_iter().for_each(|what| self.wrong(what));
    }

    /// A message was handled to its end: its effects are there.
    pub fn ended(&self, stage: usize, key: &str, n: u32) {
        self.say(format!("{} ended {key}/{n}", SERVICES[stage]));
        let now = self.now_ms();
        let mut tracks = self.tracks.lock().unwrap();
        let track = tracks.entry((stage, key.to_owned())).or_default();
        track.ends.insert(n, now);
        track.tries.remove(&n);
        track.done = track.done.max(n);
    }

    /// The row of this message. The table must end with the one before it.
    pub fn note(&self, rows: &mut super::store::Rows, stage: usize, key: &str, n: u32) {
        let of_key = rows.0.iter().filter(|(k, _)| k == key);
        let last = of_key.map(|(_, n)| *n).max().unwrap_or(0);
        if stage != LATER && last + 1 != n {
            let name = SERVICES[stage];
            self.wrong(format!("{name} {key}: {n} is committed after {last}"));
        }
        rows.0.push((key.to_owned(), n));
    }

    pub fn confirmed(&self, topic: &'static str, position: Option<u64>, key: &str, n: u32) {
        self.say(format!("confirmed {key}/{n} at {position:?}"));
        self.confirmed.lock().unwrap().insert((key.to_owned(), n));
        let Some(position) = position else { return };
        let message = (key.to_owned(), n);
        let mut positions = self.positions.lock().unwrap();
        let before = positions.insert((topic, position), message.clone());
        drop(positions);
        if let Some(before) = before.filter(|before| *before != message) {
            self.wrong(format!("{topic}@{position} is {before:?} and {message:?}"));
        }
    }

    /// What must have been handled in the end and was not.
    pub fn missing(&self, keys: &[String]) -> Vec<String> {
        let tracks = self.tracks.lock().unwrap();
        let mut missing = Vec::new();
        for (stage, name) in SERVICES.iter().enumerate() {
            let later = ["later".to_owned()];
            let (keys, last) = match stage {
                LATER => (&later[..], self.scenario.delayed),
                _ => (keys, self.scenario.per_key),
            };
            for key in keys {
                let track = tracks.get(&(stage, key.clone()));
                let handled = |n: &u32| track.is_some_and(|t| t.ends.contains_key(n));
                let left = (1..=last).filter(|n| !handled(n));
                missing.extend(left.map(|n| format!("{name} {key}/{n} was not handled")));
            }
        }
        missing
    }
}

/// In the handler; out of it when it is dropped.
pub struct Running {
    world: Shared,
    at: (usize, String),
}

impl Drop for Running {
    fn drop(&mut self) {
        // A panic of the test itself must not become two.
        if let Ok(mut tracks) = self.world.tracks.lock()
            && let Some(track) = tracks.get_mut(&self.at)
        {
            track.running = track.running.saturating_sub(1);
        }
    }
}

fn is_within(times: &Mutex<Vec<(u64, u64)>>, now: u64) -> bool {
    let times = times.lock().unwrap();
    times.iter().any(|(from, to)| (*from..=*to).contains(&now))
}
