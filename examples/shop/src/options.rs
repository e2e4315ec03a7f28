//! What one run of the demo is asked to do.

use std::path::PathBuf;
use std::time::Duration;

use crate::faults::Level;

/// Where the orders come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderSource {
    /// Made up from the seed.
    MadeUp,
    /// A CSV file.
    File(PathBuf),
    /// A CSV on standard input.
    Stdin,
}

/// What one run of the demo is asked to do: the options of `postrider demo`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run's directory; `None`: a new one in the system's temporary directory.
    pub data: Option<PathBuf>,
    /// Where the orders come from.
    pub orders: OrderSource,
    /// Orders per second; `None`: 100 for made-up orders, as fast as it goes for a file.
    pub rate: Option<u32>,
    /// What decides declines, missing stock, faults and kills.
    pub seed: u64,
    /// How much goes wrong on purpose.
    pub faults: Level,
    /// How often the services are killed, placed by progress.
    pub kills: u32,
    /// How long no order may end before the run is given up.
    pub deadline: Duration,
    /// Another engine than the embedded one in the run's directory.
    pub engine: Option<String>,
    /// No screen; end by itself; the exit code says whether the ledger balances.
    pub ci: bool,
    /// The sheet as one JSON object on standard output.
    pub json: bool,
}

impl Options {
    /// Orders per second for made-up orders where none are asked for.
    pub const RATE_DEFAULT: u32 = 100;
    /// How long made-up orders are placed in `--ci`.
    pub const MADE_UP_CI: Duration = Duration::from_secs(60);
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data: None,
            orders: OrderSource::MadeUp,
            rate: None,
            seed: 1,
            faults: Level::Default,
            kills: 0,
            deadline: Duration::from_secs(60),
            engine: None,
            ci: false,
            json: false,
        }
    }
}
