//! The code that README.md shows is the code that CI runs.
//!
//! A block marked `rust hello` is, byte for byte, `examples/hello/src/main.rs`, or the lines of it between
//! `// README: begin` and `// README: end`. A block marked `toml hello` is the `[dependencies]` of
//! `examples/hello`, as they stand there or as somebody outside of this workspace writes them: what is
//! inherited is filled in from the root, and a crate of ours comes from the repository.

mod manifest;
#[cfg(test)]
mod tests;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::workspace::Workspace;

const MAIN: &str = "examples/hello/src/main.rs";
const MANIFEST: &str = "examples/hello/Cargo.toml";
const BEGIN: &str = "// README: begin";
const END: &str = "// README: end";

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    let read = |path: &str| {
        fs::read_to_string(workspace.root.join(path)).with_context(|| format!("cannot read {path}"))
    };
    let readme = read("README.md")?;
    let root = read("Cargo.toml")?;
    let own = manifest::section(&read(MANIFEST)?, "dependencies");
    let outside = manifest::outside(&own, &root)?;

    let rust = blocks(&readme, "rust hello");
    same(MAIN, "rust hello", &rust, &[shown(&read(MAIN)?)?])?;
    let toml = blocks(&readme, "toml hello");
    let toml: Vec<String> = toml.iter().map(|block| without_header(block)).collect();
    same(MANIFEST, "toml hello", &toml, &[outside, own])?;
    println!(
        "readme: {} blocks are what {MAIN} and {MANIFEST} say",
        rust.len() + toml.len()
    );
    Ok(Tally::default())
}

/// Checks that there is a block and that each is one of `expected`.
fn same(path: &str, mark: &str, blocks: &[String], expected: &[String]) -> Result<()> {
    if blocks.is_empty() {
        bail!(
            "README.md has no block marked `{mark}`; it shows {path}:\n```{mark}\n{}```",
            expected[0]
        );
    }
    for block in blocks {
        if !expected.contains(block) {
            bail!(
                "README.md: the block marked `{mark}` is not {path}, first in line {} of the block\n  \
                 why: what a reader copies is what CI runs\n  do: let the block be\n```{mark}\n{}```",
                first_difference(block, &expected[0]),
                expected[0],
            );
        }
    }
    Ok(())
}

/// The contents of the fenced blocks whose first line is exactly that mark.
fn blocks(readme: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = readme.split_inclusive('\n');
    while let Some(line) = lines.next() {
        if line.trim_end().strip_prefix("```") == Some(mark) {
            found.push(
                lines
                    .by_ref()
                    .take_while(|line| line.trim_end() != "```")
                    .collect(),
            );
        }
    }
    found
}

/// The part of the example that the README shows.
fn shown(main: &str) -> Result<String> {
    let is = |line: &str, mark: &str| line.trim() == mark;
    let lines: Vec<&str> = main.split_inclusive('\n').collect();
    let begin = lines.iter().position(|line| is(line, BEGIN));
    let end = lines.iter().position(|line| is(line, END));
    match (begin, end) {
        (None, None) => Ok(main.to_owned()),
        (Some(begin), Some(end)) if begin < end => Ok(lines[begin + 1..end].concat()),
        _ => bail!("{MAIN}: `{BEGIN}` and `{END}` stand alone on their lines, in this order"),
    }
}

fn without_header(block: &str) -> String {
    block
        .strip_prefix("[dependencies]\n")
        .unwrap_or(block)
        .to_owned()
}

fn first_difference(one: &str, other: &str) -> usize {
    let same = one
        .lines()
        .zip(other.lines())
        .take_while(|(a, b)| a == b)
        .count();
    same + 1
}
