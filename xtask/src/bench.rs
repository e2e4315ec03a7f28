//! `cargo xtask bench`: measures everything on this machine and writes docs/benchmarks.md.
//!
//! What is measured, and beside what, is `postrider bench --list`. Figures are generated; what stands in the page between the two marks
//! of its notes is written by hand and kept.

mod page;
mod targets;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

const PAGE: &str = "docs/benchmarks.md";
/// A benchmark that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// What to measure, by the names of `postrider bench --list`; the page is written only where all of it is measured
    names: Vec<String>,
    /// Below which directory the files are made: it is its disk that is measured. Default: the target folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Seconds instead of minutes, and no page: does it run?
    #[arg(long)]
    small: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    let start = Instant::now();
    let build = "build --release -p postrider-cli --features allocations";
    let build = Cmd::cargo(build).dir(&workspace.root);
    println!("$ {build}");
    build.show(|_| {})?;
    let binary = workspace.target.join("release/postrider");
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => workspace.scratch("bench")?,
    };
    let whole = options.names.is_empty();
    let names = match whole {
        true => names(&binary.display().to_string())?,
        false => options.names.clone(),
    };
    let mut rows = Vec::new();
    for name in &names {
        let size = if options.small { "small" } else { "full" };
        let args = ["bench", name, "--json", "--size", size, "--dir"];
        let command = Cmd::new(binary.display().to_string())
            .args(args)
            .args([dir.display().to_string()])
            .limit(LIMIT);
        println!("$ {command}");
        let output = command.capture()?;
        print!("{output}");
        rows.extend(read(&output)?);
    }
    let judged = targets::judge(&rows);
    println!("\n{}", page::judged(&judged));
    println!("bench: {:.0} s", start.elapsed().as_secs_f64());
    if whole && !options.small {
        let path = workspace.root.join(PAGE);
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, page::write(&rows, &judged, &before))
            .with_context(|| format!("cannot write {PAGE}"))?;
        println!("bench: wrote {PAGE}");
    }
    // A figure that falls short is said, and fails nothing: it depends on the machine.
    Ok(Tally::default())
}

/// The names that there are.
fn names(binary: &str) -> Result<Vec<String>> {
    let list = Cmd::new(binary).args(["bench", "--list"]).capture()?;
    let names = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    ensure!(!names.is_empty(), "`postrider bench --list` names nothing");
    Ok(names)
}

/// One JSON object per line.
fn read(output: &str) -> Result<Vec<Value>> {
    let rows = output.lines().map(|line| {
        let row: Value = serde_json::from_str(line).with_context(|| format!("no row: {line}"))?;
        for field in ["name", "ours", "theirs", "ratio", "unit"] {
            ensure!(row.get(field).is_some(), "a row without `{field}`: {line}");
        }
        Ok(row)
    });
    rows.collect()
}
