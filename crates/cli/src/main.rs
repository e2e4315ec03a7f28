//! The postrider command.

mod ask;
mod client;
mod command;
mod end;
mod output;
mod report;
mod text;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::end::{EXIT_CODES, Failure};

/// Reliable messaging for microservices: one binary, one durable engine.
#[derive(Parser)]
#[command(name = "postrider", version, about, before_help = EXAMPLES, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  postrider demo                                a shop under faults, live
  postrider demo --ci --orders orders.csv       the same with your orders; the exit code judges
  postrider status --dir ./data                 what runs on an engine directory
  postrider dlq groups                          what failed, grouped by cause
  postrider explain PR-1303                     what an error code means";

#[derive(Subcommand)]
enum Command {
    /// Six services of a shop under faults and kill -9, with a ledger that must balance.
    Demo(command::demo::Arguments),
    /// What the demo's supervisor starts.
    #[command(hide = true)]
    DemoChild,
    /// What runs on an engine directory: engine, services, relays.
    Status(command::status::Arguments),
    /// What the engine gives each subscription: natively, by emulation, or not.
    Plan(command::plan::Arguments),
    /// Topics and queues, and who is subscribed.
    #[command(subcommand)]
    Topic(command::topic::Verb),
    /// Subscriptions: what they do, how far behind they are; pause and resume.
    #[command(subcommand)]
    Sub(command::sub::Verb),
    /// Failures: look at them, redrive them to their subscription, discard them.
    #[command(subcommand)]
    Dlq(command::dlq::Verb),
    /// What Postrider does on this machine, beside the bare thing.
    Bench(command::bench::Arguments),
    /// Completions for a shell, on standard output.
    Completions(command::completions::Arguments),
    /// What an error code means, and what to do about it.
    Explain(command::explain::Arguments),
}

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return misread(&error),
    };
    match command {
        Command::Demo(arguments) => command::demo::run(arguments),
        Command::DemoChild => shop::child::main(),
        Command::Status(arguments) => end::run(command::status::run(arguments)),
        Command::Plan(arguments) => end::run(command::plan::run(arguments)),
        Command::Topic(verb) => end::run(command::topic::run(verb)),
        Command::Sub(verb) => end::run(command::sub::run(verb)),
        Command::Dlq(verb) => end::run(command::dlq::run(verb)),
        Command::Bench(arguments) => end::exit_of(command::bench::run(arguments)).into(),
        Command::Completions(arguments) => {
            end::exit_of(command::completions::run(&arguments, &Cli::command())).into()
        }
        Command::Explain(arguments) => end::exit_of(command::explain::run(&arguments)).into(),
    }
}

/// Help and version as they are; an error in three lines like any other.
fn misread(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // Where nobody reads it, that is no error.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or(&text);
    let (what, tip) = said.split_once("\n\n  tip:").unwrap_or((said, ""));
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let what = what
        .split("\n\nFor more information")
        .next()
        .unwrap_or(what);
    let mut failure = Failure::usage(what);
    if !tip.trim().is_empty() {
        failure = failure.remedy(tip);
    }
    failure.show().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_whole() {
        Cli::command().debug_assert();
    }
}
