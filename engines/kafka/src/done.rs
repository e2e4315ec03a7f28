//! What is done above the committed offset, as text in the commit's metadata.
//!
//! ```text
//! pr1: BASE64( distance count distance count … )      varints (LEB128); a distance is from the end of the range before, the first from the offset
//! ```
//!
//! A broker keeps at most `offset.metadata.max.bytes` of it (4096 where nobody set it). What cannot be read is as if nothing were done above: messages
//! come again, none is skipped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use postrider_core::source::{Commit, Position, ResumeState};

const MARK: &str = "pr1:";
/// The broker's default of `offset.metadata.max.bytes`.
pub(crate) const METADATA_BYTES_DEFAULT: usize = 4096;
/// More than this is never used, whatever a broker takes: it is sent with each commit.
const METADATA_BYTES_MAX: usize = 4096;

/// Bytes of varints that fit where a broker keeps so much. A commit that carries more would be refused for its partition alone, within an answer that says
/// that all is well.
pub(crate) fn bytes_max(metadata_bytes_max: usize) -> usize {
    let text = metadata_bytes_max.min(METADATA_BYTES_MAX);
    (text.saturating_sub(MARK.len()) / 4 * 3).saturating_sub(3)
}

/// Empty where nothing is done above: other clients see no metadata then.
pub(crate) fn write(commit: &Commit) -> String {
    if commit.done_above.is_empty() {
        return String::new();
    }
    let mut bytes = Vec::new();
    let mut from = commit.watermark.0;
    for (first, count) in &commit.done_above {
        put(&mut bytes, first.0.saturating_sub(from));
        put(&mut bytes, *count);
        from = first.0.saturating_add(*count);
    }
    format!("{MARK}{}", BASE64.encode(bytes))
}

/// Never panics, whatever another client wrote.
pub(crate) fn read(offset: u64, metadata: &str) -> ResumeState {
    let bytes = metadata
        .strip_prefix(MARK)
        .and_then(|text| BASE64.decode(text).ok());
    ResumeState {
        watermark: Position(offset),
        done_above: bytes
            .and_then(|bytes| ranges(offset, &bytes))
            .unwrap_or_default(),
    }
}

fn ranges(offset: u64, mut bytes: &[u8]) -> Option<Vec<(Position, u64)>> {
    let (mut ranges, mut from) = (Vec::new(), offset);
    while !bytes.is_empty() {
        let first = from.checked_add(take(&mut bytes)?)?;
        let count = take(&mut bytes)?;
        from = first.checked_add(count)?;
        if count == 0 {
            return None;
        }
        ranges.push((Position(first), count));
    }
    Some(ranges)
}

fn put(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        n |= part << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for done in [
            vec![],
            vec![(8, 1)],
            vec![(8, 50_000), (60_000, 3), (u64::MAX - 9, 9)],
        ] {
            let done_above: Vec<_> = done.iter().map(|(p, n)| (Position(*p), *n)).collect();
            let commit = Commit {
                watermark: Position(7),
                done_above: done_above.clone(),
            };
            let resume = read(7, &write(&commit));
            assert_eq!(
                (resume.watermark, resume.done_above),
                (Position(7), done_above)
            );
        }
    }

    #[test]
    fn the_most_that_the_kernel_gives_fits_into_the_metadata() {
        for most in [0, 3, 4, 100, 1000, METADATA_BYTES_DEFAULT, 1 << 20] {
            let ranges = bytes_max(most) as u64 / 2;
            let done_above = (0..ranges).map(|n| (Position(8 + 2 * n), 1)).collect();
            let commit = Commit {
                watermark: Position(7),
                done_above,
            };
            assert!(write(&commit).len() <= most, "{most}");
        }
        assert!(bytes_max(METADATA_BYTES_DEFAULT) > 3000);
    }

    #[test]
    fn what_another_client_wrote_skips_nothing() {
        for foreign in [
            "",
            "x",
            "pr1:",
            "pr1:%%",
            "pr1:gICAgICAgICAgAE",
            "pr1:AQA",
            "pr1:AQ",
        ] {
            assert_eq!(read(7, foreign).done_above, [], "{foreign}");
        }
    }
}
