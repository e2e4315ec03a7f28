//! What must be reached.

use serde_json::Value;

/// Which side of a bound is good.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A bound on one field of one row.
struct Target {
    row: &'static str,
    field: &'static str,
    what: &'static str,
    bound: Bound,
}

/// A target and what was measured.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) row: &'static str,
    pub(super) what: &'static str,
    pub(super) must: String,
    /// `None`: the row was not measured.
    pub(super) is: Option<f64>,
    pub(super) reached: bool,
}

use Bound::{AtLeast, AtMost};

const fn target(
    row: &'static str,
    field: &'static str,
    what: &'static str,
    bound: Bound,
) -> Target {
    Target {
        row,
        field,
        what,
        bound,
    }
}

const SYNCED: &str = "÷ a bare loop that writes and syncs groups of the same size";
const BUSY: &str = "committer's time inside write and sync, %";
const BEYOND: &str = "one outstanding: p50 beyond write and sync, µs";
const ROWS: &str = "÷ the same rows by hand, 100 per commit, FULL";

const TARGETS: [Target; 27] = [
    target("durable.log", "ratio", SYNCED, AtLeast(0.8)),
    target(
        "durable.log",
        "messages_per_sync",
        "messages per sync",
        AtLeast(100.0),
    ),
    target(
        "durable.log",
        "committer_in_write_and_sync_percent",
        BUSY,
        AtLeast(60.0),
    ),
    target(
        "durable.log.latency",
        "beyond_write_and_sync_us",
        BEYOND,
        AtMost(60.0),
    ),
    target("durable.bus", "ratio", SYNCED, AtLeast(0.8)),
    target(
        "durable.bus",
        "messages_per_sync",
        "messages per sync",
        AtLeast(100.0),
    ),
    target(
        "durable.bus",
        "committer_in_write_and_sync_percent",
        BUSY,
        AtLeast(60.0),
    ),
    target(
        "durable.bus.latency",
        "beyond_write_and_sync_us",
        BEYOND,
        AtMost(60.0),
    ),
    target(
        "handle.unordered",
        "ours",
        "msg/s, tracing off",
        AtLeast(300_000.0),
    ),
    target(
        "handle.allocations",
        "beyond_the_payload",
        "allocations per message beyond the payload's",
        AtMost(6.0),
    ),
    target(
        "handle.ordered",
        "ours",
        "msg/s, with spans",
        AtLeast(150_000.0),
    ),
    target("inbox.store.64", "ratio", ROWS, AtLeast(0.4)),
    target("inbox.store.1024", "ratio", ROWS, AtLeast(0.4)),
    target("inbox.relay.64", "ratio", ROWS, AtLeast(0.25)),
    target("inbox.relay.1024", "ratio", ROWS, AtLeast(0.25)),
    target("recovery.time", "ours", "ms for 5 GiB", AtMost(500.0)),
    target("recovery.time", "ratio", "time, 5 GiB ÷ 1 GiB", AtMost(1.3)),
    target(
        "recovery.read",
        "ratio",
        "bytes read, 5 GiB ÷ 1 GiB",
        AtMost(1.3),
    ),
    target(
        "stuck.disk",
        "ours",
        "MiB on disk while 5 GiB flow past",
        AtMost(1024.0),
    ),
    target(
        "stuck.memory",
        "ratio",
        "memory at its most ÷ after a fifth of the flow",
        AtMost(1.2),
    ),
    target(
        "stuck.state",
        "ours",
        "KiB of state, 50,000,000 acknowledged behind it",
        AtMost(976.0),
    ),
    target(
        "stuck.state",
        "redelivered_after_restart",
        "messages that come again after a restart",
        AtMost(1.0),
    ),
    target(
        "idle.memory",
        "beyond_mib",
        "MiB for 100,000 idle subscriptions",
        AtMost(57.2),
    ),
    target("idle.open", "ours", "ms to open them", AtMost(1000.0)),
    target(
        "delayed.lateness",
        "ours",
        "ms late at p99, 1,000,000 delayed messages",
        AtMost(50.0),
    ),
    target("delayed.memory", "ours", "MiB for them", AtMost(95.4)),
    target(
        "ordered",
        "ratio",
        "1,000 keys, 5 ms each, ÷ one at a time",
        AtLeast(150.0),
    ),
];

/// What was reached of those whose row was measured.
pub(super) fn judge(rows: &[Value]) -> Vec<Judged> {
    let targets = TARGETS.iter();
    let judged = targets.filter_map(|target| {
        let row = rows.iter().find(|row| row["name"] == target.row)?;
        let is = row[target.field].as_f64();
        let (must, reached) = match target.bound {
            AtLeast(bound) => (format!("≥ {bound}"), is.is_some_and(|is| is >= bound)),
            AtMost(bound) => (format!("≤ {bound}"), is.is_some_and(|is| is <= bound)),
        };
        Some(Judged {
            row: target.row,
            what: target.what,
            must,
            is,
            reached,
        })
    });
    judged.collect()
}
