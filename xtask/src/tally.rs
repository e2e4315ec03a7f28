//! How many tests passed and failed, read from the output of `cargo test` as it streams by.

use std::fmt;
use std::ops::AddAssign;

/// A count of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// Reads a line like `test result: ok. 3 passed; 0 failed; 0 ignored; …`; any other line is none.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line
            .trim()
            .strip_prefix("test result: ")?
            .split_once(". ")?;
        let count = |word: &str| {
            counts
                .split(';')
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
        })
    }

    /// One test that ended so.
    pub(crate) fn one(passed: bool) -> Self {
        Self {
            passed: u64::from(passed),
            failed: u64::from(!passed),
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// The line that counts the tests.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_and_other_lines_are_not() {
        let output = "running 2 tests\n\
            test tests::passed ... ok\n\
            test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s\n\
            test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n\
            5 passed; 5 failed\n";
        let mut sum = Tally::default();
        output
            .lines()
            .filter_map(Tally::of_line)
            .for_each(|tally| sum += tally);
        assert_eq!(
            sum,
            Tally {
                passed: 16,
                failed: 2
            }
        );
        assert_eq!(sum.to_string(), "16 passed, 2 failed");
    }
}
