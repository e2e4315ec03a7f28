//! One frame of the screen: a pure function of what is to be seen.

use crate::faults::Level;
use crate::protocol::Progress;
use crate::provider::Totals;
use crate::services::schema::SERVICES;
use crate::sheet::{cents, grouped};

/// Failure groups that are shown.
const GROUPS_MAX: usize = 5;

/// What is to be seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The engine and its durability.
    pub engine: String,
    /// The run's directory.
    pub data: String,
    /// What goes on: `running`, `waiting for …`.
    pub status: String,
    /// Faults on.
    pub faults: Level,
    /// How it stands.
    pub progress: Progress,
    /// Orders of the input, where it is known.
    pub accepted: Option<u64>,
    /// Money at the provider.
    pub money: Totals,
    /// Orders that ended in the last second.
    pub orders_per_s: u64,
    /// Messages that were handled in the last second.
    pub messages_per_s: u64,
    /// Kills of this run.
    pub kills: u64,
    /// How long the last kill took until the first message was handled again.
    pub recovery_ms: Option<u64>,
    /// Orders that are lost, as far as one can tell while it runs.
    pub lost: u64,
    /// Retries, redriven and suppressed duplicates of the run, all lives of the services together.
    pub retries: u64,
    /// See `retries`.
    pub duplicates: u64,
    /// Whether a person paused payment.
    pub is_payment_paused: bool,
}

/// The lines of the frame, none longer than `width` characters.
#[must_use]
pub fn frame(view: &View, width: usize) -> Vec<String> {
    let mut lines = head(view);
    lines.push(String::new());
    lines.extend(counts(view));
    lines.push(String::new());
    lines.extend(ledger(view));
    lines.push(String::new());
    lines.push(
        "[k] kill -9   [f] faults   [p] pause payment   [r] redrive all   [q] quit".to_owned(),
    );
    lines.iter().map(|line| fit(line, width)).collect()
}

/// What runs, and under which faults.
fn head(view: &View) -> Vec<String> {
    let paused = if view.is_payment_paused {
        "   PAYMENT IS PAUSED"
    } else {
        ""
    };
    vec![
        format!("postrider {} · {}", env!("CARGO_PKG_VERSION"), view.engine),
        format!("data         {}", view.data),
        String::new(),
        format!("services     {}", SERVICES.join(" ")),
        format!("             {}{paused}", view.status),
        format!(
            "throughput   {} orders/s   {} messages/s   {} waiting",
            grouped(view.orders_per_s),
            grouped(view.messages_per_s),
            grouped(view.progress.waiting)
        ),
        format!("faults       {}", view.faults.describe()),
    ]
}

/// Orders, retries, kills and failures.
fn counts(view: &View) -> Vec<String> {
    let (p, n) = (&view.progress, grouped);
    let of = view
        .accepted
        .map_or_else(String::new, |a| format!(" of {}", n(a)));
    let recovery = view
        .recovery_ms
        .map_or_else(String::new, |ms| format!("   last recovery {ms} ms"));
    let in_flight = p.placed.saturating_sub(p.ended());
    let (placed, shipped, refunded) = (n(p.placed), n(p.shipped), n(p.refunded));
    let (retries, duplicates) = (n(view.retries), n(view.duplicates));
    let mut lines = vec![
        format!("orders       {placed} placed{of}   {shipped} shipped   {refunded} refunded"),
        format!(
            "             {} cancelled   {} in flight",
            n(p.cancelled),
            n(in_flight)
        ),
        format!("reliability  {retries} retries   {duplicates} duplicates suppressed"),
        format!("kills        {}{recovery}", n(view.kills)),
        format!(
            "failures     {} ({} groups)",
            n(p.failures),
            p.failure_groups.len()
        ),
    ];
    for (subscription, group, count) in p.failure_groups.iter().take(GROUPS_MAX) {
        lines.push(format!("  {count:>9}  {subscription}  {group}"));
    }
    lines
}

/// The sum that must balance.
fn ledger(view: &View) -> Vec<String> {
    let (money, shipped) = (&view.money, view.progress.cents_shipped);
    let kept = money.charged.saturating_sub(money.refunded);
    let balances = kept >= shipped && view.lost == 0 && money.double_charged == 0;
    vec![
        format!(
            "ledger       charged {} = shipped {}",
            cents(money.charged),
            cents(shipped)
        ),
        format!(
            "             + refunded {} + in flight {}",
            cents(money.refunded),
            cents(kept.saturating_sub(shipped))
        ),
        format!(
            "             {}   lost {}   double-charged {}",
            if balances { "balanced" } else { "NOT BALANCED" },
            grouped(view.lost),
            grouped(money.double_charged)
        ),
    ]
}

/// One line of at most `width` characters, without control characters.
fn fit(line: &str, width: usize) -> String {
    let plain = line.replace(|c: char| c.is_control(), " ");
    if plain.chars().count() <= width {
        return plain;
    }
    let kept = plain.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_into_eighty_columns_and_a_usual_window_also_when_all_is_large() {
        let group = (
            "notification@topic:shop.order".to_owned(),
            "x\x1b[31m".repeat(100),
            12_345,
        );
        let view = View {
            engine: "embedded".repeat(20),
            data: "/tmp/".repeat(40),
            status: "running".into(),
            is_payment_paused: true,
            faults: Level::Heavy,
            accepted: Some(99_999_999),
            money: Totals {
                charged: u64::MAX / 4,
                refunded: u64::MAX / 8,
                ..Totals::default()
            },
            progress: Progress {
                placed: 99_999_999,
                shipped: 88_888_888,
                refunded: 5_555_555,
                cancelled: 5_555_555,
                failure_groups: vec![group; 50],
                ..Progress::default()
            },
            ..View::default()
        };
        let lines = frame(&view, 80);
        assert!(lines.len() <= 24, "{} lines", lines.len());
        for line in &lines {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.contains('\x1b'), "{line}");
        }
    }

    #[test]
    fn the_ledger_line_says_when_it_does_not_balance() {
        let mut view = View::default();
        view.money.charged = 500;
        view.progress.cents_shipped = 500;
        assert!(
            frame(&view, 80)
                .iter()
                .any(|l| l.contains(" balanced   lost 0"))
        );
        view.progress.cents_shipped = 501;
        assert!(frame(&view, 80).iter().any(|l| l.contains("NOT BALANCED")));
        view.progress.cents_shipped = 500;
        view.lost = 1;
        assert!(
            frame(&view, 80)
                .iter()
                .any(|l| l.contains("NOT BALANCED   lost 1"))
        );
    }
}
