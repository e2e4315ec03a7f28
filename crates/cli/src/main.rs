//! The postrider command.

mod ask;
mod client;
mod command;
mod complete;
mod end;
mod output;
mod report;
mod stopped;
mod text;
mod watch;

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
  postrider topic tail shop.order               messages as they come
  postrider top                                 rates, lag and failures, live
  postrider dlq groups                          what failed, grouped by cause
  postrider doctor                              what could go wrong, and what to do about it
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
    /// Topics and queues: what they hold, who is subscribed, messages as they come.
    #[command(subcommand)]
    Topic(command::topic::Verb),
    /// Subscriptions: what they do, how far behind they are; pause, resume, seek.
    #[command(subcommand)]
    Sub(command::sub::Verb),
    /// Failures: look at them, edit them, redrive them to their subscription, discard them.
    #[command(subcommand)]
    Dlq(command::dlq::Verb),
    /// What Postrider does on this machine, beside the bare thing.
    Bench(command::bench::Arguments),
    /// A message: what it holds, and where it stands.
    #[command(subcommand)]
    Msg(command::msg::Verb),
    /// Publish messages: one per argument, or one per line of standard input.
    Publish(command::publish::Arguments),
    /// All messages and outcomes of one conversation, as a tree.
    Flow(command::flow::Arguments),
    /// Rates, lag, failures and slow handlers, live on the terminal.
    Top(command::top::Arguments),
    /// Looks for what could go wrong; exit code 9 where something was found.
    Doctor(command::doctor::Arguments),
    /// The files of a directory: verify, dump, back up, restore.
    #[command(subcommand)]
    Log(command::log::Verb),
    /// Completions for a shell, on standard output.
    Completions(command::completions::Arguments),
    /// What an error code means, and what to do about it.
    Explain(command::explain::Arguments),
}

fn main() -> ExitCode {
    // A shell that asks for completions is answered, and the rest does not run.
    complete::answer(Cli::command);
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
        Command::Msg(verb) => end::run(command::msg::run(verb)),
        Command::Publish(arguments) => end::run(command::publish::run(arguments)),
        Command::Flow(arguments) => end::run(command::flow::run(arguments)),
        Command::Top(arguments) => end::run(command::top::run(arguments)),
        Command::Doctor(arguments) => end::run(command::doctor::run(arguments)),
        Command::Log(verb) => end::run(command::log::run(verb)),
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

    /// Goes over all commands, so that none that is added is forgotten.
    fn each(command: &clap::Command, path: &str, look: &mut impl FnMut(&clap::Command, &str)) {
        look(command, path);
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name());
            each(sub, &path, look);
        }
    }

    #[test]
    fn every_help_begins_with_examples_of_its_own_and_names_the_exit_codes() {
        let mut seen = 0;
        each(&Cli::command(), "postrider", &mut |command, path| {
            let before = command
                .get_before_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                before.starts_with("Examples:\n  ") && before.contains(path),
                "`{path} --help` does not begin with examples: {before}"
            );
            let after = command.get_after_help().map(ToString::to_string);
            let after = after.unwrap_or_default();
            assert!(after.starts_with("Exit codes: 0 "), "{path}: {after}");
            assert!(
                command.get_about().is_some(),
                "{path} says not what it does"
            );
            seen += 1;
        });
        assert!(seen > 25, "{seen}");
    }

    #[test]
    fn every_read_takes_each_form_of_output() {
        // What changes the state of something, or is a terminal, or writes a format of its own.
        let others = ["demo", "completions", "pause", "resume", "top", "bench"];
        each(&Cli::command(), "postrider", &mut |command, path| {
            let is_leaf = command.get_subcommands().next().is_none();
            let exempt = others.contains(&command.get_name());
            let takes = command.get_arguments().any(|arg| arg.get_id() == "form");
            assert!(!is_leaf || exempt || takes, "{path} has no --output");
        });
    }
}
