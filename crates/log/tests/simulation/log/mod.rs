//! The whole log on a simulated disk: random publishers, members and operators, power cuts, kills and failed syncs.
//!
//! Beside the log runs a model: the list of what each frame did. After every crash the log says how far it reaches; the model is cut
//! there, and both must agree in everything. From that follow the promises: nothing confirmed is lost, nothing settled and
//! durable comes back, transactions are whole, a failure record and its settle are one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::SimDisk;
use postrider_log::wal::{JobDone, WalOptions, WriteJob};
use postrider_log::{
    Kind, LeaseToken, Leased, Level, Limits, Log, Lsn, MemberId, Now, Offset, Options, Retention,
    Start, StreamConfig, StreamId, SubId, SubscriptionConfig, Ticket, pump,
};

use crate::harness::Counts;
use crate::harness::rng::Rng;
use model::{Did, Model};

mod act;
mod check;
mod crash;
mod model;
mod story;

pub(crate) use story::{LogSimulation, What};

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
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// What the clock on the wall shows at first.
const START_MS: u64 = 1_700_000_000_000;

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

/// A write that takes its time.
enum UnderWay {
    /// Nothing of it was done yet.
    Begun(WriteJob),
    /// It is done, and the log does not know.
    Done(JobDone),
}

/// A record that was published once.
#[derive(Debug, Clone, Copy)]
struct Record {
    id: u64,
    key: u64,
    lsn: Lsn,
}

/// A commit whose publisher waits.
struct Waiting {
    ticket: Ticket,
    /// What it published: stream, offset, message.
    published: Vec<(usize, Offset, u64)>,
}

pub(crate) struct World {
    rng: Rng,
    pub(crate) disk: SimDisk,
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
    /// A call of the disk fails in this run, or has failed.
    faulty: bool,
    /// The disk may be full.
    full: bool,
    /// Something failed: this process does nothing more.
    pub(crate) broken: bool,
    under_way: Option<UnderWay>,
    waiting: Vec<Waiting>,
    /// The last frame that somebody was told is durable, and the last that somebody was told is written.
    confirmed: (Lsn, Lsn),
    /// The last lease of each message in this run.
    tokens: BTreeMap<(usize, Offset), LeaseToken>,
    /// Not before this time of the monotonic clock.
    not_before: BTreeMap<(usize, Offset), u64>,
    /// All that was ever published at a place.
    published: BTreeMap<(usize, Offset), Vec<Record>>,
    counts: Counts,
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
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = Rng(seed);
        let disk = SimDisk::new(seed);
        let now = Now::from_millis(START_MS, 0);
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
            wall_max_ms: START_MS,
            held: Vec::new(),
            next_id: 1,
            wall_ms: START_MS,
            mono_ms: 0,
            epoch: 0,
            quiet: false,
            faulty: false,
            full: false,
            broken: false,
            under_way: None,
            waiting: Vec::new(),
            confirmed: (Lsn(0), Lsn(0)),
            tokens: BTreeMap::new(),
            not_before: BTreeMap::new(),
            published: BTreeMap::new(),
            counts: Counts::new(),
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
}
