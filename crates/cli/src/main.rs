//! The postrider command.

mod command;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Reliable messaging for microservices: one binary, one durable engine.
#[derive(Parser)]
#[command(name = "postrider", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  postrider demo                                a shop under faults, live
  postrider demo --ci --orders orders.csv       the same with your orders; the exit code judges
  postrider explain PR-1303                     what an error code means";

#[derive(Subcommand)]
enum Command {
    /// Six services of a shop under faults and kill -9, with a ledger that must balance.
    Demo(command::demo::Arguments),
    /// What the demo's supervisor starts.
    #[command(hide = true)]
    DemoChild,
    /// What an error code means, and what to do about it.
    Explain(command::explain::Arguments),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(arguments) => command::demo::run(arguments),
        Command::DemoChild => shop::child::main(),
        Command::Explain(arguments) => command::explain::run(&arguments),
    }
}
