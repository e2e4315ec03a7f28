//! What the screen shows: rates from one look to the next.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::output::{cell, items, number};

/// A subscription as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) phase: String,
    pub(super) waits_for: Option<String>,
    /// Messages handled and attempts failed per second, since the look before.
    pub(super) handled_per_s: f64,
    pub(super) failed_per_s: f64,
    pub(super) depth: u64,
    pub(super) age_ms: Option<u64>,
    pub(super) running: u64,
    pub(super) failures: u64,
    /// The handler's mean time since the look before; since the start where none ran.
    pub(super) mean_ms: Option<f64>,
    /// 99 of 100 handlers took at most about so long, since the start.
    pub(super) p99_ms: Option<f64>,
    pub(super) members: usize,
}

impl Row {
    pub(super) fn is_paused(&self) -> bool {
        self.phase == "paused"
    }
}

/// Counters of one subscription at one look.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    handled: u64,
    failed: u64,
    handlers: u64,
    seconds: f64,
}

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) rows: Vec<Row>,
    pub(super) engine: String,
    pub(super) durability: String,
    pub(super) uptime_ms: u64,
    pub(super) published_per_s: f64,
    pub(super) messages: u64,
    pub(super) note: Option<String>,
    /// The place of what is chosen.
    pub(super) at: usize,
    before: Option<(Instant, BTreeMap<String, Counts>, u64)>,
}

impl View {
    /// Takes a look: rates are what changed since the one before.
    pub(super) fn take(&mut self, snapshot: &Value, at: Instant) {
        let chosen = self.chosen().map(|(id, _)| id);
        let mut counts = BTreeMap::new();
        let mut rows: Vec<Row> = Vec::new();
        for member in items(snapshot.get("subscriptions").unwrap_or(&Value::Null)) {
            let id = cell(member, "/id");
            // Members of one subscription share its counters and its depth.
            if let Some(row) = rows.iter_mut().find(|row| row.id == id) {
                row.members += 1;
                row.running += number(member, "/running").unwrap_or(0);
                continue;
            }
            let now = counts_of(member);
            rows.push(self.row(member, now, at));
            counts.insert(id, now);
        }
        let topics = items(snapshot.get("topics").unwrap_or(&Value::Null));
        let sum = |path: &str| topics.iter().filter_map(|t| number(t, path)).sum::<u64>();
        let published = sum("/counts/published");
        self.published_per_s = self.before.as_ref().map_or(0.0, |(then, _, before)| {
            per_second(published, *before, at, *then)
        });
        self.messages = sum("/messages");
        self.engine = format!(
            "{} {}",
            cell(snapshot, "/engine/product"),
            cell(snapshot, "/engine/location")
        );
        self.durability = cell(snapshot, "/engine/durability");
        self.uptime_ms = number(snapshot, "/uptime_ms").unwrap_or(0);
        self.rows = rows;
        self.before = Some((at, counts, published));
        self.note = None;
        let place = chosen.and_then(|id| self.rows.iter().position(|row| row.id == id));
        self.at = place
            .unwrap_or(self.at)
            .min(self.rows.len().saturating_sub(1));
    }

    fn row(&self, member: &Value, now: Counts, at: Instant) -> Row {
        let id = cell(member, "/id");
        let before = self
            .before
            .as_ref()
            .and_then(|(then, counts, _)| Some((*then, *counts.get(&id)?)));
        let rate = |of: fn(&Counts) -> u64| {
            before.map_or(0.0, |(then, before)| {
                per_second(of(&now), of(&before), at, then)
            })
        };
        let since = before.map_or_else(Counts::default, |(_, before)| before);
        let since = match now.handlers > since.handlers {
            true => since,
            false => Counts::default(),
        };
        let ran = now.handlers.saturating_sub(since.handlers);
        let mean = (now.seconds - since.seconds) * 1000.0 / ran as f64;
        Row {
            phase: cell(member, "/phase"),
            waits_for: member
                .get("waits_for")
                .and_then(Value::as_str)
                .map(str::to_owned),
            handled_per_s: rate(|c| c.handled),
            failed_per_s: rate(|c| c.failed),
            depth: number(member, "/depth/depth").unwrap_or(0),
            age_ms: number(member, "/depth/oldest_age_ms"),
            running: number(member, "/running").unwrap_or(0),
            failures: number(member, "/failures").unwrap_or(0),
            mean_ms: (ran > 0).then_some(mean),
            p99_ms: p99_ms(member),
            members: 1,
            id,
        }
    }

    /// Says something on the last line, until the next look.
    pub(super) fn say(&mut self, text: &str) {
        self.note = Some(text.to_owned());
    }

    /// Moves the choice.
    pub(super) fn choose(&mut self, by: isize) {
        let last = self.rows.len().saturating_sub(1);
        self.at = self.at.saturating_add_signed(by).min(last);
    }

    /// What is chosen, and whether it is paused.
    pub(super) fn chosen(&self) -> Option<(String, bool)> {
        let row = self.rows.get(self.at)?;
        Some((row.id.clone(), row.is_paused()))
    }
}

fn counts_of(member: &Value) -> Counts {
    let of = |path: &str| number(member, path).unwrap_or(0);
    Counts {
        handled: of("/counts/handled"),
        failed: of("/counts/failed"),
        handlers: of("/handler/count"),
        seconds: member
            .pointer("/handler/seconds")
            .and_then(Value::as_f64)
            .unwrap_or(0.0),
    }
}

fn per_second(now: u64, before: u64, at: Instant, then: Instant) -> f64 {
    let seconds = at.saturating_duration_since(then).as_secs_f64();
    // A counter that is smaller is that of a new process.
    let grown = now.checked_sub(before).unwrap_or(now);
    if seconds > 0.0 {
        grown as f64 / seconds
    } else {
        0.0
    }
}

/// The bound of the bucket in which 99 of 100 are reached; `None` where none ran, or it is above the last bound.
fn p99_ms(member: &Value) -> Option<f64> {
    let all = number(member, "/handler/count").filter(|all| *all > 0)?;
    let buckets = items(member.pointer("/handler/buckets")?);
    let reached = |bucket: &&Value| number(bucket, "/count").is_some_and(|n| n * 100 >= all * 99);
    let bound = buckets.iter().find(reached)?.get("seconds")?.as_f64()?;
    Some(bound * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    fn snapshot(handled: u64, seconds: f64) -> Value {
        let member = json!({
            "id": "a@topic:t", "phase": "running", "running": 1, "failures": 2,
            "depth": {"depth": 5, "oldest_age_ms": 1500},
            "counts": {"handled": handled, "failed": 0},
            "handler": {"count": handled, "seconds": seconds, "buckets": [{"seconds": 0.1, "count": handled / 2}, {"seconds": 0.25, "count": handled}]},
        });
        json!({"subscriptions": [member.clone(), member], "topics": [{"messages": 7, "counts": {"published": handled}}]})
    }

    #[test]
    fn rates_are_what_changed_since_the_look_before() {
        let (mut view, began) = (View::default(), Instant::now());
        view.take(&snapshot(100, 10.0), began);
        assert_eq!(view.rows[0].handled_per_s, 0.0, "nothing is known yet");
        view.take(&snapshot(150, 20.0), began + Duration::from_secs(2));
        let row = &view.rows[0];
        assert_eq!((row.handled_per_s, view.published_per_s), (25.0, 25.0));
        assert_eq!((row.mean_ms, row.p99_ms), (Some(200.0), Some(250.0)));
        assert_eq!((row.members, row.running, view.rows.len()), (2, 2, 1));
        // A new process counts from nothing.
        view.take(&snapshot(10, 1.0), began + Duration::from_secs(3));
        assert_eq!(view.rows[0].handled_per_s, 10.0);
    }

    #[test]
    fn a_choice_stays_within_the_rows() {
        let mut view = View::default();
        view.choose(3);
        assert_eq!(view.chosen(), None);
        view.take(&snapshot(1, 1.0), Instant::now());
        view.choose(3);
        assert_eq!(view.chosen(), Some(("a@topic:t".to_owned(), false)));
        view.choose(-9);
        assert_eq!(view.at, 0);
    }
}
