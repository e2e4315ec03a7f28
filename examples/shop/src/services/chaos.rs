//! A layer around every handler: what goes wrong on purpose, and what the demo counts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use postrider::{Delivery, Ending, HandlerError, Outgoing};
use tokio::sync::mpsc;
use tower::{Layer, Service};

use crate::faults::{Dial, Rates};
use crate::seed;

/// Counts of this process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Handlers that ended well.
    pub handled: AtomicU64,
    /// Handlers that failed and are tried again.
    pub retries: AtomicU64,
    /// Failures that were handed back to their handler.
    pub redriven: AtomicU64,
    /// Messages that came again and were suppressed.
    pub duplicates: AtomicU64,
}

/// What goes wrong on purpose, decided by the seed.
pub struct Chaos {
    seed: u64,
    dial: Dial,
    counts: Counts,
    first: Box<dyn Fn() + Send + Sync>,
    again: mpsc::Sender<Outgoing>,
}

impl Chaos {
    /// Chaos of this seed. `first` is called once, when the first message was handled; what is to be published a second time goes to `again`
    /// (and is dropped where that is full).
    #[must_use]
    pub fn new(
        seed: u64,
        dial: Dial,
        first: impl Fn() + Send + Sync + 'static,
        again: mpsc::Sender<Outgoing>,
    ) -> Arc<Self> {
        Arc::new(Self {
            seed,
            dial,
            counts: Counts::default(),
            first: Box::new(first),
            again,
        })
    }

    /// The layer for one handler.
    #[must_use]
    pub fn layer(self: &Arc<Self>) -> ChaosLayer {
        ChaosLayer(self.clone())
    }

    /// The shares now.
    #[must_use]
    pub fn rates(&self) -> Rates {
        self.dial.rates()
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What happens instead of the handler.
    ///
    /// # Panics
    /// On purpose, where the seed says so.
    fn before(&self, delivery: &Delivery) -> Option<Ending> {
        if delivery.is_redriven() {
            self.counts.redriven.fetch_add(1, Ordering::Relaxed);
        }
        let rates = self.rates();
        if delivery.attempt() > 1 || rates.handler_error + rates.handler_panic == 0 {
            return None;
        }
        let chance = format!("{} {}", delivery.subscription(), delivery.envelope().id);
        if seed::happens(self.seed, "panic", &chance, rates.handler_panic) {
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            panic!("a handler panics on purpose");
        }
        seed::happens(self.seed, "error", &chance, rates.handler_error)
            .then(|| Ending::Failed(HandlerError::Transient("a handler fails on purpose".into())))
    }

    fn after(&self, delivery: &Delivery, ending: &Ending) {
        match ending {
            Ending::Committed | Ending::Effects(_) => {
                if self.counts.handled.fetch_add(1, Ordering::Relaxed) == 0 {
                    (self.first)();
                }
            }
            Ending::Duplicate => {
                self.counts.duplicates.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ending::Failed(HandlerError::Transient(_) | HandlerError::RetryAfter(..)) => {
                self.counts.retries.fetch_add(1, Ordering::Relaxed);
                return;
            }
            _ => return,
        }
        let rates = self.rates();
        let id = delivery.envelope().id.to_string();
        let service = delivery.subscription().service.as_str();
        // One service republishes, so that the share is one of events and not of deliveries.
        let may = service == "notification" && rates.duplicates > 0;
        if may && seed::happens(self.seed, "duplicate", &id, rates.duplicates) {
            let _ = self.again.try_send(Outgoing {
                destination: delivery.subscription().on.clone(),
                envelope: delivery.envelope().clone(),
                payload: delivery.payload().clone(),
            });
        }
    }
}

/// See [`Chaos::layer`].
#[derive(Clone)]
pub struct ChaosLayer(Arc<Chaos>);

impl<S> Layer<S> for ChaosLayer {
    type Service = ChaosService<S>;

    fn layer(&self, inner: S) -> ChaosService<S> {
        ChaosService {
            chaos: self.0.clone(),
            inner,
        }
    }
}

/// A handler with chaos around it.
#[derive(Clone)]
pub struct ChaosService<S> {
    chaos: Arc<Chaos>,
    inner: S,
}

impl<S> Service<Delivery> for ChaosService<S>
where
    S: Service<Delivery, Response = Ending> + Send,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Ending;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Ending, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let chaos = self.chaos.clone();
        let run = self.inner.call(delivery.clone());
        Box::pin(async move {
            let ending = match chaos.before(&delivery) {
                Some(ending) => ending,
                None => run.await?,
            };
            chaos.after(&delivery, &ending);
            Ok(ending)
        })
    }
}
