//! The loop that drives the kernel over an engine's source: one task per opened subscription.
//!
//! The kernel decides, the driver does. `select!` only receives (the source, handlers that ended, calls that came back, the timer, commands);
//! one function then feeds the kernel and does what it says, in its order. The driver owns the source, the kernel and a slab of what is held.
//!
//! - **Handlers** run as tasks of their own, so one that panics or takes long stops nobody else. A panic is caught and counts as an attempt; its
//!   text is kept. A handler that is cancelled (lease lost, deadline of a drain) is aborted at its next `await`, and its fence is broken
//!   first, so that a store does not commit for it. What a handler returns after its delivery was given up is ignored. A handler that *blocks its
//!   thread* holds a worker of the tokio runtime: on the current-thread runtime that stops the whole process. Use
//!   `tokio::task::spawn_blocking`, or the multi-thread runtime.
//! - **Effects** are published before the delivery is acknowledged; where the engine can (`AtomicSettle`), both are one commit, of all
//!   handlers that ended in one turn. A publish that fails in a way that may pass is tried again with backoff; the handler is *not* run again. A
//!   message that the engine will never take makes the delivery fail for good.
//! - **Settles** go in order, one call of the engine at a time, everything that became due meanwhile in the next one. One that fails in a way that
//!   may pass is tried again while the delivery is held.
//! - **Failures** go to the engine in one step with the settle where it keeps them itself (`AtomicDeadLetter`); else the failure store
//!   confirms first and the acknowledgement follows (a crash between gives the same record again, not a second one). Where the failure store is away,
//!   only failures wait for it.
//! - **A fault of the source** that may pass is waited out with backoff; one that says `StopOwner` drains and ends the driver with an error.

mod calls;
mod engine_lane;
mod error;
mod handle;
mod held;
mod home_lane;
mod intake;
mod outcome;
mod outputs;
mod publish;
mod registry;
mod run;
mod turn;
mod watching;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use postrider_core::failure::FailureStore;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_core::plan::Plan;
use postrider_core::policy::Policy;
use postrider_core::source::Source;
use postrider_core::subscription::SubscriptionSpec;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use error::DriverError;
pub use handle::{DrainReport, DriverHandle, Ended, Phase, Status};
pub(crate) use registry::{Registry, Running};

use crate::erased::Router;
use crate::runtime::Runtime;

/// How long a driver that ends waits for the failure store to take its claims back.
const RELEASE_MAX: Duration = Duration::from_secs(4);

/// An opened subscription with all that its driver needs.
pub(crate) struct Setup {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) spec: SubscriptionSpec,
    /// With the retry rules of the router.
    pub(crate) policy: Policy,
    pub(crate) router: Arc<Router>,
    pub(crate) source: Source,
    /// Where failures go; `None`: nowhere.
    pub(crate) failures: Option<Arc<dyn FailureStore>>,
    /// That is the engine's own: a failure record and the settle can be one step.
    pub(crate) failures_in_engine: bool,
    /// What it got of the engine, to be shown.
    pub(crate) plan: Option<Plan>,
}

/// Starts a driver as a task, and adds it to the bus's registry until it has ended.
pub(crate) fn spawn(setup: Setup) -> DriverHandle {
    let (commands, received) = mpsc::channel(handle::COMMANDS_MAX);
    let (end, ended) = watch::channel(None);
    let status = Arc::new(Mutex::new(Status::default()));
    let handle = DriverHandle {
        subscription: setup.spec.id.clone(),
        commands,
        status: Arc::clone(&status),
        ended,
        cut: CancellationToken::new(),
    };
    let cut = handle.cut.clone();
    let (id, member) = (setup.spec.id.clone(), setup.spec.member);
    let failures = setup.failures.clone();
    tracing::debug!(
        target: "postrider",
        subscription = %id,
        %member,
        types = ?setup.router.types(),
        plan = setup.plan.as_ref().map(tracing::field::display),
        "opened"
    );
    let registry = Arc::clone(&setup.runtime.registry);
    let running = registry.add(Running {
        id: setup.spec.id.clone(),
        member: setup.spec.member,
        failures: setup.failures.clone().filter(|_| !setup.failures_in_engine),
        #[cfg(all(feature = "admin", unix))]
        shown: registry::Shown {
            plan: setup.plan.clone(),
            policy: setup.policy.clone(),
            lease: setup.spec.lease,
            types: setup
                .router
                .types()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            handle: handle.clone(),
        },
    });
    let listed = Listed { registry, running };
    let span =
        tracing::info_span!(target: "postrider", parent: None, "subscription", id = %setup.spec.id);
    let task = async move {
        // A panic of the driver ends this subscription alone, and as any other end does.
        let run = AssertUnwindSafe(run::run(setup, received, Arc::clone(&status))).catch_unwind();
        let ended = tokio::select! {
            biased;
            () = cut.cancelled() => dropped(&id),
            ended = run => ended.unwrap_or_else(|panic| panicked(&id, status.lock().held, panic)),
        };
        drop(listed);
        if let Some(failures) = failures {
            release_claims(&*failures, &id, member).await;
        }
        *status.lock() = Status {
            phase: Phase::Ended,
            held: ended.report.left,
            ..Status::default()
        };
        if let Some(error) = &ended.error {
            tracing::error!(target: "postrider", %error, "a subscription ended by itself");
        }
        // Nobody may be listening any more.
        let _ = end.send(Some(ended));
    };
    tokio::spawn(task.instrument(span));
    handle
}

/// A subscription in the registry, until its driver is gone, however it went.
struct Listed {
    registry: Arc<Registry>,
    running: Arc<Running>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.registry.remove(&self.running);
    }
}

/// The end of a driver that panicked: what it held comes again.
fn panicked(id: &SubscriptionId, held: u32, panic: Box<dyn Any + Send>) -> Ended {
    Ended {
        report: DrainReport {
            left: held,
            ..DrainReport::default()
        },
        error: Some(Arc::new(DriverError::Panicked {
            subscription: id.clone(),
            text: outcome::panic_text(panic),
        })),
    }
}

/// The end of a driver whose service was dropped.
fn dropped(id: &SubscriptionId) -> Ended {
    let subscription = id.clone();
    Ended {
        report: DrainReport::default(),
        error: Some(Arc::new(DriverError::Vanished { subscription })),
    }
}

/// A drain that was given up, or a claim that came back too late, leaves records in this member's name: they go to another.
async fn release_claims(failures: &dyn FailureStore, id: &SubscriptionId, member: InstanceId) {
    let release = failures.release_claims(id, member);
    let late = |_| Fault::new(FaultKind::Timeout, Advice::StopOwner, "no answer in time");
    let released = tokio::time::timeout(RELEASE_MAX, release).await;
    if let Err(fault) = released.map_err(late).and_then(|released| released) {
        tracing::warn!(target: "postrider", subscription = %id, %fault, "redriven failures that were not finished come back when this process has ended");
    }
}

#[cfg(test)]
mod tests;
