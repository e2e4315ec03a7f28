//! Texts from elsewhere on a terminal: nothing in them is obeyed.

use postrider::Timestamp;

#[path = "../../../crates/cli/src/text.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the command's own file, of which this needs a part"
)]
mod texts;

/// What is shown holds no control character and no change of writing direction.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let shown = texts::plain(&text);
    let obeyed =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!shown.contains(obeyed), "{shown:?}");
    let lines = texts::plain_lines(&text);
    assert!(
        !lines.contains(|c| obeyed(c) && c != '\n' && c != '\t'),
        "{lines:?}"
    );
    let number = input.iter().fold(0u64, |n, byte| {
        n.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    assert!(!texts::span(number).is_empty());
    let age = texts::age(&text, Timestamp(number >> 20));
    assert_eq!(age.is_empty(), text.is_empty());
}

/// Escapes, directions, times.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    [
        ("escape", "\u{1b}[31mred\u{1b}[0m\u{7}".as_bytes()),
        ("direction", "\u{202e}txt.exe\u{2066}".as_bytes()),
        ("time", b"2026-11-21T19:00:00.123Z"),
        ("lines", b"{\n\t\"a\": 1\r\n}\x9b"),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
    .into()
}
