//! The URL of an engine: `scheme:rest?option=value&…`. Credentials in it are never printed.

use std::time::Duration;

use postrider_core::code::Code;
use postrider_service::{Error, Result};

/// An engine's URL in parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EngineUrl<'a> {
    pub(crate) scheme: &'a str,
    /// What stands between the scheme and the options.
    pub(crate) rest: &'a str,
    /// Options in the order they stand.
    pub(crate) options: Vec<(&'a str, &'a str)>,
}

impl<'a> EngineUrl<'a> {
    /// # Errors
    /// `URL_MALFORMED`.
    pub(crate) fn parse(url: &'a str) -> Result<Self> {
        let url = url.trim();
        let (scheme, rest) = url
            .split_once(':')
            .ok_or_else(|| malformed("it has no scheme, as in embedded:./data"))?;
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        if scheme.is_empty() || !scheme.chars().all(letters) {
            return Err(malformed(
                "its scheme is not made of lower case letters and digits",
            ));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let options = query.split('&').filter(|o| !o.is_empty()).map(|option| {
            option
                .split_once('=')
                .ok_or_else(|| malformed("an option has no value; they are written option=value"))
        });
        Ok(Self {
            scheme,
            rest,
            options: options.collect::<Result<_>>()?,
        })
    }
}

/// `500ms`, `10s`, `5m`, `2h` or `7d`; `None`: it is none of these.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit_ms: u64 = match text.get(digits.len()..)? {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(unit_ms)?))
}

pub(crate) fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(
        Code::URL_MALFORMED,
        format!("the URL of the engine cannot be read: {why}"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url = EngineUrl::parse("embedded:./data?durability=os&x=1").unwrap();
        assert_eq!((url.scheme, url.rest), ("embedded", "./data"));
        assert_eq!(url.options, [("durability", "os"), ("x", "1")]);
        assert_eq!(EngineUrl::parse("memory:").unwrap().rest, "");
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(7 * 86_400)));
        for bad in [
            "",
            "s",
            "10",
            "1.5s",
            "-1s",
            "1w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_its_code() {
        for bad in ["", "data", ":x", "Embedded:x", "embedded:x?durability"] {
            assert_eq!(
                EngineUrl::parse(bad).unwrap_err().code(),
                Code::URL_MALFORMED,
                "{bad}"
            );
        }
    }
}
