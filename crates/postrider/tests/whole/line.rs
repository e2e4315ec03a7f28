//! An engine as one member of a service sees it: it answers late, or never (the line was cut, before or after the engine did it), it freezes for a
//! while (a long pause of the process), and it dies.
//!
//! What was asked before a freeze or a death may have happened or not; the answer never came.
//!
//! Waits are in virtual time (`start_paused`).

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::clock::{Clock, Mono, Timestamp};
use postrider::contract::engine::{
    Admin, Cancel, CommitError, Engine, EngineInfo, Publisher, Receipt, Scheduled,
};
use postrider::contract::envelope::Outgoing;
use postrider::contract::failure::{
    AuditEntry, CrashNote, CrashState, FailureDraft, FailureGroup, FailureId, FailureRecord,
    FailureStore, FinishError, KeyState, OpenState, Reason, RedriveOutcome, RedriveToken, Redriven,
    Selection,
};
use postrider::contract::fault::{Advice, Fault, FaultKind};
use postrider::contract::id::InstanceId;
use postrider::contract::name::{Destination, SubscriptionId};
use postrider::contract::settle::{LeaseToken, Settle, SettleError, SettleOp};
use postrider::contract::source::{Credit, LeaseSource, Leased, Settler, Source};
use postrider::contract::subscription::SubscriptionSpec;
use postrider::contract::topology::{ProvisionMode, Topology, TopologyDiff};
use tokio::sync::Notify;

use crate::dice::Dice;

const RETRY: Advice = Advice::Retry {
    after: Duration::ZERO,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Live,
    Frozen,
    /// Nothing is answered ever again; what the member holds goes back to the engine.
    Dead,
}

/// Where the line is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing was done.
    Before,
    /// It was done, and nobody was told.
    After,
}

type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// What lies between a member and everything else, in the hands of the test.
pub struct Line {
    state: Mutex<State>,
    /// Those who wait are woken in the order in which they came: a channel that is watched wakes them in any order.
    changed: Notify,
    dice: Dice,
    /// Of so many calls one is cut; 0: none is.
    one_in: u64,
    /// What the member's clocks said when it froze.
    frozen: Mutex<Option<(Timestamp, Mono)>>,
    /// Told of each cut.
    tell: Tell,
}

impl Line {
    /// A line of which one call in so many is cut (0: none).
    pub fn new(dice: Dice, one_in: u64, tell: Tell) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Live),
            changed: Notify::new(),
            dice,
            one_in,
            frozen: Mutex::default(),
            tell,
        })
    }

    pub fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
        self.changed.notify_waiters();
    }

    /// From now on nothing is answered, and the member's clocks stand still: for it, no time passes.
    pub fn freeze(&self, clock: &dyn Clock) {
        *self.frozen.lock().unwrap() = Some((clock.wall(), clock.mono()));
        self.set(State::Frozen);
    }

    /// The dead stay dead.
    pub fn thaw(&self) {
        *self.frozen.lock().unwrap() = None;
        if self.is_frozen() {
            self.set(State::Live);
        }
    }

    pub fn is_frozen(&self) -> bool {
        *self.state.lock().unwrap() == State::Frozen
    }

    /// Waits until the member is alive.
    pub async fn live(&self) {
        self.reaches(State::Live).await;
    }

    pub async fn gate(&self) {
        let wait = match self.dice.below(4) {
            0 => Duration::from_millis(self.dice.below(20)),
            _ => Duration::ZERO,
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.live().await;
    }

    async fn death(&self) {
        self.reaches(State::Dead).await;
    }

    async fn reaches(&self, wanted: State) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change after it is missed.
            changed.as_mut().enable();
            if *self.state.lock().unwrap() == wanted {
                return;
            }
            changed.await;
        }
    }

    /// Whether this call is cut, and where.
    pub fn cut(&self, what: &str) -> Option<Cut> {
        if self.one_in == 0 || !self.dice.one_in(self.one_in) {
            return None;
        }
        let cut = match self.dice.one_in(2) {
            true => Cut::Before,
            false => Cut::After,
        };
        (self.tell)(&format!("{what} is cut {cut:?} it is done"));
        Some(cut)
    }
}

/// The clock of a member: it stands still while the member is frozen.
pub struct LineClock {
    pub inner: Arc<dyn Clock>,
    pub line: Arc<Line>,
}

impl Clock for LineClock {
    fn wall(&self) -> Timestamp {
        let frozen = *self.line.frozen.lock().unwrap();
        frozen.map_or_else(|| self.inner.wall(), |(wall, _)| wall)
    }

    fn mono(&self) -> Mono {
        let frozen = *self.line.frozen.lock().unwrap();
        frozen.map_or_else(|| self.inner.mono(), |(_, mono)| mono)
    }
}

pub struct Mortal {
    pub inner: Arc<dyn Engine>,
    pub line: Arc<Line>,
}

impl Engine for Mortal {
    fn info(&self) -> &EngineInfo {
        self.inner.info()
    }

    fn provision<'a>(
        &'a self,
        topology: &'a Topology,
        mode: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>> {
        self.inner.provision(topology, mode)
    }

    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>> {
        Box::pin(async move {
            let (inner, line) = (self.inner.publisher().await?, self.line.clone());
            Ok(Arc::new(MortalPublisher { inner, line }) as Arc<dyn Publisher>)
        })
    }

    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        Box::pin(async move {
            let Source::Lease(inner) = self.inner.open(spec).await? else {
                panic!("the embedded engine opens subscriptions as lease sources")
            };
            Ok(Source::Lease(Box::new(MortalSource {
                settler: inner.settler(),
                inner: Some(inner),
                given: None,
                line: self.line.clone(),
            })))
        })
    }

    fn inbox(&self, instance: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        self.inner.inbox(instance)
    }

    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        let (inner, line) = (self.inner.failures()?, self.line.clone());
        Some(Arc::new(MortalFailures { inner, line }))
    }

    fn admin(&self) -> Option<Arc<dyn Admin>> {
        self.inner.admin()
    }

    fn directory(&self) -> Option<&Path> {
        self.inner.directory()
    }

    fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
        // It is not this member's alone.
        Box::pin(std::future::ready(Ok(())))
    }
}

struct MortalPublisher {
    inner: Arc<dyn Publisher>,
    line: Arc<Line>,
}

impl Publisher for MortalPublisher {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            self.line.gate().await;
            let count = messages.len();
            let line_cut = self.line.cut("a publish");
            let unknown = || (0..count).map(|_| Err(cut())).collect();
            if line_cut == Some(Cut::Before) {
                return unknown();
            }
            let results = self.inner.publish(messages).await;
            self.line.gate().await;
            match line_cut {
                None => results,
                Some(_) => unknown(),
            }
        })
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        Box::pin(async move {
            self.line.gate().await;
            let line_cut = self.line.cut("a commit");
            if line_cut == Some(Cut::Before) {
                let fault = cut();
                return Err(CommitError {
                    fault,
                    publish,
                    settle,
                });
            }
            let copies = (publish.clone(), settle.iter().map(copy).collect::<Vec<_>>());
            let result = self.inner.commit(publish, settle).await;
            self.line.gate().await;
            match line_cut {
                Some(_) if result.is_ok() => Err(CommitError {
                    fault: cut(),
                    publish: copies.0,
                    settle: copies.1,
                }),
                _ => result,
            }
        })
    }

    fn cancel<'a>(&'a self, scheduled: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        self.inner.cancel(scheduled)
    }
}

pub fn cut() -> Fault {
    let text = "the line was cut (a test)";
    Fault::new(FaultKind::Unreachable, RETRY, text).unknown_effect()
}

fn copy(op: &SettleOp) -> SettleOp {
    let settle = match &op.settle {
        Settle::Ack => Settle::Ack,
        Settle::Release => Settle::Release,
        Settle::RetryAfter { delay, attempts } => Settle::RetryAfter {
            delay: *delay,
            attempts: *attempts,
        },
        Settle::DeadLetter(draft) => Settle::DeadLetter(draft.clone()),
        Settle::Park(draft) => Settle::Park(draft.clone()),
    };
    let token = LeaseToken {
        position: op.token.position,
        generation: op.token.generation,
    };
    SettleOp { token, settle }
}

struct MortalSource {
    /// `None`: dead.
    inner: Option<Box<dyn LeaseSource>>,
    /// On its way: held by this member, and not yet seen by it.
    given: Option<Vec<Leased>>,
    settler: Arc<dyn Settler>,
    line: Arc<Line>,
}

impl LeaseSource for MortalSource {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>> {
        Box::pin(async move {
            let line = self.line.clone();
            line.gate().await;
            // CANCEL: what was given stays here until it is handed on.
            while self.given.is_none() {
                let Some(inner) = &mut self.inner else {
                    return std::future::pending().await;
                };
                tokio::select! {
                    biased;
                    given = inner.next(room) => self.given = Some(given?),
                    () = line.death() => self.inner = None,
                }
            }
            line.gate().await;
            let mut given = self.given.take().unwrap_or_default();
            // The room may be smaller than it was.
            let rest = given.split_off(given.len().min(room.messages as usize));
            if !rest.is_empty() {
                self.given = Some(rest);
            }
            Ok(given)
        })
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(MortalSettler {
            inner: self.settler.clone(),
            line: self.line.clone(),
        })
    }
}

struct MortalSettler {
    inner: Arc<dyn Settler>,
    line: Arc<Line>,
}

impl Settler for MortalSettler {
    fn settle<'a>(&'a self, ops: Vec<SettleOp>) -> Fut<'a, Vec<Result<(), SettleError>>> {
        Box::pin(async move {
            self.line.gate().await;
            let line_cut = self.line.cut("a settle");
            let unknown = |op: SettleOp| Err(SettleError { fault: cut(), op });
            if line_cut == Some(Cut::Before) {
                return ops.into_iter().map(unknown).collect();
            }
            let copies: Vec<SettleOp> = ops.iter().map(copy).collect();
            let results = self.inner.settle(ops).await;
            self.line.gate().await;
            if line_cut.is_none() {
                return results;
            }
            let both = copies.into_iter().zip(results);
            both.map(|(op, result)| result.and_then(|()| unknown(op)))
                .collect()
        })
    }

    fn extend<'a>(
        &'a self,
        tokens: &'a [&'a LeaseToken],
        by: Duration,
    ) -> Fut<'a, Vec<Result<Mono, Fault>>> {
        Box::pin(async move {
            self.line.gate().await;
            let line_cut = self.line.cut("a hold");
            let unknown = || tokens.iter().map(|_| Err(cut())).collect();
            if line_cut == Some(Cut::Before) {
                return unknown();
            }
            let results = self.inner.extend(tokens, by).await;
            self.line.gate().await;
            match line_cut {
                None => results,
                Some(_) => unknown(),
            }
        })
    }

    fn lost(&self) -> Fut<'_, Vec<u64>> {
        self.inner.lost()
    }
}

struct MortalFailures {
    inner: Arc<dyn FailureStore>,
    line: Arc<Line>,
}

macro_rules! gated {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name<'a>(&'a self, subscription: &'a SubscriptionId, $($arg: $type),*) -> Fut<'a, $answer> {
            Box::pin(async move {
                self.line.gate().await;
                let answer = self.inner.$name(subscription, $($arg),*).await;
                self.line.gate().await;
                answer
            })
        })*
    };
}

impl FailureStore for MortalFailures {
    gated! {
        open() -> Result<OpenState, Fault>;
        note_crash(note: CrashNote) -> Result<CrashState, Fault>;
        append(drafts: Vec<FailureDraft>) -> Result<Vec<FailureId>, Fault>;
        park(key: bytes::Bytes, drafts: Vec<FailureDraft>) -> Result<Vec<FailureId>, Fault>;
        list(group: Option<&'a str>, after: Option<FailureId>, limit: u32) -> Result<Vec<FailureRecord>, Fault>;
        get(id: FailureId) -> Result<FailureRecord, Fault>;
        redrive(which: Selection, reason: Reason) -> Result<u64, Fault>;
        discard(which: Selection, reason: Reason) -> Result<u64, Fault>;
        audit(limit: u32) -> Result<Vec<AuditEntry>, Fault>;
        claim(member: InstanceId, room: u32) -> Result<Vec<Redriven>, Fault>;
        changed() -> ();
        finish(token: RedriveToken, outcome: RedriveOutcome) -> Result<KeyState, FinishError>;
        release_claims(member: InstanceId) -> Result<(), Fault>;
    }

    fn groups<'a>(
        &'a self,
        subscription: Option<&'a SubscriptionId>,
    ) -> Fut<'a, Result<Vec<FailureGroup>, Fault>> {
        self.inner.groups(subscription)
    }
}
