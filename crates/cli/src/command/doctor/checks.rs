//! The checks: what was seen, what it means.

use postrider::Timestamp;
use postrider::contract::subscription::SubscriptionSpec;
use serde_json::Value;

use super::{Finding, Seen, Severity};
use crate::output::{cell, items, number};
use crate::text::{count, millis, span};

/// Every check, by the heading that explains it.
pub(super) const ALL: [&str; 14] = [
    "durability",
    "disk",
    "clock",
    "retries",
    "handler-time",
    "leases",
    "failures",
    "lag",
    "not-running",
    "paused",
    "outage",
    "unheard",
    "outbox",
    "publishing",
];

/// What counts as too much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) free_min_percent: u64,
    pub(super) lag_max_ms: u64,
}

/// How far a clock may be off, in ms.
const CLOCK_MS: u64 = 60_000;

pub(super) fn all(seen: &Seen, limits: Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    durability(seen, &mut findings);
    disk(seen, limits, &mut findings);
    clock(seen, &mut findings);
    failures(seen, &mut findings);
    for subscription in items(seen.snapshot.get("subscriptions").unwrap_or(&Value::Null)) {
        policy(subscription, &mut findings);
        handlers(subscription, &mut findings);
        progress(seen, subscription, limits, &mut findings);
    }
    for topic in items(seen.snapshot.get("topics").unwrap_or(&Value::Null)) {
        publishing(topic, &mut findings);
    }
    for relay in items(seen.status.get("relays").unwrap_or(&Value::Null)) {
        outbox(relay, &mut findings);
    }
    findings
}

fn found(
    findings: &mut Vec<Finding>,
    (severity, check): (Severity, &'static str),
    what: String,
    evidence: String,
    fix: impl Into<String>,
) {
    debug_assert!(ALL.contains(&check), "{check}");
    findings.push(Finding {
        severity,
        check,
        what,
        evidence,
        fix: fix.into(),
    });
}

fn durability(seen: &Seen, findings: &mut Vec<Finding>) {
    // A directory that nobody runs is not opened as its service opens it.
    let level = cell(&seen.snapshot, "/engine/durability");
    if !seen.is_running
        || matches!(
            level.as_str(),
            "flushed" | "replicated" | "replicated_flushed"
        )
    {
        return;
    }
    let what = match level.as_str() {
        "memory" => "confirmed messages are lost with the process",
        _ => "a power cut loses messages that were confirmed",
    };
    found(
        findings,
        (Severity::Warning, "durability"),
        what.to_owned(),
        format!("the engine's durability is `{level}`"),
        "drop `durability=` from the engine's URL: then a confirmation comes after fsync",
    );
}

fn disk(seen: &Seen, limits: Limits, findings: &mut Vec<Finding>) {
    let Some((free, total)) = seen.disk.filter(|(_, total)| *total > 0) else {
        return;
    };
    let percent = u64::try_from(u128::from(free) * 100 / u128::from(total)).unwrap_or(100);
    if percent >= limits.free_min_percent {
        return;
    }
    let severity = if percent < 2 {
        Severity::Error
    } else {
        Severity::Warning
    };
    found(
        findings,
        (severity, "disk"),
        format!("{percent} % of the disk are free"),
        format!(
            "{} MiB of {} MiB are free; {} % should be",
            free >> 20,
            total >> 20,
            limits.free_min_percent
        ),
        "free space, or move the directory to a larger disk; failures and messages that nobody handles keep space",
    );
}

fn clock(seen: &Seen, findings: &mut Vec<Finding>) {
    for (topic, stored_at) in &seen.newest {
        let Some(at) = Timestamp::parse_rfc3339(stored_at) else {
            continue;
        };
        let ahead = millis(at.since(seen.now));
        if ahead > CLOCK_MS {
            found(
                findings,
                (Severity::Error, "clock"),
                format!("the clock went back by at least {}", span(ahead)),
                format!("the newest message of {topic} was stored at {stored_at}"),
                "let the machine's clock follow a time server; delays and retention are measured by it",
            );
            return;
        }
    }
    let Some(theirs) = Timestamp::parse_rfc3339(&cell(&seen.snapshot, "/now")) else {
        return;
    };
    let apart = millis(theirs.since(seen.now)).max(millis(seen.now.since(theirs)));
    if apart > CLOCK_MS {
        found(
            findings,
            (Severity::Error, "clock"),
            format!("the process's clock is {} off this one", span(apart)),
            format!("it says {}", cell(&seen.snapshot, "/now")),
            "let both follow one time server",
        );
    }
}

fn failures(seen: &Seen, findings: &mut Vec<Finding>) {
    for group in items(&seen.groups) {
        let id = cell(group, "/subscription");
        let many = number(group, "/count").unwrap_or(0);
        found(
            findings,
            (Severity::Warning, "failures"),
            format!(
                "{} of {id} wait for a person",
                count(usize::try_from(many).unwrap_or(0), "failure")
            ),
            format!(
                "group `{}`, the last at {}",
                cell(group, "/group"),
                cell(group, "/last")
            ),
            format!(
                "`postrider dlq show {id} {}`, mend the cause, then `postrider dlq redrive {id} --group …`",
                cell(group, "/sample")
            ),
        );
    }
}

fn policy(subscription: &Value, findings: &mut Vec<Finding>) {
    let id = cell(subscription, "/id");
    let retries = subscription.pointer("/policy/retries");
    let endless = items(retries.unwrap_or(&Value::Null))
        .iter()
        .any(|retry| number(retry, "/times") == Some(u64::from(u32::MAX)));
    if endless {
        found(
            findings,
            (Severity::Warning, "retries"),
            format!("{id} retries without end"),
            "its policy has `Retry::forever`".to_owned(),
            "give it a number (`.times(20)`): what fails for good is then recorded, and its key no longer waits",
        );
    }
}

fn handlers(subscription: &Value, findings: &mut Vec<Finding>) {
    let id = cell(subscription, "/id");
    let lease = number(subscription, "/lease_ms")
        .unwrap_or_else(|| millis(SubscriptionSpec::LEASE_DEFAULT));
    let all = number(subscription, "/handler/count").unwrap_or(0);
    let buckets = items(
        subscription
            .pointer("/handler/buckets")
            .unwrap_or(&Value::Null),
    );
    // The first bucket that reaches the lease: what is above it took longer for sure.
    let within = buckets.iter().find_map(|bucket| {
        let upto = bucket.get("seconds").and_then(Value::as_f64)? * 1000.0;
        let reaches = upto >= lease as f64;
        reaches.then_some((upto as u64, number(bucket, "/count")?))
    });
    let (upto, within) = within.unwrap_or((lease, all));
    let slow = all.saturating_sub(within);
    if slow > 0 {
        found(
            findings,
            (Severity::Warning, "handler-time"),
            format!("handlers of {id} take longer than a lease"),
            format!(
                "{slow} of {all} took more than {}, the lease is {}",
                span(upto),
                span(lease)
            ),
            "give slow handlers a timeout (`.timeout(…)`) and split their work; leases are extended while they run, and a stalled process loses them",
        );
    }
    let lost = number(subscription, "/counts/leases_lost").unwrap_or(0);
    if lost > 0 {
        found(
            findings,
            (Severity::Warning, "leases"),
            format!("deliveries of {id} went to another member while they were handled"),
            format!("{lost} leases were lost since the start"),
            "look for handlers that block the runtime's threads: use `spawn_blocking`, or a store's own transaction",
        );
    }
}

fn progress(seen: &Seen, subscription: &Value, limits: Limits, findings: &mut Vec<Finding>) {
    let id = cell(subscription, "/id");
    let phase = cell(subscription, "/phase");
    let depth = number(subscription, "/depth/depth").unwrap_or(0);
    let age = number(subscription, "/depth/oldest_age_ms").unwrap_or(0);
    let waits = format!("{depth} wait, the oldest for {}", span(age));
    if phase == "not_running" {
        if seen.is_running && depth > 0 {
            found(
                findings,
                (Severity::Warning, "not-running"),
                format!("messages wait for {id}, which does not run here"),
                waits,
                "start its service on this directory; where it is gone for good, skip them: `postrider sub seek … --to latest`",
            );
        }
        return;
    }
    if phase == "paused" {
        found(
            findings,
            (Severity::Warning, "paused"),
            format!("{id} is paused"),
            waits.clone(),
            format!("`postrider sub resume {id}`"),
        );
    }
    if let Some(dependency) = subscription.get("waits_for").and_then(Value::as_str) {
        found(
            findings,
            (Severity::Warning, "outage"),
            format!("{id} waits for {dependency}"),
            waits.clone(),
            format!("mend {dependency}: it goes on by itself"),
        );
    }
    if let Some(fault) = subscription.get("source_fault").and_then(Value::as_str) {
        found(
            findings,
            (Severity::Error, "outage"),
            format!("{id} cannot read from the engine"),
            fault.to_owned(),
            "mend what it names: it opens the subscription again by itself",
        );
    }
    if age > limits.lag_max_ms && phase == "running" {
        found(
            findings,
            (Severity::Warning, "lag"),
            format!("{id} is behind"),
            waits,
            format!(
                "`postrider sub show {id}` says whether it is slow, blocked or waits for retries"
            ),
        );
    }
}

fn publishing(topic: &Value, findings: &mut Vec<Finding>) {
    let name = cell(topic, "/destination");
    let of = |field: &str| number(topic, &format!("/counts/{field}")).unwrap_or(0);
    if of("unheard") > 0 {
        found(
            findings,
            (Severity::Warning, "unheard"),
            format!("messages of {name} reach nobody"),
            format!(
                "{} were published while nobody was subscribed",
                of("unheard")
            ),
            "start each consuming service once, so that its subscription exists",
        );
    }
    if of("publish_failures") > 0 {
        found(
            findings,
            (Severity::Warning, "publishing"),
            format!("messages for {name} were refused"),
            format!("{} since the start", of("publish_failures")),
            "the publishing program's errors say why",
        );
    }
}

fn outbox(relay: &Value, findings: &mut Vec<Finding>) {
    let service = cell(relay, "/service");
    let stuck = number(relay, "/stuck_keys").unwrap_or(0);
    if stuck > 0 {
        found(
            findings,
            (Severity::Error, "outbox"),
            format!("the outbox of {service} has messages that the engine will never take"),
            format!("{stuck} keys; {}", cell(relay, "/last_fault")),
            "mend what the fault names; the rows stand in the store's table postrider_outbox",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(subscription: Value) -> Seen {
        Seen {
            is_running: true,
            status: json!({"relays": [{"service": "payment", "stuck_keys": 2, "last_fault": "too large"}]}),
            snapshot: json!({
                "now": "2026-01-01T00:00:00Z",
                "engine": {"durability": "os"},
                "subscriptions": [subscription],
                "topics": [{"destination": "topic:t", "counts": {"unheard": 3, "publish_failures": 1}}],
            }),
            groups: json!([{"subscription": "a@topic:t", "group": "g", "count": 2, "sample": 1}]),
            newest: vec![("topic:t".to_owned(), "2026-01-01T02:00:00Z".to_owned())],
            disk: Some((1 << 20, 1 << 30)),
            now: Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("a time"),
        }
    }

    const LIMITS: Limits = Limits {
        free_min_percent: 10,
        lag_max_ms: 1000,
    };

    fn checks_of(seen: &Seen) -> Vec<&'static str> {
        let mut checks: Vec<_> = all(seen, LIMITS).iter().map(|f| f.check).collect();
        checks.sort_unstable();
        checks.dedup();
        checks
    }

    #[test]
    fn each_check_finds_what_it_is_for() {
        let bad = json!({
            "id": "a@topic:t", "phase": "running", "waits_for": "psp",
            "policy": {"retries": [{"times": u32::MAX}]},
            "depth": {"depth": 5, "oldest_age_ms": 2000},
            "counts": {"leases_lost": 1},
            "handler": {"count": 10, "buckets": [{"seconds": 1.0, "count": 4}, {"seconds": 30.0, "count": 8}, {"seconds": 300.0, "count": 10}]},
        });
        let mut found = checks_of(&seen(bad));
        let idle = json!({"id": "a@topic:t", "phase": "not_running", "depth": {"depth": 5}});
        let paused = json!({"id": "a@topic:t", "phase": "paused"});
        found.extend(checks_of(&seen(idle)));
        found.extend(checks_of(&seen(paused)));
        for check in ALL {
            assert!(found.contains(&check), "{check} found nothing");
        }
    }

    #[test]
    fn handlers_are_compared_with_the_lease_of_their_subscription() {
        let slow = |lease: Value| {
            let subscription = json!({
                "id": "a@topic:t", "lease_ms": lease,
                "handler": {"count": 10, "buckets": [{"seconds": 1.0, "count": 4}, {"seconds": 30.0, "count": 8}, {"seconds": 300.0, "count": 9}]},
            });
            let mut findings = Vec::new();
            handlers(&subscription, &mut findings);
            findings.first().map(|f| f.evidence.clone())
        };
        let found = |lease| slow(lease).unwrap_or_default();
        assert!(found(json!(1000)).starts_with("6 of 10 "));
        assert!(found(json!(20_000)).starts_with("2 of 10 "));
        assert!(found(json!(60_000)).starts_with("1 of 10 "));
        assert_eq!(slow(json!(600_000)), None, "nobody knows");
        assert!(
            found(Value::Null).starts_with("2 of 10 "),
            "of an older process"
        );
    }

    #[test]
    fn where_all_is_well_nothing_is_found() {
        let good = json!({
            "id": "a@topic:t", "phase": "running", "waits_for": null, "source_fault": null,
            "policy": {"retries": [{"times": 10}]},
            "depth": {"depth": 5, "oldest_age_ms": 500}, "counts": {"leases_lost": 0},
            "handler": {"count": 10, "buckets": [{"seconds": 1.0, "count": 10}]},
        });
        let seen = Seen {
            status: json!({"relays": [{"service": "payment", "stuck_keys": 0}]}),
            snapshot: json!({"now": "2026-01-01T00:00:00Z", "engine": {"durability": "flushed"}, "subscriptions": [good],
                "topics": [{"destination": "topic:t", "counts": {"unheard": 0, "publish_failures": 0}}]}),
            groups: json!([]),
            newest: vec![("topic:t".to_owned(), "2025-12-31T23:59:59Z".to_owned())],
            disk: Some((1 << 29, 1 << 30)),
            ..seen(Value::Null)
        };
        assert_eq!(checks_of(&seen), Vec::<&str>::new());
    }

    #[test]
    fn each_check_has_its_heading_in_the_page_that_it_links_to() {
        let page = include_str!("../../../../../docs/guide/doctor.md");
        for check in ALL {
            let heading = format!("\n## {check}\n");
            assert!(page.contains(&heading), "{check} is not explained");
        }
    }
}
