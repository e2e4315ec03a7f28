//! The ratchet list: findings that are known, each with a limit and a reason.
//!
//! One per line, `#` starts a comment: `RULE PATH ITEM LIMIT -- REASON`. For `file-length` and
//! `fn-length` the limit is lines and ITEM is `-` or the function; for the others it is how many
//! findings that file may have, and ITEM is `-`.

use anyhow::{Result, bail};

use super::EXCEPTIONS;
use super::rules::{Finding, Rule};

#[derive(Debug)]
struct Exception {
    line: usize,
    rule: String,
    path: String,
    item: String,
    limit: usize,
}

/// The parsed list.
#[derive(Debug, Default)]
pub(crate) struct Exceptions(Vec<Exception>);

impl Exceptions {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut list = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{EXCEPTIONS}:{}", index + 1);
            let Some((head, reason)) = line.split_once(" -- ") else {
                bail!("{place}: no reason; write `RULE PATH ITEM LIMIT -- REASON`");
            };
            if reason.split_whitespace().count() < 3 {
                bail!("{place}: the reason says too little; say why this one must stay");
            }
            let words: Vec<&str> = head.split_whitespace().collect();
            let [rule, path, item, limit] = words[..] else {
                bail!("{place}: write `RULE PATH ITEM LIMIT -- REASON`");
            };
            let Ok(limit) = limit.parse() else {
                bail!("{place}: the limit is a number")
            };
            let [rule, path, item] = [rule, path, item].map(str::to_owned);
            list.push(Exception {
                line: index + 1,
                rule,
                path,
                item,
                limit,
            });
        }
        Ok(Self(list))
    }

    /// Takes out what the list allows; adds a finding for each line of it that is needless or loose.
    pub(crate) fn apply(&self, mut findings: Vec<Finding>) -> Vec<Finding> {
        for exception in &self.0 {
            let (covered, rest): (Vec<_>, Vec<_>) = findings
                .into_iter()
                .partition(|finding| exception.covers(finding));
            findings = rest;
            let measured = exception.measure(&covered);
            if measured > exception.limit {
                findings.extend(covered);
            } else if measured < exception.limit {
                findings.push(exception.loose(measured));
            }
        }
        findings
    }
}

impl Exception {
    fn covers(&self, finding: &Finding) -> bool {
        finding.rule.name() == self.rule && finding.path == self.path && finding.item == self.item
    }

    /// Lines for the size rules, the number of findings for the others.
    fn measure(&self, covered: &[Finding]) -> usize {
        let size = covered.iter().filter_map(|finding| finding.size).max();
        size.unwrap_or(covered.len())
    }

    fn loose(&self, measured: usize) -> Finding {
        Finding {
            path: EXCEPTIONS.to_owned(),
            line: self.line,
            rule: Rule::LooseException,
            what: format!(
                "{} of {} needs {measured}, not {}",
                self.rule, self.path, self.limit
            ),
            item: "-".to_owned(),
            size: None,
        }
    }
}
