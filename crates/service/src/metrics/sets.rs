//! Cells that were resolved once: per subscription, per publisher.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::engine::{Cancel, CommitError, Publisher, Receipt, Scheduled};
use postrider_core::envelope::Outgoing;
use postrider_core::failure::Cause;
use postrider_core::fault::Fault;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::settle::SettleOp;

use super::{
    Counter, DEAD, DEPTH, DUPLICATES, EXPIRED, FAILED, Gauge, HANDLED, HANDLER_SECONDS, HELD,
    Histogram, IN_FLIGHT, LAG_AGE, LEASES_LOST, NO_SUBSCRIBER, PAUSED, PUBLISH_FAILURES, PUBLISHED,
    REDRIVEN, RETRIED, Recorder, UNHANDLED_TYPES,
};

/// The cells of one subscription.
pub struct SubscriptionMetrics {
    recorder: Arc<dyn Recorder>,
    label: String,
    /// Deliveries handled.
    pub handled: Arc<dyn Counter>,
    /// Attempts after the first.
    pub retried: Arc<dyn Counter>,
    /// Redriven records taken.
    pub redriven: Arc<dyn Counter>,
    /// Deliveries that the inbox had seen.
    pub duplicates: Arc<dyn Counter>,
    /// Deadline passed before the handler.
    pub expired: Arc<dyn Counter>,
    /// Types without a handler.
    pub unhandled_types: Arc<dyn Counter>,
    /// Deliveries that went to another member.
    pub leases_lost: Arc<dyn Counter>,
    /// Handlers running.
    pub in_flight: Arc<dyn Gauge>,
    /// Deliveries held.
    pub held: Arc<dyn Gauge>,
    /// 1 where consumption is paused.
    pub paused: Arc<dyn Gauge>,
    /// Accepted and not settled.
    pub depth: Arc<dyn Gauge>,
    /// Age of the oldest of these.
    pub lag_age: Arc<dyn Gauge>,
    handler: Arc<dyn Histogram>,
}

impl SubscriptionMetrics {
    /// Resolves the labels of one subscription.
    #[must_use]
    pub fn new(recorder: &Arc<dyn Recorder>, subscription: &SubscriptionId) -> Self {
        let label = subscription.to_string();
        let values = [label.as_str()];
        Self {
            handled: recorder.counter(HANDLED, &values),
            retried: recorder.counter(RETRIED, &values),
            redriven: recorder.counter(REDRIVEN, &values),
            duplicates: recorder.counter(DUPLICATES, &values),
            expired: recorder.counter(EXPIRED, &values),
            unhandled_types: recorder.counter(UNHANDLED_TYPES, &values),
            leases_lost: recorder.counter(LEASES_LOST, &values),
            in_flight: recorder.gauge(IN_FLIGHT, &values),
            held: recorder.gauge(HELD, &values),
            paused: recorder.gauge(PAUSED, &values),
            depth: recorder.gauge(DEPTH, &values),
            lag_age: recorder.gauge(LAG_AGE, &values),
            handler: recorder.histogram(HANDLER_SECONDS, &values),
            recorder: Arc::clone(recorder),
            label,
        }
    }

    /// A handler took this long.
    pub fn handler_time(&self, took: Duration) {
        self.handler.record(took.as_secs_f64());
    }

    /// An attempt failed. Rare enough to resolve its label here.
    pub fn failed(&self, outcome: &'static str) {
        self.recorder
            .counter(FAILED, &[&self.label, outcome])
            .add(1);
    }

    /// A failure record was written. Rare enough to resolve its label here.
    pub fn dead(&self, cause: Cause) {
        let cause = crate::failures::cause_word(cause);
        self.recorder.counter(DEAD, &[&self.label, cause]).add(1);
    }
}

/// The cells of publishing, resolved once per destination. One per bus; its publisher tells it the results.
pub struct PublishMetrics {
    recorder: Arc<dyn Recorder>,
    cells: Mutex<HashMap<Destination, Cells>>,
}

struct Cells {
    published: Arc<dyn Counter>,
    failures: Arc<dyn Counter>,
    no_subscriber: Arc<dyn Counter>,
}

/// Destinations whose cells are kept; beyond it (an inbox per process that ever asked) they are resolved each time.
const DESTINATIONS_MAX: usize = 4096;

impl PublishMetrics {
    /// Cells of this recorder.
    #[must_use]
    pub fn new(recorder: Arc<dyn Recorder>) -> Self {
        Self {
            recorder,
            cells: Mutex::new(HashMap::new()),
        }
    }

    /// One message was published, or not. Inboxes are counted together: their names are as many as processes.
    pub fn observe(&self, destination: &Destination, result: &Result<Receipt, Fault>) {
        self.with_cells(destination, |cells| match result {
            Ok(receipt) => {
                cells.published.add(1);
                if receipt.subscriptions == Some(0) {
                    cells.no_subscriber.add(1);
                }
            }
            Err(_) => cells.failures.add(1),
        });
    }

    /// One message was not published.
    pub fn failed(&self, destination: &Destination) {
        self.with_cells(destination, |cells| cells.failures.add(1));
    }

    fn with_cells(&self, destination: &Destination, run: impl FnOnce(&Cells)) {
        let mut known = self.cells.lock();
        if let Some(cells) = known.get(destination) {
            return run(cells);
        }
        let label = match destination.kind {
            postrider_core::name::DestinationKind::Inbox => "inbox".to_owned(),
            _ => destination.to_string(),
        };
        let cells = Cells {
            published: self.recorder.counter(PUBLISHED, &[&label]),
            failures: self.recorder.counter(PUBLISH_FAILURES, &[&label]),
            no_subscriber: self.recorder.counter(NO_SUBSCRIBER, &[&label]),
        };
        run(&cells);
        if known.len() < DESTINATIONS_MAX {
            known.insert(destination.clone(), cells);
        }
    }
}

/// A publisher whose results are counted. A bus has one, so whoever publishes (bus, handler, relay) is counted once.
pub(crate) struct Observed {
    inner: Arc<dyn Publisher>,
    metrics: PublishMetrics,
}

impl Observed {
    pub(crate) fn new(inner: Arc<dyn Publisher>, recorder: Arc<dyn Recorder>) -> Self {
        Self {
            inner,
            metrics: PublishMetrics::new(recorder),
        }
    }
}

impl Publisher for Observed {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        if let [message] = &messages[..] {
            let destination = message.destination.clone();
            return Box::pin(async move {
                let results = self.inner.publish(messages).await;
                let observe = |result| self.metrics.observe(&destination, result);
                results.iter().for_each(observe);
                results
            });
        }
        let destinations: Vec<_> = messages.iter().map(|m| m.destination.clone()).collect();
        Box::pin(async move {
            let results = self.inner.publish(messages).await;
            for (destination, result) in destinations.iter().zip(&results) {
                self.metrics.observe(destination, result);
            }
            results
        })
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        let destinations: Vec<_> = publish.iter().map(|m| m.destination.clone()).collect();
        Box::pin(async move {
            let result = self.inner.commit(publish, settle).await;
            match &result {
                Ok(receipts) => {
                    for (destination, receipt) in destinations.iter().zip(receipts) {
                        self.metrics.observe(destination, &Ok(receipt.clone()));
                    }
                }
                Err(_) => destinations.iter().for_each(|d| self.metrics.failed(d)),
            }
            result
        })
    }

    fn cancel<'a>(&'a self, scheduled: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        self.inner.cancel(scheduled)
    }
}
