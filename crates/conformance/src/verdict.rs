//! What became of a case.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Numbers that a case found: how many messages, how many came twice, how long it took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(BTreeMap<&'static str, u64>);

impl Findings {
    /// The same with this number.
    #[must_use]
    pub fn with(mut self, name: &'static str, number: u64) -> Self {
        self.0.insert(name, number);
        self
    }

    /// The number of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The engine keeps the promise.
    Passed {
        /// What was counted.
        findings: Findings,
    },
    /// The case was not run.
    Skipped {
        /// Why not.
        reason: String,
    },
    /// The promise was broken, or could not be tried.
    Failed {
        /// What happened.
        what: String,
    },
}

impl Verdict {
    /// Whether the promise was kept.
    #[must_use]
    pub const fn is_passed(&self) -> bool {
        matches!(self, Self::Passed { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { findings } => {
                f.write_str("passed")?;
                findings
                    .0
                    .iter()
                    .try_for_each(|(name, number)| write!(f, " {name}={number}"))
            }
            Self::Skipped { reason } => write!(f, "skipped: {reason}"),
            Self::Failed { what } => write!(f, "FAILED: {what}"),
        }
    }
}
