//! `postrider dlq`: failures of subscriptions. Look, edit, redrive, discard.

mod discard;
mod edit;
mod look;
mod records;
mod redrive;

use clap::Subcommand;

use crate::end::{EXIT_CODES, Result};

#[derive(Subcommand)]
#[command(before_help = "Examples:
  postrider dlq groups                                               what failed, grouped by cause
  postrider dlq ls payment@topic:shop.order                          the failures of one subscription
  postrider dlq show payment@topic:shop.order 17                     one with its errors and its message
  postrider dlq redrive payment@topic:shop.order --all               back to that subscription, one first
  postrider dlq discard payment@topic:shop.order 17 --reason test    removed for good", after_help = EXIT_CODES)]
pub(crate) enum Verb {
    /// Failures grouped by cause, type and error, the largest group first.
    Groups(look::Groups),
    /// Failures one by one.
    Ls(look::Ls),
    /// One failure with its errors, envelope, headers and payload.
    Show(look::Show),
    /// Hand failures back to their subscription, in key order: one first, then the rest.
    Redrive(redrive::Arguments),
    /// Edit a failure's payload or headers, for the next redrive. What it was is kept beside.
    Edit(edit::Arguments),
    /// Remove failures for good.
    Discard(discard::Arguments),
}

pub(crate) async fn run(verb: Verb) -> Result {
    match verb {
        Verb::Groups(arguments) => look::groups(arguments).await,
        Verb::Ls(arguments) => look::ls(arguments).await,
        Verb::Show(arguments) => look::show(arguments).await,
        Verb::Redrive(arguments) => redrive::run(arguments).await,
        Verb::Edit(arguments) => edit::run(arguments).await,
        Verb::Discard(arguments) => discard::run(arguments).await,
    }
}
