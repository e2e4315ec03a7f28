//! `cargo xtask durability-report`: runs the tests that carry the durability claim, and writes what they proved into docs/durability.md.
//!
//! A test that carries a part of it prints one line `proof: {json}`. Nothing in the tables is written by hand.

mod page;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

const PAGE: &str = "docs/durability.md";
/// Seeds of each simulation.
const SEEDS_DEFAULT: u64 = 10_000;
/// What runs.
const TESTS: &str = "test --workspace --all-features --test simulation --test acceptance --test planted --test whole_simulation";

#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Seeds of each simulation
    #[arg(long, default_value_t = SEEDS_DEFAULT)]
    seeds: u64,
    /// Files with what such tests printed before, `--nocapture`: their proofs are taken, and nothing is run
    #[arg(long)]
    from: Vec<PathBuf>,
    /// A file with what `cargo xtask process` printed: the proofs in it are taken too
    #[arg(long)]
    kills: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut lines: Vec<String> = Vec::new();
    if options.from.is_empty() {
        let command = Cmd::cargo(TESTS)
            .args(["--", "--nocapture"])
            .env("POSTRIDER_SEEDS", options.seeds)
            .dir(&workspace.root);
        println!("$ {command}");
        command.show(|line| {
            tally += Tally::of_line(line).unwrap_or_default();
            lines.push(line.to_owned());
        })?;
    }
    for path in options.from.iter().chain(&options.kills) {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        lines.extend(text.lines().map(str::to_owned));
    }
    let proofs = read(lines.iter().map(String::as_str))?;
    ensure!(!proofs.is_empty(), "the tests printed no proof");
    let text = page::write(&proofs, &page::machine());
    std::fs::write(workspace.root.join(PAGE), text)
        .with_context(|| format!("cannot write {PAGE}"))?;
    println!(
        "durability: {} proofs in {} s, wrote {PAGE}",
        proofs.len(),
        start.elapsed().as_secs()
    );
    Ok(tally)
}

/// The proofs among these lines. A test's name may stand before one.
fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Value>> {
    let proofs = lines.filter_map(|line| line.split_once("proof: ").map(|(_, json)| json));
    proofs
        .map(|json| serde_json::from_str(json).with_context(|| format!("not a proof: {json}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_are_read_wherever_they_stand_in_a_line() {
        let lines = [
            "running 1 test",
            r#"test a ... proof: {"name":"a","what":"b","seeds":3}"#,
            r#"proof: {"name":"planted","bug":"X","found_in_seeds":1,"within":2,"by":"s"}"#,
        ];
        let proofs = read(lines.into_iter()).unwrap();
        assert_eq!((proofs.len(), proofs[0]["seeds"].as_u64()), (2, Some(3)));
        assert!(read(["proof: {half"].into_iter()).is_err());
    }
}
