//! Small texts: spans of time, ages, and what messages hold made harmless for a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use postrider::Timestamp;

/// The text without what a terminal would obey: control characters and changes of writing direction are shown as `\u{1b}`. Messages and
/// errors come from elsewhere.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            // Writing to a string does not fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// As [`plain`], but lines and tabs stay: for a payload.
pub(crate) fn plain_lines(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let columns = line.split('\t').map(plain);
        columns.collect::<Vec<_>>().join("\t")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `0ms`, `850ms`, `12s`, `3m 5s`, `2h 4m`, `3d 2h`.
pub(crate) fn span(ms: u64) -> String {
    let (s, m, h, d) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    let two = |large: u64, unit: char, small: u64, part: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit} {small}{part}"),
    };
    match () {
        () if s == 0 => format!("{ms}ms"),
        () if m == 0 => format!("{s}s"),
        () if h == 0 => two(m, 'm', s % 60, 's'),
        () if d == 0 => two(h, 'h', m % 60, 'm'),
        () => two(d, 'd', h % 24, 'h'),
    }
}

/// How long ago this RFC 3339 time was: `5m 2s ago`. What is no time is shown as it is.
pub(crate) fn age(time: &str, now: Timestamp) -> String {
    match Timestamp::parse_rfc3339(time) {
        Some(at) if at > now => format!("in {}", span(millis(at.since(now)))),
        Some(at) => format!("{} ago", span(millis(now.since(at)))),
        None => time.to_owned(),
    }
}

/// Milliseconds of a duration.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_millis().try_into().unwrap_or_default()))
}

/// `1 record`, `12 records`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// Reads `500ms`, `30s`, `5m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time like 500ms, 30s, 5m, 2h or 1d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit_ms = match text.get(digits.len()..) {
        Some("ms") => 1,
        Some("s") => 1000,
        Some("m") => 60_000,
        Some("h") => 3_600_000,
        Some("d") => 86_400_000,
        _ => return Err(wrong()),
    };
    let ms = number.checked_mul(unit_ms).ok_or_else(wrong)?;
    Ok(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units_at_most() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1999, "1s"),
            (60_000, "1m"),
            (185_000, "3m 5s"),
            (7_440_000, "2h 4m"),
            (266_400_000, "3d 2h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn a_duration_is_read_with_its_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for wrong in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_age_is_relative_on_both_sides_of_now() {
        let now = Timestamp::parse_rfc3339("2026-01-01T00:01:00Z").expect("a time");
        assert_eq!(age("2026-01-01T00:00:00Z", now), "1m ago");
        assert_eq!(age("2026-01-01T00:01:30Z", now), "in 30s");
        assert_eq!(age("yesterday", now), "yesterday");
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert_eq!(plain("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(plain("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(plain_lines("a\n\tb\u{7}"), "a\n\tb\\u{7}");
    }
}
