//! The rules, each with why it is one and what to do.

use std::fmt;

use super::source::Source;

/// Limits of a file and a function, in lines.
const FILE_LINES_MAX: usize = 800;
const FN_LINES_MAX: usize = 70;
/// A test tells one story from top to bottom, and a table of cases is long.
const TEST_FN_LINES_MAX: usize = 140;

/// Crates that decide: time, threads and files come in from outside.
const SANS_IO: [&str; 3] = ["crates/core/src/", "crates/kernel/src/", "crates/log/src/"];
/// The one file that makes system calls for the log.
const REAL_DISK: &str = "crates/log/src/disk/file.rs";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    FileLength,
    FnLength,
    SansIo,
    IgnoredTest,
    Unfinished,
    SleepInTest,
    TrailingSpace,
    DeadLink,
    LooseException,
}

impl Rule {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FileLength => "file-length",
            Self::FnLength => "fn-length",
            Self::SansIo => "sans-io",
            Self::IgnoredTest => "ignored-test",
            Self::Unfinished => "unfinished",
            Self::SleepInTest => "sleep-in-test",
            Self::TrailingSpace => "trailing-space",
            Self::DeadLink => "dead-link",
            Self::LooseException => "loose-exception",
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::FileLength => "a file is about one noun and is read in one sitting",
            Self::FnLength => "a function fits on one screen",
            Self::SansIo => {
                "what decides takes time, files and threads as arguments, or it cannot be simulated"
            }
            Self::IgnoredTest => "a test that does not run proves nothing",
            Self::Unfinished => "main holds finished work",
            Self::SleepInTest => {
                "a test that waits for real time is slow, and still fails by chance"
            }
            Self::TrailingSpace => "it shows up in other people's diffs",
            Self::DeadLink => "a map that leads to no place is worse than none",
            Self::LooseException => "the list of exceptions may shrink, never grow",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::FileLength => "split it by noun; put long tests into a tests.rs beside it",
            Self::FnLength => "name its parts and make them functions",
            Self::SansIo => "take `Clock` or `Disk` as an argument; do the real thing in the host",
            Self::IgnoredTest => "make it run, or delete it",
            Self::Unfinished => "finish it, or open an issue and delete the mark",
            Self::SleepInTest => {
                "use paused time (start_paused), a channel, or a step() of the simulation"
            }
            Self::TrailingSpace => "delete it",
            Self::DeadLink => "name the file where it is now",
            Self::LooseException => {
                "set the limit to what is needed, or delete the line when that is 0"
            }
        }
    }
}

/// One thing that is not tidy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// From 1.
    pub(crate) line: usize,
    pub(crate) rule: Rule,
    pub(crate) what: String,
    /// The function for `fn-length`, `-` for the others.
    pub(crate) item: String,
    /// Lines, for the size rules.
    pub(crate) size: Option<usize>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}:{}: {}: {}",
            self.path,
            self.line,
            self.rule.name(),
            self.what
        )?;
        writeln!(f, "  why: {}", self.rule.why())?;
        write!(f, "  do: {}", self.rule.advice())
    }
}

/// Rules of any text file.
pub(crate) fn of_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Findings {
        path,
        list: Vec::new(),
    };
    for (index, line) in text.lines().enumerate() {
        if line.ends_with([' ', '\t']) {
            findings.add(index, Rule::TrailingSpace, "blanks at the end of the line");
        }
    }
    findings.list
}

/// Rules of a Rust file.
pub(crate) fn of_rust(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Findings {
        path: source.path,
        list: Vec::new(),
    };
    sizes(source, &mut findings);
    sans_io(source, &mut findings);
    leftovers(source, &mut findings);
    sleeps(source, &mut findings);
    findings.list
}

struct Findings<'a> {
    path: &'a str,
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, index: usize, rule: Rule, what: impl Into<String>) {
        self.list.push(Finding {
            path: self.path.to_owned(),
            line: index + 1,
            rule,
            what: what.into(),
            item: "-".to_owned(),
            size: None,
        });
    }

    fn add_size(&mut self, index: usize, rule: Rule, item: &str, size: usize, max: usize) {
        let of = if item == "-" {
            "the file".to_owned()
        } else {
            format!("fn {item}")
        };
        self.add(index, rule, format!("{of} has {size} lines, {max} at most"));
        let last = self.list.last_mut().expect("one was added above");
        last.item = item.to_owned();
        last.size = Some(size);
    }
}

fn sizes(source: &Source<'_>, findings: &mut Findings<'_>) {
    let length = source.length();
    if length > FILE_LINES_MAX {
        findings.add_size(0, Rule::FileLength, "-", length, FILE_LINES_MAX);
    }
    for function in source.functions() {
        let (start, size) = (function.lines.start, function.lines.len());
        let max = if source.is_test(start) {
            TEST_FN_LINES_MAX
        } else {
            FN_LINES_MAX
        };
        if size > max {
            findings.add_size(start, Rule::FnLength, &function.name, size, max);
        }
    }
}

fn sans_io(source: &Source<'_>, findings: &mut Findings<'_>) {
    let decides = SANS_IO.iter().any(|folder| source.path.starts_with(folder));
    if !decides || source.path == REAL_DISK {
        return;
    }
    for (index, line) in source.code.iter().enumerate() {
        if source.is_test(index) {
            continue;
        }
        for call in [
            "SystemTime::now",
            "Instant::now",
            "thread::spawn",
            "thread::sleep",
            "std::fs",
        ] {
            if has_word(line, call) {
                findings.add(
                    index,
                    Rule::SansIo,
                    format!("`{call}` in a crate that decides"),
                );
            }
        }
        let group = line.trim_start().strip_prefix("use std::{");
        if group.is_some_and(|names| has_word(names, "fs")) {
            findings.add(index, Rule::SansIo, "`std::fs` in a crate that decides");
        }
    }
}

fn leftovers(source: &Source<'_>, findings: &mut Findings<'_>) {
    // Put together here, so that this file does not find itself.
    let mark = concat!("FIX", "ME");
    for (index, (code, comment)) in source.code.iter().zip(&source.comments).enumerate() {
        for name in ["todo!", "unimplemented!", "dbg!"] {
            if has_word(code, name) {
                findings.add(index, Rule::Unfinished, format!("`{name}`"));
            }
        }
        if comment.contains(mark) {
            findings.add(index, Rule::Unfinished, format!("a {mark} in a comment"));
        }
        if code.contains("#[ignore") || code.contains(", ignore") && code.contains("#[cfg_attr") {
            findings.add(index, Rule::IgnoredTest, "an ignored test");
        }
        let fence = comment.trim_start_matches([' ', '/', '!', '*']);
        if fence.starts_with("```") && has_word(fence, "ignore") {
            findings.add(
                index,
                Rule::IgnoredTest,
                "an ignored example in the documentation",
            );
        }
    }
}

fn sleeps(source: &Source<'_>, findings: &mut Findings<'_>) {
    // In a comment too: the fakes of a test say there that whoever uses them pauses time.
    let paused = source
        .code
        .iter()
        .chain(&source.comments)
        .any(|line| has_word(line, "start_paused"));
    for (index, line) in source.code.iter().enumerate() {
        if !source.is_test(index) || !has_word(line, "sleep(") {
            continue;
        }
        if !paused || has_word(line, "thread::sleep") {
            findings.add(index, Rule::SleepInTest, "a sleep in a test");
        }
    }
}

/// Whether `line` has `word` where no longer name surrounds it. A word that ends in a sign needs
/// no end.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !(before.is_some_and(part) || word.ends_with(part) && after.is_some_and(part))
    })
}
