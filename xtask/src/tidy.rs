//! A scan of the sources for what the compiler and clippy do not see: sizes, clocks and threads where
//! decisions are made, sleeps in tests, ignored tests, leftovers. Each rule stands in [`rules`].
//!
//! `xtask/tidy-exceptions.txt` is a ratchet: a finding may stand there with its limit and a reason. It
//! may shrink, never grow, and a line that nothing needs any more is itself a finding.

mod exceptions;
mod links;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::workspace::Workspace;
use exceptions::Exceptions;
use rules::Finding;
use source::Source;

const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";
const FOLDERS: [&str; 8] = [
    ".ci", ".cargo", "crates", "docs", "engines", "examples", "stores", "xtask",
];
/// Folders of builds and recorded bytes; nothing in them is written by hand.
const SKIPPED: [&str; 3] = ["target", "fixtures", "corpus"];

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    let mut findings = Vec::new();
    let mut files = 0;
    for path in text_files(&workspace.root)? {
        let text = fs::read_to_string(workspace.root.join(&path))
            .with_context(|| format!("cannot read {path} as text"))?;
        findings.extend(scan(&path, &text));
        if path.ends_with(".md") {
            findings.extend(links::dead(&path, &text, |to| {
                workspace.root.join(to).exists()
            }));
        }
        files += 1;
    }
    let list = fs::read_to_string(workspace.root.join(EXCEPTIONS))
        .with_context(|| format!("cannot read {EXCEPTIONS}"))?;
    let left = Exceptions::parse(&list)?.apply(findings);
    if left.is_empty() {
        println!("tidy: {files} files, nothing found");
        return Ok(Tally::default());
    }
    left.iter().for_each(|finding| println!("{finding}"));
    bail!("tidy: {} found in {files} files", left.len());
}

/// All findings in one file, by the path it has from the root.
fn scan(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = rules::of_text(path, text);
    if path.ends_with(".rs") {
        findings.extend(rules::of_rust(&Source::new(path, text)));
    }
    findings
}

/// The files written by hand, by path from the root, in order.
fn text_files(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if FOLDERS.contains(&name.as_str()) {
            walk(root, &name, &mut found)?;
        } else if is_text(&name) && root.join(&name).is_file() {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn walk(root: &Path, folder: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            walk(root, &path, found)?;
        } else if kind.is_file() && (is_text(&name) || folder == ".ci") {
            found.push(path);
        }
    }
    Ok(())
}

fn is_text(name: &str) -> bool {
    [".rs", ".toml", ".md", ".sh"]
        .iter()
        .any(|end| name.ends_with(end))
}
