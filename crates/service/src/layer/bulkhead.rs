//! A limit on how many handlers use something at once, so that one slow dependency does not take every slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use postrider_core::Fut;
use postrider_core::fault::{Dependency, HandlerError};
use postrider_core::text::Text;
use tokio::sync::Semaphore;
use tower::{Layer, Service};

use crate::delivery::{Delivery, Ending};

/// At most so many handlers at once use a dependency, and at most so many wait for it. Beyond that the dependency counts as unavailable:
/// consumption pauses, no attempt is burned. Clones share the limit: give one to each handler that uses the dependency.
#[derive(Clone, Debug)]
pub struct Bulkhead {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dependency: Dependency,
    slots: Semaphore,
    running_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Bulkhead {
    /// At most `running_max` handlers (at least 1) at once; as many may wait.
    #[must_use]
    pub fn new(dependency: impl Into<Text>, running_max: usize) -> Self {
        let running_max = running_max.clamp(1, Semaphore::MAX_PERMITS);
        Self::of(Dependency(dependency.into()), running_max, running_max)
    }

    /// The same limit with another bound on those that wait. 0: nobody waits. A fresh limit: clones made before do not share it.
    #[must_use]
    pub fn waiting_max(self, waiting_max: usize) -> Self {
        let shared = &self.shared;
        Self::of(shared.dependency.clone(), shared.running_max, waiting_max)
    }

    fn of(dependency: Dependency, running_max: usize, waiting_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                dependency,
                slots: Semaphore::new(running_max),
                running_max,
                waiting: AtomicUsize::new(0),
                waiting_max,
            }),
        }
    }
}

impl Shared {
    fn full(&self) -> Ending {
        let text = format!(
            "{} handlers use {} and {} wait for it",
            self.running_max, self.dependency, self.waiting_max
        );
        Ending::Failed(HandlerError::Unavailable(
            self.dependency.clone(),
            text.into(),
        ))
    }

    /// A place among those that wait; given back when it is dropped.
    fn queue(&self) -> Option<Place<'_>> {
        let place = |n: usize| (n < self.waiting_max).then_some(n + 1);
        let taken = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, place);
        // Not `then_some`: a place that was never taken must not be given back.
        taken.is_ok().then(|| Place(&self.waiting))
    }
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<S> Layer<S> for Bulkhead {
    type Service = BulkheadService<S>;

    fn layer(&self, inner: S) -> BulkheadService<S> {
        BulkheadService {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// A handler behind a limit. Made by [`Bulkhead`].
#[derive(Clone, Debug)]
pub struct BulkheadService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Delivery> for BulkheadService<S>
where
    S: Service<Delivery, Response = Ending> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
{
    type Response = Ending;
    type Error = S::Error;
    type Future = Fut<'static, Result<Ending, S::Error>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let shared = self.shared.clone();
        // The service that is ready is the one that is called (tower's clone rule).
        let fresh = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let slot = match shared.slots.try_acquire() {
                Ok(slot) => slot,
                Err(_) => {
                    let Some(_place) = shared.queue() else {
                        return Ok(shared.full());
                    };
                    let slot = shared.slots.acquire().await;
                    slot.expect("the bulkhead's semaphore is never closed")
                }
            };
            let ending = ready.call(delivery).await;
            drop(slot);
            ending
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::pending;

    use tower::service_fn;

    use super::*;
    use crate::fake;

    #[tokio::test]
    async fn what_is_over_the_limit_waits_and_what_is_over_that_is_unavailable() {
        let never = service_fn(|_| pending::<Result<Ending, std::convert::Infallible>>());
        let mut service = Bulkhead::new("bank", 1).waiting_max(1).layer(never);
        let mut call = || service.call(fake::delivery());
        let (mut runs, mut waits, mut refused) = (call(), call(), call());
        assert!(futures_util::poll!(&mut runs).is_pending());
        assert!(futures_util::poll!(&mut waits).is_pending());
        let Poll::Ready(Ok(Ending::Failed(error))) = futures_util::poll!(&mut refused) else {
            panic!("the third is refused at once");
        };
        assert!(
            matches!(error, HandlerError::Unavailable(dependency, _) if dependency.0 == "bank")
        );
        drop(waits);
        let mut next = call();
        assert!(
            futures_util::poll!(&mut next).is_pending(),
            "a place is free again"
        );
    }
}
