//! The supervisor: owns the provider, runs the services in a child process, kills them, and judges the run.

mod child;
mod directory;
mod finish;
mod kills;
mod run;
mod show;
mod tally;

use std::path::PathBuf;

pub use directory::{Directory, Prepared};

use crate::error::{CONFIG_CONTRADICTS, Error, Result};
use crate::options::Options;
use crate::sheet::Sheet;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The balance sheet.
    pub sheet: Sheet,
    /// What is wrong with it; `None`: all ended and balanced, or a person ended a run that balances.
    pub problem: Option<Error>,
    /// Where it ran.
    pub dir: PathBuf,
    /// Whether a signal ended it.
    pub interrupted: bool,
}

/// Runs the demo to its end and prints the balance sheet on standard output.
///
/// # Errors
/// It could not run: the input, the directory or the services. A run that does not balance is not an error but an [`Outcome`] with a problem.
pub async fn run(options: Options) -> Result<Outcome> {
    check(&options)?;
    let prepared = Prepared::new(&options).await?;
    run::Run::start(options, prepared).await?.until_over().await
}

fn check(options: &Options) -> Result<()> {
    let contradicts = |what: &str| Err(Error::new(CONFIG_CONTRADICTS, what));
    if options.rate == Some(0) {
        return contradicts("--rate 0 places no order");
    }
    if options.deadline.is_zero() {
        return contradicts("--deadline 0 gives no order time to end");
    }
    match options.engine.as_deref() {
        Some(url) if url.starts_with("memory:") => Err(Error::new(
            CONFIG_CONTRADICTS,
            "the demo kills its services, and an engine in memory dies with them",
        )
        .why("the databases survive a kill and the messages would not")
        .remedy("leave --engine out, or name an engine that survives its clients")),
        _ => Ok(()),
    }
}
