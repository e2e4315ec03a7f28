//! A driver with everything around it faked.
//!
//! Its waits are virtual: every test that uses it runs with `start_paused`.

use std::collections::HashMap;

use bytes::Bytes;
use postrider_core::capability::Capability;
use postrider_core::clock::Clock;
use postrider_core::engine::Publisher;
use postrider_core::envelope::Outgoing;
use postrider_core::fault::HandlerError;
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_core::policy::{Retry, WhenExhausted};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::source::Source;

use super::super::*;
use crate::delivery::{Delivery, Ending};
use crate::erased::ErasedHandler;
use crate::metrics::{Metrics, Recorder};
use crate::test_support::engine::FakeEngine;
use crate::test_support::failures::FakeFailures;
use crate::test_support::publisher::FakePublisher;
use crate::test_support::sources::{FakeLease, FakeLog, Feed, LogFeed, Settles};
use crate::test_support::{Seeded, TokioClock, outgoing};

pub(super) type Log = Arc<Mutex<Vec<String>>>;
type Handle = Arc<dyn Fn(Delivery) -> Fut<'static, Ending> + Send + Sync>;

/// A handler that is a closure.
pub(super) struct Closure {
    message_type: &'static str,
    retry: Retry,
    handle: Handle,
}

impl ErasedHandler for Closure {
    fn message_type(&self) -> &str {
        self.message_type
    }
    fn retry(&self) -> Retry {
        self.retry
    }
    fn call(&self, delivery: Delivery) -> Fut<'static, Ending> {
        (self.handle)(delivery)
    }
}

pub(super) struct Options {
    pub(super) native: Vec<Capability>,
    /// The failure store is the engine's own.
    pub(super) in_engine: bool,
    pub(super) no_failures: bool,
    pub(super) policy: Policy,
    pub(super) retry: Retry,
    pub(super) lease: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            native: Vec::new(),
            in_engine: false,
            no_failures: false,
            policy: Policy::default(),
            retry: Retry::backoff(Duration::from_secs(1)..Duration::from_secs(2)).times(2),
            lease: Duration::from_secs(30),
        }
    }
}

impl Options {
    pub(super) fn atomic() -> Self {
        Self {
            native: vec![Capability::AtomicSettle, Capability::AtomicDeadLetter],
            in_engine: true,
            ..Self::default()
        }
    }
    pub(super) fn when_exhausted(mut self, when: WhenExhausted) -> Self {
        self.policy.when_exhausted = when;
        self
    }
}

pub(super) struct World {
    pub(super) id: SubscriptionId,
    pub(super) feed: Arc<Feed>,
    pub(super) log_feed: Arc<LogFeed>,
    pub(super) settles: Arc<Settles>,
    pub(super) failures: Arc<FakeFailures>,
    pub(super) publisher: Arc<FakePublisher>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<TokioClock>,
    pub(super) registry: Arc<Registry>,
    pub(super) handle: DriverHandle,
}

pub(super) fn subscription() -> SubscriptionId {
    SubscriptionId::parse("inventory@topic:shop.order").unwrap()
}

impl World {
    /// A driver on a lease source whose handler is this.
    pub(super) fn lease<F, R>(options: Options, handle: F) -> Self
    where
        F: Fn(Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        Self::start(options, handle, false)
    }

    /// A driver on a log source whose handler is this.
    pub(super) fn log<F, R>(options: Options, handle: F) -> Self
    where
        F: Fn(Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        Self::start(options, handle, true)
    }

    fn start<F, R>(options: Options, handle: F, log: bool) -> Self
    where
        F: Fn(Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        let id = subscription();
        let failures = FakeFailures::new(&id);
        Self::start_with(options, handle, log, failures)
    }

    pub(super) fn start_with<F, R>(
        options: Options,
        handle: F,
        log: bool,
        failures: Arc<FakeFailures>,
    ) -> Self
    where
        F: Fn(Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        let id = subscription();
        let (feed, log_feed, settles) = (Feed::new(), LogFeed::new(), Settles::new());
        *settles.failures.lock() = options.in_engine.then(|| Arc::clone(&failures));
        let publisher = if options.native.contains(&Capability::AtomicSettle) {
            FakePublisher::with_settles(Arc::clone(&settles))
        } else {
            FakePublisher::new()
        };
        let clock = TokioClock::new();
        let metrics = Arc::new(Metrics::new());
        let home = Arc::clone(&failures) as Arc<dyn FailureStore>;
        let own = options.in_engine.then(|| Arc::clone(&home));
        let engine = FakeEngine::new(
            Arc::clone(&publisher) as Arc<dyn Publisher>,
            own,
            &options.native,
        );
        let runtime = Arc::new(Runtime::new(
            Arc::new(engine),
            Arc::clone(&publisher) as Arc<dyn Publisher>,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Seeded::new(7),
            Arc::clone(&metrics) as Arc<dyn Recorder>,
        ));
        let handle: Handle = Arc::new(move |delivery| Box::pin(handle(delivery)));
        let handler: Arc<dyn ErasedHandler> = Arc::new(Closure {
            message_type: "placed",
            retry: options.retry,
            handle,
        });
        let router = Arc::new(Router::new([handler]).map_err(|_| "twice").unwrap());
        let mut policy = options.policy;
        policy.retries = router.retries().to_vec();
        let source = if log {
            Source::Log(Box::new(FakeLog(Arc::clone(&log_feed))))
        } else {
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            let source = FakeLease::new(Arc::clone(&feed), Arc::clone(&settles), clock);
            Source::Lease(Box::new(source))
        };
        let mut spec = SubscriptionSpec::new(id.clone(), InstanceId(1));
        spec.lease = options.lease;
        let handle = spawn(Setup {
            runtime: Arc::clone(&runtime),
            spec,
            policy,
            router,
            source,
            failures: (!options.no_failures).then_some(home),
            failures_in_engine: options.in_engine,
            plan: None,
        });
        Self {
            id,
            feed,
            log_feed,
            settles,
            failures,
            publisher,
            metrics,
            clock,
            registry: Arc::clone(&runtime.registry),
            handle,
        }
    }

    pub(super) fn count(&self, metric: &'static crate::metrics::Metric) -> u64 {
        self.metrics.count(metric, &[&self.id.to_string()])
    }

    /// Hands over numbered messages of keys.
    pub(super) fn push(&self, messages: &[(u64, &str)]) {
        for (number, key) in messages {
            self.feed.push(*number, &outgoing(*number, Some(key)));
        }
    }

    /// Waits in virtual time, at most two hours.
    pub(super) async fn until(&self, what: impl Fn(&Self) -> bool) {
        let met = async {
            let mut pause = Duration::from_millis(1);
            while !what(self) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(20));
            }
        };
        let met = tokio::time::timeout(Duration::from_secs(7200), met).await;
        let status = self.handle.status();
        assert!(
            met.is_ok(),
            "not in two hours: {status:?}, {:?}",
            self.settles.log.lock()
        );
    }

    pub(super) fn settled(&self) -> Vec<(u64, &'static str)> {
        self.settles.log.lock().clone()
    }
}

/// The number of a delivery's message.
pub(super) fn number(delivery: &Delivery) -> u64 {
    let text = String::from_utf8_lossy(delivery.payload()).into_owned();
    text.parse().unwrap()
}

pub(super) fn transient(text: &str) -> Ending {
    Ending::Failed(HandlerError::Transient(text.to_owned().into()))
}

pub(super) fn permanent(text: &str) -> Ending {
    Ending::Failed(HandlerError::Permanent(text.to_owned().into()))
}

/// Writes down what is handled, and lets numbered messages fail their first times.
pub(super) struct Script {
    pub(super) log: Log,
    fails: Arc<Mutex<HashMap<u64, u32>>>,
}

impl Script {
    pub(super) fn new(fails: &[(u64, u32)]) -> Self {
        Self {
            log: Log::default(),
            fails: Arc::new(Mutex::new(fails.iter().copied().collect())),
        }
    }

    /// Lets this message pass from now on.
    pub(super) fn mend(&self) {
        self.fails.lock().clear();
    }

    pub(super) fn handler(&self) -> impl Fn(Delivery) -> std::future::Ready<Ending> + use<> {
        let (log, fails) = (Arc::clone(&self.log), Arc::clone(&self.fails));
        move |delivery| {
            let n = number(&delivery);
            let mut fails = fails.lock();
            let left = fails.entry(n).or_default();
            std::future::ready(if *left > 0 {
                *left -= 1;
                log.lock().push(format!("{n} failed"));
                transient(&format!("no luck with {n}"))
            } else {
                log.lock().push(format!("{n} handled"));
                Ending::Committed
            })
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// The numbers handled, in order.
    pub(super) fn handled(&self) -> Vec<u64> {
        let log = self.log.lock();
        let handled = log.iter().filter_map(|line| line.strip_suffix(" handled"));
        handled.map(|n| n.parse().unwrap()).collect()
    }
}

/// A message of another type.
pub(super) fn of_type(number: u64, message_type: &'static str) -> Outgoing {
    let mut message = outgoing(number, Some("k"));
    message.envelope.message_type = message_type.into();
    message
}

pub(super) fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
