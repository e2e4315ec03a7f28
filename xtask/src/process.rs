//! Process tests: `kill -9` of the real binary under load; the ledger must balance.
//!
//! Five tests, each a run of `postrider demo --ci --json` on the same generated orders and the same seed:
//! unbroken; with the services killed N times; with everything, supervisor included, killed at random
//! moments and started again; once more on the directory that is finished; and without faults. Every
//! sheet must balance, agree with the input and with the provider's own file, and be the sheet of the
//! unbroken run in all that does not depend on the run; and no message may be set aside for the kills.
//! The two runs with kills print proofs for the report on durability. A failed test leaves its directory
//! behind.

mod orders;
mod sheet;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::rng::Rng;
use crate::sh::{Cmd, Outcome};
use crate::tally::Tally;
use crate::workspace::Workspace;
use orders::Orders;
use serde_json::{Value, json};
use sheet::{Sheet, Spread, condemned};

/// The demo gives up when no order ends for this long.
const STUCK: &str = "60s";
/// A run that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(600);
/// Lines of a failed run's standard error that are shown.
const LOG_LINES_SHOWN: usize = 40;

#[derive(Clone, clap::Args)]
// It stands beside the options of another task.
#[group(id = "process")]
pub(crate) struct Options {
    /// How often the services are killed while one run goes on
    #[arg(long, default_value_t = Self::ci().kills)]
    kills: u64,
    /// How often everything, supervisor included, is killed and started again
    #[arg(long, default_value_t = Self::ci().whole_kills)]
    whole_kills: u64,
    /// Orders per run; bad and repeated rows come on top
    #[arg(long, default_value_t = Self::ci().orders)]
    orders: u64,
    /// Seed of the orders, the faults and the kills
    #[arg(long, default_value_t = Self::ci().seed)]
    seed: u64,
    /// The `postrider` to test, instead of a release build of this checkout
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The engine to run on, instead of the embedded one
    #[arg(long, value_name = "URL")]
    engine: Option<String>,
}

impl Options {
    /// What CI runs.
    pub(crate) fn ci() -> Self {
        Self {
            kills: 100,
            whole_kills: 5,
            orders: 10_000,
            seed: 1,
            binary: None,
            engine: None,
        }
    }
}

/// A run that ended by itself.
struct Run {
    sheet: Sheet,
    took: Duration,
}

struct Bench {
    binary: PathBuf,
    dir: PathBuf,
    options: Options,
    orders: Orders,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    prove(workspace, options, &mut |proof| println!("proof: {proof}"))
}

/// Runs all tests, and hands over what they proved.
pub(crate) fn prove(
    workspace: &Workspace,
    options: &Options,
    on_proof: &mut dyn FnMut(Value),
) -> Result<Tally> {
    let bench = Bench::prepare(workspace, options)?;
    let mut tally = Tally::default();
    let Some(reference) = bench.test(&mut tally, "unbroken_run_balances", || bench.unbroken())
    else {
        println!("process: the other tests compare with the unbroken run and were not run");
        return Ok(tally);
    };
    let killed = bench.test(&mut tally, "killed_services_lose_nothing", || {
        bench.services_killed(&reference)
    });
    let resumed = bench.test(
        &mut tally,
        "everything_killed_resumes_to_the_same_sheet",
        || bench.everything_killed(&reference),
    );
    killed.into_iter().chain(resumed.clone()).for_each(on_proof);
    if resumed.is_some() {
        bench.test(
            &mut tally,
            "finished_directory_prints_the_same_sheet",
            || {
                let again = bench.run_to_the_end("whole", "default", 0)?;
                again.sheet.same_as(&reference.sheet)
            },
        );
    }
    bench.test(&mut tally, "without_faults_nothing_is_sent_twice", || {
        bench.without_faults()
    });
    if tally.failed == 0 {
        fs::remove_dir_all(&bench.dir).context("cannot clean up")?;
    } else {
        println!(
            "process: directories and logs are left in {}",
            bench.dir.display()
        );
    }
    let Options {
        kills,
        whole_kills,
        seed,
        ..
    } = options;
    println!(
        "process: {tally}; {kills} kills of the services and {whole_kills} of everything, {} orders \
         in {} rows per run, seed {seed}",
        bench.orders.accepted, bench.orders.rows,
    );
    Ok(tally)
}

/// Orders and kills of a run on a real server.
const ENGINE_ORDERS: u64 = 300;
const ENGINE_KILLS: u64 = 3;

/// The demo on a server, unchanged, with kills: nothing may be lost or done twice there either.
pub(crate) fn on_engine(workspace: &Workspace, name: &str, url: &str) -> Result<Tally> {
    let options = Options {
        orders: ENGINE_ORDERS,
        engine: Some(url.to_owned()),
        ..Options::ci()
    };
    let bench = Bench::prepare(workspace, &options)?;
    let mut tally = Tally::default();
    bench.test(&mut tally, &format!("demo_on_{name}_balances"), || {
        bench.run_to_the_end(name, "default", ENGINE_KILLS)
    });
    Ok(tally)
}

/// The release build of this checkout, with all engines: one binary for all that is run.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let build = Cmd::cargo("build --release --features kafka,rabbitmq").dir(&workspace.root);
    println!("$ {build}");
    build.show(|_| {})?;
    Ok(workspace.target.join("release/postrider"))
}

impl Bench {
    /// Finds or builds the binary, and writes the orders.
    fn prepare(workspace: &Workspace, options: &Options) -> Result<Self> {
        ensure!(options.orders > 0, "--orders is at least 1");
        let binary = options
            .binary
            .clone()
            .map_or_else(|| build(workspace), Ok)?;
        let dir = workspace.scratch("process")?;
        let orders = Orders::generate(options.orders, options.seed);
        fs::write(dir.join("orders.csv"), &orders.csv).context("cannot write the orders")?;
        Ok(Self {
            binary,
            dir,
            options: options.clone(),
            orders,
        })
    }

    /// Runs one test, prints how it ended, and counts it.
    fn test<T>(
        &self,
        tally: &mut Tally,
        name: &str,
        body: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        println!("test {name} …");
        let outcome = body();
        *tally += Tally::one(outcome.is_ok());
        match outcome {
            Ok(value) => {
                println!("test {name} … ok");
                Some(value)
            }
            Err(error) => {
                println!("test {name} … FAILED: {error:#}");
                None
            }
        }
    }

    fn unbroken(&self) -> Result<Run> {
        self.run_to_the_end("unbroken", "default", 0)
    }

    fn services_killed(&self, reference: &Run) -> Result<Value> {
        let run = self.run_to_the_end("killed", "default", self.options.kills)?;
        run.sheet.same_as(&reference.sheet)?;
        self.nobody_condemned("killed")?;
        let recoveries = run.sheet.numbers("recovery_ms")?;
        let count = recoveries.len();
        let spread = Spread::of(recoveries).context("no recovery was measured")?;
        Ok(json!({
            "name": "kills",
            "what": "kill -9 of all services of the demo under load and faults; every sheet balances and is that of the unbroken run",
            "kills": self.options.kills,
            "orders": self.orders.accepted,
            "seed": self.options.seed,
            "recoveries": count,
            "recovery_ms_min": spread.min,
            "recovery_ms_median": spread.median,
            "recovery_ms_max": spread.max,
            "seconds": run.took.as_secs(),
            "seconds_unbroken": reference.took.as_secs(),
            "condemned": 0,
            "lost": 0,
            "twice": 0,
        }))
    }

    /// Kills from outside make no message look like the killer.
    fn nobody_condemned(&self, data: &str) -> Result<()> {
        if self.options.engine.is_some() {
            return Ok(());
        }
        let log = self.dir.join(data).join("log");
        let groups = Cmd::new(self.binary.to_string_lossy())
            .args(["dlq", "groups", "-o", "json", "--dir"])
            .args([log.to_string_lossy()]);
        let groups: Value = serde_json::from_str(&groups.capture()?).context("not JSON")?;
        let condemned = condemned(&groups).with_context(|| format!("not groups: {groups}"))?;
        ensure!(condemned == 0, "set aside as killers: {groups:#}");
        Ok(())
    }

    /// The moments are drawn so that all of them together fit into an unbroken run.
    fn everything_killed(&self, reference: &Run) -> Result<Value> {
        let planned = self.options.whole_kills;
        let share = u64::try_from(reference.took.as_millis())? / planned.max(1);
        let mut rng = Rng::new(self.options.seed);
        let mut kills = 0;
        for done in 0..planned {
            let moment = Duration::from_millis(rng.range(50, share.max(100)));
            let (outcome, _) = self.start("whole", "default", 0, moment)?;
            if !outcome.killed {
                ensure!(outcome.code == Some(0), self.ended_badly("whole", &outcome));
                // A faster machine may finish early, but not so early that nothing was tested.
                ensure!(
                    done * 2 >= planned,
                    "finished after {done} of {planned} kills; use more orders"
                );
                break;
            }
            kills += 1;
            println!(
                "  killed everything after {:.2} s",
                outcome.took.as_secs_f64()
            );
        }
        let run = self.run_to_the_end("whole", "default", 0)?;
        run.sheet.same_as(&reference.sheet)?;
        self.nobody_condemned("whole")?;
        Ok(json!({
            "name": "kills_of_everything",
            "what": "kill -9 of the whole demo, supervisor and provider included; started again it ends with the sheet of the unbroken run",
            "kills": kills,
            "orders": self.orders.accepted,
            "seed": self.options.seed,
            "condemned": 0,
            "lost": 0,
            "twice": 0,
        }))
    }

    fn without_faults(&self) -> Result<()> {
        let run = self.run_to_the_end("calm", "none", 0)?;
        let replays = run.sheet.number("provider_replays")?;
        ensure!(
            replays == 0,
            "provider_replays is {replays} with faults and kills off"
        );
        Ok(())
    }

    /// Runs the demo until it ends by itself, and checks its sheet.
    fn run_to_the_end(&self, data: &str, faults: &str, kills: u64) -> Result<Run> {
        let (outcome, output) = self.start(data, faults, kills, LIMIT)?;
        let command = self.command(data, faults, kills);
        ensure!(
            !outcome.killed,
            "did not end within {LIMIT:?}: {command}\n{}",
            self.log(data)
        );
        let sheet = Sheet::parse(&output);
        if outcome.code != Some(0) {
            let sheet = sheet.map_or_else(|_| output.clone(), |sheet| sheet.to_string());
            bail!(
                "{}\n{sheet}\n  repeat: {command}",
                self.ended_badly(data, &outcome)
            );
        }
        let sheet = sheet.with_context(|| format!("{command} printed {output:?}"))?;
        let mut wrong = sheet.problems(&self.orders);
        wrong.extend(sheet.against_provider(&self.dir.join(data).join("provider.jsonl"))?);
        let killed = sheet.number("kills")?;
        if i128::from(kills) != killed {
            wrong.push(format!("{killed} kills happened, {kills} were asked for"));
        }
        ensure!(
            wrong.is_empty(),
            "{}\n{sheet}\n  repeat: {command}",
            wrong.join("\n")
        );
        println!(
            "  {} in {:.1} s",
            sheet.summary(),
            outcome.took.as_secs_f64()
        );
        Ok(Run {
            sheet,
            took: outcome.took,
        })
    }

    fn start(
        &self,
        data: &str,
        faults: &str,
        kills: u64,
        limit: Duration,
    ) -> Result<(Outcome, String)> {
        let mut output = String::new();
        let command = self
            .command(data, faults, kills)
            .stderr_to(self.log_file(data))
            .limit(limit);
        let outcome = command.run(|line| {
            output.push_str(line);
            output.push('\n');
        })?;
        Ok((outcome, output))
    }

    fn command(&self, data: &str, faults: &str, kills: u64) -> Cmd {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        Cmd::new(path(&self.binary))
            .args(["demo", "--ci", "--json", "--orders"])
            .args([path(&self.dir.join("orders.csv"))])
            .args(["--data".to_owned(), path(&self.dir.join(data))])
            .args(["--seed".to_owned(), self.options.seed.to_string()])
            .args([
                "--faults",
                faults,
                "--kills",
                &kills.to_string(),
                "--deadline",
                STUCK,
            ])
            .args(self.options.engine.iter().flat_map(|url| ["--engine", url]))
    }

    fn log_file(&self, data: &str) -> PathBuf {
        self.dir.join(format!("{data}.log"))
    }

    fn ended_badly(&self, data: &str, outcome: &Outcome) -> String {
        let how = match outcome.code {
            Some(9) => "exit code 9: it does not balance, or an order is stuck".to_owned(),
            Some(code) => format!("exit code {code}"),
            None => "ended by a signal".to_owned(),
        };
        format!("{how}\n{}", self.log(data))
    }

    /// The end of what the run wrote to standard error.
    fn log(&self, data: &str) -> String {
        let text = fs::read(self.log_file(data)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}
