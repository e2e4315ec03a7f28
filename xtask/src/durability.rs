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
use crate::{fuzz, process};

const PAGE: &str = "docs/durability.md";
/// Seeds of each simulation.
const SEEDS_DEFAULT: u64 = 10_000;
/// What runs, beside the fuzz targets and the kills.
const TESTS: &str = "test --workspace --all-features --test simulation --test acceptance --test planted --test whole_simulation \
                     --test wal_damage --test full --test relocation --test real_disk --test model --test poison";
/// What must be among the proofs: a test that was renamed or did not run leaves no gap unseen. `fuzz_` stands for all targets.
const EXPECTED: [&str; 23] = [
    "whole_stack_simulation",
    "log_simulation",
    "log_cut_everywhere",
    "wal_simulation",
    "wal_cut_everywhere",
    "acceptance_04",
    "acceptance_05",
    "acceptance_06",
    "acceptance_07",
    "acceptance_08",
    "acceptance_09",
    "acceptance_10_out_of_space",
    "acceptance_12",
    "acceptance_13",
    "acceptance_17",
    "acceptance_18",
    "acceptance_20",
    "moves_survive_power_cuts",
    "suspect_isolation",
    "poison",
    "kills",
    "kills_of_everything",
    "fuzz_",
];
/// Bugs that are planted at least, in the log and above it.
const PLANTED_MIN: (usize, usize) = (26, 20);

#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Seeds of each simulation
    #[arg(long, default_value_t = SEEDS_DEFAULT)]
    seeds: u64,
    /// Files with what such tests printed before, `--nocapture`: their proofs are taken, and nothing is run
    #[arg(long)]
    from: Vec<PathBuf>,
    #[command(flatten)]
    process: process::Options,
    /// Where the page goes
    #[arg(long, default_value = PAGE)]
    page: PathBuf,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut lines: Vec<String> = Vec::new();
    for path in &options.from {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        lines.extend(text.lines().map(str::to_owned));
    }
    if options.from.is_empty() {
        run_all(workspace, options, &mut tally, &mut lines)?;
    }
    let proofs = read(lines.iter().map(String::as_str))?;
    let gaps = gaps(&proofs);
    ensure!(
        gaps.is_empty(),
        "not proven in this run: {}",
        gaps.join(", ")
    );
    ensure!(tally.failed == 0, "{tally}: the page is not written");
    let text = page::write(&proofs, &page::machine());
    std::fs::write(workspace.root.join(&options.page), text)
        .with_context(|| format!("cannot write {}", options.page.display()))?;
    println!(
        "durability: {} proofs in {} s, wrote {}",
        proofs.len(),
        start.elapsed().as_secs(),
        options.page.display()
    );
    Ok(tally)
}

/// Runs everything that proves something. The lines hold the proofs.
fn run_all(
    workspace: &Workspace,
    options: &Options,
    tally: &mut Tally,
    lines: &mut Vec<String>,
) -> Result<()> {
    let command = Cmd::cargo(TESTS)
        .args(["--", "--nocapture"])
        .env("POSTRIDER_SEEDS", options.seeds)
        .dir(&workspace.root);
    println!("$ {command}");
    command.show(|line| {
        *tally += Tally::of_line(line).unwrap_or_default();
        lines.push(line.to_owned());
    })?;
    *tally += fuzz::prove(workspace, &fuzz::Options::ci(), &mut |line| {
        lines.push(line.to_owned());
    })?;
    *tally += process::prove(workspace, &options.process, &mut |proof| {
        let line = format!("proof: {proof}");
        println!("{line}");
        lines.push(line);
    })?;
    Ok(())
}

/// What is expected and is not there.
fn gaps(proofs: &[Value]) -> Vec<String> {
    let names = || proofs.iter().filter_map(|proof| proof["name"].as_str());
    let is_there = |expected: &str| match expected.strip_suffix('_') {
        Some(_) => names().any(|name| name.starts_with(expected)),
        None => names().any(|name| name == expected),
    };
    let mut gaps: Vec<String> = EXPECTED
        .into_iter()
        .filter(|expected| !is_there(expected))
        .map(str::to_owned)
        .collect();
    let (log, above) = page::planted(proofs);
    for (is, must, place) in [(log, PLANTED_MIN.0, "in"), (above, PLANTED_MIN.1, "above")] {
        if is < must {
            gaps.push(format!("{is} of {must} bugs planted {place} the log"));
        }
    }
    gaps
}

/// The proofs among these lines. A test's name may stand before one. The same one printed twice is the same seeds run twice: it counts once.
fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Value>> {
    let mut proofs: Vec<Value> = Vec::new();
    for line in lines {
        let Some((_, json)) = line.split_once("proof: ") else {
            continue;
        };
        let proof = serde_json::from_str(json).with_context(|| format!("not a proof: {json}"))?;
        if !proofs.contains(&proof) {
            proofs.push(proof);
        }
    }
    Ok(proofs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_are_read_wherever_they_stand_in_a_line_and_once() {
        let lines = [
            "running 1 test",
            r#"test a ... proof: {"name":"a","what":"b","seeds":3}"#,
            r#"proof: {"name":"a","what":"b","seeds":3}"#,
            r#"proof: {"name":"planted","bug":"X","found_in_seeds":1,"within":2,"by":"s"}"#,
        ];
        let proofs = read(lines.into_iter()).unwrap();
        assert_eq!((proofs.len(), proofs[0]["seeds"].as_u64()), (2, Some(3)));
        assert!(read(["proof: {half"].into_iter()).is_err());
    }

    #[test]
    fn a_proof_that_is_missing_is_named() {
        let named = |name: &str| serde_json::json!({ "name": name });
        let mut proofs: Vec<Value> = EXPECTED.into_iter().map(named).collect();
        let missing = [
            "0 of 26 bugs planted in the log",
            "0 of 20 bugs planted above the log",
        ];
        assert_eq!(gaps(&proofs), missing);
        let plant = |n: usize, by: &str| serde_json::json!({ "name": "planted", "bug": n.to_string(), "by": by });
        proofs.extend((0..PLANTED_MIN.0).map(|n| plant(n, "Wal simulation")));
        proofs.extend((0..PLANTED_MIN.1).map(|n| plant(n, "the same twice")));
        assert_eq!(gaps(&proofs), Vec::<String>::new());
        proofs.retain(|proof| proof["name"] != "fuzz_" && proof["name"] != "kills");
        assert_eq!(gaps(&proofs), ["kills", "fuzz_"]);
        proofs.push(named("fuzz_frame"));
        assert_eq!(gaps(&proofs), ["kills"]);
    }
}
