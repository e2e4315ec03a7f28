//! An engine, a failure store, handlers and a clock, all random from one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::{Mono, SplitMix64, Timestamp};
use postrider_core::crash::{Change, CrashNote, CrashState};
use postrider_core::failure::Cause;
use postrider_core::fault::Dependency;
use postrider_core::id::{InstanceId, MessageId};
use postrider_core::name::SubscriptionId;
use postrider_core::policy::{Policy, Retry, WhenExhausted};
use postrider_core::source::{Commit, Position, ResumeState, ShardEpoch};
use postrider_kernel::suspects::{Asked, RAN_MIN};
use postrider_kernel::{
    Config, Incoming, Input, Kernel, Origin, Outcome, Output, Slot, Suspects, Verdict,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Lease,
    Log,
}

/// What becomes of a message that fails for good, and of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Ordered, and its key is parked.
    Park,
    /// Ordered, and its key goes on without it.
    Continue,
    Unordered,
}

pub(crate) const MODES: [Mode; 3] = [Mode::Park, Mode::Continue, Mode::Unordered];
const MEMBER: InstanceId = InstanceId(1);

const LEASE: Duration = Duration::from_secs(30);
const KEYS: u64 = 5;

/// A message: its key and its place in it, from 0.
type Name = (u8, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The engine may hand it out.
    Engine,
    /// Handed out under this number.
    Held(u64),
    Acked,
    /// In the failure store, or was.
    Recorded,
}

struct Record {
    name: Name,
    redriving: bool,
    claimed: Option<u64>,
}

#[derive(Clone, Copy)]
struct Hand {
    name: Name,
    number: u64,
    redriven: bool,
    epoch: u64,
    position: u64,
    /// Hand-overs before this one.
    before: u32,
}

pub(crate) struct World {
    shape: Shape,
    mode: Mode,
    rng: SplitMix64,
    kernel: Kernel,
    now: Duration,
    // The engine.
    at: BTreeMap<Name, At>,
    deliveries: BTreeMap<Name, u32>,
    log: Vec<Name>,
    cursor: usize,
    committed: Commit,
    epoch: u64,
    owned: bool,
    revoking: bool,
    /// When hand-overs end, by number.
    leases: BTreeMap<u64, Duration>,
    /// Handed out, on the way to the kernel.
    pipe: VecDeque<Hand>,
    numbers: u64,
    // The failure store.
    records: BTreeMap<u8, Vec<Record>>,
    ever_recorded: BTreeMap<u8, BTreeSet<u32>>,
    crash: CrashState,
    // The process.
    suspects: Suspects,
    lives: u64,
    // The driver.
    hands: BTreeMap<Slot, Hand>,
    next_slot: u32,
    /// Since when.
    running: BTreeMap<Slot, Duration>,
    /// Slots whose handler has ended once.
    ended: BTreeSet<Slot>,
    cancelled: BTreeSet<Slot>,
    ops: VecDeque<Output>,
    credit: (u32, u64, u32),
    paused: bool,
    draining: bool,
    drained: bool,
    // What handlers did.
    done: BTreeMap<u8, BTreeSet<u32>>,
    calm: bool,
    /// The messages that kill the process, and how often they did.
    pub(crate) poisons: BTreeSet<Name>,
    pub(crate) deaths: u32,
    /// Messages that were set aside as killers.
    pub(crate) condemned: BTreeSet<Name>,
    dead: bool,
    /// A hash of all outputs.
    pub(crate) said: u64,
}

fn config(shape: Shape, mode: Mode) -> Config {
    let mut policy = Policy {
        ordered: mode != Mode::Unordered,
        when_exhausted: match mode {
            Mode::Park => WhenExhausted::ParkKey,
            Mode::Continue | Mode::Unordered => WhenExhausted::DeadLetterAndContinue,
        },
        retries: vec![Retry {
            immediate: 1,
            base: Duration::from_millis(500),
            max: Duration::from_secs(20),
            times: 2,
        }],
        ..Policy::default()
    };
    policy.limits.concurrency = 4;
    policy.limits.window_messages_max = 24;
    policy.limits.window_bytes_max = 2000;
    policy.limits.lane_messages_max = 8;
    policy.limits.hold_max = Duration::from_secs(120);
    match shape {
        Shape::Lease => Config::lease(policy, Some(LEASE)),
        Shape::Log => Config::log(policy, 12),
    }
}

fn whose() -> SubscriptionId {
    SubscriptionId::parse("shipping@topic:shop.order").unwrap()
}

fn id_of(name: Name) -> MessageId {
    MessageId::parse_or_hash(&format!("{name:?}"))
}

impl World {
    pub(crate) fn new(shape: Shape, mode: Mode, seed: u64) -> Self {
        let mut world = Self {
            shape,
            mode,
            rng: SplitMix64::new(seed),
            kernel: Kernel::new(config(shape, mode), seed),
            now: Duration::ZERO,
            at: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            log: Vec::new(),
            cursor: 0,
            committed: Commit::default(),
            epoch: 0,
            owned: false,
            revoking: false,
            pipe: VecDeque::new(),
            numbers: 0,
            records: BTreeMap::new(),
            ever_recorded: BTreeMap::new(),
            crash: CrashState::default(),
            suspects: Suspects::new(InstanceId(0)),
            lives: 0,
            hands: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_slot: 0,
            running: BTreeMap::new(),
            ended: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            ops: VecDeque::new(),
            credit: (0, 0, 0),
            paused: false,
            draining: false,
            drained: false,
            done: BTreeMap::new(),
            calm: false,
            poisons: BTreeSet::new(),
            deaths: 0,
            condemned: BTreeSet::new(),
            dead: false,
            said: 0,
        };
        world.start();
        world
    }

    /// A process starts: with a new kernel, and what engine and store know.
    fn start(&mut self) {
        let seed = self.rng.next_u64();
        self.kernel = Kernel::new(config(self.shape, self.mode), seed);
        self.dead = false;
        self.lives += 1;
        self.suspects = Suspects::new(InstanceId(self.lives));
        self.suspects.opened(Mono(self.now), &self.crash);
        for at in self.at.values_mut() {
            if matches!(at, At::Held(_)) {
                *at = At::Engine;
            }
        }
        self.records
            .values_mut()
            .flatten()
            .for_each(|r| r.claimed = None);
        self.pipe.clear();
        self.hands.clear();
        self.running.clear();
        self.ended.clear();
        self.cancelled.clear();
        self.ops.clear();
        self.credit = (0, 0, 0);
        (
            self.paused,
            self.draining,
            self.drained,
            self.owned,
            self.revoking,
        ) = (false, false, false, false, false);
        let parked = self
            .records
            .iter()
            .filter(|(_, r)| !r.is_empty() && self.mode == Mode::Park)
            .map(|(k, _)| Bytes::copy_from_slice(&[*k]))
            .collect();
        self.give(Input::Opened { parked });
        self.assign();
    }

    fn assign(&mut self) {
        if self.shape == Shape::Log {
            self.epoch += 1;
            (self.owned, self.revoking) = (true, false);
            self.cursor = self.committed.watermark.0 as usize;
            let Commit {
                watermark,
                done_above,
            } = self.committed.clone();
            self.give(Input::Assigned {
                at: self.shard(),
                resume: ResumeState {
                    watermark,
                    done_above,
                },
            });
        }
    }

    fn shard(&self) -> ShardEpoch {
        ShardEpoch {
            shard: 0,
            epoch: self.epoch,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = self.rng.below(from.len() as u64) as usize;
        from.get(index).copied()
    }

    pub(crate) fn step(&mut self) {
        if self.drained {
            self.start();
        }
        match self.rng.below(100) {
            0..12 => self.produce(),
            12..30 => self.hand_out(),
            30..42 => self.deliver(),
            42..66 => self.finish_one(),
            66..84 => self.apply_one(),
            84..90 => self.advance(),
            90..92 => self.lose(),
            92..95 => self.redrive(),
            95..97 => self.claim(),
            97 => self.pause_or_resume(),
            98 => self.rebalance(),
            _ => self.end(),
        }
        self.check_bounds();
    }

    fn produce(&mut self) {
        let key = self.rng.below(KEYS) as u8;
        let n = self.at.keys().filter(|(k, _)| *k == key).count() as u32;
        self.at.insert((key, n), At::Engine);
        if self.shape == Shape::Log {
            if self.chance(20) {
                // A position that does not exist.
                self.log.push((u8::MAX, 0));
            }
            self.log.push((key, n));
        }
    }

    /// The engine hands out within the credit: the messages of a key in their order.
    fn hand_out(&mut self) {
        for at in self.at.values_mut() {
            let ends = |n: &u64| self.leases.get(n).is_some_and(|end| *end <= self.now);
            if matches!(at, At::Held(number) if ends(number)) {
                *at = At::Engine;
            }
        }
        let count = 1 + self.rng.below(4);
        for _ in 0..count {
            if self.credit.0 == 0 || self.credit.1 == 0 {
                return;
            }
            let name = match self.shape {
                Shape::Lease => {
                    let mut firsts: BTreeMap<u8, Name> = BTreeMap::new();
                    for (name, at) in &self.at {
                        if *at == At::Engine {
                            firsts.entry(name.0).or_insert(*name);
                        }
                    }
                    let firsts: Vec<Name> = firsts.into_values().collect();
                    self.pick(&firsts)
                }
                Shape::Log if self.owned && !self.revoking => {
                    while self.log.get(self.cursor).is_some_and(|n| n.0 == u8::MAX) {
                        self.cursor += 1;
                    }
                    self.cursor += 1;
                    self.log.get(self.cursor - 1).copied().or_else(|| {
                        self.cursor -= 1;
                        None
                    })
                }
                Shape::Log => None,
            };
            let Some(name) = name else { return };
            self.numbers += 1;
            if self.shape == Shape::Lease {
                self.at.insert(name, At::Held(self.numbers));
            }
            self.credit.0 -= 1;
            self.credit.1 = self.credit.1.saturating_sub(50);
            let position = self.cursor.saturating_sub(1) as u64;
            self.pipe.push_back(Hand {
                name,
                number: self.numbers,
                redriven: false,
                epoch: self.epoch,
                position,
                before: 0,
            });
        }
    }

    fn deliver(&mut self) {
        let count = 1 + self.rng.below(5) as usize;
        let batch: Vec<Hand> = self.pipe.drain(..count.min(self.pipe.len())).collect();
        self.bring(batch);
    }

    fn bring(&mut self, batch: Vec<Hand>) {
        if batch.is_empty() || self.drained {
            return;
        }
        let mut incoming = Vec::new();
        for mut hand in batch {
            let slot = Slot(self.next_slot);
            self.next_slot += 1;
            let deliveries = self.deliveries.entry(hand.name).or_default();
            hand.before = *deliveries;
            *deliveries += 1;
            self.hands.insert(slot, hand);
            self.leases.insert(hand.number, self.now + LEASE);
            let origin = match self.shape {
                _ if hand.redriven => Origin::Redrive,
                Shape::Lease => Origin::Lease {
                    until: Some(Mono(self.now + LEASE)),
                },
                Shape::Log => Origin::Log {
                    at: ShardEpoch {
                        shard: 0,
                        epoch: hand.epoch,
                    },
                    position: Position(hand.position),
                },
            };
            incoming.push(Incoming {
                slot,
                origin,
                id: id_of(hand.name),
                key: Some(Bytes::copy_from_slice(&[hand.name.0])),
                size: 50,
                retry: 0,
                deliveries: (self.shape == Shape::Lease && !hand.redriven).then_some(hand.before),
                key_parked: hand.redriven && self.mode == Mode::Park,
                unreadable: false,
                skip: false,
                seen_at: Timestamp(0),
            });
        }
        self.give(Input::Messages(incoming));
    }

    fn finish_one(&mut self) {
        let running: Vec<Slot> = self.running.keys().copied().collect();
        let Some(slot) = self.pick(&running) else {
            return;
        };
        let outcome = match self.rng.below(20) {
            _ if self.cancelled.contains(&slot) => Outcome::Cancelled,
            _ if self.calm => Outcome::Done,
            0..3 => Outcome::Transient,
            3 => Outcome::Permanent(Cause::Permanent),
            4 => Outcome::Panicked,
            5 => Outcome::Unavailable(Dependency::new("it")),
            6 => Outcome::RetryAfter(Duration::from_secs(3)),
            _ => Outcome::Done,
        };
        self.running.remove(&slot);
        self.ended.insert(slot);
        if outcome == Outcome::Done {
            let (key, n) = self.hands[&slot].name;
            self.done.entry(key).or_default().insert(n);
        }
        self.give(Input::Finished { slot, outcome });
    }

    /// Whether the engine still lets this slot settle.
    fn is_ours(&self, slot: Slot) -> bool {
        let Some(hand) = self.hands.get(&slot) else {
            return false;
        };
        self.shape == Shape::Log || self.at.get(&hand.name) == Some(&At::Held(hand.number))
    }

    fn settle_each(&mut self, slots: Vec<Slot>, to: At) {
        let (mut settled, mut lost) = (Vec::new(), Vec::new());
        for slot in slots {
            if self.is_ours(slot) {
                let name = self.hands[&slot].name;
                if to == At::Acked {
                    assert!(
                        self.done[&name.0].contains(&name.1),
                        "{name:?} acknowledged, not handled"
                    );
                }
                self.at.insert(name, to);
                settled.push(slot);
            } else {
                lost.push(slot);
            }
        }
        self.give(Input::Settled(settled));
        self.give(Input::SettleLost(lost));
    }

    fn record(&mut self, name: Name) {
        let records = self.records.entry(name.0).or_default();
        if records.iter().all(|r| r.name != name) {
            records.push(Record {
                name,
                redriving: false,
                claimed: None,
            });
        }
        self.ever_recorded.entry(name.0).or_default().insert(name.1);
        if self.shape == Shape::Lease {
            self.at.insert(name, At::Recorded);
        }
    }

    /// Does what the driver was asked to do, in order.
    fn apply_one(&mut self) {
        let Some(op) = self.ops.pop_front() else {
            return;
        };
        match op {
            Output::Ack(slots) => self.settle_each(slots, At::Acked),
            Output::Release(slots) => self.settle_each(slots, At::Engine),
            Output::Extend(slots) => {
                let (kept, lost): (Vec<Slot>, Vec<Slot>) =
                    slots.into_iter().partition(|s| self.is_ours(*s));
                kept.iter().for_each(|slot| {
                    let number = self.hands[slot].number;
                    self.leases.insert(number, self.now + LEASE);
                });
                self.give(Input::Extended {
                    slots: kept,
                    until: Mono(self.now + LEASE),
                });
                self.give(Input::LeaseLost(lost));
            }
            Output::Fail { slot, .. } => {
                if self.is_ours(slot) {
                    self.record(self.hands[&slot].name);
                    self.give(Input::Settled(vec![slot]));
                } else {
                    self.give(Input::SettleLost(vec![slot]));
                }
            }
            Output::Park { key, slots } => {
                let parked = self.records.get(&key[0]).is_some_and(|r| !r.is_empty());
                // From the first that is lost on, nothing is appended.
                let works = slots.iter().take_while(|s| self.is_ours(**s)).count();
                let (ours, lost) = (slots[..works].to_vec(), slots[works..].to_vec());
                for slot in &lost {
                    if self.is_ours(*slot) && self.shape == Shape::Lease {
                        self.at.insert(self.hands[slot].name, At::Engine);
                    }
                }
                self.give(Input::SettleLost(lost));
                if parked {
                    ours.iter()
                        .for_each(|slot| self.record(self.hands[slot].name));
                    self.give(Input::Settled(ours));
                } else {
                    self.give(Input::NotParked(ours));
                }
            }
            Output::FinishRedrive {
                slot,
                failed,
                released,
                ..
            } => self.finish_redrive(slot, failed.is_some(), released),
            Output::Commit { at, commit } => {
                let stored = at.epoch == self.epoch && self.owned;
                if stored {
                    self.check_commit(&commit);
                    self.committed = commit;
                }
                self.give(Input::Committed { at, stored });
            }
            Output::RetryLater { slot, .. } => self.settle_each(vec![slot], At::Engine),
            Output::Ask { slot, id } => {
                let verdict = self.ask(id);
                self.give(Input::Answer { slot, id, verdict });
            }
            Output::Gone { id, ended } => {
                let now = Mono(self.now);
                let change = self.suspects.gone(now, &whose(), MEMBER, id, ended);
                self.note(id, change);
                self.give(Input::GoneNoted(1));
            }
            Output::Revoked { at } => {
                assert_eq!(at.epoch, self.epoch);
                self.assign();
            }
            other => panic!("not an operation: {other:?}"),
        }
    }

    /// Asks the process for a message, and stores what it wants stored.
    fn ask(&mut self, id: MessageId) -> Verdict {
        let now = Mono(self.now);
        let mut asked = self.suspects.ask(now, &whose(), MEMBER, id);
        loop {
            let change = match asked {
                Asked::Note(change) => change,
                Asked::Tell(verdict) => {
                    if verdict == Verdict::Condemned {
                        let names = self.at.keys();
                        self.condemned.extend(names.filter(|n| id_of(**n) == id));
                    }
                    return verdict;
                }
            };
            self.note(id, change);
            asked = self.suspects.noted(now, &whose(), MEMBER, id, &self.crash);
        }
    }

    fn note(&mut self, id: MessageId, change: Change) {
        self.crash.apply(&CrashNote {
            life: self.suspects.life(),
            explained: self.suspects.explained(),
            changes: vec![(id, change)],
        });
    }

    /// What the driver notes of handlers that run long.
    fn note_long(&mut self) {
        let ran: Vec<(MessageId, Duration)> = self
            .running
            .iter()
            .filter_map(|(slot, since)| {
                Some((id_of(self.hands.get(slot)?.name), self.now - *since))
            })
            .filter(|(_, ran)| *ran >= RAN_MIN)
            .collect();
        for (id, ran) in ran {
            self.note(id, Change::Ran(ran.as_millis() as u64));
        }
    }

    fn finish_redrive(&mut self, slot: Slot, failed: bool, released: bool) {
        let hand = self.hands[&slot];
        let records = self.records.get_mut(&hand.name.0).unwrap();
        let index = records.iter().position(|r| r.claimed == Some(hand.number));
        let mut free = false;
        match index {
            None => {}
            Some(index) if failed && self.mode != Mode::Park => {
                records[index].redriving = false;
                records[index].claimed = None;
            }
            Some(_) if failed => records.iter_mut().for_each(|r| {
                r.redriving = false;
                r.claimed = None;
            }),
            Some(index) if released => records[index].claimed = None,
            Some(index) => {
                let in_order = index == 0 || self.mode != Mode::Park;
                assert!(in_order, "records of a key are finished in order");
                records.remove(index);
                free = records.is_empty() && self.mode == Mode::Park;
            }
        }
        self.give(Input::Settled(vec![slot]));
        if free {
            self.give(Input::KeyFree(Bytes::copy_from_slice(&[hand.name.0])));
        }
    }

    fn check_commit(&self, commit: &Commit) {
        let above = |at: u64| {
            commit
                .done_above
                .iter()
                .any(|(first, n)| at >= first.0 && at < first.0 + n)
        };
        for (position, name) in self
            .log
            .iter()
            .enumerate()
            .filter(|(_, name)| name.0 != u8::MAX)
        {
            if (position as u64) < commit.watermark.0 || above(position as u64) {
                let done = self.done.get(&name.0).is_some_and(|d| d.contains(&name.1));
                let recorded = self
                    .records
                    .get(&name.0)
                    .is_some_and(|r| r.iter().any(|r| r.name == *name));
                assert!(
                    done || recorded,
                    "{name:?} at {position} is committed and was never handled"
                );
            }
        }
        assert!(
            commit.watermark >= self.committed.watermark,
            "the watermark never goes back"
        );
    }

    fn advance(&mut self) {
        let by = [5, 200, 1000, 4000][self.rng.below(4) as usize];
        self.pass(by);
    }

    fn pass(&mut self, by: u64) {
        self.now += Duration::from_millis(by);
        self.note_long();
        self.give(Input::Timer);
    }

    /// The engine takes messages back.
    fn lose(&mut self) {
        let held: Vec<(Slot, Name)> = self
            .hands
            .iter()
            .filter(|(s, h)| !h.redriven && self.is_ours(**s))
            .map(|(s, h)| (*s, h.name))
            .collect();
        let Some((slot, name)) = self.pick(&held).filter(|_| self.shape == Shape::Lease) else {
            return;
        };
        self.at.insert(name, At::Engine);
        if self.chance(70) {
            self.give(Input::LeaseLost(vec![slot]));
        }
    }

    /// A person redrives a key.
    fn redrive(&mut self) {
        let key = self.rng.below(KEYS) as u8;
        self.records
            .entry(key)
            .or_default()
            .iter_mut()
            .for_each(|r| r.redriving = true);
    }

    fn claim(&mut self) {
        let mut batch = Vec::new();
        for records in self.records.values_mut() {
            let any = self.mode != Mode::Park;
            let next = |r: &&mut Record| r.claimed.is_none() && (r.redriving || !any);
            let Some(record) = records.iter_mut().find(next) else {
                continue;
            };
            if record.redriving && self.credit.2 > 0 {
                self.credit.2 -= 1;
                self.numbers += 1;
                record.claimed = Some(self.numbers);
                batch.push(Hand {
                    name: record.name,
                    number: self.numbers,
                    redriven: true,
                    epoch: 0,
                    position: 0,
                    before: 0,
                });
            }
        }
        self.bring(batch);
    }

    fn pause_or_resume(&mut self) {
        self.paused = !self.paused;
        self.give(if self.paused {
            Input::Pause
        } else {
            Input::Resume
        });
    }

    fn rebalance(&mut self) {
        if self.shape == Shape::Lease || !self.owned || self.draining {
            return;
        }
        if self.chance(50) {
            self.revoking = true;
            self.give(Input::Revoking {
                at: self.shard(),
                deadline: Mono(self.now + Duration::from_secs(5)),
            });
        } else {
            self.ops.retain(|op| !matches!(op, Output::Revoked { .. }));
            let at = self.shard();
            self.owned = false;
            self.give(Input::Lost { at });
            self.assign();
        }
    }

    /// The process ends: killed, or after a drain.
    fn end(&mut self) {
        if self.chance(50) {
            self.start();
        } else if !self.draining {
            self.draining = true;
            self.give(Input::Drain {
                deadline: Mono(self.now + Duration::from_secs(2)),
            });
        }
    }

    fn give(&mut self, input: Input) {
        let empty = match &input {
            Input::Settled(s)
            | Input::SettleLost(s)
            | Input::NotParked(s)
            | Input::LeaseLost(s) => s.is_empty(),
            Input::Extended { slots, .. } => slots.is_empty(),
            _ => false,
        };
        if empty || self.drained || self.dead {
            return;
        }
        self.tell(|world| match &input {
            Input::Messages(batch) => {
                let slots: Vec<Slot> = batch.iter().map(|m| m.slot).collect();
                world.in_words(&format!("> Messages {slots:?}"))
            }
            input => world.in_words(&format!("> {input:?}")),
        });
        self.kernel.handle(Mono(self.now), input);
        while let Some(output) = self.kernel.poll_output() {
            self.tell(|world| world.in_words(&format!("{output:?}")));
            self.take(output);
        }
    }

    /// `KERNEL_TRACE=1` prints what goes in and out.
    fn tell(&self, what: impl Fn(&Self) -> String) {
        if std::env::var_os("KERNEL_TRACE").is_some() {
            println!("{:?} {}", self.now, what(self));
        }
    }

    /// Slots with the names of their messages.
    fn in_words(&self, text: &str) -> String {
        let mut parts = text.split("Slot(");
        let mut words = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (number, rest) = part.split_once(')').unwrap_or((part, ""));
            let hand = number.parse().ok().and_then(|n| self.hands.get(&Slot(n)));
            let name = hand.map_or(String::new(), |h| {
                format!(
                    "={}.{}{}",
                    h.name.0,
                    h.name.1,
                    if h.redriven { "r" } else { "" }
                )
            });
            words += &format!("{number}{name}{rest}");
        }
        words
    }

    fn take(&mut self, output: Output) {
        let mut hasher = std::hash::DefaultHasher::new();
        (self.said, format!("{output:?}")).hash(&mut hasher);
        self.said = hasher.finish();
        match output {
            Output::Dispatch { slot, attempt } => {
                assert!(attempt > 0);
                self.check_noted(slot);
                self.check_order(slot);
                let name = self.hands[&slot].name;
                assert!(
                    !self.draining && !self.paused,
                    "nothing is dispatched while paused or draining"
                );
                self.running.insert(slot, self.now);
                self.dead |= self.poisons.contains(&name);
            }
            Output::Cancel(slot) => {
                self.cancelled.insert(slot);
            }
            Output::Forget(slot) => {
                assert!(
                    self.hands.remove(&slot).is_some(),
                    "a slot is forgotten once"
                );
                self.cancelled.remove(&slot);
            }
            Output::Credit { source, redrive } => {
                // What is on its way was granted before.
                let piped = self.pipe.len() as u32;
                self.credit = (
                    source.messages.saturating_sub(piped),
                    source.bytes.saturating_sub(u64::from(piped) * 50),
                    redrive,
                );
            }
            Output::Drained => {
                self.drained = true;
                assert!(self.draining);
            }
            Output::SetTimer(_) | Output::Paused(_) => {}
            Output::RetryLater { .. } if self.mode != Mode::Unordered => {
                panic!("never in ordered mode")
            }
            Output::Stopped { .. } => panic!("no policy asks for it"),
            op => self.ops.push_back(op),
        }
    }

    /// What was handed out before is noted before it is handled.
    fn check_noted(&self, slot: Slot) {
        let hand = self.hands[&slot];
        let counted = self.shape == Shape::Lease && !hand.redriven && hand.before > 0;
        if counted && !self.ended.contains(&slot) {
            let noted = self.crash.of(id_of(hand.name));
            let life = Some(self.suspects.life());
            let is_noted = noted.is_some_and(|w| w.running && w.life == life);
            assert!(is_noted, "{:?} is handled and was not noted", hand.name);
        }
    }

    fn check_order(&mut self, slot: Slot) {
        let Hand { name, redriven, .. } = self.hands[&slot];
        let (key, n) = name;
        if self.mode == Mode::Unordered {
            return;
        }
        let together = self.running.keys().find(|s| self.hands[s].name.0 == key);
        assert!(
            together.is_none(),
            "{name:?} runs beside {:?}",
            self.hands[together.unwrap()].name
        );
        let recorded = self.ever_recorded.get(&key);
        let done = self.done.entry(key).or_default();
        let over = |before: &u32| {
            done.contains(before)
                || (self.mode == Mode::Continue && recorded.is_some_and(|r| r.contains(before)))
        };
        let skipped = (0..n).find(|before| !over(before));
        // A record that a person sent back comes after what went on without it.
        let free = redriven && self.mode == Mode::Continue;
        assert!(
            skipped.is_none() || free,
            "{name:?} is handled before {skipped:?} of its key"
        );
    }

    /// Works without faults but for the poisons: until they are set aside, and all other keys are handled.
    pub(crate) fn survive_poison(&mut self, poisons: &[Name]) {
        self.poisons = poisons.iter().copied().collect();
        self.calm = true;
        for _ in 0..40_000 {
            if self.dead {
                self.deaths += 1;
                self.start();
            }
            self.hand_out();
            self.deliver();
            self.finish_one();
            (0..6).for_each(|_| self.apply_one());
            self.advance();
            let stored = |name: &Name| {
                let records = self.records.get(&name.0);
                records.is_some_and(|r| r.iter().any(|r| r.name == *name))
            };
            // A key that was blocked for too long beside a suspect waits for a person, and so do the followers of a poison.
            let others_left = self.missing().iter().any(|name| !stored(name));
            if poisons.iter().all(stored) && !others_left && self.hands.is_empty() {
                return;
            }
        }
        panic!(
            "the poison is not set aside after {} deaths: {:?}",
            self.deaths,
            self.missing()
        );
    }

    /// Is killed at random while it works, so many times, after so many ticks of 25 ms at most.
    pub(crate) fn survive_kills(&mut self, kills: u32, ticks_max: u64) {
        self.calm = true;
        for _ in 0..kills {
            for _ in 0..self.rng.below(ticks_max) {
                self.produce_some();
                self.hand_out();
                self.deliver();
                self.finish_one();
                (0..3).for_each(|_| self.apply_one());
                self.pass(25);
            }
            self.start();
        }
    }

    fn produce_some(&mut self) {
        if self.chance(30) {
            self.produce();
        }
    }

    /// Messages of all keys.
    pub(crate) fn fill(&mut self, count: u32) {
        (0..count).for_each(|_| self.produce());
    }

    fn check_bounds(&self) {
        for bound in self.kernel.describe().bounds {
            let by_one_message = [
                "window_bytes",
                "blocked_lane_messages",
                "blocked_lane_bytes",
                "done_bytes",
            ]
            .contains(&bound.name);
            assert!(by_one_message || bound.fill <= bound.max, "{bound:?}");
        }
    }

    /// No more faults: everything is handled, and the kernel holds nothing.
    pub(crate) fn finish_everything(&mut self) {
        self.calm = true;
        for round in 0..20_000 {
            if self.drained {
                self.start();
            }
            if self.paused {
                self.pause_or_resume();
            }
            (0..KEYS).for_each(|key| {
                self.records
                    .entry(key as u8)
                    .or_default()
                    .iter_mut()
                    .for_each(|r| r.redriving = true)
            });
            self.hand_out();
            self.deliver();
            self.claim();
            self.finish_one();
            self.apply_one();
            if round % 8 == 0 {
                self.advance();
            }
            self.check_bounds();
            let idle = self.pipe.is_empty() && self.hands.is_empty() && self.ops.is_empty();
            if idle && self.all_handled() && !self.draining {
                assert_eq!(
                    self.kernel.describe().lanes,
                    self.kernel.describe().lanes.min(KEYS)
                );
                return;
            }
        }
        let left: Vec<_> = self
            .at
            .iter()
            .filter(|(_, at)| matches!(at, At::Engine | At::Held(_)))
            .collect();
        let stored: Vec<_> = self
            .records
            .values()
            .flatten()
            .map(|r| (r.name, r.claimed))
            .collect();
        panic!(
            "not all was handled: {:?}, left {left:?}, stored {stored:?}, held {:?}, credit {:?}, draining {}, {:#?}",
            self.missing(),
            self.hands.keys(),
            self.credit,
            self.draining,
            self.kernel.describe()
        );
    }

    fn missing(&self) -> Vec<Name> {
        let done = |name: &Name| self.done.get(&name.0).is_some_and(|d| d.contains(&name.1));
        self.at.keys().filter(|name| !done(name)).copied().collect()
    }

    fn all_handled(&self) -> bool {
        let left = self
            .at
            .values()
            .any(|at| matches!(at, At::Engine | At::Held(_)));
        let stored = self.records.values().any(|r| !r.is_empty());
        let source_left = match self.shape {
            Shape::Lease => left,
            Shape::Log => (self.committed.watermark.0 as usize) < self.log.len(),
        };
        !source_left && !stored && self.missing().is_empty()
    }
}
