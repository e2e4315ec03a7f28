//! `cargo xtask swarm`: the simulations at random until the time is over, in turns.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Cases of the kernel's model in one turn.
const MODEL_CASES: u32 = 20_000;

#[derive(Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// For how long, beside the build
    #[arg(long, default_value_t = 30)]
    minutes: u64,
}

/// Of a turn: what it is, and what runs it for a minute or so.
fn turns() -> [(&'static str, Cmd); 3] {
    let minute = |cmd: Cmd| {
        cmd.env("POSTRIDER_SWARM_MINUTES", 1)
            .args(["--", "--nocapture"])
    };
    let log = "test -p postrider-log --all-features --test simulation";
    let whole = "test -p postrider --all-features --test whole_simulation nothing_confirmed";
    let model = "test -p postrider-kernel --all-features --test model";
    [
        ("log", minute(Cmd::cargo(log))),
        ("the whole stack", minute(Cmd::cargo(whole))),
        (
            "the kernel against its model",
            Cmd::cargo(model).env("PROPTEST_CASES", MODEL_CASES),
        ),
    ]
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    let turns = turns();
    println!("swarm: builds");
    for package in ["postrider-log", "postrider", "postrider-kernel"] {
        let build = Cmd::cargo("test --all-features --no-run -p").args([package]);
        build.dir(&workspace.root).show(|_| {})?;
    }
    let errors = workspace.scratch("swarm")?.join("stderr.txt");
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(options.minutes * 60) {
        for (what, cmd) in &turns {
            let mut seeds = String::new();
            let cmd = cmd.clone().dir(&workspace.root);
            let outcome = cmd.clone().stderr_to(&errors).run(|line| {
                if line.contains("seed") {
                    seeds = line.to_owned();
                }
                tally += Tally::of_line(line).unwrap_or_default();
            })?;
            let minutes = start.elapsed().as_secs() / 60;
            println!(
                "swarm: {minutes} of {} minutes, {what}: {seeds}",
                options.minutes
            );
            if outcome.code != Some(0) {
                bail!("{what} failed\n{}", failure(&errors, &cmd)?);
            }
        }
        rounds += 1;
    }
    println!("swarm: {rounds} rounds, nothing found");
    Ok(tally)
}

/// What the test said, and the one command that replays it.
fn failure(errors: &std::path::Path, cmd: &Cmd) -> Result<String> {
    let text = std::fs::read_to_string(errors)?;
    let lines: Vec<&str> = text.lines().collect();
    let replay = lines.iter().rev().find_map(|line| replay_of(line));
    let last = lines[lines.len().saturating_sub(200)..].join("\n");
    let replay = replay.map_or_else(|| cmd.to_string(), str::to_owned);
    Ok(format!("{last}\n\nto replay it: {replay}"))
}

/// The command in a line that names one.
fn replay_of(line: &str) -> Option<&str> {
    let at = line.find("POSTRIDER_SEED=")?;
    line[at..].contains("cargo test").then(|| line[at..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_replays_is_found_in_what_a_test_said() {
        let said = "again: POSTRIDER_SEED=6 cargo test -p postrider --test whole_simulation ";
        let command = "POSTRIDER_SEED=6 cargo test -p postrider --test whole_simulation";
        assert_eq!(replay_of(said), Some(command));
        assert_eq!(replay_of("seed 6 fails"), None);
    }
}
