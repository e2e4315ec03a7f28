//! How an error becomes the text of a failure record and of its group.

use postrider_core::failure::Cause;

/// The most errors of one chain that are kept.
const ERRORS_MAX: usize = 16;
/// The longest text of one error that is kept, in bytes.
const ERROR_BYTES_MAX: usize = 2048;
/// The longest text of a group, in characters.
const GROUP_CHARS_MAX: usize = 240;
/// From this length on, a word that mixes letters and digits is an identity, not a word with a number.
const MIXED_ID_LEN: usize = 6;

/// The word for a cause, as JSON and metrics spell it.
#[must_use]
pub fn cause_word(cause: Cause) -> &'static str {
    match cause {
        Cause::RetriesExhausted => "retries_exhausted",
        Cause::Permanent => "permanent",
        Cause::Unreadable => "unreadable",
        Cause::Panicked => "panicked",
        Cause::CrashLoop => "crash_loop",
        Cause::BlockedTooLong => "blocked_too_long",
        Cause::Follower => "follower",
        Cause::InboxConflict => "inbox_conflict",
        _ => "other",
    }
}

/// The texts of an error and of what lies underneath, the outermost first, bounded. A source that repeats its parent's text
/// (a transparent wrapper) is left out.
pub(crate) fn error_chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if chain.len() == ERRORS_MAX {
            break;
        }
        let text = cut(error.to_string());
        if chain.last() != Some(&text) {
            chain.push(text);
        }
        next = error.source();
    }
    chain
}

fn cut(mut text: String) -> String {
    if text.len() > ERROR_BYTES_MAX {
        let mut end = ERROR_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The group of a failure: cause, type and error text without what differs from one message to the next.
pub(crate) fn group_text(cause: Cause, message_type: Option<&str>, error: Option<&str>) -> String {
    let mut text = format!("{} · {}", cause_word(cause), message_type.unwrap_or("?"));
    if let Some(error) = error {
        text.push_str(" · ");
        text.push_str(&without_particulars(error));
    }
    text.chars().take(GROUP_CHARS_MAX).collect()
}

/// The text with numbers, identities and quoted parts replaced by signs.
fn without_particulars(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c.is_alphanumeric() {
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            push_word(&mut out, word);
            rest = after;
            continue;
        }
        let body = &rest[c.len_utf8()..];
        match closing(c).and_then(|close| body.find(close).map(|end| (close, end))) {
            Some((close, end)) => {
                out.push(c);
                out.push('…');
                out.push(close);
                rest = &body[end + close.len_utf8()..];
            }
            None => {
                out.push(c);
                rest = body;
            }
        }
    }
    out
}

/// An apostrophe within a word (`don't`) is part of the word, so it opens no quote.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '\'')
}

fn closing(open: char) -> Option<char> {
    match open {
        '"' | '\'' | '`' => Some(open),
        '“' => Some('”'),
        '«' => Some('»'),
        _ => None,
    }
}

fn push_word(out: &mut String, word: &str) {
    // Our own codes tell failures apart and never differ within one kind.
    let code = word.strip_prefix("PR-");
    if code.is_some_and(|n| n.len() == 4 && n.bytes().all(|b| b.is_ascii_digit())) {
        out.push_str(word);
        return;
    }
    if is_uuid(word) {
        out.push('#');
        return;
    }
    for (i, part) in word.split('-').enumerate() {
        if i > 0 {
            out.push('-');
        }
        push_part(out, part);
    }
}

fn push_part(out: &mut String, part: &str) {
    let has_digit = part.chars().any(|c| c.is_ascii_digit());
    let has_letter = part.chars().any(char::is_alphabetic);
    if has_digit && has_letter && part.len() >= MIXED_ID_LEN {
        out.push('#');
        return;
    }
    let mut in_number = false;
    for c in part.chars() {
        match (c.is_ascii_digit(), in_number) {
            (true, true) => {}
            (true, false) => out.push('#'),
            (false, _) => out.push(c),
        }
        in_number = c.is_ascii_digit();
    }
}

fn is_uuid(word: &str) -> bool {
    let lengths = word.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && word.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn group(error: &str) -> String {
        without_particulars(error)
    }

    #[test]
    fn errors_that_differ_in_numbers_and_ids_are_one_group() {
        for (a, b) in [
            ("order 17 has no stock", "order 4711 has no stock"),
            (
                "payment 0af76519-16cd-43dd-8448-eb211c80319c declined",
                "payment ffffffff-0000-4000-8000-000000000000 declined",
            ),
            (
                "no such key \"a\" in row",
                "no such key \"long one\" in row",
            ),
            ("no such key `a`", "no such key `b c`"),
            ("customer 'Ann' unknown", "customer 'Bob' unknown"),
            ("order o-7f3a9c is gone", "order o-1b2c3d is gone"),
            ("took 12.5 ms", "took 7.25 ms"),
        ] {
            assert_eq!(group(a), group(b));
        }
    }

    #[test]
    fn errors_that_differ_in_words_are_two_groups() {
        assert_ne!(group("card declined"), group("card expired"));
        assert_ne!(group("PR-1502: busy"), group("PR-1503: busy"));
        assert_eq!(group("don't know 'x' isn't it"), "don't know '…' isn't it");
        assert_eq!(group("an \"open quote"), "an \"open quote");
    }

    #[test]
    fn a_group_names_cause_and_type_and_is_bounded() {
        let text = group_text(Cause::Permanent, Some("placed"), Some(&"x ".repeat(1000)));
        assert!(text.starts_with("permanent · placed · x x"));
        assert_eq!(text.chars().count(), GROUP_CHARS_MAX);
        assert_eq!(group_text(Cause::Unreadable, None, None), "unreadable · ?");
    }

    #[test]
    fn a_chain_is_kept_outermost_first_and_bounded() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Link(String, #[source] Option<Box<Link>>);
        let inner = Link("é".repeat(5000), None);
        let outer = Link(
            "outer".into(),
            Some(Box::new(Link("outer".into(), Some(Box::new(inner))))),
        );
        let chain = error_chain(&outer);
        assert_eq!(chain.len(), 2);
        assert_eq!(chain[0], "outer");
        assert!(chain[1].len() <= ERROR_BYTES_MAX + '…'.len_utf8());
    }
}
