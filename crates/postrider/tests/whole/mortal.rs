//! An engine as one member of a service sees it: it answers late, it freezes for a while (a long pause of the process), and it dies.
//!
//! What was asked before a freeze or a death may have happened or not; the answer never came.
//!
//! Waits are in virtual time (`start_paused`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::clock::Mono;
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
use tokio::sync::watch;

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

/// A member's life, in the hands of the test.
pub struct Life {
    state: watch::Sender<State>,
    dice: Dice,
    /// Faults of the engine that may pass happen.
    rough: bool,
}

impl Life {
    pub fn new(dice: Dice, rough: bool) -> Arc<Self> {
        let state = watch::Sender::new(State::Live);
        Arc::new(Self { state, dice, rough })
    }

    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    async fn gate(&self) {
        let wait = match self.dice.below(4) {
            0 => Duration::from_millis(self.dice.below(20)),
            _ => Duration::ZERO,
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let mut state = self.state.subscribe();
        let live = state.wait_for(|s| *s == State::Live).await;
        assert!(live.is_ok(), "the life outlives its engine");
    }

    /// The dead stay dead.
    pub fn thaw(&self) {
        self.state.send_if_modified(|s| {
            let frozen = *s == State::Frozen;
            if frozen {
                *s = State::Live;
            }
            frozen
        });
    }

    async fn death(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|s| *s == State::Dead).await;
    }

    /// A fault that says nothing of whether it happened.
    fn fault(&self) -> Option<Fault> {
        (self.rough && self.dice.one_in(60)).then(cut)
    }
}

pub struct Mortal {
    pub inner: Arc<dyn Engine>,
    pub life: Arc<Life>,
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
            let (inner, life) = (self.inner.publisher().await?, self.life.clone());
            Ok(Arc::new(MortalPublisher { inner, life }) as Arc<dyn Publisher>)
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
                life: self.life.clone(),
            })))
        })
    }

    fn inbox(&self, instance: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        self.inner.inbox(instance)
    }

    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        let (inner, life) = (self.inner.failures()?, self.life.clone());
        Some(Arc::new(MortalFailures { inner, life }))
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
    life: Arc<Life>,
}

impl Publisher for MortalPublisher {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            self.life.gate().await;
            let count = messages.len();
            let results = self.inner.publish(messages).await;
            self.life.gate().await;
            match self.life.fault() {
                None => results,
                Some(_) => (0..count).map(|_| Err(cut())).collect(),
            }
        })
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        Box::pin(async move {
            self.life.gate().await;
            let copies = (publish.clone(), settle.iter().map(copy).collect::<Vec<_>>());
            let result = self.inner.commit(publish, settle).await;
            self.life.gate().await;
            match self.life.fault() {
                Some(fault) if result.is_ok() => Err(CommitError {
                    fault,
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

fn cut() -> Fault {
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
    life: Arc<Life>,
}

impl LeaseSource for MortalSource {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>> {
        Box::pin(async move {
            let life = self.life.clone();
            life.gate().await;
            // CANCEL: what was given stays here until it is handed on.
            while self.given.is_none() {
                let Some(inner) = &mut self.inner else {
                    return std::future::pending().await;
                };
                tokio::select! {
                    given = inner.next(room) => self.given = Some(given?),
                    () = life.death() => self.inner = None,
                }
            }
            life.gate().await;
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
            life: self.life.clone(),
        })
    }
}

struct MortalSettler {
    inner: Arc<dyn Settler>,
    life: Arc<Life>,
}

impl Settler for MortalSettler {
    fn settle<'a>(&'a self, ops: Vec<SettleOp>) -> Fut<'a, Vec<Result<(), SettleError>>> {
        Box::pin(async move {
            self.life.gate().await;
            let copies: Vec<SettleOp> = ops.iter().map(copy).collect();
            let results = self.inner.settle(ops).await;
            self.life.gate().await;
            let Some(_) = self.life.fault() else {
                return results;
            };
            let failed = copies
                .into_iter()
                .zip(results)
                .map(|(op, result)| match result {
                    Ok(()) => Err(SettleError { fault: cut(), op }),
                    refused => refused,
                });
            failed.collect()
        })
    }

    fn extend<'a>(
        &'a self,
        tokens: &'a [&'a LeaseToken],
        by: Duration,
    ) -> Fut<'a, Vec<Result<Mono, Fault>>> {
        Box::pin(async move {
            self.life.gate().await;
            let results = self.inner.extend(tokens, by).await;
            self.life.gate().await;
            results
        })
    }
}

struct MortalFailures {
    inner: Arc<dyn FailureStore>,
    life: Arc<Life>,
}

macro_rules! gated {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name<'a>(&'a self, subscription: &'a SubscriptionId, $($arg: $type),*) -> Fut<'a, $answer> {
            Box::pin(async move {
                self.life.gate().await;
                let answer = self.inner.$name(subscription, $($arg),*).await;
                self.life.gate().await;
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
