//! `cargo xtask test`: the steps in order, each with its command line and its time, and at the end a
//! table and the line that counts the tests.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;
use crate::{engines, examples, floors, fuzz, light, process, readme, tidy};

/// Seeds of each simulation beside the other tests, of those of the log in a step of their own, and in a quick run.
const SEEDS_CI: u32 = 500;
const SEEDS_LOG: u32 = 10_000;
const SEEDS_QUICK: u32 = 50;
/// Seeds of the simulation of the whole stack, in a step of its own: some 4 ms of two cores each.
const SEEDS_WHOLE: u32 = 10_000;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What one runs before each commit: no doc tests, compile-fail tests, release build or process tests
    #[arg(long)]
    quick: bool,
    /// Go on after a step that failed
    #[arg(long)]
    keep_going: bool,
}

enum Action {
    /// Commands in a row; the first that fails ends the step.
    Run(Vec<Cmd>),
    /// A task of this program, and the command that runs it alone.
    Task(&'static str, fn(&Workspace) -> Result<Tally>),
}

struct Step {
    name: &'static str,
    action: Action,
}

/// What became of a step.
struct Done {
    name: &'static str,
    result: &'static str,
    took: Duration,
    tally: Tally,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    let mut done = Vec::new();
    let mut stopped = false;
    for step in steps(options) {
        if stopped {
            done.push(Done::skipped(step.name));
            continue;
        }
        let one = run_step(workspace, &step);
        stopped = one.tally.failed > 0 && !options.keep_going;
        done.push(one);
    }
    Ok(summary(&done))
}

fn steps(options: &Options) -> Vec<Step> {
    let step = |name, action| Step { name, action };
    let command = |name, cmd| Step {
        name,
        action: Action::Run(vec![cmd]),
    };
    let mut steps = vec![
        command("format", Cmd::cargo("fmt --all --check")),
        command(
            "clippy",
            Cmd::cargo("clippy --workspace --all-targets --all-features -- -D warnings"),
        ),
        step("floors", Action::Task("cargo xtask floors", floors::run)),
        step("tidy", Action::Task("cargo xtask tidy", tidy::run)),
    ];
    if options.quick {
        steps.push(command("unit tests", quick_tests(options)));
        return steps;
    }
    steps.extend([
        command(
            "rustdoc",
            Cmd::cargo("doc --workspace --no-deps --all-features")
                .env("RUSTDOCFLAGS", "-D warnings"),
        ),
        command("tests", all_tests(options)),
        command("simulation", simulation(options)),
        command("whole stack", whole_simulation(options)),
        step("light", Action::Task("cargo xtask light", light::run)),
        step(
            "examples",
            Action::Task("cargo xtask examples", examples::run),
        ),
        step("readme", Action::Task("cargo xtask readme", readme::run)),
        step(
            "fuzz",
            Action::Task("cargo xtask fuzz", |workspace| {
                fuzz::run(workspace, &fuzz::Options::ci())
            }),
        ),
        step(
            "process",
            Action::Task("cargo xtask process", |workspace| {
                process::run(workspace, &process::Options::ci())
            }),
        ),
        step("engines", Action::Task("cargo xtask engines", engines::run)),
    ]);
    steps
}

/// Unit, script, property, compile-fail and simulation tests, and the examples in the documentation.
fn all_tests(options: &Options) -> Cmd {
    engines::without(Cmd::cargo("test --workspace --all-features"))
        .args(options.keep_going.then_some("--no-fail-fast"))
        .env("POSTRIDER_SEEDS", SEEDS_CI)
}

/// The log and its physical layer on a simulated disk, many seeds. Nothing is built for it that the tests did not build.
fn simulation(options: &Options) -> Cmd {
    Cmd::cargo("test --workspace --all-features --test simulation")
        .args(options.keep_going.then_some("--no-fail-fast"))
        .env("POSTRIDER_SEEDS", SEEDS_LOG)
}

/// The whole stack on a simulated disk and clock, many seeds. Nothing is built for it that the tests did not build.
fn whole_simulation(options: &Options) -> Cmd {
    Cmd::cargo("test --workspace --all-features --test whole_simulation nothing_confirmed")
        .args(options.keep_going.then_some("--no-fail-fast"))
        .args(["--", "--nocapture"])
        .env("POSTRIDER_SEEDS", SEEDS_WHOLE)
}

/// Without the doc tests, and without the tests named `compile_fail…`, which build a tree of their own.
fn quick_tests(options: &Options) -> Cmd {
    engines::without(Cmd::cargo(
        "test --workspace --all-features --lib --bins --tests",
    ))
    .args(options.keep_going.then_some("--no-fail-fast"))
    .args(["--", "--skip", "compile_fail"])
    .env("POSTRIDER_SEEDS", SEEDS_QUICK)
}

fn run_step(workspace: &Workspace, step: &Step) -> Done {
    println!("\n=== {} ===", step.name);
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut repeat = String::new();
    let ended = match &step.action {
        Action::Run(commands) => commands.iter().try_for_each(|cmd| {
            repeat = cmd.to_string();
            println!("$ {cmd}");
            let here = cmd.clone().dir(&workspace.root);
            here.show(|line| tally += Tally::of_line(line).unwrap_or_default())
        }),
        Action::Task(command, task) => {
            repeat = (*command).to_owned();
            println!("$ {command}");
            task(workspace).map(|sum| tally += sum)
        }
    };
    let took = start.elapsed();
    if let Err(error) = &ended {
        println!("{error:#}");
        // A step that failed counts, also where no test could say so.
        tally.failed = tally.failed.max(1);
    }
    let result = if tally.failed > 0 { "FAILED" } else { "ok" };
    println!("--- {}: {result} in {}", step.name, seconds(took));
    if tally.failed > 0 {
        println!("--- to repeat it alone: {repeat}");
    }
    Done {
        name: step.name,
        result,
        took,
        tally,
    }
}

impl Done {
    fn skipped(name: &'static str) -> Self {
        Self {
            name,
            result: "not run",
            took: Duration::ZERO,
            tally: Tally::default(),
        }
    }
}

/// Prints the table of steps and, as the last line, the count of the tests.
fn summary(done: &[Done]) -> Tally {
    let mut sum = Tally::default();
    println!(
        "\n{:<12} {:<8} {:>9} {:>8} {:>8}",
        "step", "result", "time", "passed", "failed"
    );
    for one in done {
        sum += one.tally;
        let Tally { passed, failed } = one.tally;
        let took = seconds(one.took);
        println!(
            "{:<12} {:<8} {took:>9} {passed:>8} {failed:>8}",
            one.name, one.result
        );
    }
    if done.iter().any(|one| one.name == "engines") {
        engines::untested()
            .iter()
            .for_each(|line| println!("{line}"));
    }
    let total = done.iter().map(|one| one.took).sum();
    println!("{:<12} {:<8} {:>9}\n", "all", "", seconds(total));
    println!("{sum}");
    sum
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
