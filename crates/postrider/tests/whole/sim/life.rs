//! One life of the process: the engine on its disk, services, publishers, and what disturbs them.
//!
//! Waits are in virtual time (`start_paused`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider::contract::clock::Clock as _;
use postrider::contract::engine::{Engine, Publisher};
use postrider::contract::envelope::{Envelope, Outgoing};
use postrider::contract::failure::{FailureStore, Reason, Selection};
use postrider::contract::fault::{Advice, FaultKind};
use postrider::contract::name::{Destination, Name, SubscriptionId};
use postrider::embedded::{Embedded, Options, Stepper};
use postrider::{Bus, BusOptions, Message, MessageId, Running, Timestamp};
use postrider_log::disk::{Fault, SimDisk};
use tokio::sync::Notify;

use super::clock::LifeClock;
use super::home::SimFailures;
use super::ledger::{Life, Shared};
use super::scenario::Fate;
use super::services::{A, Here, LATER, Later, SERVICES, TOPICS, check_of, service};
use super::store::SimStore;
use crate::garbled::{Garbled, break_reader};
use crate::line::{Line, LineClock, Mortal};

/// A life that nothing ends is ended after this, in virtual time; the last one must be done by then.
const LONGEST: Duration = Duration::from_secs(900);
/// A member is frozen for so long at most: longer than a lease.
const FROZEN_MS_MAX: u64 = 7000;
/// What was lost comes again, is tried anew and is settled within this.
const DISTURBED_MS: u64 = 6000;
/// How long all that was published may take before the last life is ended anyhow.
const LINGER_MS: u64 = 6000;

/// How a life ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The power failed: what was not synced is lost, or not.
    Power,
    /// The process is gone, its page cache is not.
    Process,
    /// It was stopped in order.
    Stopped,
    /// Everything was mended, and looked at.
    Finished,
}

/// Small segments and frequent checkpoints, so that a short life has some.
pub fn options(clock: Arc<LifeClock>, disk: &SimDisk) -> (Options, postrider_log::Options) {
    let mut options = Options::default();
    options.clock = clock;
    options.message_bytes_max = 8 << 10;
    options.checkpoint_every = Duration::from_secs(3);
    options.disk = Some(Arc::new(disk.clone()));
    let mut log = postrider_log::Options::default();
    log.wal.segment_bytes = [32 << 10, 32 << 10, 64 << 10];
    log.wal.frame_bytes_max = 32 << 10;
    log.wal.reserve_bytes = 8 << 10;
    log.wal.fill_bytes = 16 << 10;
    log.wal.checkpoint_bytes = 48 << 10;
    log.limits.reserve_ahead = 16;
    (options, log)
}

struct Process {
    world: Shared,
    engine: Arc<Embedded>,
    life: Arc<Life>,
    /// Rings where something is in the outbox of a store, and in its failure store.
    rings: Vec<[Arc<Notify>; 2]>,
    members: Vec<Member>,
    /// Of so many calls one is cut.
    cut_one_in: u64,
}

struct Member {
    stage: usize,
    running: Running,
    here: Here,
}

/// Runs one life, and gives the disk as the next one finds it. `None` as its fate: it is the last one, and mends everything.
pub async fn live(world: &Shared, disk: SimDisk, fate: Option<Fate>) -> (End, SimDisk) {
    let clock = Arc::new(LifeClock::new(world.time.clone()));
    let life = Life::new(fate.unwrap_or(Fate::Stop), clock.clone());
    world.begin_life(life.clone());
    world.say(format!("a life begins; it ends by {fate:?}"));
    arm(&disk, fate);
    let (options, limits) = options(clock, &disk);
    let (engine, stepper) = match Embedded::stepped(options, limits) {
        Ok(opened) => opened,
        Err(error) => {
            let planned = disk.is_off()
                || matches!(
                    fate,
                    Some(Fate::WriteError(_) | Fate::SyncError(_) | Fate::Full(..))
                );
            if !planned {
                world.wrong(format!("it does not open: {error}"));
            }
            world.disturb(0);
            let end = if disk.is_off() {
                End::Power
            } else {
                End::Process
            };
            return next(world, &disk, end);
        }
    };
    let mut process = Process {
        rings: SERVICES.iter().map(|_| Default::default()).collect(),
        cut_one_in: fate.map_or(0, |_| world.scenario.cut_one_in),
        world: world.clone(),
        engine: Arc::new(engine),
        life: life.clone(),
        members: Vec::new(),
    };
    let end = tokio::select! {
        biased;
        () = steps(stepper, world, &disk, fate) => match disk.is_off() {
            true => End::Power,
            false => End::Process,
        },
        () = life.cut.notified() => End::Power,
        () = until(fate) => End::Power,
        () = full(world, &disk, fate) => End::Power,
        end = process.body(fate) => end,
    };
    // What a member did not settle before this comes again.
    world.disturb(0);
    // DURABILITY: copied before the process is gone; what its end still writes reaches nobody.
    next(world, &disk, end)
}

fn next(world: &Shared, disk: &SimDisk, end: End) -> (End, SimDisk) {
    let operations = disk.operations();
    world.say(format!(
        "the life ends after {operations} operations: {end:?}"
    ));
    let disk = match end {
        End::Power => disk.crash(world.dice.below(u64::MAX)),
        _ => disk.kill(),
    };
    // Somebody made room before it is started again.
    disk.set_capacity(None);
    (end, disk)
}

fn arm(disk: &SimDisk, fate: Option<Fate>) {
    match fate {
        Some(Fate::PowerCut(at)) => disk.power_off_at(at),
        Some(Fate::WriteError(at)) => disk.inject(Fault::Write, at),
        Some(Fate::SyncError(at)) => disk.inject(Fault::Sync, at),
        _ => {}
    }
}

/// The pump, until the engine has ended or the process is killed.
async fn steps(mut stepper: Stepper, world: &Shared, disk: &SimDisk, fate: Option<Fate>) {
    let kill_at = match fate {
        Some(Fate::Kill(at)) => at,
        _ => u64::MAX,
    };
    while stepper.step() && disk.operations() < kill_at {
        let lag = match world.dice.below(6) {
            0 if world.scenario.slow => world.dice.below(600),
            0..3 => world.dice.below(8),
            _ => 0,
        };
        match lag {
            0 => tokio::task::yield_now().await,
            lag => tokio::time::sleep(Duration::from_millis(lag)).await,
        }
        stepper.wanted().await;
    }
}

async fn until(fate: Option<Fate>) {
    match fate {
        Some(Fate::At(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
        _ => std::future::pending().await,
    }
}

/// The disk is full for a while; later the power fails.
async fn full(world: &Shared, disk: &SimDisk, fate: Option<Fate>) {
    let Some(Fate::Full(at, for_ms)) = fate else {
        return std::future::pending().await;
    };
    while disk.operations() < at {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let files = disk.paths();
    let bytes = files.iter().filter_map(|path| disk.content(path));
    disk.set_capacity(Some(bytes.map(|content| content.len() as u64).sum()));
    world.say(format!("the disk is full for {for_ms} ms"));
    // What cannot be settled comes again when its lease has ended.
    world.disturb(for_ms + 6000);
    tokio::time::sleep(Duration::from_millis(for_ms)).await;
    disk.set_capacity(None);
    world.say("the disk has room");
    tokio::time::sleep(Duration::from_millis(3000)).await;
}

/// Longer than any handler takes, in virtual time.
const HANDLED_WITHIN: Duration = Duration::from_millis(500);

impl Process {
    async fn body(&mut self, fate: Option<Fate>) -> End {
        for stage in 0..SERVICES.len() {
            if stage == LATER && self.world.scenario.delayed == 0 {
                continue;
            }
            for _ in 0..self.world.scenario.members {
                if !self.start(stage).await {
                    return End::Process;
                }
            }
        }
        let publishing = self.publish_all();
        let Some(fate) = fate else {
            return self.mend(publishing).await;
        };
        self.disturb().await;
        let frozen_ms = if self.world.scenario.freezes {
            FROZEN_MS_MAX
        } else {
            0
        };
        let linger = self.world.dice.below(LINGER_MS) + self.world.dice.below(frozen_ms + 1);
        tokio::time::sleep(Duration::from_millis(linger)).await;
        publishing.iter().for_each(|task| task.abort());
        if fate == Fate::Stop {
            return self.stop().await;
        }
        match self.world.dice.one_in(2) {
            true => End::Power,
            false => End::Process,
        }
    }

    /// A line on which calls are cut, to be told of in the story.
    fn line(&self, whose: &'static str) -> Arc<Line> {
        let world = self.world.clone();
        let tell = move |what: &str| world.say(format!("{whose}: {what}"));
        Line::new(self.world.dice.clone(), self.cut_one_in, Box::new(tell))
    }

    /// The engine as one sees it at the other end of a line.
    fn engine_over(&self, line: &Arc<Line>) -> Arc<dyn Engine> {
        if self.cut_one_in == 0 && !self.world.scenario.freezes {
            return self.engine.clone();
        }
        Arc::new(Mortal {
            inner: self.engine.clone(),
            line: line.clone(),
        })
    }

    async fn bus(&self, line: &Arc<Line>) -> Option<Bus> {
        let options = BusOptions {
            source: "sim".into(),
            clock: Arc::new(LineClock {
                inner: self.life.clock.clone(),
                line: line.clone(),
            }),
            entropy: Arc::new(self.world.dice.clone()),
            ..BusOptions::default()
        };
        Bus::from_engine(self.engine_over(line), options).await.ok()
    }

    /// The failure store beside the engine, over a line.
    fn beside(&self, stage: usize, line: Arc<Line>) -> SimFailures {
        SimFailures {
            stage,
            world: self.world.clone(),
            line,
            changed: self.rings[stage][1].clone(),
        }
    }

    /// Where a person looks for failures.
    fn failures(&self, stage: usize) -> Option<Arc<dyn FailureStore>> {
        if !self.world.scenario.beside {
            return self.engine.failures();
        }
        let line = Line::new(self.world.dice.clone(), 0, Box::new(|_| {}));
        Some(Arc::new(self.beside(stage, line)))
    }

    /// `false`: the engine has ended meanwhile.
    async fn start(&mut self, stage: usize) -> bool {
        let line = self.line(SERVICES[stage]);
        let Some(bus) = self.bus(&line).await else {
            return false;
        };
        let (world, ring) = (self.world.clone(), self.rings[stage][0].clone());
        let store = Arc::new(SimStore::open(stage, world.clone(), line.clone(), ring));
        let here = Here {
            world,
            line: line.clone(),
            member: Arc::default(),
        };
        let mut service = service(stage, &here, &store);
        if self.world.scenario.beside {
            service = service.failures(Arc::new(self.beside(stage, line)));
        }
        match service.start(&bus).await {
            Ok(running) => {
                self.members.push(Member {
                    stage,
                    running,
                    here,
                });
                true
            }
            Err(error) => {
                self.world
                    .say(format!("{} did not start: {error}", SERVICES[stage]));
                // Whether that was to be is seen by who looks at the engine.
                tokio::time::sleep(Duration::from_millis(50)).await;
                true
            }
        }
    }

    /// Each publisher has keys of its own, and goes on where it was not confirmed.
    fn publish_all(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let (keys, publishers) = (self.world.scenario.keys, self.world.scenario.publishers);
        let all = (0..publishers).map(|p| {
            let keys = (0..keys).filter(move |k| k % publishers == p);
            let (engine, world) = (
                self.engine_over(&self.line("publisher")),
                self.world.clone(),
            );
            let clock = self.life.clock.clone();
            let keys: Vec<String> = keys.map(key_of).collect();
            tokio::spawn(async move {
                let later = if p == 0 { world.scenario.delayed } else { 0 };
                publish(&*engine, &world, &clock, &keys, later).await;
            })
        });
        all.collect()
    }

    async fn disturb(&mut self) {
        let world = self.world.clone();
        for _ in 0..world.dice.between(2, 8) {
            tokio::time::sleep(Duration::from_millis(world.dice.below(700))).await;
            if world.scenario.jumps && world.dice.one_in(3) {
                let day = 24 * 3600 * 1000;
                let by = world.dice.below(2 * day) as i64 - day as i64;
                world.say(format!("the wall clock jumps by {by} ms"));
                world.time.jump(by);
            }
            if world.scenario.churn {
                self.churn().await;
            }
            if world.scenario.freezes {
                self.freeze();
            }
        }
    }

    /// A member is frozen: nothing in it goes on, and its clocks stand still.
    fn freeze(&self) {
        let (world, clock) = (self.world.clone(), self.life.clock.clone());
        if self.members.is_empty() {
            return;
        }
        let at = world.dice.below(self.members.len() as u64) as usize;
        let Member {
            stage, ref here, ..
        } = self.members[at];
        let here = here.clone();
        if here.line.is_frozen() {
            return;
        }
        let wait_ms = world.dice.between(300, FROZEN_MS_MAX);
        let name = SERVICES[stage];
        world.say(format!("a member of {name} freezes for {wait_ms} ms"));
        // What it held comes again elsewhere when its lease has ended, and so does what it handles before it sees that.
        world.disturb(wait_ms + DISTURBED_MS);
        here.line.freeze(&*clock);
        here.member.freezes(world.now_ms());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            world.say(format!("a member of {name} goes on"));
            here.member.thaws(world.now_ms());
            here.line.thaw();
            tokio::time::sleep(Duration::from_millis(DISTURBED_MS)).await;
            world.tries_begin_anew();
        });
    }

    async fn churn(&mut self) {
        let world = self.world.clone();
        if self.members.is_empty() {
            return;
        }
        let at = world.dice.below(self.members.len() as u64) as usize;
        let stage = self.members[at].stage;
        match world.dice.below(6) {
            0 => {
                world.say(format!("a member of {} is killed", SERVICES[stage]));
                world.disturb(100);
                drop(self.members.swap_remove(at));
            }
            1 => {
                let grace = Duration::from_millis(world.dice.below(3000));
                world.say(format!(
                    "a member of {} stops within {grace:?}",
                    SERVICES[stage]
                ));
                world.disturb(grace.as_millis() as u64 + 6000);
                let Member { running, .. } = self.members.swap_remove(at);
                tokio::spawn(running.stop(grace));
            }
            2 if self.members.len() < 12 => {
                world.say(format!("a member of {} comes", SERVICES[stage]));
                self.start(stage).await;
            }
            3 => {
                world.say(format!("{} is redriven", SERVICES[stage]));
                self.redrive(stage).await;
            }
            4 => {
                let driver = self.members[at].running.subscriptions()[0].clone();
                let wait = Duration::from_millis(world.dice.below(2000));
                world.say(format!(
                    "a member of {} pauses for {wait:?}",
                    SERVICES[stage]
                ));
                world.pause(wait.as_millis() as u64 + HANDLED_WITHIN.as_millis() as u64);
                tokio::spawn(async move {
                    driver.pause().await;
                    tokio::time::sleep(wait).await;
                    driver.resume().await;
                    // What was in a handler at the pause has ended by then, and was given back.
                    tokio::time::sleep(HANDLED_WITHIN).await;
                    world.tries_begin_anew();
                });
            }
            _ => {}
        }
    }

    async fn redrive(&self, stage: usize) {
        let Some(failures) = self.failures(stage) else {
            return;
        };
        self.world.tries_begin_anew();
        let reason = Reason {
            by: "test".into(),
            text: "again".into(),
            at: Timestamp(0),
        };
        match failures
            .redrive(&id_of(stage), Selection::All, reason)
            .await
        {
            Ok(_) => {}
            Err(fault) if fault.kind == FaultKind::NotFound => {}
            Err(fault) => self.world.say(format!("no redrive: {fault}")),
        }
    }

    async fn stop(&mut self) -> End {
        for Member { stage, running, .. } in std::mem::take(&mut self.members) {
            let left = running.stop(Duration::from_secs(20)).await;
            if !left.is_nothing() {
                self.world.say(format!("{} stops: {left}", SERVICES[stage]));
            }
        }
        match self.engine.close(Duration::from_secs(5)).await {
            Ok(()) => End::Stopped,
            Err(fault) => {
                self.world.wrong(format!("it does not close: {fault}"));
                End::Process
            }
        }
    }

    /// Nothing fails any more: everything that was published is handled, everything that failed is redriven, and then nothing is left.
    async fn mend(&mut self, publishing: Vec<tokio::task::JoinHandle<()>>) -> End {
        let world = self.world.clone();
        world.cured.store(true, Ordering::SeqCst);
        break_reader(false);
        world.tries_begin_anew();
        if world.scenario.jumps {
            // What was delayed by a clock that jumped is due.
            (0..6).for_each(|_| world.time.jump(24 * 3600 * 1000));
        }
        for task in publishing {
            if task.await.is_err() {
                world.wrong("a publisher panicked");
            }
        }
        let keys: Vec<String> = (0..world.scenario.keys).map(key_of).collect();
        let mut left = Vec::new();
        while self.life.clock.lasted() < LONGEST {
            for stage in 0..SERVICES.len() {
                self.redrive(stage).await;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            left = world.missing(&keys);
            left.extend(self.left().await);
            if left.is_empty() {
                break;
            }
        }
        left.into_iter()
            .for_each(|what| world.wrong(format!("in the end: {what}")));
        self.look(&keys);
        match self.stop().await {
            End::Stopped => End::Finished,
            end => end,
        }
    }

    /// What is still somewhere.
    async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let Some(admin) = self.engine.admin() else {
            return left;
        };
        for (stage, name) in SERVICES.iter().enumerate() {
            let Some(failures) = self.failures(stage) else {
                continue;
            };
            if let Ok(depth) = admin.depth(&id_of(stage)).await
                && depth.depth > 0
            {
                left.push(format!("{name}: {depth:?}"));
            }
            let records = failures.list(&id_of(stage), None, None, 100).await;
            let records = records.unwrap_or_default();
            if !records.is_empty() {
                left.push(format!("{name}: {} failures", records.len()));
            }
            let outbox = self.world.stores[stage].lock().unwrap().waiting();
            if outbox > 0 {
                left.push(format!("{name}: {outbox} in the outbox"));
            }
        }
        for member in &self.members {
            for driver in member.running.subscriptions() {
                let status = driver.status();
                if status.held + status.running + status.publishing > 0 {
                    left.push(format!("{} holds: {status:?}", SERVICES[member.stage]));
                }
            }
        }
        left
    }

    /// Each effect once, each confirmed message in it.
    fn look(&self, keys: &[String]) {
        let scenario = &self.world.scenario;
        for stage in [0, 2, LATER] {
            let later = ["later".to_owned()];
            let (keys, last) = match stage {
                LATER => (&later[..], scenario.delayed),
                _ => (keys, scenario.per_key),
            };
            let rows = self.world.stores[stage].lock().unwrap().rows.clone();
            for (key, n) in keys.iter().flat_map(|k| (1..=last).map(move |n| (k, n))) {
                let times = rows.0.iter().filter(|(k, m)| k == key && *m == n).count();
                if times != 1 {
                    let name = SERVICES[stage];
                    self.world
                        .wrong(format!("{name}: {key}/{n} is there {times} times"));
                }
            }
        }
    }
}

pub fn key_of(k: usize) -> String {
    format!("k{k}")
}

pub fn id_of(stage: usize) -> SubscriptionId {
    SubscriptionId {
        service: Name::new(SERVICES[stage]).unwrap(),
        on: Destination::topic(TOPICS[stage]).unwrap(),
    }
}

async fn publish(
    engine: &dyn Engine,
    world: &Shared,
    clock: &LifeClock,
    keys: &[String],
    later: u32,
) {
    let Ok(publisher) = engine.publisher().await else {
        return;
    };
    for n in 1..=later {
        let wait = Duration::from_millis(world.dice.below(4000));
        // The same id is the same message, whoever publishes it.
        let at = {
            let mut due = world.due.lock().unwrap();
            *due.entry(n).or_insert_with(|| clock.wall().plus(wait))
        };
        let message = Later { n, at: at.millis() };
        if !publish_one(&*publisher, world, LATER, "later", n, at, message).await {
            return;
        }
    }
    for n in 1..=world.scenario.per_key {
        for key in keys {
            let check = check_of(key, n);
            let garbled = Garbled(world.is_garbled(key, n));
            let message = A {
                key: key.clone(),
                n,
                check,
                garbled,
            };
            if !publish_one(&*publisher, world, 0, key, n, clock.wall(), message).await {
                return;
            }
            if world.dice.one_in(3) {
                tokio::time::sleep(Duration::from_millis(world.dice.below(300))).await;
            }
        }
    }
}

/// Until it is confirmed, with the same id and the same bytes. `false`: the engine has ended.
async fn publish_one<M: Message>(
    publisher: &dyn Publisher,
    world: &Shared,
    stage: usize,
    key: &str,
    n: u32,
    at: Timestamp,
    message: M,
) -> bool {
    if world
        .confirmed
        .lock()
        .unwrap()
        .contains(&(key.to_owned(), n))
    {
        return true;
    }
    let id = MessageId::parse_or_hash(&format!("{key}/{n}"));
    let mut envelope = Envelope::new(id, "sim".into(), M::TYPE.into(), Timestamp(1));
    envelope.key = message.key();
    envelope.deliver_at = (stage == LATER).then_some(at);
    let message = Outgoing {
        destination: Destination::topic(TOPICS[stage]).unwrap(),
        payload: message.encode().unwrap(),
        envelope,
    };
    loop {
        let receipt = publisher.publish(vec![message.clone()]).await.remove(0);
        match receipt {
            Ok(receipt) => {
                world.confirmed(TOPICS[stage], receipt.position, key, n);
                if world.dice.one_in(8) {
                    publish_again(publisher, world, message, key, n).await;
                }
                return true;
            }
            Err(fault) if fault.advice == Advice::StopOwner => return false,
            Err(fault) => {
                world.say(format!("{key}/{n} was not taken: {fault}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// An id within the window is stored once.
async fn publish_again(
    publisher: &dyn Publisher,
    world: &Shared,
    again: Outgoing,
    key: &str,
    n: u32,
) {
    let receipt = publisher.publish(vec![again]).await.remove(0);
    // The clock may have passed the window meanwhile.
    if receipt.is_ok_and(|receipt| !receipt.duplicate) && !world.scenario.jumps {
        world.wrong(format!("{key}/{n} is stored twice"));
    }
}
