//! The whole log on a simulated disk: random publishers, members and operators, power cuts, kills and failed syncs.
//!
//! Beside the log runs a model: the list of what each frame did. After every crash the log says how far it reaches; the model is cut
//! there, and both must agree in everything. From that follow the promises: nothing confirmed is lost, nothing settled and
//! durable comes back, transactions are whole, a failure record and its settle are one.
//!
//! `POSTRIDER_SEED=n` replays one seed, `POSTRIDER_SEEDS=n` sets how many are run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::{Fault, SimDisk};
use postrider_log::wal::WalOptions;
use postrider_log::{
    Error, Kind, Leased, Level, Limits, Log, Lsn, MemberId, Now, Offset, Options, Retention, Start,
    StreamConfig, StreamId, SubId, SubscriptionConfig, pump,
};

use crate::rng::Rng;
use model::{Did, Model};

mod act;
mod check;
mod model;

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
