//! `postrider bench`: what Postrider does beside the bare thing, both in one run and by turns.
//!
//! A figure of one machine means little, and less while something else runs on it. So every row has two sides, measured in short rounds that
//! alternate, and their ratio is the median over the rounds.

mod child;
mod delayed;
mod durable;
mod flow;
mod handle;
mod idle;
mod inbox;
mod meter;
mod ordered;
mod place;
mod raw;
mod recovery;
mod rounds;
mod row;
mod stuck;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use postrider::Code;

use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::print;
use place::Place;
use row::Row;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider bench --list                       what there is to measure
  postrider bench durable                      confirmed publishes beside a bare loop of write and sync
  postrider bench handle inbox --json          one JSON object per row, for a program
  postrider bench all --size small --dir /mnt  everything in seconds, on the disk that you mean", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// What to measure, or `all`
    #[arg(required_unless_present_any = ["list", "child"], value_name = "NAME")]
    names: Vec<String>,
    /// How much: `full` is what the documentation shows, `small` shows that it runs
    #[arg(long, value_enum, default_value_t = Size::Full)]
    size: Size,
    /// Make the files below this directory, and remove them at the end. It is the disk that is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// One JSON object per row
    #[arg(long)]
    json: bool,
    /// The names, and what each measures
    #[arg(long)]
    list: bool,
    /// What another process of this command does.
    #[arg(long, hide = true, value_name = "TASK", num_args = 1.., allow_hyphen_values = true)]
    child: Vec<String>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// Seconds, for a test of the benchmark itself
    Small,
    /// What the documentation shows
    Full,
}

impl Size {
    /// One of two.
    fn pick<T>(self, small: T, full: T) -> T {
        match self {
            Self::Small => small,
            Self::Full => full,
        }
    }
}

/// One benchmark: its name, what it measures, and how.
struct Bench {
    name: &'static str,
    what: &'static str,
    run: fn(&Place, Size) -> anyhow::Result<Vec<Row>>,
}

const ALL: [Bench; 8] = [
    Bench {
        name: "durable",
        what: "publish 1 KiB, confirmed after a sync, 256 and 1 outstanding; beside a bare loop of write and sync",
        run: durable::run,
    },
    Bench {
        name: "handle",
        what: "publish, kernel, handler, acknowledge on memory:, 170 bytes of JSON; beside a channel with the same JSON",
        run: handle::run,
    },
    Bench {
        name: "inbox",
        what: "effects once on SQLite, 64 and 1,024 keys; beside the same rows by hand, 100 per commit",
        run: inbox::run,
    },
    Bench {
        name: "ordered",
        what: "1,000 keys and a handler of 5 ms; beside one at a time",
        run: ordered::run,
    },
    Bench {
        name: "idle",
        what: "100,000 idle subscriptions: memory and opening; beside an empty directory",
        run: idle::run,
    },
    Bench {
        name: "delayed",
        what: "1,000,000 delayed messages: lateness and memory; beside bare timers",
        run: delayed::run,
    },
    Bench {
        name: "stuck",
        what: "a flow past one message that nobody acknowledges: disk, memory and state; beside what flowed",
        run: stuck::run,
    },
    Bench {
        name: "recovery",
        what: "opening 5 GiB after kill -9: time and bytes read; beside 1 GiB",
        run: recovery::run,
    },
];

pub(crate) fn run(arguments: Arguments) -> Result {
    if !arguments.child.is_empty() {
        return child::serve(&arguments.child)
            .map(|()| Exit::Ok)
            .map_err(|error| failed("a process of a benchmark", &error).into());
    }
    if arguments.list {
        let lines = ALL.map(|bench| format!("{:<9} {}\n", bench.name, bench.what));
        print(&lines.concat())?;
        return Ok(Exit::Ok);
    }
    let chosen = choose(&arguments.names)?;
    let place = Place::new(&arguments.dir).map_err(|error| failed("a place to measure", &error))?;
    if !arguments.json {
        print(&format!("{}\n\n{}", place.text(), row::head()))?;
    }
    for bench in chosen {
        let rows = (bench.run)(&place, arguments.size)
            .map_err(|error| failed(&format!("the benchmark {}", bench.name), &error))?;
        let show = |row: &Row| match arguments.json {
            true => format!("{}\n", row.json(&place, arguments.size)),
            false => row.text(),
        };
        print(&rows.iter().map(show).collect::<String>())?;
    }
    Ok(Exit::Ok)
}

fn choose(names: &[String]) -> Result<Vec<&'static Bench>> {
    if names.iter().any(|name| name == "all") {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| {
        let found = ALL.iter().find(|bench| bench.name == name);
        found.ok_or_else(|| {
            let known = ALL.map(|bench| bench.name).join(", ");
            Failure::usage(format!("there is no benchmark `{name}`"))
                .remedy(format!("choose of {known}, or all"))
                .into()
        })
    };
    names.iter().map(find).collect()
}

fn failed(what: &str, error: &anyhow::Error) -> Failure {
    Failure::new(Exit::Failed, Code::CLI_FAILED, format!("{what} failed")).why(format!("{error:#}"))
}

/// How long something may take to end.
const GRACE: Duration = Duration::from_secs(60);

/// The runtime that a service of its own would have.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")
}
