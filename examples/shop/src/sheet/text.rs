//! The sheet for a person: plain text, aligned.

use super::Sheet;

/// The sheet as aligned text that fits into 80 columns.
#[must_use]
pub fn render(sheet: &Sheet) -> String {
    let mut lines = input_and_orders(sheet);
    lines.extend(money_and_ledger(sheet));
    lines.extend(this_run(sheet));
    let verdict = if sheet.balanced { "yes" } else { "NO" };
    lines.push(line("balanced", &[(verdict, String::new())]));
    lines.concat()
}

fn line(name: &str, pairs: &[(&str, String)]) -> String {
    let cells: Vec<_> = pairs.iter().map(|(k, v)| format!("{k} {v}")).collect();
    let text = format!("{name:<12} {}", cells.join("   "));
    format!("{}\n", text.trim_end())
}

fn input_and_orders(sheet: &Sheet) -> Vec<String> {
    let n = grouped;
    let input = [
        ("rows", n(sheet.rows)),
        ("accepted", n(sheet.accepted)),
        ("rejected", n(sheet.rejected)),
        ("repeated", n(sheet.repeated)),
    ];
    let orders = [
        ("shipped", n(sheet.shipped)),
        ("refunded", n(sheet.refunded)),
        ("cancelled", n(sheet.cancelled)),
        ("in flight", n(sheet.in_flight)),
    ];
    let reasons = [
        ("declined", n(sheet.declined)),
        ("out of stock", n(sheet.out_of_stock)),
    ];
    vec![
        line("input", &input),
        line("orders", &orders),
        line("reasons", &reasons),
    ]
}

fn money_and_ledger(sheet: &Sheet) -> Vec<String> {
    let (n, money) = (grouped, sheet.cents);
    let shipped = format!("= shipped {}", cents(money.shipped));
    let rest = [
        ("+ refunded", cents(money.refunded)),
        ("+ in flight", cents(money.in_flight)),
    ];
    let provider = [
        ("replays", n(sheet.provider_replays)),
        ("double-charged", n(sheet.double_charged)),
    ];
    let ledger = [
        ("lost", n(sheet.lost)),
        ("out of order", n(sheet.out_of_order)),
        ("stock", sheet.stock_difference.to_string()),
    ];
    let differences = [
        ("notifications", sheet.notifications_difference.to_string()),
        ("analytics", sheet.analytics_difference.to_string()),
    ];
    vec![
        line("charged", &[(&cents(money.charged), shipped)]),
        line("", &rest),
        line("provider", &provider),
        line("ledger", &ledger),
        line("differences", &differences),
    ]
}

fn this_run(sheet: &Sheet) -> Vec<String> {
    let (n, run) = (grouped, &sheet.run);
    let counts = [
        ("retries", n(run.retries)),
        ("dead letters", n(run.dead_letters)),
        ("redriven", n(run.redriven)),
        ("duplicates", n(run.duplicates_suppressed)),
    ];
    let speed = format!("{:.0}", run.orders_per_s);
    let durability = format!("· {}", run.durability);
    vec![
        line("this run", &counts),
        line("kills", &[(&n(run.kills), recovery(&run.recovery_ms))]),
        line("speed", &[(&speed, "orders/s".to_owned())]),
        line("engine", &[(&run.engine, durability)]),
    ]
}

fn recovery(all: &[u64]) -> String {
    match (all.iter().min(), all.iter().max()) {
        (Some(one), Some(max)) if one == max => format!("  recovery {one} ms"),
        (Some(min), Some(max)) => format!("  recovery {min} to {max} ms"),
        _ => String::new(),
    }
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
