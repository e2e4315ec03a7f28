//! How an error is shown: one line what, one line why, one line what to do.

use std::io::Write as _;

use postrider::Code;

use crate::text::plain;

/// Writes an error to standard error. What the case does not say better, the code says.
pub(crate) fn report(code: u16, what: &str, why: Option<&str>, remedy: Option<&str>) {
    let code = Code(code);
    let page = code.explain();
    let why = why.or_else(|| page.map(|p| p.why)).unwrap_or_default();
    let remedy = remedy
        .or_else(|| page.map(|p| p.remedy))
        .unwrap_or_default();
    note(&format!("{code}: {}", one_line(what)));
    for (name, text) in [("why:  ", why), ("to do:", remedy)] {
        if !text.is_empty() {
            note(&format!("  {name} {}", one_line(text)));
        }
    }
}

/// One line on standard error. Where nobody reads it, that is no error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(line));
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
