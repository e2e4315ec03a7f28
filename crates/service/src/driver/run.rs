//! The driver itself: what it owns, what it waits for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::clock::{Entropy, Mono, backoff};
use postrider_core::failure::{FailureStore, OpenState};
use postrider_core::fault::{Advice, Fault};
use postrider_core::name::SubscriptionId;
use postrider_core::planted::{self, Plant};
use postrider_core::policy::Policy;
use postrider_core::source::{Commit, Credit, Leased, LogEvent, Settler, ShardEpoch, Source};
use postrider_core::subscription::SubscriptionSpec;
use postrider_kernel::{Config, Input, Kernel, Slot};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};

use super::calls::Returned;
use super::engine_lane::EngineLane;
use super::error::DriverError;
use super::handle::{Command, DrainReport, Ended, Status};
use super::held::Slab;
use super::home_lane::HomeLane;
use super::watching::Watch;
use super::{Phase, Setup};
use crate::delivery::Ending;
use crate::erased::Router;
use crate::metrics::SubscriptionMetrics;
use crate::runtime::Runtime;

/// How long a handler that was cancelled may take to end before its result is given up.
pub(super) const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// How long a driver that stopped by itself drains.
pub(super) const STOP_DRAIN: Duration = Duration::from_secs(30);
/// How long after the deadline of a drain (and the grace of its cancelled handlers) the driver ends in any case.
const END_GRACE: Duration = Duration::from_secs(4);
/// How often blocked and parked keys are counted for the status.
const STATUS_EVERY: Duration = Duration::from_millis(250);

const NO_ROOM: Credit = Credit {
    messages: 0,
    bytes: 0,
};

/// A handler's end, and how long it took.
pub(super) type HandlerEnd = Result<(Id, (Ending, Duration)), JoinError>;

/// What wakes the driver.
pub(super) enum Event {
    Leased(Result<Vec<Leased>, Fault>),
    /// All deliveries of these generations ended by themselves.
    Lost(Vec<u64>),
    Log(Result<LogEvent, Fault>),
    Handled(HandlerEnd),
    Returned(Returned),
    Command(Option<Command>),
    Timer,
}

/// What a time was noted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    Kernel,
    Source,
    Engine,
    Home,
    Commit,
    Status,
    Watch,
    /// Watched handlers have run for a while.
    Ran,
    End,
    Publish(Slot, u64),
    Cancelled(Slot, u64),
}

pub(super) struct Driver {
    pub(super) runtime: Arc<Runtime>,
    pub(super) spec: SubscriptionSpec,
    pub(super) policy: Policy,
    pub(super) router: Arc<Router>,
    pub(super) source: Source,
    pub(super) settler: Option<Arc<dyn Settler>>,
    pub(super) failures: Option<Arc<dyn FailureStore>>,
    /// They are the engine's own.
    pub(super) failures_in_engine: bool,
    /// A failure record and its settle are one operation of the engine.
    pub(super) atomic_dead_letter: bool,
    pub(super) atomic_settle: bool,
    pub(super) kernel: Kernel,
    pub(super) inputs: VecDeque<Input>,
    pub(super) slab: Slab,
    pub(super) handlers: JoinSet<(Ending, Duration)>,
    pub(super) tasks: HashMap<Id, (Slot, u64)>,
    pub(super) runs: u64,
    pub(super) calls: FuturesUnordered<Fut<'static, Returned>>,
    pub(super) engine: EngineLane,
    pub(super) home: HomeLane,
    pub(super) watch: Watch,
    pub(super) to_publish: VecDeque<(Slot, u64)>,
    pub(super) publishing: u32,
    pub(super) commits: BTreeMap<ShardEpoch, (Commit, u32)>,
    /// Given to the source, which has not said yet what became of them.
    pub(super) committing: BTreeMap<ShardEpoch, (Commit, u32)>,
    pub(super) revoked: Vec<ShardEpoch>,
    pub(super) credit: Credit,
    pub(super) alarms: BTreeSet<(Mono, Alarm)>,
    pub(super) source_tries: u32,
    /// The source is left alone: until a time, or for good.
    pub(super) source_waits: bool,
    pub(super) source_over: bool,
    commands: mpsc::Receiver<Command>,
    commands_over: bool,
    pub(super) status: Arc<Mutex<Status>>,
    described_at: Option<Mono>,
    pub(super) metrics: Arc<SubscriptionMetrics>,
    pub(super) drain_deadline: Option<Mono>,
    pub(super) drained: bool,
    pub(super) report: DrainReport,
    pub(super) error: Option<DriverError>,
}

/// Runs a driver to its end.
pub(super) async fn run(
    setup: Setup,
    mut commands: mpsc::Receiver<Command>,
    status: Arc<Mutex<Status>>,
) -> Ended {
    let (failures, entropy) = (setup.failures.clone(), setup.runtime.entropy.clone());
    let mut early = Vec::new();
    let opened = tokio::select! {
        biased;
        () = told_to_stop(&mut commands, &mut early) => return Ended { report: DrainReport::default(), error: None },
        opened = open_failures(failures, &setup.spec.id, &*entropy, &status) => opened,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(fault) => {
            let subscription = setup.spec.id.clone();
            let error = DriverError::FailureStore {
                subscription,
                fault,
            };
            return Ended {
                report: DrainReport::default(),
                error: Some(Arc::new(error)),
            };
        }
    };
    let now = setup.runtime.clock.mono();
    let registry = &setup.runtime.registry;
    registry.suspects().opened(now, &opened.crash);
    let mut driver = Box::new(Driver::new(setup, commands, status));
    let parked = opened.parked;
    driver.inputs.push_back(Input::Opened { parked });
    early.into_iter().for_each(|command| driver.obey(command));
    driver.home.claim_wanted = driver.failures.is_some();
    driver.turn().await;
    while !driver.is_over() {
        let event = driver.receive().await;
        driver.handle_event(event);
        driver.handle_ready();
        driver.turn().await;
    }
    driver.note_the_end().await;
    driver.end()
}

/// What the failure store knew. A store that is away is waited for: without it nobody knows which keys are parked.
async fn open_failures(
    failures: Option<Arc<dyn FailureStore>>,
    id: &SubscriptionId,
    entropy: &dyn Entropy,
    status: &Mutex<Status>,
) -> Result<OpenState, Fault> {
    let Some(failures) = failures else {
        return Ok(OpenState::default());
    };
    let mut tries = 0;
    loop {
        match failures.open(id).await {
            Ok(opened) => return Ok(opened),
            Err(fault) if fault.is_retriable() => {
                tries += 1;
                let wait = backoff(tries, entropy.next_u64());
                tracing::warn!(target: "postrider", %fault, ?wait, "waits for its failure store");
                status.lock().source_fault = Some(fault.to_string());
                tokio::time::sleep(wait).await;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// What else is commanded meanwhile is kept for later.
async fn told_to_stop(commands: &mut mpsc::Receiver<Command>, early: &mut Vec<Command>) {
    loop {
        match commands.recv().await {
            Some(Command::Drain { .. }) => return,
            Some(command) => early.push(command),
            None => std::future::pending().await,
        }
    }
}

impl Driver {
    fn new(setup: Setup, commands: mpsc::Receiver<Command>, status: Arc<Mutex<Status>>) -> Self {
        use postrider_core::capability::Capability;
        let capabilities = &setup.runtime.engine.info().capabilities;
        let native = |c| capabilities.is_native(c);
        let own_home = setup.failures.is_none() || setup.failures_in_engine;
        let atomic_dead_letter = native(Capability::AtomicDeadLetter)
            && own_home
            && !planted::is(Plant::DeadLetterInTwo);
        let (settler, mut config) = match &setup.source {
            Source::Lease(source) => {
                let mut config = Config::lease(setup.policy.clone(), Some(setup.spec.lease));
                config.loses_together = source.loses_together();
                config.delayed_retry = native(Capability::DelayedRetry);
                (Some(source.settler()), config)
            }
            Source::Log(source) => {
                let config = Config::log(setup.policy.clone(), source.done_bytes_max());
                (None, config)
            }
        };
        config.failure_store = setup.failures.is_some();
        config.native_dead_letter = atomic_dead_letter && settler.is_some();
        let seed = setup.runtime.entropy.next_u64();
        let metrics = SubscriptionMetrics::new(&setup.runtime.recorder, &setup.spec.id);
        Self {
            atomic_settle: native(Capability::AtomicSettle) && settler.is_some(),
            atomic_dead_letter: config.native_dead_letter,
            kernel: Kernel::new(config, seed),
            metrics: Arc::new(metrics),
            settler,
            runtime: setup.runtime,
            spec: setup.spec,
            policy: setup.policy,
            router: setup.router,
            source: setup.source,
            failures: setup.failures,
            failures_in_engine: setup.failures_in_engine,
            inputs: VecDeque::new(),
            slab: Slab::default(),
            handlers: JoinSet::new(),
            tasks: HashMap::new(),
            runs: 0,
            calls: FuturesUnordered::new(),
            engine: EngineLane::default(),
            home: HomeLane::default(),
            watch: Watch::default(),
            to_publish: VecDeque::new(),
            publishing: 0,
            commits: BTreeMap::new(),
            committing: BTreeMap::new(),
            revoked: Vec::new(),
            credit: NO_ROOM,
            alarms: BTreeSet::new(),
            source_tries: 0,
            source_waits: false,
            source_over: false,
            commands,
            commands_over: false,
            status,
            described_at: None,
            drain_deadline: None,
            drained: false,
            report: DrainReport::default(),
            error: None,
        }
    }

    pub(super) fn now(&self) -> Mono {
        self.runtime.clock.mono()
    }

    /// Rings once at this time; an alarm of the same kind that is later is replaced by an earlier one, never the other way.
    pub(super) fn alarm(&mut self, at: Mono, alarm: Alarm) {
        self.alarms.insert((at, alarm));
    }

    /// Only receives.
    async fn receive(&mut self) -> Event {
        let now = self.now();
        let wait = self.alarms.first().map(|(at, _)| at.since(now));
        let has_room = self.credit.messages > 0 && self.credit.bytes > 0;
        let is_log = matches!(self.source, Source::Log(_));
        // A log source is heard without room too: it says what is assigned and revoked.
        let room = if has_room { self.credit } else { NO_ROOM };
        let listens =
            !self.source_waits && !self.source_over && !self.drained && (has_room || is_log);
        tokio::select! {
            biased;
            command = self.commands.recv(), if !self.commands_over => Event::Command(command),
            Some(ended) = self.handlers.join_next_with_id() => Event::Handled(ended),
            Some(returned) = self.calls.next() => Event::Returned(returned),
            () = rings(wait) => Event::Timer,
            generations = lost(self.settler.as_deref()) => Event::Lost(generations),
            event = next(&mut self.source, room), if listens => event,
        }
    }

    /// Takes in whatever else is there, so that it is done in one turn: one commit, one settle.
    fn handle_ready(&mut self) {
        while let Some(ended) = self.handlers.try_join_next_with_id() {
            self.handle_event(Event::Handled(ended));
        }
        while let Some(Some(returned)) = futures_util::FutureExt::now_or_never(self.calls.next()) {
            self.handle_event(Event::Returned(returned));
        }
        while let Ok(command) = self.commands.try_recv() {
            self.handle_event(Event::Command(Some(command)));
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Leased(Ok(leased)) => {
                self.hear_lost();
                self.take_leased(leased);
            }
            Event::Lost(generations) => self.generations_lost(&generations),
            Event::Log(Ok(event)) => self.take_log_event(event),
            Event::Leased(Err(fault)) | Event::Log(Err(fault)) => self.source_failed(fault),
            Event::Handled(ended) => self.handler_ended(ended),
            Event::Returned(returned) => self.call_returned(returned),
            Event::Command(Some(command)) => self.obey(command),
            Event::Command(None) => self.commands_over = true,
            Event::Timer => self.ring(),
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Pause => self.inputs.push_back(Input::Pause),
            Command::Resume => self.inputs.push_back(Input::Resume),
            Command::Available(dependency) => {
                self.inputs.push_back(Input::Available(dependency));
                self.status.lock().waits_for = None;
                return;
            }
            Command::Drain { within } => return self.drain(within),
        }
        let paused = matches!(self.inputs.back(), Some(Input::Pause));
        self.metrics.paused.set(if paused { 1.0 } else { 0.0 });
        let mut status = self.status.lock();
        if status.phase != Phase::Draining {
            status.phase = if paused {
                Phase::Paused
            } else {
                Phase::Running
            };
        }
    }

    /// Takes nothing new; the earliest deadline counts.
    pub(super) fn drain(&mut self, within: Duration) {
        let deadline = self.now().plus(within);
        let deadline = self.drain_deadline.map_or(deadline, |d| d.min(deadline));
        self.drain_deadline = Some(deadline);
        self.alarm(deadline.plus(CANCEL_GRACE + END_GRACE), Alarm::End);
        self.status.lock().phase = Phase::Draining;
        self.inputs.push_back(Input::Drain { deadline });
    }

    fn ring(&mut self) {
        let now = self.now();
        while let Some((at, alarm)) = self.alarms.first().copied() {
            if at > now {
                return;
            }
            self.alarms.pop_first();
            match alarm {
                Alarm::Kernel => self.inputs.push_back(Input::Timer),
                Alarm::Source => self.source_waits = false,
                Alarm::Engine => self.engine.waits = false,
                Alarm::Home => self.home.waits = false,
                Alarm::Commit | Alarm::Status => {}
                Alarm::Watch => self.watch_failures(),
                Alarm::Ran => self.note_long(),
                Alarm::Publish(slot, run) => self.publish_again(slot, run),
                Alarm::Cancelled(slot, run) => self.give_up_handler(slot, run),
                Alarm::End => self.give_up_drain(now),
            }
        }
    }

    /// The engine or the failure store did not answer in time: what is still held comes again when its lease ends.
    fn give_up_drain(&mut self, now: Mono) {
        let due = |d: Mono| d.plus(CANCEL_GRACE + END_GRACE) <= now;
        if self.drain_deadline.is_some_and(due) && !self.drained {
            self.report.left += self.slab.len();
            self.drained = true;
        }
    }

    fn source_failed(&mut self, fault: Fault) {
        let over = matches!(
            fault.advice,
            Advice::StopOwner | Advice::FixConfig | Advice::FixMessage
        );
        self.status.lock().source_fault = Some(fault.to_string());
        if over {
            self.source_over = true;
            let subscription = self.spec.id.clone();
            self.fail(DriverError::Source {
                subscription,
                fault,
            });
            return;
        }
        self.source_tries = self.source_tries.saturating_add(1);
        let least = match fault.advice {
            Advice::Retry { after } => after,
            _ => Duration::ZERO,
        };
        // A member of a log keeps its shards by asking: it asks well within its lease, however often the source fails.
        let most = self.spec.lease / 4;
        let wait = backoff(self.source_tries, self.runtime.entropy.next_u64())
            .min(most)
            .max(least);
        tracing::warn!(target: "postrider", subscription = %self.spec.id, %fault, ?wait, "the source failed; it is asked again");
        self.source_waits = true;
        let at = self.now().plus(wait);
        self.alarm(at, Alarm::Source);
    }

    pub(super) fn source_works(&mut self) {
        if self.source_tries > 0 {
            self.source_tries = 0;
            self.status.lock().source_fault = None;
        }
    }

    /// Ends by itself: drains, and says why. The first reason counts.
    pub(super) fn fail(&mut self, error: DriverError) {
        if self.error.is_none() && self.drain_deadline.is_none() {
            tracing::error!(target: "postrider", %error, "drains and ends");
        }
        self.error.get_or_insert(error);
        self.drain(STOP_DRAIN);
    }

    fn is_over(&self) -> bool {
        self.drained
    }

    fn end(mut self: Box<Self>) -> Ended {
        self.handlers.abort_all();
        for gauge in [
            &self.metrics.in_flight,
            &self.metrics.held,
            &self.metrics.paused,
        ] {
            gauge.set(0.0);
        }
        Ended {
            report: self.report,
            error: self.error.map(Arc::new),
        }
    }

    /// Cheap numbers each turn; what must be counted, now and then.
    pub(super) fn note_status(&mut self) {
        let now = self.now();
        let running = self.tasks.len() as u32;
        self.metrics.in_flight.set(f64::from(running));
        self.metrics.held.set(f64::from(self.slab.len()));
        let due = self
            .described_at
            .is_none_or(|at| at.plus(STATUS_EVERY) <= now);
        let counted = due.then(|| {
            self.described_at = Some(now);
            let description = self.kernel.describe();
            let parked = description.bounds.iter().find(|b| b.name == "parked_keys");
            let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            let parked = parked.map_or(0, |b| small(b.fill));
            (
                small(description.blocked_keys),
                parked,
                description.unavailable,
            )
        });
        let later = self.described_at.map(|at| at.plus(STATUS_EVERY));
        let has_status_alarm = self.alarms.iter().any(|(_, a)| *a == Alarm::Status);
        if let (false, false, Some(at)) = (due, has_status_alarm, later) {
            self.alarm(at, Alarm::Status);
        }
        let mut status = self.status.lock();
        status.held = self.slab.len();
        status.running = running;
        status.publishing = self.publishing;
        if let Some((blocked, parked, unavailable)) = counted {
            status.blocked_keys = blocked;
            status.parked_keys = parked;
            if !unavailable {
                status.waits_for = None;
            }
        }
    }
}

async fn rings(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

async fn lost(settler: Option<&dyn Settler>) -> Vec<u64> {
    match settler {
        Some(settler) => settler.lost().await,
        None => std::future::pending().await,
    }
}

async fn next(source: &mut Source, room: Credit) -> Event {
    match source {
        Source::Lease(source) => Event::Leased(source.next(room).await),
        Source::Log(source) => Event::Log(source.next(room).await),
    }
}
