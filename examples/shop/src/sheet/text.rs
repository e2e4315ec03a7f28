//! The sheet for a person: plain text, aligned.

use super::Sheet;

/// The sheet as aligned text that fits into 80 columns.
#[must_use]
pub fn render(sheet: &Sheet) -> String {
    let mut out = String::new();
    let mut line = |name: &str, pairs: &[(&str, String)]| {
        let cells: Vec<_> = pairs.iter().map(|(k, v)| format!("{k} {v}")).collect();
        out.push_str(&format!("{name:<12} {}\n", cells.join("   ")));
    };
    let n = grouped;
    line(
        "input",
        &[
            ("rows", n(sheet.rows)),
            ("accepted", n(sheet.accepted)),
            ("rejected", n(sheet.rejected)),
            ("repeated", n(sheet.repeated)),
        ],
    );
    line(
        "orders",
        &[
            ("shipped", n(sheet.shipped)),
            ("refunded", n(sheet.refunded)),
            ("cancelled", n(sheet.cancelled)),
            ("in flight", n(sheet.in_flight)),
        ],
    );
    line(
        "reasons",
        &[
            ("declined", n(sheet.declined)),
            ("out of stock", n(sheet.out_of_stock)),
        ],
    );
    let money = sheet.cents;
    line(
        "charged",
        &[(
            &cents(money.charged),
            format!("= shipped {}", cents(money.shipped)),
        )],
    );
    line(
        "",
        &[
            ("+ refunded", cents(money.refunded)),
            ("+ in flight", cents(money.in_flight)),
        ],
    );
    line(
        "provider",
        &[
            ("replays", n(sheet.provider_replays)),
            ("double-charged", n(sheet.double_charged)),
        ],
    );
    line(
        "ledger",
        &[
            ("lost", n(sheet.lost)),
            ("out of order", n(sheet.out_of_order)),
            ("stock", signed(sheet.stock_difference)),
        ],
    );
    line(
        "differences",
        &[
            ("notifications", signed(sheet.notifications_difference)),
            ("analytics", signed(sheet.analytics_difference)),
        ],
    );
    let run = &sheet.run;
    line(
        "this run",
        &[
            ("retries", n(run.retries)),
            ("dead letters", n(run.dead_letters)),
            ("redriven", n(run.redriven)),
            ("duplicates", n(run.duplicates_suppressed)),
        ],
    );
    line("kills", &[(&n(run.kills), recovery(&run.recovery_ms))]);
    line(
        "speed",
        &[(&format!("{:.0}", run.orders_per_s), "orders/s".to_owned())],
    );
    line("engine", &[(&run.engine, format!("· {}", run.durability))]);
    line(
        "balanced",
        &[(if sheet.balanced { "yes" } else { "NO" }, String::new())],
    );
    out.lines().flat_map(|l| [l.trim_end(), "\n"]).collect()
}

fn recovery(all: &[u64]) -> String {
    match (all.iter().min(), all.iter().max()) {
        (Some(min), Some(max)) => format!("  recovery {min} to {max} ms"),
        _ => String::new(),
    }
}

fn signed(n: i64) -> String {
    n.to_string()
}

/// A number in groups of three digits.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// An amount: cents as units with two places.
#[must_use]
pub fn cents(n: u64) -> String {
    format!("{}.{:02}", grouped(n / 100), n % 100)
}
