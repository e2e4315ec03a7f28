//! What the world knows: who was handled when, what was confirmed, what went wrong. It outlives every process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use postrider::contract::carriage;
use postrider::contract::failure::FailureDraft;
use postrider::extract::Meta;
use postrider::{Dependency, HandlerError, Message as _, Timestamp};
use tokio::sync::Notify;

use super::clock::{LifeClock, Time};
use super::home::Cabinet;
use super::scenario::{Fate, Scenario};
use super::services::{A, Here, LATER, LEASE, Later, ORDERED, RETRIES, SERVICES};
use super::store::Disk;
use crate::dice::Dice;
use crate::garbled::break_reader;

/// How long after a handler's end its acknowledgement is surely synced, in milliseconds: the lazy sync, and a few slow ones before it.
const UNCONFIRMED_MS: u64 = 1000;
const UNCONFIRMED_SLOW_MS: u64 = 6000;
/// How long after a member goes on it may not know yet what it lost while it was frozen, in milliseconds: an answer of an engine whose syncs are slow.
const UNAWARE_MS: u64 = 1500;
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
    /// In the handler now, by the number of the run.
    running: BTreeMap<u64, Run>,
}

/// A handler that runs.
#[derive(Clone, Debug)]
struct Run {
    began: u64,
    member: Arc<Member>,
    redriven: bool,
}

/// Freezes of a member, in milliseconds.
#[derive(Debug, Default)]
pub struct Member {
    froze: AtomicU64,
    thawed: AtomicU64,
}

impl Member {
    pub fn freezes(&self, now: u64) {
        self.froze.store(now, Ordering::SeqCst);
        self.thawed.store(u64::MAX, Ordering::SeqCst);
    }

    pub fn thaws(&self, now: u64) {
        self.thawed.store(now, Ordering::SeqCst);
    }
}

impl Run {
    /// It may not be this member's any more, and nobody could tell it.
    fn is_unaware(&self) -> bool {
        let thawed = self.member.thawed.load(Ordering::SeqCst);
        thawed.saturating_add(UNAWARE_MS) > self.began && thawed > 0
    }

    /// It goes on though its lease was over while its member was frozen, and the member had time to see it.
    fn is_beyond(&self, now: u64) -> bool {
        let froze = self.member.froze.load(Ordering::SeqCst);
        let thawed = self.member.thawed.load(Ordering::SeqCst);
        let lost = froze > self.began && thawed.saturating_sub(froze) > LEASE.as_millis() as u64;
        // A redriven one has no lease.
        lost && !self.redriven && now > thawed.saturating_add(UNAWARE_MS)
    }
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
    home_commits: AtomicU64,
}

impl Life {
    pub fn new(fate: Fate, clock: Arc<LifeClock>) -> Arc<Self> {
        Arc::new(Self {
            fate,
            clock,
            cut: Notify::new(),
            commits: AtomicU64::new(0),
            home_commits: AtomicU64::new(0),
        })
    }

    /// A failure store beside the engine commits: whether the power fails in it.
    pub fn home_commit(&self) -> Option<Fate> {
        let nth = self.home_commits.fetch_add(1, Ordering::SeqCst) + 1;
        matches!(self.fate, Fate::HomeCut(at, _) if at == nth).then_some(self.fate)
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
    /// What failure stores beside the engine keep.
    pub cabinets: Vec<Mutex<Cabinet>>,
    /// When a record of each message was last kept beside the engine.
    kept: Mutex<BTreeMap<(usize, String, u32), u64>>,
    runs: AtomicU64,
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
            cabinets: SERVICES.iter().map(|_| Mutex::default()).collect(),
            kept: Mutex::default(),
            runs: AtomicU64::new(0),
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
            track.running.clear();
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

    /// For this long from now a member is paused: what failed of an ordered subscription, or was redriven, it gives back without its count, and of
    /// several tries of another one the engine keeps one; whoever gets it tries it anew. When the time is over, so do the counts here.
    pub fn pause(&self, for_ms: u64) {
        let now = self.now_ms();
        self.paused.lock().unwrap().push((now, now + for_ms));
    }

    /// A failure is kept beside the engine: its settle comes after that, and is lost if the power fails before it is synced.
    pub fn kept(&self, stage: usize, draft: &FailureDraft) {
        let was = break_reader(false);
        let read = carriage::read(&draft.raw)
            .ok()
            .and_then(|(envelope, payload)| {
                let of = &envelope.content_type;
                match stage {
                    LATER => Later::decode(of, &payload)
                        .ok()
                        .map(|m| ("later".to_owned(), m.n)),
                    _ => A::decode(of, &payload).ok().map(|m| (m.key, m.n)),
                }
            });
        break_reader(was);
        let Some((key, n)) = read else {
            return self.wrong("what is kept of a failure cannot be read");
        };
        self.say(format!(
            "{} keeps {key}/{n} beside: {:?}",
            SERVICES[stage], draft.facts.cause
        ));
        let now = self.now_ms();
        self.kept.lock().unwrap().insert((stage, key, n), now);
    }

    fn is_disturbed(&self, now: u64) -> bool {
        is_within(&self.disturbed, now)
    }

    /// Whether the tries of a message are counted now.
    fn counts_tries(&self, now: u64) -> bool {
        // What failed for good while nothing could be kept comes again when its lease has ended.
        // A day later the dedupe window has passed: a message that is published again is another one, with tries of its own.
        !(self.scenario.jumps || is_within(&self.paused, now) || self.is_disturbed(now))
    }

    fn may_come_again(&self, stage: usize, key: &str, n: u32, ended: u64) -> bool {
        let window = match self.scenario.slow {
            true => UNCONFIRMED_SLOW_MS,
            false => UNCONFIRMED_MS,
        };
        let kept = self.kept.lock().unwrap();
        let kept = kept.get(&(stage, key.to_owned(), n)).copied();
        let disturbed = self.disturbed.lock().unwrap();
        let is_open = |settled: u64| {
            disturbed
                .iter()
                .any(|(from, to)| settled <= *to && settled + window >= *from)
        };
        // The dedupe window is one of wall time: a day later a relay's repeat is a new message.
        self.scenario.jumps || is_open(ended) || kept.is_some_and(is_open)
    }

    /// Decided by the message, not by the run: the same message fails each time.
    fn fails(&self, stage: usize, key: &str, n: u32, salt: u64, one_in: u64) -> bool {
        let mut hash = self.scenario.seed ^ salt ^ (stage as u64) << 32 ^ u64::from(n) << 40;
        for byte in key.bytes() {
            hash = hash.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        self.scenario.trouble > 0 && Dice::new(hash).one_in(one_in)
    }

    /// Whether a message cannot be read before everything is mended. Each time it is published it has the same bytes.
    pub fn is_garbled(&self, key: &str, n: u32) -> bool {
        let one_in = self.scenario.garbled_one_in;
        let bytes = format!("{key}/{n}").into_bytes();
        let hash = |hash: u64, byte: u8| hash.wrapping_mul(31).wrapping_add(u64::from(byte));
        let hash = bytes.into_iter().fold(self.scenario.seed ^ 0x6a_7b1e, hash);
        one_in > 0 && Dice::new(hash).one_in(one_in)
    }

    /// A handler starts: the order is looked at, and it may fail.
    pub fn begin(
        here: &Here,
        stage: usize,
        key: &str,
        n: u32,
        meta: &Meta,
    ) -> Result<Running, HandlerError> {
        here.world.start(here, stage, key, n, meta)
    }

    fn start(
        &self,
        here: &Here,
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
        let run = Run {
            began: self.now_ms(),
            member: here.member.clone(),
            redriven: meta.is_redriven(),
        };
        let running = Running {
            world: here.world.clone(),
            at: (stage, key.to_owned(), n),
            number: self.runs.fetch_add(1, Ordering::SeqCst),
        };
        self.look_at_start(&running, run);
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

    fn look_at_start(&self, running: &Running, run: Run) {
        let (stage, ref key, n) = running.at;
        let mut wrong = Vec::new();
        let now = self.now_ms();
        let counts_tries = self.counts_tries(now);
        {
            let name = SERVICES[stage];
            let mut tracks = self.tracks.lock().unwrap();
            let track = tracks.entry((stage, key.to_owned())).or_default();
            if ORDERED[stage] && n > track.done + 1 {
                wrong.push(format!("{name} {key}: {n} started after {}", track.done));
            }
            let beside = track.running.values().any(|other| !other.is_unaware());
            if ORDERED[stage] && beside && !run.is_unaware() {
                wrong.push(format!("{name} {key}: {n} started beside another"));
            }
            track.running.insert(running.number, run);
            let ended = track.ends.get(&n).copied();
            if let Some(at) = ended.filter(|at| !self.may_come_again(stage, key, n, *at)) {
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

    /// The disk is full in this life, for a while: then a lease that is over may not be known as such.
    fn is_full(&self) -> bool {
        matches!(self.life().fate, Fate::Full(..))
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
    at: (usize, String, u32),
    number: u64,
}

impl Running {
    /// The delivery must still be this member's, or the member had no time yet to see that it is not.
    pub fn look(&self) {
        let (stage, ref key, n) = self.at;
        let now = self.world.now_ms();
        let beyond = {
            let tracks = self.world.tracks.lock().unwrap();
            let run = tracks.get(&(stage, key.clone()));
            let run = run.and_then(|track| track.running.get(&self.number));
            run.is_some_and(|run| run.is_beyond(now))
        };
        if beyond && !self.world.is_full() {
            let name = SERVICES[stage];
            self.world.wrong(format!(
                "{name} {key}: {n} goes on, though its lease is over"
            ));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A panic of the test itself must not become two.
        if let Ok(mut tracks) = self.world.tracks.lock()
            && let Some(track) = tracks.get_mut(&(self.at.0, self.at.1.clone()))
        {
            track.running.remove(&self.number);
        }
    }
}

fn is_within(times: &Mutex<Vec<(u64, u64)>>, now: u64) -> bool {
    let times = times.lock().unwrap();
    times.iter().any(|(from, to)| (*from..=*to).contains(&now))
}
