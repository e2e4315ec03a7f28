//! The whole log on a simulated disk: random publishers, members and operators, power cuts, kills and failed syncs.
//!
//! Beside the log runs a model: the list of what each frame did. After every crash the log says how far it reaches; the model is cut
//! there, and both must agree in everything. From that follow the promises: nothing confirmed is lost, nothing settled and
//! durable comes back, transactions are whole, a failure record and its settle are one.
//!
//! `POSTRIDER_SEED=n` replays one seed, `POSTRIDER_SEEDS=n` sets how many are run.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::{Fault, SimDisk};
use postrider_log::wal::WalOptions;
use postrider_log::{
    Error, Expected, FailureId, FailureIn, FailureOp, FailureState, Kind, Leased, Level, Limits,
    Log, Lsn, MemberId, Now, Offset, OffsetCommit, Options, Park, Publish, RecordIn, Retention,
    Settle, SettleOp, Start, StreamConfig, StreamId, SubId, SubscriptionConfig, Tx, pump,
};

const KEYS: u64 = 4;
const MEMBERS: u64 = 3;
const LEASE: Duration = Duration::from_secs(20);
/// Settled records of the first topic stay readable for so long.
const RETAINED: Duration = Duration::from_millis(800);
/// The stream of events, and the bytes of them that retention leaves.
const EVENTS: usize = 4;
const EVENT_BYTES: u64 = 5_000;
/// More than one append of events takes.
const APPEND_BYTES_MAX: u64 = 3_500;
/// The first stream whose records are seen before they are synced; so are those of all behind it.
const WEAK: usize = 2;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() {
            None
        } else {
            of.get(self.below(of.len() as u64) as usize)
        }
    }
}

/// What one frame did, as far as the model cares.
#[derive(Debug, Clone)]
enum Did {
    Published {
        stream: usize,
        offset: Offset,
        id: u64,
        key: u64,
    },
    Settled {
        sub: usize,
        offset: Offset,
    },
    Leased {
        sub: usize,
        offset: Offset,
    },
    Returned {
        sub: usize,
        offset: Offset,
        attempts: u32,
    },
    Failed {
        sub: usize,
        failure: u64,
        id: u64,
        key: u64,
        parks: bool,
    },
    FailureEnded {
        sub: usize,
        failure: u64,
    },
    Crash {
        sub: usize,
        state: u64,
    },
    Reader {
        epoch: u64,
        watermark: u64,
    },
    /// Events below `first` are gone.
    Trimmed {
        first: Offset,
    },
}

/// What a list of deeds amounts to.
#[derive(Debug, Default, PartialEq)]
struct Model {
    records: BTreeMap<(usize, Offset), (u64, u64)>,
    settled: BTreeSet<(usize, Offset)>,
    attempts: BTreeMap<(usize, Offset), u32>,
    /// Message, key, and whether it parks the key.
    failures: BTreeMap<(usize, u64), (u64, u64, bool)>,
    crash: BTreeMap<usize, u64>,
    reader: (u64, u64),
    /// The first event that is still there.
    first: Offset,
}

impl Model {
    fn apply(&mut self, did: &Did) {
        match *did {
            Did::Published {
                stream,
                offset,
                id,
                key,
            } => {
                self.records.insert((stream, offset), (id, key));
            }
            Did::Settled { sub, offset } => {
                self.settled.insert((sub, offset));
                self.attempts.remove(&(sub, offset));
            }
            Did::Leased { sub, offset } => *self.attempts.entry((sub, offset)).or_default() += 1,
            Did::Returned {
                sub,
                offset,
                attempts,
            } => {
                self.attempts.insert((sub, offset), attempts);
            }
            Did::Failed {
                sub,
                failure,
                id,
                key,
                parks,
            } => {
                self.failures.insert((sub, failure), (id, key, parks));
            }
            Did::FailureEnded { sub, failure } => {
                self.failures.remove(&(sub, failure));
            }
            Did::Crash { sub, state } => {
                self.crash.insert(sub, state);
            }
            Did::Reader { epoch, watermark } => self.reader = (epoch, watermark),
            Did::Trimmed { first } => self.first = self.first.max(first),
        }
    }
}

struct Stream {
    id: StreamId,
    level: Level,
    kind: Kind,
}

struct Sub {
    id: SubId,
    stream: usize,
    ordered: bool,
}

/// A lease that a member believes in.
#[derive(Clone)]
struct Held {
    sub: usize,
    member: u64,
    leased: Leased,
}

struct World {
    rng: Rng,
    disk: SimDisk,
    log: Mutex<Log>,
    streams: Vec<Stream>,
    subs: Vec<Sub>,
    history: Vec<(Lsn, Did)>,
    model: Model,
    /// Every record that anybody saw, in all runs: an offset is one record for ever.
    seen: BTreeMap<(usize, Offset), u64>,
    /// Records with a deliver-at time.
    delayed: BTreeSet<(usize, Offset)>,
    /// When records with a time to live end, in wall time.
    expiring: BTreeMap<(usize, Offset), u64>,
    /// Events below have been let go of, in some run.
    trimmed_max: Offset,
    held: Vec<Held>,
    next_id: u64,
    wall_ms: u64,
    /// The latest that any clock showed: until then records may have expired.
    wall_max_ms: u64,
    mono_ms: u64,
    epoch: u64,
    /// Nothing in this run asks for a sync, but the reserve of offsets.
    quiet: bool,
}

fn options(rng: &mut Rng) -> Options {
    Options {
        wal: WalOptions {
            segment_bytes: [16 << 10, 16 << 10, 32 << 10],
            checkpoint_bytes: 4096 + rng.below(30_000),
            reserve_bytes: 2048,
            fill_bytes: 16 << 10,
            ..WalOptions::default()
        },
        limits: Limits {
            record_bytes_max: 8 << 10,
            reserve_ahead: 2 + rng.below(20),
            ..Limits::default()
        },
        cache_bytes_max: if rng.chance(50) { 0 } else { 8 << 10 },
        lazy_sync_after: Duration::from_millis(rng.below(200)),
        checkpoint_every: Duration::from_millis(500 + rng.below(5_000)),
    }
}

fn member(n: u64) -> MemberId {
    MemberId(n + 1)
}

fn key_bytes(key: u64) -> Option<Bytes> {
    (key > 0).then(|| Bytes::from(format!("key-{key}")))
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng(seed);
        let disk = SimDisk::new(seed);
        let now = Now::from_millis(1_000_000, 0);
        let (log, _) = Log::open(Arc::new(disk.clone()), options(&mut rng), now).unwrap();
        let (streams, subs) = (Vec::new(), Vec::new());
        let mut world = World {
            rng,
            disk,
            log: Mutex::new(log),
            streams,
            subs,
            history: Vec::new(),
            model: Model::default(),
            seen: BTreeMap::new(),
            delayed: BTreeSet::new(),
            expiring: BTreeMap::new(),
            trimmed_max: 0,
            wall_max_ms: 1_000_000,
            held: Vec::new(),
            next_id: 1,
            wall_ms: 1_000_000,
            mono_ms: 0,
            epoch: 0,
            quiet: false,
        };
        world.define();
        world
    }

    fn define(&mut self) {
        let kinds = [
            (Kind::Topic, Level::Fsync),
            (Kind::Queue, Level::Fsync),
            (Kind::Topic, Level::Os),
            (Kind::Topic, Level::Memory),
            (Kind::Events, Level::Interval(Duration::from_millis(50))),
        ];
        for (n, (kind, level)) in kinds.into_iter().enumerate() {
            let retention = Retention {
                age: (n == 0).then_some(RETAINED),
                bytes: (n == EVENTS).then_some(EVENT_BYTES),
            };
            let config = StreamConfig {
                kind,
                level,
                retention,
                ..StreamConfig::default()
            };
            let (id, ..) = self
                .log
                .lock()
                .create_stream(&format!("stream-{n}"), config)
                .unwrap();
            self.streams.push(Stream { id, level, kind });
        }
        for (n, (stream, ordered)) in [(0, true), (0, false), (1, true), (2, true), (3, true)]
            .into_iter()
            .enumerate()
        {
            let config = SubscriptionConfig {
                start: Start::Earliest,
                ordered,
                look_ahead_max: 30,
            };
            let mut log = self.log.lock();
            let (id, ..) = log
                .create_subscription(self.streams[stream].id, &format!("sub-{n}"), config)
                .unwrap();
            self.subs.push(Sub {
                id,
                stream,
                ordered,
            });
        }
        pump::run_until_idle(&self.log, self.now()).unwrap();
    }

    fn now(&self) -> Now {
        Now::from_millis(self.wall_ms, self.mono_ms)
    }

    /// Notes what a frame did.
    fn did(&mut self, lsn: Lsn, did: Did) {
        self.model.apply(&did);
        self.history.push((lsn, did));
    }

    /// A few records of one key each, for one stream.
    fn records(&mut self) -> Vec<(u64, u64, RecordIn)> {
        let count = 1 + self.rng.below(4);
        let ttl_percent = if self.rng.chance(10) { 100 } else { 4 };
        let make = |_| {
            let (id, key) = (self.next_id, self.rng.below(KEYS + 1));
            self.next_id += 1;
            let deliver_at_ms = if self.rng.chance(5) {
                self.wall_ms + self.rng.below(3_000)
            } else {
                0
            };
            let expires_at_ms = if self.rng.chance(ttl_percent) {
                self.wall_ms + self.rng.below(3_000)
            } else {
                0
            };
            let value = vec![id as u8; self.rng.below(300) as usize];
            let record = RecordIn {
                id: u128::from(id).to_le_bytes(),
                key: key_bytes(key),
                value: Some(Bytes::from(value)),
                deliver_at_ms,
                expires_at_ms,
                ..RecordIn::default()
            };
            (id, key, record)
        };
        (0..count).map(make).collect()
    }

    /// A transaction: publishes to up to two streams, settles in any way what members hold.
    fn commit(&mut self) -> Result<(), Error> {
        let mut tx = Tx::default();
        let mut dids = Vec::new();
        let mut published = Vec::new();
        for _ in 0..self.rng.below(3) {
            let from = if self.quiet { WEAK } else { 0 };
            let stream = from + self.rng.below((self.streams.len() - from) as u64) as usize;
            let records = self.records();
            let mut also = Vec::new();
            if self.rng.chance(20) {
                let next = (stream + 1) % self.streams.len();
                also.push(next.max(from));
            }
            let expect = match self.streams[stream].kind {
                Kind::Events if tx.publishes.is_empty() => {
                    Expected::Next(self.log.lock().next_offset(self.streams[stream].id)?)
                }
                _ => Expected::Any,
            };
            tx.publishes.push(Publish {
                stream: self.streams[stream].id,
                also: also.iter().map(|other| self.streams[*other].id).collect(),
                records: records.iter().map(|(.., record)| record.clone()).collect(),
                expect,
            });
            published.push((stream, also, records));
        }
        let mut settled = BTreeSet::new();
        for _ in 0..self.rng.below(4) {
            if self.held.is_empty() || self.quiet {
                break;
            }
            let index = self.rng.below(self.held.len() as u64) as usize;
            let held = self.held[index].clone();
            if settled.insert((held.sub, held.leased.record.offset)) {
                let how = self.how(&held, &mut dids);
                let (offset, token) = (held.leased.record.offset, held.leased.token);
                tx.settles.push(SettleOp {
                    sub: self.subs[held.sub].id,
                    offset,
                    token,
                    how,
                });
            }
        }
        let before: Vec<Offset> = self
            .streams
            .iter()
            .map(|stream| self.log.lock().next_offset(stream.id).unwrap())
            .collect();
        let now = self.now();
        let result = self.log.lock().commit(tx, now);
        let ticket = match result {
            Ok(ticket) => ticket,
            // A lease that ended: nothing of the transaction may have happened, which the next comparison shows.
            Err(Error::LeaseLost { .. }) => {
                let held = std::mem::take(&mut self.held);
                self.held = held.into_iter().filter(|held| self.is_held(held)).collect();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut next = before;
        for (appended, (stream, also, records)) in ticket.appended.iter().zip(published) {
            for (appended, (id, key, record)) in appended.iter().zip(records) {
                assert!(!appended.duplicate);
                assert_eq!(appended.offset, next[stream], "offsets are given in order");
                for stream in [&[stream][..], &also].concat() {
                    let offset = next[stream];
                    next[stream] += 1;
                    self.note_times(stream, offset, &record);
                    self.did(
                        ticket.lsn,
                        Did::Published {
                            stream,
                            offset,
                            id,
                            key,
                        },
                    );
                }
            }
        }
        let mut failures = ticket.failures.iter();
        for did in dids {
            let did = match did {
                Did::Failed {
                    sub,
                    id,
                    key,
                    parks,
                    ..
                } => Did::Failed {
                    sub,
                    id,
                    key,
                    parks,
                    failure: failures.next().unwrap().0,
                },
                other => other,
            };
            self.did(ticket.lsn, did);
        }
        settled
            .iter()
            .for_each(|(sub, offset)| self.drop_lease(*sub, *offset));
        Ok(())
    }

    /// Notes when a record is due and when it ends. What a crash took of its offset before is forgotten.
    fn note_times(&mut self, stream: usize, offset: Offset, record: &RecordIn) {
        let place = (stream, offset);
        self.delayed.remove(&place);
        self.expiring.remove(&place);
        if record.deliver_at_ms > 0 {
            self.delayed.insert(place);
        }
        if record.expires_at_ms > 0 {
            self.expiring.insert(place, record.expires_at_ms);
        }
    }

    /// Takes over what the log settled by itself, since its time to live was over. Only of such may it settle anything.
    fn absorb_expired(&mut self) {
        let mut expired = Vec::new();
        let last = {
            let log = self.log.lock();
            for (n, sub) in self.subs.iter().enumerate() {
                let of_stream = self.expiring.range((sub.stream, 0)..(sub.stream + 1, 0));
                for (place, expires_at_ms) in of_stream {
                    let over = *expires_at_ms <= self.wall_max_ms;
                    let open = self.model.records.contains_key(place)
                        && !self.model.settled.contains(&(n, place.1));
                    if over && open && log.is_settled(sub.id, place.1).unwrap() {
                        expired.push((n, place.1));
                    }
                }
            }
            log.last()
        };
        for (sub, offset) in expired {
            let in_hand = self.held.iter().any(|held| {
                (held.sub, held.leased.record.offset) == (sub, offset)
                    && held.leased.until > Duration::from_millis(self.mono_ms)
            });
            assert!(!in_hand, "{offset} of sub {sub} expired in a member's hand");
            self.did(last, Did::Settled { sub, offset });
            self.drop_lease(sub, offset);
        }
    }

    /// The first event that the log still has, and whether one that the model has is before it.
    fn first_event(&self) -> (Offset, bool) {
        let info = self.log.lock().stream_info(self.streams[EVENTS].id);
        let first = info.unwrap().first;
        let from = self.model.first.min(first);
        let mut gone = self.model.records.range((EVENTS, from)..(EVENTS, first));
        (first, gone.next().is_some())
    }

    fn did_trim(&mut self, lsn: Lsn, first: Offset) {
        self.trimmed_max = self.trimmed_max.max(first);
        self.did(lsn, Did::Trimmed { first });
    }

    /// Lets go of events by hand.
    fn trim(&mut self) -> Result<(), Error> {
        let id = self.streams[EVENTS].id;
        let next = self.log.lock().next_offset(id)?;
        let before = self.rng.below(next + 1);
        let kept = self
            .model
            .records
            .range((EVENTS, before.max(self.model.first))..(EVENTS + 1, 0));
        let kept = kept.map(|((_, offset), _)| *offset).next();
        let lsn = self.log.lock().trim(id, before)?;
        let (first, _) = self.first_event();
        assert!(
            kept.is_none_or(|kept| first <= kept),
            "trimmed before {before}, and {kept:?} is gone"
        );
        self.did_trim(lsn, first);
        Ok(())
    }

    /// A tick, and what it may do by itself: settle what expired, and let go of events beyond the bytes to retain.
    fn tick(&mut self) -> Result<(), Error> {
        self.wall_max_ms = self.wall_max_ms.max(self.wall_ms);
        let (now, id) = (self.now(), self.streams[EVENTS].id);
        let before = self.log.lock().stream_info(id)?.bytes;
        self.log.lock().tick(now)?;
        let after = self.log.lock().stream_info(id)?.bytes;
        assert!(after <= EVENT_BYTES, "{after} bytes of events retained");
        let (first, gone) = self.first_event();
        assert!(
            !gone || (before > EVENT_BYTES && after + APPEND_BYTES_MAX > EVENT_BYTES),
            "more events gone than retention asks for: {before} bytes before, {after} after"
        );
        let last = self.log.lock().last();
        self.did_trim(last, first);
        self.absorb_expired();
        Ok(())
    }

    fn drop_lease(&mut self, sub: usize, offset: Offset) {
        self.held
            .retain(|held| (held.sub, held.leased.record.offset) != (sub, offset));
    }

    /// How a delivery ends, and what that does.
    fn how(&mut self, held: &Held, dids: &mut Vec<Did>) -> Settle {
        let (sub, offset) = (held.sub, held.leased.record.offset);
        let (id, key) = self.model.records[&(self.subs[sub].stream, offset)];
        let choice = self.rng.below(10);
        if choice == 0 {
            let count = self.rng.chance(50);
            let attempts = self.model.attempts[&(sub, offset)] - u32::from(!count);
            dids.push(Did::Returned {
                sub,
                offset,
                attempts,
            });
            return Settle::Return {
                delay: Duration::from_millis(self.rng.below(400)),
                count,
            };
        }
        dids.push(Did::Settled { sub, offset });
        match choice {
            1..4 => {
                let parks = key > 0 && choice > 1;
                dids.push(Did::Failed {
                    sub,
                    failure: 0,
                    id,
                    key,
                    parks,
                });
                Settle::Dead(FailureIn {
                    group: format!("cause {}", id % 3),
                    meta: Bytes::from(id.to_string()),
                    key: key_bytes(key),
                    park: if parks { Park::Key } else { Park::No },
                })
            }
            4 => Settle::Discard {
                reason: "by chance".to_owned(),
            },
            _ => Settle::Ack,
        }
    }

    fn lease(&mut self) -> Result<(), Error> {
        let sub = self.rng.below(self.subs.len() as u64) as usize;
        let who = self.rng.below(MEMBERS);
        let (messages, now) = (1 + self.rng.below(6) as usize, self.now());
        let mut log = self.log.lock();
        let batch = log.lease(self.subs[sub].id, member(who), messages, 4_000, LEASE, now)?;
        let (written, durable) = (log.written(), log.durable());
        drop(log);
        self.absorb_expired();
        assert!(batch.messages.len() <= messages);
        for leased in batch.messages {
            self.check_delivery(sub, who, &leased, written, durable);
            self.did(
                batch.lsn,
                Did::Leased {
                    sub,
                    offset: leased.record.offset,
                },
            );
            let attempts = self.model.attempts[&(sub, leased.record.offset)];
            assert_eq!(
                leased.attempt, attempts,
                "attempts are counted, also over a crash"
            );
            self.held.push(Held {
                sub,
                member: who,
                leased,
            });
        }
        Ok(())
    }

    fn check_delivery(
        &mut self,
        sub: usize,
        who: u64,
        leased: &Leased,
        written: Lsn,
        durable: Lsn,
    ) {
        let (stream, offset) = (self.subs[sub].stream, leased.record.offset);
        let (id, key) = self.model.records[&(stream, offset)];
        assert_eq!(
            leased.record.id,
            u128::from(id).to_le_bytes(),
            "the record is the one that was published"
        );
        assert_eq!(leased.record.key, key_bytes(key));
        assert!(
            leased
                .record
                .value
                .as_ref()
                .unwrap()
                .iter()
                .all(|byte| *byte == id as u8)
        );
        assert!(
            leased.record.deliver_at_ms <= self.wall_ms,
            "not before it is due"
        );
        let expires_at_ms = leased.record.expires_at_ms;
        assert!(
            expires_at_ms == 0 || expires_at_ms > self.wall_ms,
            "not after it expired"
        );
        assert!(
            !self.model.settled.contains(&(sub, offset)),
            "what is settled does not come back"
        );
        assert!(
            !self.held.iter().any(
                |held| (held.sub, held.leased.record.offset) == (sub, offset)
                    && held.leased.until > Duration::from_millis(self.mono_ms)
            ),
            "one lease at a time"
        );
        let at = self.history.iter().find(|(_, did)| {
            matches!(did,
            Did::Published { stream: s, offset: o, .. } if (*s, *o) == (stream, offset))
        });
        let lsn = at.unwrap().0;
        match self.streams[stream].level {
            Level::Fsync => assert!(lsn <= durable, "seen before it was durable"),
            Level::Os | Level::Interval(_) => assert!(lsn <= written, "seen before it was written"),
            Level::Memory => {}
        }
        self.saw(stream, offset, id);
        if self.subs[sub].ordered && key > 0 && leased.record.deliver_at_ms == 0 {
            let earlier = self.model.records.range((stream, 0)..(stream, offset));
            for ((_, other), (_, other_key)) in earlier.filter(|(_, (_, k))| *k == key) {
                let mine = self.held.iter().any(|held| {
                    held.sub == sub && held.member == who && held.leased.record.offset == *other
                });
                let settled = self.model.settled.contains(&(sub, *other));
                // A delayed record is in no order with the others.
                let delayed = self.delayed.contains(&(stream, *other));
                assert!(
                    mine || settled || delayed,
                    "{offset} of key {other_key} passed {other}"
                );
            }
        }
    }

    fn saw(&mut self, stream: usize, offset: Offset, id: u64) {
        let first = *self.seen.entry((stream, offset)).or_insert(id);
        assert_eq!(
            first, id,
            "offset {offset} of stream {stream} was minted twice"
        );
    }

    fn read(&mut self) -> Result<(), Error> {
        let stream = self.rng.below(self.streams.len() as u64) as usize;
        let from = self.rng.below(20);
        self.read_from(stream, from)
    }

    /// Reads the end of the streams whose records may be seen before they are synced.
    fn read_ends(&mut self) -> Result<(), Error> {
        for stream in WEAK..self.streams.len() {
            let next = self.log.lock().next_offset(self.streams[stream].id)?;
            self.read_from(stream, next.saturating_sub(8))?;
        }
        Ok(())
    }

    fn read_from(&mut self, stream: usize, from: Offset) -> Result<(), Error> {
        let batch = self
            .log
            .lock()
            .read(self.streams[stream].id, from, 50, 100_000)?;
        for record in &batch.records {
            let (id, _) = self.model.records[&(stream, record.offset)];
            assert_eq!(record.id, u128::from(id).to_le_bytes());
            self.saw(stream, record.offset, id);
        }
        Ok(())
    }

    fn pass_time(&mut self) -> Result<(), Error> {
        let ms = self.rng.below(if self.rng.0.is_multiple_of(7) {
            25_000
        } else {
            200
        });
        self.mono_ms += ms;
        self.wall_ms += ms;
        self.tick()
    }

    fn release(&mut self) -> Result<(), Error> {
        let who = self.rng.below(MEMBERS);
        let now = self.now();
        // What ended by time was given back before, and counted.
        let mine = self
            .held
            .iter()
            .filter(|held| held.member == who && self.is_held(held));
        let mut given: Vec<(usize, Offset)> = mine
            .map(|held| (held.sub, held.leased.record.offset))
            .collect();
        given.sort_unstable();
        let before = self.log.lock().last();
        self.log.lock().release_member(member(who), now)?;
        let mut subs: Vec<usize> = given.iter().map(|(sub, _)| *sub).collect();
        subs.dedup();
        for (sub, offset) in given {
            let nth = subs.iter().position(|other| *other == sub).unwrap() as u64;
            let attempts = self.model.attempts[&(sub, offset)] - 1;
            self.did(
                Lsn(before.0 + 1 + nth),
                Did::Returned {
                    sub,
                    offset,
                    attempts,
                },
            );
        }
        assert_eq!(self.log.lock().last().0, before.0 + subs.len() as u64);
        self.held.retain(|held| held.member != who);
        Ok(())
    }

    /// Whether the log still counts this lease.
    fn is_held(&self, held: &Held) -> bool {
        let lease = (held.leased.record.offset, held.leased.token);
        let left = held
            .leased
            .until
            .saturating_sub(Duration::from_millis(self.mono_ms));
        self.log
            .lock()
            .extend(self.subs[held.sub].id, &[lease], left, self.now())
            .unwrap()[0]
    }

    fn operate(&mut self) -> Result<(), Error> {
        if self.rng.chance(10) {
            return self.trim();
        }
        let now = self.now();
        let sub = self.rng.below(self.subs.len() as u64) as usize;
        let id = self.subs[sub].id;
        let mut tx = Tx::default();
        let mut dids = Vec::new();
        let failures: Vec<u64> = self
            .model
            .failures
            .keys()
            .filter(|(s, _)| *s == sub)
            .map(|(_, failure)| *failure)
            .collect();
        match self.rng.below(4) {
            0 => {
                if let Some(failure) = self.rng.pick(&failures).copied() {
                    let info = self
                        .log
                        .lock()
                        .failure_info(id, FailureId(failure))?
                        .unwrap();
                    if info.state == FailureState::Open && self.rng.chance(50) {
                        let ids = vec![FailureId(failure)];
                        let reason = "mended".to_owned();
                        let redrive = FailureOp::Redrive {
                            sub: id,
                            ids,
                            reason,
                        };
                        tx.failures.push(redrive);
                        self.log.lock().commit(tx, now)?;
                        return Ok(());
                    }
                    tx.failures.push(FailureOp::Resolve {
                        sub: id,
                        id: FailureId(failure),
                    });
                    dids.push(Did::FailureEnded { sub, failure });
                }
            }
            1 => {
                let ids: Vec<FailureId> =
                    failures.iter().take(2).map(|id| FailureId(*id)).collect();
                if !ids.is_empty() {
                    let ended = ids
                        .iter()
                        .map(|id| Did::FailureEnded { sub, failure: id.0 });
                    dids.extend(ended);
                    let reason = "given up".to_owned();
                    tx.failures.push(FailureOp::Discard {
                        sub: id,
                        ids,
                        reason,
                    });
                }
            }
            2 => {
                let state = self.rng.next();
                tx.crash_states.push((id, Bytes::from(state.to_string())));
                dids.push(Did::Crash { sub, state });
            }
            _ => {
                let (stream, watermark) = (
                    self.streams[EVENTS].id,
                    self.model.reader.1 + self.rng.below(5),
                );
                let (group, epoch) = ("projection".to_owned(), self.epoch);
                if epoch == 0 || self.rng.chance(20) {
                    let (state, lsn) = self.log.lock().claim_reader(stream, &group)?;
                    assert_eq!(state.epoch, self.model.reader.0 + 1);
                    self.epoch = state.epoch;
                    self.did(
                        lsn,
                        Did::Reader {
                            epoch: state.epoch,
                            watermark: self.model.reader.1,
                        },
                    );
                    return Ok(());
                }
                let (done, meta) = (vec![(watermark + 2, watermark + 4)], Bytes::new());
                tx.offsets.push(OffsetCommit {
                    stream,
                    group,
                    epoch,
                    watermark,
                    done,
                    meta,
                });
                dids.push(Did::Reader { epoch, watermark });
            }
        }
        let ticket = self.log.lock().commit(tx, now)?;
        dids.into_iter().for_each(|did| self.did(ticket.lsn, did));
        Ok(())
    }

    /// A commit comes while a write is under way.
    fn overlap(&mut self) -> Result<(), Error> {
        let now = self.now();
        let job = self.log.lock().begin(now)?;
        let committed = self.commit();
        if let Some(job) = job {
            let done = job.run();
            self.log.lock().finish(done)?;
        }
        committed?;
        self.read_ends()
    }

    fn step_quietly(&mut self) -> Result<(), Error> {
        let now = self.now();
        match self.rng.below(10) {
            0..3 => self.commit(),
            3 => self.lease(),
            4..6 => self.overlap(),
            6..8 => pump::write(&self.log, now).map(drop),
            _ => self.read_ends(),
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        if self.quiet {
            return self.step_quietly();
        }
        let now = self.now();
        match self.rng.below(20) {
            0..6 => self.commit(),
            6..10 => self.lease(),
            10 => self.overlap(),
            11..14 => pump::write(&self.log, now).map(drop),
            14 => pump::upkeep(&self.log, now).map(drop),
            15 => pump::step(&self.log, now).map(drop),
            16 => self.pass_time(),
            17 => self.operate(),
            18 => self.read(),
            _ if self.rng.chance(20) => self.release(),
            _ => Ok(()),
        }
    }

    /// The process ends, and with `power` the machine: what is not synced survives in part, in any order.
    fn restart(&mut self, power: bool, faulty: bool) {
        let written = self.log.lock().written();
        let durable = self.log.lock().durable();
        let seed = self.rng.next();
        self.disk = if power {
            self.disk.crash(seed)
        } else {
            self.disk.kill()
        };
        if self.rng.chance(20) {
            self.wall_ms = self.wall_ms.saturating_sub(self.rng.below(5_000));
        }
        self.mono_ms = self.rng.below(1_000);
        let options = options(&mut self.rng);
        let (log, report) = Log::open(Arc::new(self.disk.clone()), options, self.now()).unwrap();
        self.log = Mutex::new(log);
        assert!(
            report.last >= durable,
            "confirmed up to {durable}, found up to {}",
            report.last
        );
        if !power && !faulty {
            assert!(
                report.last >= written,
                "written up to {written}, found up to {}",
                report.last
            );
        }
        self.held.clear();
        self.epoch = 0;
        self.history.retain(|(lsn, _)| *lsn <= report.last);
        self.model = Model::default();
        self.history
            .iter()
            .for_each(|(_, did)| self.model.apply(did));
        self.absorb_expired();
        let (first, gone) = self.first_event();
        assert!(
            !gone || first <= self.trimmed_max,
            "events were lost, not trimmed"
        );
        self.did_trim(report.last, first);
        self.check_minting();
        self.compare();
    }

    /// What anybody saw keeps its offset for ever, also where a crash took the record.
    fn check_minting(&self) {
        for ((stream, offset), id) in &self.seen {
            let next = self.log.lock().next_offset(self.streams[*stream].id);
            let kept = self.model.records.get(&(*stream, *offset));
            assert!(
                *offset < next.unwrap() && kept.is_none_or(|(kept, _)| kept == id),
                "offset {offset} of stream {stream} was seen, and will be minted again"
            );
        }
    }

    /// The log and the model agree in everything that can be asked.
    fn compare(&self) {
        let mut log = self.log.lock();
        for (n, sub) in self.subs.iter().enumerate() {
            let of_stream = self
                .model
                .records
                .range((sub.stream, 0)..(sub.stream + 1, 0));
            let mut depth = 0;
            for ((_, offset), _) in of_stream {
                let settled = self.model.settled.contains(&(n, *offset));
                assert_eq!(
                    log.is_settled(sub.id, *offset).unwrap(),
                    settled,
                    "sub {n} offset {offset}"
                );
                depth += u64::from(!settled);
            }
            let info = log.subscription_info(sub.id).unwrap();
            assert_eq!(info.depth, depth, "depth of sub {n}");
            let failures = log.failures(sub.id, None, FailureId(0), 10_000).unwrap();
            let of_sub = self.model.failures.iter().filter(|((s, _), _)| *s == n);
            let expected: Vec<_> = of_sub
                .map(|((_, failure), rest)| (*failure, *rest))
                .collect();
            assert_eq!(failures.len(), expected.len(), "failures of sub {n}");
            let mut parked = BTreeSet::new();
            for (info, (failure, (id, key, parks))) in failures.iter().zip(expected) {
                assert_eq!(
                    (info.id.0, info.parked),
                    (failure, parks),
                    "failures of sub {n}"
                );
                let failure = log.failure(sub.id, info.id).unwrap();
                assert_eq!(failure.meta, Bytes::from(id.to_string()));
                assert_eq!(failure.record.id, u128::from(id).to_le_bytes());
                assert_eq!(failure.record.key, key_bytes(key));
                parked.extend(key_bytes(key).filter(|_| parks));
            }
            assert_eq!(
                log.parked_keys(sub.id)
                    .unwrap()
                    .into_iter()
                    .collect::<BTreeSet<_>>(),
                parked
            );
            assert_eq!(info.failures, failures.len());
            let crash = self
                .model
                .crash
                .get(&n)
                .map(|state| Bytes::from(state.to_string()));
            assert_eq!(log.crash_state(sub.id).unwrap(), crash.unwrap_or_default());
        }
        let id = self.streams[EVENTS].id;
        let events = log.read(id, 0, 10_000, 1 << 20).unwrap().records;
        let kept = self
            .model
            .records
            .range((EVENTS, self.model.first)..(EVENTS + 1, 0));
        let kept: Vec<Offset> = kept.map(|((_, offset), _)| *offset).collect();
        let there: Vec<Offset> = events.iter().map(|event| event.offset).collect();
        assert_eq!(there, kept, "all events but the trimmed ones");
        let reader = log
            .reader(self.streams[EVENTS].id, "projection")
            .unwrap()
            .unwrap_or_default();
        assert_eq!((reader.epoch, reader.watermark), self.model.reader);
    }

    /// Everything unsettled comes out, with one member and all the time in the world; then nothing is left.
    fn drain(&mut self) {
        self.mono_ms += 100_000;
        self.wall_ms += 100_000;
        let now = self.now();
        pump::run_until_idle(&self.log, now).unwrap();
        self.tick().unwrap();
        self.held.clear();
        for sub in 0..self.subs.len() {
            let id = self.subs[sub].id;
            loop {
                let batch = self
                    .log
                    .lock()
                    .lease(id, member(0), 7, 1 << 20, LEASE, now)
                    .unwrap();
                self.absorb_expired();
                if batch.messages.is_empty() && !batch.more {
                    break;
                }
                let mut tx = Tx::default();
                for leased in &batch.messages {
                    let (offset, token) = (leased.record.offset, leased.token);
                    assert!(!self.model.settled.contains(&(sub, offset)));
                    tx.settles.push(SettleOp {
                        sub: id,
                        offset,
                        token,
                        how: Settle::Ack,
                    });
                    self.did(batch.lsn, Did::Settled { sub, offset });
                }
                self.log.lock().commit(tx, now).unwrap();
            }
            assert_eq!(
                self.log.lock().subscription_info(id).unwrap().depth,
                0,
                "everything of sub {sub} came"
            );
        }
        self.compare();
        for _ in 0..2 {
            self.wall_ms += 1_000;
            self.tick().unwrap();
        }
        let now = self.now();
        for stream in self
            .streams
            .iter()
            .filter(|stream| stream.kind != Kind::Events)
        {
            assert_eq!(
                self.log.lock().stream_info(stream.id).unwrap().records,
                0,
                "settled by all, and retained for long enough: gone"
            );
        }
        pump::close(&self.log, now).unwrap();
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..1 + world.rng.below(4) {
        let mut faulty = false;
        world.quiet = world.rng.chance(25);
        let ahead = world.disk.operations() + 1 + world.rng.below(120);
        match world.rng.below(10) {
            0..5 => world.disk.power_off_at(ahead),
            5 => {
                faulty = true;
                let fault = if world.rng.chance(50) {
                    Fault::Sync
                } else {
                    Fault::Write
                };
                world.disk.inject(fault, ahead);
            }
            _ => {}
        }
        for _ in 0..20 + world.rng.below(120) {
            if let Err(error) = world.step() {
                let expected = world.disk.is_off() || faulty;
                assert!(expected, "{error}");
                break;
            }
        }
        let power = world.disk.is_off() || world.rng.chance(50);
        world.quiet = false;
        world.restart(power, faulty);
    }
    world.drain();
}

#[test]
fn the_log_keeps_its_promises_through_random_crashes() {
    if let Ok(seed) = std::env::var("POSTRIDER_SEED") {
        return run(seed.parse().unwrap());
    }
    let seeds: u64 = std::env::var("POSTRIDER_SEEDS").map_or(500, |count| count.parse().unwrap());
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = result {
            eprintln!("seed {seed} failed: replay it with POSTRIDER_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// One story, cut at each single operation of the disk.
#[test]
fn a_power_cut_at_every_operation_of_the_disk_keeps_the_promises() {
    let story = |world: &mut World| -> Result<(), Error> {
        for _ in 0..40 {
            world.commit()?;
            world.lease()?;
            let now = world.now();
            pump::step(&world.log, now)?;
            world.operate()?;
            world.pass_time()?;
        }
        Ok(())
    };
    let mut whole = World::new(7);
    let from = whole.disk.operations();
    story(&mut whole).unwrap();
    let operations = whole.disk.operations();
    assert!(
        operations > from + 50,
        "the story does something: {operations}"
    );
    for operation in from + 1..=operations {
        let mut world = World::new(7);
        world.disk.power_off_at(operation);
        assert!(
            story(&mut world).is_err(),
            "operation {operation} was not reached"
        );
        world.restart(true, false);
        world.drain();
    }
}
