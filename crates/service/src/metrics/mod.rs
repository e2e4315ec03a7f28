//! Counters, gauges and histograms behind one small [`Recorder`] trait, with an in-process registry ([`Metrics`]) that writes
//! the Prometheus text format.
//!
//! Cost: labels are resolved once (per subscription, destination or service) into a cell; recording is one or two relaxed
//! atomic operations. Label values are names of ours (subscriptions, destinations), never keys or ids, so their number is
//! bounded by the topology; [`Metrics`] bounds it again ([`SERIES_MAX`]).
//!
//! | metric | kind | labels | what |
//! |---|---|---|---|
//! | `postrider_published_total` | counter | destination | messages confirmed by the engine |
//! | `postrider_publish_failures_total` | counter | destination | messages the engine did not take |
//! | `postrider_no_subscriber_publishes_total` | counter | destination | confirmed, and nobody subscribes |
//! | `postrider_handled_total` | counter | subscription | deliveries handled |
//! | `postrider_failed_total` | counter | subscription, outcome | attempts that failed |
//! | `postrider_retried_total` | counter | subscription | attempts after the first |
//! | `postrider_dead_total` | counter | subscription, cause | failure records written, parked followers included |
//! | `postrider_redriven_total` | counter | subscription | redriven records taken |
//! | `postrider_duplicates_total` | counter | subscription | deliveries that the inbox had seen |
//! | `postrider_expired_total` | counter | subscription | deadline passed before the handler |
//! | `postrider_unhandled_types_total` | counter | subscription | types without a handler, acknowledged |
//! | `postrider_leases_lost_total` | counter | subscription | deliveries that went to another member |
//! | `postrider_late_replies_total` | counter | – | replies after their request had ended |
//! | `postrider_handler_seconds` | histogram | subscription | time in the handler |
//! | `postrider_in_flight` | gauge | subscription | handlers running |
//! | `postrider_held` | gauge | subscription | deliveries held |
//! | `postrider_paused` | gauge | subscription | 1 where consumption is paused |
//! | `postrider_depth` | gauge | subscription | accepted and not settled |
//! | `postrider_lag_age_seconds` | gauge | subscription | age of the oldest of these |
//! | `postrider_outbox_depth` | gauge | service | committed and not published |
//! | `postrider_relay_published_total` | counter | service | outbox rows published |
//! | `postrider_relay_retries_total` | counter | service | outbox rows to be tried again |
//! | `postrider_relay_stuck_keys` | gauge | service | keys whose next row the engine will never take |

mod memory;
mod names;
mod sets;

use std::sync::Arc;

pub use memory::{Metrics, SERIES_MAX};
pub use names::*;
pub(crate) use sets::Observed;
pub use sets::{PublishMetrics, SubscriptionMetrics};

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution, in seconds.
    Histogram,
}

/// A metric: its name, kind, text and label names. All of ours are constants of this module.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in the Prometheus text format.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it counts, in one line.
    pub help: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
}

/// A counter of one series.
pub trait Counter: Send + Sync {
    /// Adds `n`.
    fn add(&self, n: u64);
}

/// A gauge of one series.
pub trait Gauge: Send + Sync {
    /// Sets the value.
    fn set(&self, value: f64);
}

/// A histogram of one series.
pub trait Histogram: Send + Sync {
    /// Records one observation, in seconds.
    fn record(&self, seconds: f64);
}

/// Where metrics go. Implement it to bring another system; [`Metrics`] is the one that comes with us.
///
/// Contract. `values` belong to the labels of the metric, in order; there are as many. Each method MUST NOT block, MUST give
/// cells of the same series for the same values, and the cells MUST be cheap: they are called per message.
pub trait Recorder: Send + Sync + 'static {
    /// The counter of these label values.
    fn counter(&self, metric: &'static Metric, values: &[&str]) -> Arc<dyn Counter>;
    /// The gauge of these label values.
    fn gauge(&self, metric: &'static Metric, values: &[&str]) -> Arc<dyn Gauge>;
    /// The histogram of these label values.
    fn histogram(&self, metric: &'static Metric, values: &[&str]) -> Arc<dyn Histogram>;
    /// All of it in the Prometheus text format (0.0.4); `None` where the recorder is exported by other means.
    fn prometheus(&self) -> Option<String> {
        None
    }
}

/// Asks the engine and the stores how much waits, and sets the gauges: before they are read.
pub(crate) async fn refresh(runtime: &crate::runtime::Runtime) {
    for (service, relay) in runtime.registry.relays().all() {
        if let Ok(depth) = relay.depth().await {
            runtime
                .recorder
                .gauge(OUTBOX_DEPTH, &[&service])
                .set(depth as f64);
        }
    }
    let Some(admin) = runtime.engine.admin() else {
        return;
    };
    for running in runtime.registry.all() {
        let Ok(depth) = admin.depth(&running.id).await else {
            continue;
        };
        let label = running.id.to_string();
        let gauge = |metric| runtime.recorder.gauge(metric, &[&label]);
        gauge(DEPTH).set(depth.depth as f64);
        let age_ms = depth.oldest_age_ms.unwrap_or(0);
        gauge(LAG_AGE).set(age_ms as f64 / 1000.0);
    }
}

#[cfg(test)]
mod tests;
