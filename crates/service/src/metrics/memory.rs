//! The recorder that comes with us: atomics in this process, written as Prometheus text when asked.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Counter, Gauge, Histogram, Kind, Metric, Recorder};

/// The most series of one metric. Further label values are counted together in one series whose values are `other`.
pub const SERIES_MAX: usize = 10_000;

/// Upper bounds of the histogram's buckets, in seconds.
const BUCKETS: [f64; 13] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0,
];

/// Metrics in the memory of this process.
///
/// ```
/// use postrider_service::metrics::{HANDLED, Metrics, Recorder};
///
/// let metrics = Metrics::new();
/// metrics.counter(HANDLED, &["inventory@topic:shop.order"]).add(2);
/// assert!(metrics.text().contains("postrider_handled_total{subscription=\"inventory@topic:shop.order\"} 2"));
/// ```
#[derive(Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

struct Family {
    metric: &'static Metric,
    series: BTreeMap<Vec<String>, Cell>,
}

enum Cell {
    Counter(Arc<Count>),
    Gauge(Arc<Level>),
    Histogram(Arc<Distribution>),
}

#[derive(Default)]
struct Count(AtomicU64);

/// The bits of an `f64`.
#[derive(Default)]
struct Level(AtomicU64);

#[derive(Default)]
struct Distribution {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl Counter for Count {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

impl Gauge for Level {
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl Histogram for Distribution {
    fn record(&self, seconds: f64) {
        if let Some(i) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[i].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_nanos
            .fetch_add((seconds.max(0.0) * 1e9) as u64, Ordering::Relaxed);
    }
}

impl Metrics {
    /// No series yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a counter, 0 where nothing was counted: for tests and for status pages.
    #[must_use]
    pub fn count(&self, metric: &'static Metric, values: &[&str]) -> u64 {
        let families = self.families.lock();
        let Some(family) = families.get(metric.name) else {
            return 0;
        };
        match family.series.iter().find(|(have, _)| *have == values) {
            Some((_, Cell::Counter(count))) => count.0.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Everything in the Prometheus text format, version 0.0.4, sorted by name and labels.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for family in self.families.lock().values() {
            family.write(&mut out);
        }
        out
    }

    fn cell<T>(
        &self,
        metric: &'static Metric,
        values: &[&str],
        make: impl FnOnce() -> Cell,
        pick: impl Fn(&Cell) -> Option<Arc<T>>,
    ) -> Arc<T>
    where
        T: Default,
    {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let mut families = self.families.lock();
        let family = families.entry(metric.name).or_insert_with(|| Family {
            metric,
            series: BTreeMap::new(),
        });
        let mut labels: Vec<String> = values.iter().map(ToString::to_string).collect();
        if family.series.len() >= SERIES_MAX && !family.series.contains_key(&labels) {
            labels = vec!["other".to_owned(); values.len()];
        }
        let cell = match family.series.entry(labels) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(make()),
        };
        // A metric has one kind; where a caller asks for another, what it records is dropped rather than mixed in.
        pick(cell).unwrap_or_default()
    }
}

impl Recorder for Metrics {
    fn counter(&self, metric: &'static Metric, values: &[&str]) -> Arc<dyn Counter> {
        self.cell(
            metric,
            values,
            || Cell::Counter(Arc::default()),
            |cell| match cell {
                Cell::Counter(c) => Some(Arc::clone(c)),
                _ => None,
            },
        )
    }

    fn gauge(&self, metric: &'static Metric, values: &[&str]) -> Arc<dyn Gauge> {
        self.cell(
            metric,
            values,
            || Cell::Gauge(Arc::default()),
            |cell| match cell {
                Cell::Gauge(c) => Some(Arc::clone(c)),
                _ => None,
            },
        )
    }

    fn histogram(&self, metric: &'static Metric, values: &[&str]) -> Arc<dyn Histogram> {
        self.cell(
            metric,
            values,
            || Cell::Histogram(Arc::default()),
            |cell| match cell {
                Cell::Histogram(c) => Some(Arc::clone(c)),
                _ => None,
            },
        )
    }

    fn prometheus(&self) -> Option<String> {
        Some(self.text())
    }
}

impl Family {
    fn write(&self, out: &mut String) {
        let Metric {
            name, help, kind, ..
        } = self.metric;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (values, cell) in &self.series {
            let labels = labels(self.metric.labels, values);
            match cell {
                Cell::Counter(c) => {
                    let _ = writeln!(
                        out,
                        "{name}{} {}",
                        braces(&labels),
                        c.0.load(Ordering::Relaxed)
                    );
                }
                Cell::Gauge(g) => {
                    let value = f64::from_bits(g.0.load(Ordering::Relaxed));
                    let _ = writeln!(out, "{name}{} {value}", braces(&labels));
                }
                Cell::Histogram(h) => h.write(out, name, &labels),
            }
        }
    }
}

impl Distribution {
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut below = 0;
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}"
            );
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{} {sum}", braces(labels));
        let _ = writeln!(out, "{name}_count{} {count}", braces(labels));
    }
}

fn braces(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

fn labels(names: &[&str], values: &[String]) -> String {
    let pairs = names.iter().zip(values).map(|(name, value)| {
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    });
    pairs.collect::<Vec<_>>().join(",")
}
