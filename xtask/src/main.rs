//! The project's own tasks. `cargo xtask test` is what CI runs; `cargo xtask test --quick` is what
//! one runs before each commit. Each check also runs alone, by the command that a failing step prints.

mod bench;
mod durability;
mod engines;
mod examples;
mod floors;
mod fuzz;
mod light;
mod process;
mod readme;
mod rng;
mod sh;
mod swarm;
mod tally;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use tally::Tally;
use workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The project's own tasks",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything CI checks, in order, with times and a count of the tests
    Test(test::Options),
    /// Who imports whom, read from `cargo metadata`
    Floors,
    /// Measures everything on this machine and writes docs/benchmarks.md
    Bench(bench::Options),
    /// Sizes, clocks, sleeps and leftovers in the sources
    Tidy,
    /// The code blocks of README.md against examples/hello
    Readme,
    /// `postrider` builds with default features and without, and needs no C compiler
    Light,
    /// The examples run and end by themselves
    Examples,
    /// The conformance cases and the demo on real servers, where POSTRIDER_TEST_KAFKA_URL and POSTRIDER_TEST_RABBITMQ_URL name them
    Engines,
    /// The fuzz targets over their corpus and seeded mutations of it
    Fuzz(fuzz::Options),
    /// `kill -9` of the real binary under load; the ledger must balance
    Process(process::Options),
    /// The simulations at random, in turns, until the time is over
    Swarm(swarm::Options),
    /// Runs the tests that carry the durability claim; writes docs/durability.md
    DurabilityReport(durability::Options),
}

fn main() -> ExitCode {
    let outcome = Workspace::load().and_then(|workspace| match Cli::parse().task {
        Task::Test(options) => test::run(&workspace, &options),
        Task::Floors => floors::run(&workspace),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Tidy => tidy::run(&workspace),
        Task::Readme => readme::run(&workspace),
        Task::Light => light::run(&workspace),
        Task::Examples => examples::run(&workspace),
        Task::Engines => engines::run(&workspace),
        Task::Fuzz(options) => fuzz::run(&workspace, &options),
        Task::Process(options) => process::run(&workspace, &options),
        Task::Swarm(options) => swarm::run(&workspace, &options),
        Task::DurabilityReport(options) => durability::run(&workspace, &options),
    });
    match outcome {
        Ok(Tally { failed: 0, .. }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// A clash of two options shows when the program starts; here it shows before.
    #[test]
    fn all_tasks_and_options_go_together() {
        Cli::command().debug_assert();
    }
}
