//! Everything that a screen shows, in one answer; and subscriptions that do not run.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use postrider_core::name::SubscriptionId;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, ApiError};
use super::routes::{Shared, depth, with_depth};
use crate::metrics;

/// Counters of a subscription that are given, each the sum over its labels.
const OF_SUBSCRIPTION: [(&str, &str); 8] = [
    ("postrider_handled_total", "handled"),
    ("postrider_failed_total", "failed"),
    ("postrider_retried_total", "retried"),
    ("postrider_dead_total", "dead"),
    ("postrider_redriven_total", "redriven"),
    ("postrider_duplicates_total", "duplicates"),
    ("postrider_leases_lost_total", "leases_lost"),
    ("postrider_unhandled_types_total", "unhandled_types"),
];

const OF_DESTINATION: [(&str, &str); 3] = [
    ("postrider_published_total", "published"),
    ("postrider_publish_failures_total", "publish_failures"),
    ("postrider_no_subscriber_publishes_total", "unheard"),
];

/// What is written of it, as a value. Not `json!`, which would make a ratio of 0.2 another number.
pub(super) fn value_of(shown: &impl Serialize) -> Value {
    let text = serde_json::to_string(shown).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Subscriptions that the engine has and no member of this process serves.
pub(super) async fn idle(api: &Api) -> Result<Vec<Value>, ApiError> {
    let Some(admin) = api.runtime.engine.admin() else {
        return Ok(Vec::new());
    };
    let running = api.runtime.registry.all();
    let known = admin.destinations().await?;
    let idle = known
        .into_iter()
        .flat_map(|depth| depth.subscriptions)
        .filter(|id| !running.iter().any(|r| r.id == *id));
    let mut list = Vec::new();
    for id in idle {
        let depth = depth(api, &id).await;
        list.push(json!({
            "id": id.to_string(),
            "service": id.service.to_string(),
            "destination": id.on.to_string(),
            "member": null,
            "types": [],
            "phase": "not_running",
            "waits_for": null,
            "held": 0, "running": 0, "publishing": 0, "blocked_keys": 0, "parked_keys": 0,
            "source_fault": null,
            "depth": depth,
            "lease_ms": null,
            "policy": null,
        }));
    }
    Ok(list)
}

pub(super) async fn snapshot(State(api): Shared) -> Answer<Value> {
    metrics::refresh(&api.runtime).await;
    let text = api.runtime.recorder.prometheus().unwrap_or_default();
    let samples: Vec<Sample<'_>> = text.lines().filter_map(Sample::read).collect();
    let now = api.runtime.clock.wall();
    let mut subscriptions: Vec<Value> = with_depth(&api, api.runtime.registry.all())
        .await
        .iter()
        .map(value_of)
        .collect();
    subscriptions.extend(idle(&api).await?);
    let failures = failures(&api).await?;
    for subscription in &mut subscriptions {
        let id = subscription["id"].as_str().unwrap_or_default().to_owned();
        if let Some(fields) = subscription.as_object_mut() {
            fields.insert("counts".into(), counts(&samples, "subscription", &id));
            fields.insert("handler".into(), handler(&samples, &id));
            let failed = failures.get(&id).copied().unwrap_or(0);
            fields.insert("failures".into(), json!(failed));
        }
    }
    Ok(Json(json!({
        "now": now.to_rfc3339(),
        "uptime_ms": u64::try_from(api.runtime.clock.mono().since(api.began).as_millis()).unwrap_or(u64::MAX),
        "engine": api.runtime.engine.info(),
        "subscriptions": subscriptions,
        "topics": topics(&api, &samples).await?,
    })))
}

async fn failures(api: &Api) -> Result<BTreeMap<String, u64>, ApiError> {
    let mut of_each: BTreeMap<String, u64> = BTreeMap::new();
    for group in api.failures.groups(None).await? {
        let id: SubscriptionId = group.subscription;
        *of_each.entry(id.to_string()).or_default() += group.count;
    }
    Ok(of_each)
}

async fn topics(api: &Api, samples: &[Sample<'_>]) -> Result<Vec<Value>, ApiError> {
    let Some(admin) = api.runtime.engine.admin() else {
        return Ok(Vec::new());
    };
    let known = admin.destinations().await?.into_iter().map(|depth| {
        let name = depth.destination.to_string();
        let of_it = |(metric, field): (&str, &str)| {
            let sum = sum(samples, metric, "destination", &name);
            (field.to_owned(), json!(sum))
        };
        let counts: Map<String, Value> = OF_DESTINATION.into_iter().map(of_it).collect();
        json!({
            "destination": name,
            "messages": depth.messages,
            "next_position": depth.next_position,
            "subscriptions": depth.subscriptions.len(),
            "counts": counts,
        })
    });
    Ok(known.collect())
}

fn counts(samples: &[Sample<'_>], label: &str, value: &str) -> Value {
    let of_it = |(metric, field): (&str, &str)| {
        let sum = sum(samples, metric, label, value);
        (field.to_owned(), json!(sum))
    };
    Value::Object(OF_SUBSCRIPTION.into_iter().map(of_it).collect())
}

/// Times in the handler: how many, their sum in seconds, and how many took at most so long (cumulative).
fn handler(samples: &[Sample<'_>], id: &str) -> Value {
    let of_it = |name: &'static str| {
        samples
            .iter()
            .filter(move |s| s.name == name && s.label("subscription").as_deref() == Some(id))
    };
    let one = |name| of_it(name).map(|s| s.value).sum::<f64>();
    let buckets = of_it("postrider_handler_seconds_bucket").filter_map(|s| {
        let le: f64 = s.label("le")?.parse().ok()?;
        le.is_finite()
            .then(|| json!({"seconds": le, "count": s.value as u64}))
    });
    json!({
        "count": one("postrider_handler_seconds_count") as u64,
        "seconds": one("postrider_handler_seconds_sum"),
        "buckets": buckets.collect::<Vec<_>>(),
    })
}

fn sum(samples: &[Sample<'_>], metric: &str, label: &str, value: &str) -> u64 {
    let of_it = samples
        .iter()
        .filter(|s| s.name == metric && s.label(label).as_deref() == Some(value));
    of_it.map(|s| s.value as u64).sum()
}

/// A line of the Prometheus text format.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (head, value) = line.rsplit_once(' ')?;
        if head.starts_with('#') {
            return None;
        }
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        Some(Self {
            name,
            labels: labels.strip_suffix('}').unwrap_or(labels),
            value: value.parse().ok()?,
        })
    }

    /// The value of a label. Those of ours are names, in which nothing has to be escaped.
    fn label(&self, name: &str) -> Option<String> {
        let mut pairs = self.labels.split("\",");
        pairs.find_map(|pair| {
            let (key, value) = pair.split_once("=\"")?;
            (key == name).then(|| value.trim_end_matches('"').to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_prometheus_is_read() {
        let read = |line: &'static str| Sample::read(line).expect("a sample");
        let sample =
            read("postrider_dead_total{subscription=\"a@topic:b.c\",cause=\"permanent\"} 7");
        assert_eq!((sample.name, sample.value), ("postrider_dead_total", 7.0));
        assert_eq!(sample.label("subscription").as_deref(), Some("a@topic:b.c"));
        assert_eq!(sample.label("cause").as_deref(), Some("permanent"));
        assert_eq!(sample.label("le"), None);
        assert_eq!(read("postrider_late_replies_total 3").value, 3.0);
        assert!(Sample::read("# HELP postrider_dead_total x").is_none());
    }
}
