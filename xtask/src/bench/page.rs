//! The page: a table of targets, a table of figures, and notes that a person wrote.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::targets::Judged;

const BEGIN: &str = "<!-- notes: begin -->";
const END: &str = "<!-- notes: end -->";
/// Fields that stand in columns of their own, or above the table.
const APART: [&str; 9] = [
    "name", "ours", "theirs", "ratio", "unit", "size", "dir", "fsync", "machine",
];

/// The whole page. The notes of the page before are kept.
pub(super) fn write(rows: &[Value], judged: &[Judged], before: &str) -> String {
    let said = |field: &str| {
        rows.first()
            .map_or_else(String::new, |row| text(&row[field]))
    };
    let mut page = String::from("# Benchmarks\n\n");
    page += "Two things in one run, by turns: what Postrider does, and the bare thing beside it. Figures are medians; a ratio is the median of\n";
    page += "the ratios of the rounds. What each row measures is `postrider bench --list`.\n\n";
    page += "| | |\n|---|---|\n";
    let _ = writeln!(page, "| command | `cargo xtask bench` |");
    let _ = writeln!(page, "| date | {} |", today());
    let _ = writeln!(page, "| machine | {} |", said("machine"));
    let _ = writeln!(page, "| disk | {} |\n", said("fsync"));
    page += "## Against the targets\n\n";
    page += &targets(judged);
    page += "\n## Figures\n\n| row | ours | theirs | ratio | unit | also |\n|---|---:|---:|---:|---|---|\n";
    for row in rows {
        let [name, ours, theirs, ratio, unit] =
            ["name", "ours", "theirs", "ratio", "unit"].map(|field| text(&row[field]));
        let _ = writeln!(
            page,
            "| `{name}` | {ours} | {theirs} | {ratio} | {unit} | {} |",
            also(row)
        );
    }
    page += "\n## Notes\n\nWritten by hand, and kept when the figures are measured again.\n\n";
    let _ = writeln!(page, "{BEGIN}\n{}\n{END}", notes(before));
    page
}

/// The targets, for a terminal.
pub(super) fn judged(judged: &[Judged]) -> String {
    let mut text = String::new();
    for one in judged {
        let verdict = if one.reached { "reached" } else { "SHORT" };
        let _ = writeln!(
            text,
            "{verdict:<8} {:<20} {:>10} {:>10}  {}",
            one.row,
            one.must,
            figure(one.is),
            one.what
        );
    }
    text
}

fn targets(judged: &[Judged]) -> String {
    let mut table = String::from("| row | what | must be | is | |\n|---|---|---:|---:|---|\n");
    for one in judged {
        let verdict = if one.reached {
            "reached"
        } else {
            "**falls short**"
        };
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} | {verdict} |",
            one.row,
            one.what,
            one.must,
            figure(one.is)
        );
    }
    table
}

fn figure(is: Option<f64>) -> String {
    is.map_or_else(|| "not measured".to_owned(), |is| text(&is.into()))
}

fn also(row: &Value) -> String {
    let fields = row.as_object().into_iter().flatten();
    let others = fields.filter(|(name, _)| !APART.contains(&name.as_str()));
    let others = others.map(|(name, value)| format!("{} {}", name.replace('_', " "), text(value)));
    others.collect::<Vec<_>>().join("; ")
}

/// A number as a person writes it: no `.0`, and groups of three from five digits on.
fn text(value: &Value) -> String {
    let Some(number) = value.as_f64() else {
        return value.as_str().unwrap_or_default().to_owned();
    };
    let plain = number.to_string();
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let digits = whole.trim_start_matches('-');
    if digits.len() < 5 || !fraction.is_empty() {
        return plain;
    }
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number < 0.0 {
        format!("-{grouped}")
    } else {
        grouped
    }
}

/// What stands between the marks.
fn notes(page: &str) -> &str {
    let inside = page
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END));
    inside.map_or("", |(notes, _)| notes.trim_matches('\n'))
}

fn today() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    date(i64::try_from(since.as_secs() / 86_400).unwrap_or(0))
}

/// The date of a day counted from 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub(super) fn date(day: i64) -> String {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}
