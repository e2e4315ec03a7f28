//! Stable error codes. Every error that a user can meet has one (`PR-1042`); `postrider explain PR-1042` says more.
//! A code is never reused for something else.

use std::fmt;

use serde::{Serialize, Serializer};

/// A stable error code, printed `PR-1042`.
///
/// | range | of |
/// |---|---|
/// | 1000–1099 | an engine's directory and log |
/// | 1100–1199 | connecting and configuration |
/// | 1200–1299 | publishing |
/// | 1300–1399 | handling and delivery |
/// | 1400–1499 | plan and topology |
/// | 1500–1599 | stores: inbox, outbox, state |
/// | 1600–1699 | admin API and command line |
/// | 1700–1799 | the demo and its input |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PR-{:04}", self.0)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Code {
    /// Reads `PR-1042`, `pr-1042` or `1042`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        upper
            .strip_prefix("PR-")
            .unwrap_or(&upper)
            .parse()
            .ok()
            .map(Self)
    }

    /// What the code means, if it is one of ours.
    #[must_use]
    pub fn explain(self) -> Option<&'static Explanation> {
        explanations::ALL.iter().find(|e| e.code == self)
    }
}

/// What a code means: the page behind `postrider explain`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Explanation {
    /// The code.
    pub code: Code,
    /// One line: what happened.
    pub what: &'static str,
    /// Why it happens.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// All codes, in order.
#[must_use]
pub fn all() -> &'static [Explanation] {
    explanations::ALL
}

mod explanations;
