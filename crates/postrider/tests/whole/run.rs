//! One run: members come and go while messages are published; then everything is mended, redriven, and looked at.
//!
//! Waits are in virtual time (`start_paused`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider::contract::clock::Clock as _;
use postrider::contract::engine::{Admin, Engine};
use postrider::contract::envelope::{Envelope, Outgoing};
use postrider::contract::failure::{FailureStore, Reason, Selection};
use postrider::contract::fault::FaultKind;
use postrider::contract::name::{Destination, Name, SubscriptionId};
use postrider::contract::store::Store as _;
use postrider::embedded::{Embedded, MemoryOptions};
use postrider::{Bus, BusOptions, MessageId, Running, Sqlite, Timestamp, secs};

use crate::chain::{self, A, SERVICES, Shared, TOPICS, World};
use crate::dice::{Dice, VirtualClock};
use crate::garbled::{Garbled, break_reader};
use crate::line::{Line, Mortal, State};

const MEMBERS_MAX: usize = 3;
/// How long it may take after everything is mended, in virtual time.
const PATIENCE: Duration = Duration::from_secs(1800);

struct Member {
    stage: usize,
    running: Running,
    /// `None`: it shares the bus that never fails.
    line: Option<Arc<Line>>,
}

struct Run {
    world: Shared,
    dice: Dice,
    engine: Arc<dyn Engine>,
    clock: Arc<VirtualClock>,
    bus: Bus,
    stores: Vec<Sqlite>,
    /// Where failures are, if not in the engine.
    home: Option<Sqlite>,
    members: Vec<Member>,
    ids: Vec<SubscriptionId>,
    keys: Vec<String>,
    per_key: u32,
    /// Nothing is killed, frozen or stopped: then nothing is handled twice.
    calm: bool,
    published: Vec<Outgoing>,
    log: Vec<String>,
}

pub async fn run(seed: u64) {
    break_reader(true);
    let mut run = Run::new(seed).await;
    for stage in 0..SERVICES.len() {
        run.start(stage).await;
        run.start(stage).await;
    }
    run.chaos().await;
    run.mend().await;
    run.finish().await;
    run.look().await;
    run.stop().await;
}

impl Run {
    async fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let clock = Arc::new(VirtualClock::new());
        let engine: Arc<dyn Engine> =
            Arc::new(Embedded::memory(MemoryOptions::on(clock.clone())).unwrap());
        let calm = seed.is_multiple_of(5);
        let trouble = match seed % 7 {
            0 => 0,
            n => n * 40,
        };
        let world = World::new(seed, dice.clone(), trouble, false);
        let bus = bus(engine.clone(), &clock, &dice).await;
        let stores = SERVICES.iter().map(|_| {
            let store = Sqlite::in_memory().unwrap();
            store.migrate(&[chain::SCHEMA]).unwrap()
        });
        let keys = 2 + dice.below(6);
        Self {
            world,
            engine,
            clock,
            bus,
            stores: stores.collect(),
            home: (seed % 3 == 1).then(|| Sqlite::in_memory().unwrap()),
            members: Vec::new(),
            ids: (0..SERVICES.len()).map(id_of).collect(),
            keys: (0..keys).map(|k| format!("k{k}")).collect(),
            per_key: dice.between(5, 25) as u32,
            calm,
            published: Vec::new(),
            log: Vec::new(),
            dice,
        }
    }

    fn say(&mut self, what: impl std::fmt::Display) {
        self.log.push(format!("{:?} {what}", self.clock.mono().0));
    }

    async fn start(&mut self, stage: usize) {
        let mut service = chain::service(stage, &self.world, &self.stores[stage]);
        if let Some(home) = &self.home {
            service = service.failures(Arc::new(home.failures()));
        }
        let shared = self.dice.one_in(2);
        let (bus_of, line) = if shared {
            (self.bus.clone(), None)
        } else {
            let rough = self.world.trouble > 0 && !self.calm;
            let one_in = if rough { 60 } else { 0 };
            let line = Line::new(self.dice.clone(), one_in, Box::new(|_| {}));
            let mortal = Arc::new(Mortal {
                inner: self.engine.clone(),
                line: line.clone(),
            });
            (bus(mortal, &self.clock, &self.dice).await, Some(line))
        };
        self.say(format!("start {} shared {shared}", SERVICES[stage]));
        let running = service.start(&bus_of).await.unwrap();
        self.members.push(Member {
            stage,
            running,
            line,
        });
    }

    async fn chaos(&mut self) {
        let mut next: Vec<u32> = self.keys.iter().map(|_| 1).collect();
        loop {
            let open: Vec<usize> = (0..next.len())
                .filter(|k| next[*k] <= self.per_key)
                .collect();
            if open.is_empty() {
                return;
            }
            for _ in 0..self.dice.between(1, 8) {
                let k = open[self.dice.below(open.len() as u64) as usize];
                if next[k] <= self.per_key {
                    self.publish(k, next[k]).await;
                    next[k] += 1;
                }
            }
            self.disturb().await;
            tokio::time::sleep(Duration::from_millis(self.dice.below(2000))).await;
        }
    }

    /// Through the engine's own publisher, so that the same message can be published again.
    async fn publish(&mut self, k: usize, n: u32) {
        let garbled = Garbled(self.world.trouble > 0 && self.dice.one_in(50));
        let key = self.keys[k].clone();
        let publisher = self.engine.publisher().await.unwrap();
        let message = sealed(A { key, n, garbled }, self.clock.wall());
        self.published.push(message.clone());
        publisher.publish(vec![message]).await.remove(0).unwrap();
        if self.dice.one_in(5) {
            let recent = self.published.len().saturating_sub(10);
            let which = self
                .dice
                .between(recent as u64, self.published.len() as u64);
            let again = self.published[which as usize].clone();
            let receipt = publisher.publish(vec![again]).await.remove(0).unwrap();
            assert!(receipt.duplicate, "an id within the window is stored once");
        }
    }

    async fn disturb(&mut self) {
        if self.world.trouble == 0 {
            return;
        }
        let stage = self.dice.below(SERVICES.len() as u64) as usize;
        match self.dice.below(14) {
            0 | 1 if !self.calm => self.stop_one(stage),
            2 | 3 if !self.calm => self.kill(stage),
            4 | 5 if !self.calm => self.freeze(stage),
            6 | 7 => {
                let count = self.members.iter().filter(|m| m.stage == stage).count();
                if count < MEMBERS_MAX {
                    self.start(stage).await;
                }
            }
            8 => self.outage(stage),
            10 | 11 if !self.calm => self.pause(stage),
            9 => {
                let id = self.ids[stage].clone();
                self.say(format!("redrive {id}"));
                redrive(&*self.failures(), &id).await;
            }
            _ => {}
        }
    }

    fn failures(&self) -> Arc<dyn FailureStore> {
        match &self.home {
            Some(home) => Arc::new(home.failures()),
            None => self.engine.failures().unwrap(),
        }
    }

    fn take(&mut self, stage: usize, mortal: bool) -> Option<Member> {
        let fits = |m: &Member| m.stage == stage && (!mortal || m.line.is_some());
        let found = self.members.iter().position(fits)?;
        Some(self.members.swap_remove(found))
    }

    fn stop_one(&mut self, stage: usize) {
        if let Some(member) = self.take(stage, false) {
            let grace = Duration::from_millis(self.dice.below(8000));
            self.say(format!("stop {} within {grace:?}", SERVICES[stage]));
            tokio::spawn(member.running.stop(grace));
        }
    }

    fn kill(&mut self, stage: usize) {
        if let Some(member) = self.take(stage, true) {
            self.say(format!("kill {}", SERVICES[stage]));
            member.line.unwrap().set(State::Dead);
            tokio::spawn(member.running.stop(Duration::ZERO));
        }
    }

    fn freeze(&mut self, stage: usize) {
        let found = self
            .members
            .iter()
            .find(|m| m.stage == stage && m.line.is_some());
        let Some(line) = found.and_then(|m| m.line.clone()) else {
            return;
        };
        let wait = Duration::from_millis(self.dice.below(25_000));
        self.say(format!("freeze {} for {wait:?}", SERVICES[stage]));
        line.set(State::Frozen);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            line.thaw();
        });
    }

    fn pause(&mut self, stage: usize) {
        let Some(member) = self.members.iter().find(|m| m.stage == stage) else {
            return;
        };
        let driver = member.running.subscriptions()[0].clone();
        let wait = Duration::from_millis(self.dice.below(6000));
        self.say(format!("pause {} for {wait:?}", SERVICES[stage]));
        tokio::spawn(async move {
            driver.pause().await;
            tokio::time::sleep(wait).await;
            driver.resume().await;
        });
    }

    fn outage(&mut self, stage: usize) {
        let wait = Duration::from_millis(self.dice.below(15_000));
        self.say(format!("outage of {} for {wait:?}", SERVICES[stage]));
        let world = self.world.clone();
        world.down[stage].store(true, Ordering::SeqCst);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            world.down[stage].store(false, Ordering::SeqCst);
        });
    }

    async fn mend(&mut self) {
        self.say("mend");
        self.world.cured.store(true, Ordering::SeqCst);
        break_reader(false);
        for stage in 0..SERVICES.len() {
            self.start(stage).await;
        }
    }

    async fn finish(&mut self) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            for id in &self.ids {
                redrive(&*self.failures(), id).await;
            }
            tokio::time::sleep(secs(10)).await;
            let left = self.left().await;
            if left.is_empty() {
                return;
            }
            if tokio::time::Instant::now() > until {
                let log = self.log.join("\n");
                panic!(
                    "still there after everything was mended: {left:#?}\n{log}\n{}",
                    self.world.story()
                );
            }
        }
    }

    async fn left(&self) -> Vec<String> {
        let admin: Arc<dyn Admin> = self.engine.admin().unwrap();
        let failures = self.failures();
        let mut left = Vec::new();
        for (stage, id) in self.ids.iter().enumerate() {
            let depth = admin.depth(id).await.unwrap();
            if depth.depth > 0 {
                left.push(format!("{id}: {depth:?}"));
            }
            let records = failures
                .list(id, None, None, 1000)
                .await
                .unwrap_or_default();
            if !records.is_empty() {
                let one = |r: &postrider::contract::failure::FailureRecord| {
                    let key = r
                        .draft
                        .key
                        .as_ref()
                        .map(|k| String::from_utf8_lossy(k).into_owned());
                    (
                        r.id.0,
                        r.state,
                        r.parked,
                        key,
                        r.draft.facts.position,
                        r.draft.facts.errors.first().cloned(),
                    )
                };
                let records: Vec<_> = records.iter().map(one).collect();
                left.push(format!("{id}: failures {records:?}"));
            }
            let outbox = self.stores[stage].outbox().unwrap().depth().await.unwrap();
            if outbox > 0 {
                left.push(format!("{id}: outbox {outbox}"));
            }
        }
        for member in &self.members {
            for driver in member.running.subscriptions() {
                let status = driver.status();
                if status.held + status.running + status.publishing > 0 {
                    left.push(format!("{} held: {status:?}", SERVICES[member.stage]));
                }
            }
        }
        for (stage, key) in (0..SERVICES.len()).flat_map(|s| self.keys.iter().map(move |k| (s, k)))
        {
            let handled = self.world.handled(stage, key);
            if handled < self.per_key {
                left.push(format!(
                    "{} {key}: {handled} of {}",
                    SERVICES[stage], self.per_key
                ));
            }
        }
        left
    }

    async fn look(&self) {
        for stage in [0, 1, 3] {
            let store = &self.stores[stage];
            let found = chain::audit(stage, store, &self.keys, self.per_key).await;
            found.into_iter().for_each(|what| self.world.wrong(what));
        }
        let messages = self.keys.len() * self.per_key as usize;
        assert_eq!(chain::paid(&self.world), messages);
        if self.calm {
            for (stage, service) in SERVICES.iter().enumerate() {
                let repeats = self.world.repeats(stage);
                if repeats > 0 {
                    let text = format!("{service}: {repeats} repeats in a calm run");
                    self.world.wrong(text);
                }
            }
        }
        let wrongs = self.world.wrongs();
        let log = || format!("{}\n{}", self.log.join("\n"), self.world.story());
        assert!(wrongs.is_empty(), "{wrongs:#?}\n{}", log());
    }

    async fn stop(self) {
        for member in self.members {
            let stage = member.stage;
            let left = member.running.stop(secs(10)).await;
            assert!(left.is_nothing(), "{}: {left}", SERVICES[stage]);
        }
        self.bus.close(secs(10)).await.unwrap();
    }
}

async fn bus(engine: Arc<dyn Engine>, clock: &Arc<VirtualClock>, dice: &Dice) -> Bus {
    let options = BusOptions {
        source: "whole".into(),
        clock: clock.clone(),
        entropy: Arc::new(dice.clone()),
        ..BusOptions::default()
    };
    Bus::from_engine(engine, options).await.unwrap()
}

pub async fn redrive(failures: &dyn FailureStore, id: &SubscriptionId) {
    let reason = Reason {
        by: "test".into(),
        text: "mended".into(),
        at: Timestamp(0),
    };
    match failures.redrive(id, Selection::All, reason).await {
        // Nothing of it has failed yet.
        Err(fault) if fault.kind == FaultKind::NotFound => {}
        redriven => drop(redriven.unwrap()),
    }
}

/// The same message has the same id.
pub fn sealed(message: A, time: Timestamp) -> Outgoing {
    use postrider::Message as _;
    let id = MessageId::parse_or_hash(&format!("{}/{}", message.key, message.n));
    let mut envelope = Envelope::new(id, "whole".into(), A::TYPE.into(), time);
    envelope.key = message.key();
    Outgoing {
        destination: destination(TOPICS[0]),
        payload: message.encode().unwrap(),
        envelope,
    }
}

pub fn id_of(stage: usize) -> SubscriptionId {
    SubscriptionId {
        service: Name::new(SERVICES[stage]).unwrap(),
        on: destination(TOPICS[stage]),
    }
}

fn destination(topic: &'static str) -> Destination {
    Destination::topic(topic).unwrap()
}
