//! `postrider demo`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use shop::faults::Level;
use shop::supervisor::Outcome;
use shop::{Options, OrderSource};

use crate::report::report;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider demo                                     made-up orders and faults, live; k kills the services
  postrider demo --data ./shop --orders orders.csv   your orders; the same command resumes
  postrider demo --ci --faults heavy --kills 20      no screen; exit code 9 where the ledger does not balance", after_help = crate::end::EXIT_CODES)]
pub(crate) struct Arguments {
    /// Keep the run in this directory; the same command resumes it [default: a new temporary one]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Take the orders from a CSV (- for standard input) with the columns order_id, customer_id, placed_at, quantity, amount
    #[arg(long, value_name = "FILE.csv")]
    orders: Option<PathBuf>,
    /// Orders per second [default: 100 for made-up orders, as fast as it goes for a file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// What decides declines, missing stock, faults and kills
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How much goes wrong on purpose
    #[arg(long, value_enum, default_value_t = Faults::Default)]
    faults: Faults,
    /// Kill the services this often, spread over the orders
    #[arg(long, value_name = "N", default_value_t = 0)]
    kills: u32,
    /// With --ci: give up when no order has ended for this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    deadline: Duration,
    /// Another engine than the embedded one
    #[arg(long, value_name = "URL")]
    engine: Option<String>,
    /// No screen: end when every order has, and exit with 9 where the ledger does not balance
    #[arg(long)]
    ci: bool,
    /// The balance sheet as one JSON object on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Faults {
    None,
    Default,
    Heavy,
}

/// The command line's exit code for a check that failed.
const CHECK_FAILED: u8 = 9;
/// The command line's exit code for an interrupted command.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let is_ci = arguments.ci;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            report(
                1707,
                "the demo could not be started",
                Some(&error.to_string()),
                None,
            );
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(shop::supervisor::run(arguments.into()));
    // Reading keys may wait for a key that never comes.
    runtime.shutdown_background();
    match ended {
        Ok(outcome) => judge(&outcome, is_ci),
        Err(error) => {
            show(&error);
            ExitCode::FAILURE
        }
    }
}

fn judge(outcome: &Outcome, is_ci: bool) -> ExitCode {
    if let Some(problem) = &outcome.problem {
        show(problem);
        return ExitCode::from(CHECK_FAILED);
    }
    if outcome.interrupted && is_ci {
        return ExitCode::from(INTERRUPTED);
    }
    ExitCode::SUCCESS
}

fn show(error: &shop::Error) {
    report(
        error.code,
        &error.what,
        error.why.as_deref(),
        error.remedy.as_deref(),
    );
}

impl From<Arguments> for Options {
    fn from(a: Arguments) -> Self {
        let orders = match a.orders {
            None => OrderSource::MadeUp,
            Some(path) if path.as_os_str() == "-" => OrderSource::Stdin,
            Some(path) => OrderSource::File(path),
        };
        Self {
            data: a.data,
            orders,
            rate: a.rate,
            seed: a.seed,
            faults: match a.faults {
                Faults::None => Level::None,
                Faults::Default => Level::Default,
                Faults::Heavy => Level::Heavy,
            },
            kills: a.kills,
            deadline: a.deadline,
            engine: a.engine,
            ci: a.ci,
            json: a.json,
        }
    }
}

/// `500ms`, `60s`, `2m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let wrong = || format!("`{text}` is not a time like 500ms, 60s or 2m");
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let time = match text.get(digits.len()..) {
        Some("ms") => Duration::from_millis(number),
        Some("" | "s") => Duration::from_secs(number),
        Some("m") => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(wrong()),
    };
    if time.is_zero() {
        return Err("no order ends in no time".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_its_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("60"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "1h", "0s", "-1s", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
