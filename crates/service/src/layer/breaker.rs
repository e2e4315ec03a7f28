//! A circuit breaker per dependency: where it fails or answers slowly too often, it is left alone for a while.
//!
//! After Nygard, *Release It!*, and resilience4j's two rates. The kernel pauses consumption while the breaker is open, so an open breaker
//! burns no attempts.

mod state;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::fault::{Dependency, HandlerError};
use postrider_core::text::Text;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::delivery::{Delivery, Ending};
pub use state::BreakerState;
use state::{Call, Machine, Rules, Verdict};

/// A breaker of one dependency. Closed, it counts the last calls: too many failures, or too many slow ones, open it. Open, every call is
/// `Unavailable` at once. After a while (its length varies at random, so that processes do not probe together) a few probes go through: all
/// good closes it, one bad opens it again.
///
/// An error that is *permanent* shows that the dependency answered: it never opens the breaker. Clones share the state: give one to each
/// handler that uses the dependency.
///
/// ```
/// use std::time::Duration;
/// use postrider_service::layer::Breaker;
///
/// let bank = Breaker::new("bank").slow_after(Duration::from_secs(2)).open_for(Duration::from_secs(10));
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    dependency: Dependency,
    rules: Rules,
    machine: Arc<Mutex<Machine>>,
}

impl Breaker {
    /// A closed breaker of this dependency: over the last 100 calls, of at least 20, it opens at half of them failed or at
    /// 80 % slower than 5 s; it stays open for 10 to 15 s, and closes after 3 good probes.
    #[must_use]
    pub fn new(dependency: impl Into<Text>) -> Self {
        Self::of(Dependency(dependency.into()), Rules::default())
    }

    fn of(dependency: Dependency, rules: Rules) -> Self {
        Self {
            dependency,
            machine: Arc::new(Mutex::new(Machine::new(rules))),
            rules,
        }
    }

    fn with(self, change: impl FnOnce(&mut Rules)) -> Self {
        let mut rules = self.rules;
        change(&mut rules);
        Self::of(self.dependency, rules)
    }

    /// Counts the last `calls` (at least 1), and decides nothing before there are `calls_min` of them.
    #[must_use]
    pub fn window(self, calls: usize, calls_min: usize) -> Self {
        self.with(|r| {
            r.calls_max = calls.max(1);
            r.calls_min = calls_min.clamp(1, r.calls_max);
        })
    }

    /// Opens where at least this share of the calls failed, from 0 to 1.
    #[must_use]
    pub fn failure_rate(self, rate: f32) -> Self {
        self.with(|r| r.failure_rate = rate)
    }

    /// A call that takes longer than this is slow.
    #[must_use]
    pub fn slow_after(self, limit: Duration) -> Self {
        self.with(|r| r.slow_after = limit)
    }

    /// Opens where at least this share of the calls was slow, from 0 to 1.
    #[must_use]
    pub fn slow_rate(self, rate: f32) -> Self {
        self.with(|r| r.slow_rate = rate)
    }

    /// Stays open for this long, and at random up to half as long again.
    #[must_use]
    pub fn open_for(self, base: Duration) -> Self {
        self.with(|r| r.open_for = base)
    }

    /// Closes after this many good probes (at least 1); as many may run at once.
    #[must_use]
    pub fn probes(self, probes: u32) -> Self {
        self.with(|r| r.probes = probes.max(1))
    }

    /// What it is now.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.machine.lock().state()
    }

    fn unavailable(&self) -> Ending {
        let text = format!("the breaker of {} is open", self.dependency);
        Ending::Failed(HandlerError::Unavailable(
            self.dependency.clone(),
            text.into(),
        ))
    }
}

/// How a call counts: what is for the store, the lease or another dependency to answer for says nothing of this one.
fn verdict(ending: &Ending, dependency: &Dependency) -> Option<Verdict> {
    match ending {
        Ending::Effects(_) | Ending::Committed => Some(Verdict::Good),
        Ending::Failed(HandlerError::Permanent(_)) => Some(Verdict::Good),
        Ending::Failed(HandlerError::Transient(_) | HandlerError::RetryAfter(..)) => {
            Some(Verdict::Bad)
        }
        Ending::Failed(HandlerError::Unavailable(which, _)) if which == dependency => {
            Some(Verdict::Bad)
        }
        _ => None,
    }
}

impl<S> Layer<S> for Breaker {
    type Service = BreakerService<S>;

    fn layer(&self, inner: S) -> BreakerService<S> {
        BreakerService {
            inner,
            breaker: self.clone(),
        }
    }
}

/// A handler behind a breaker. Made by [`Breaker`].
#[derive(Clone, Debug)]
pub struct BreakerService<S> {
    inner: S,
    breaker: Breaker,
}

/// A call that went through; one that is dropped before it ended is counted by how long it took.
struct Open<'a> {
    breaker: &'a Breaker,
    call: Option<Call>,
    began: Instant,
    random: u64,
}

impl Open<'_> {
    fn end(&mut self, verdict: Option<Verdict>) {
        if let Some(call) = self.call.take() {
            let (now, took) = (Instant::now(), self.began.elapsed());
            self.breaker
                .machine
                .lock()
                .ended(call, verdict, took, now, self.random);
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // Cancelled (a timeout around it, a drain): a call that had not answered in time was a bad one.
        let slow = self.began.elapsed() >= self.breaker.rules.slow_after;
        self.end(slow.then_some(Verdict::Bad));
    }
}

impl<S> Service<Delivery> for BreakerService<S>
where
    S: Service<Delivery, Response = Ending>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Ending;
    type Error = S::Error;
    type Future = Fut<'static, Result<Ending, S::Error>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let breaker = self.breaker.clone();
        let Some(call) = breaker.machine.lock().admit(Instant::now()) else {
            let ending = breaker.unavailable();
            return Box::pin(async move { Ok(ending) });
        };
        let random = delivery.inner.runtime.entropy.next_u64();
        let run = self.inner.call(delivery);
        Box::pin(async move {
            let mut open = Open {
                breaker: &breaker,
                call: Some(call),
                began: Instant::now(),
                random,
            };
            let ended = run.await;
            open.end(match &ended {
                Ok(ending) => verdict(ending, &breaker.dependency),
                Err(_) => Some(Verdict::Bad),
            });
            drop(open);
            ended
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
