//! How an error is shown: one line what, one line why, one line what to do.

use postrider::Code;

/// Writes an error to standard error. What the case does not say better, the code says.
pub(crate) fn report(code: u16, what: &str, why: Option<&str>, remedy: Option<&str>) {
    let code = Code(code);
    let page = code.explain();
    let why = why.or_else(|| page.map(|p| p.why)).unwrap_or_default();
    let remedy = remedy
        .or_else(|| page.map(|p| p.remedy))
        .unwrap_or_default();
    eprintln!("{code}: {}", one_line(what));
    for (name, text) in [("why:  ", why), ("to do:", remedy)] {
        if !text.is_empty() {
            eprintln!("  {name} {}", one_line(text));
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
