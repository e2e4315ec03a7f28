//! A small running directory and the real binary beside it.
#![allow(clippy::unwrap_used)]
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its part"
)]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postrider::prelude::*;
use postrider::{Running, SubscriptionId};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The subscription whose handler refuses orders while the bank is down.
pub const PAYMENT: &str = "payment@topic:shop.order";
/// The one that takes whatever comes.
pub const PRICES: &str = "prices@queue:prices";
/// No test waits longer than this for what must happen.
const SOON: Duration = Duration::from_secs(60);

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
struct OrderPlaced {
    order_id: String,
    n: u32,
}

#[derive(Message, Serialize, Deserialize, Debug)]
#[message(queue = "prices", type = "ask")]
struct AskPrice {
    sku: String,
}

type Bank = Arc<AtomicBool>;

async fn charge(order: OrderPlaced, State(down): State<Bank>) -> Result<(), HandlerError> {
    // An order that nobody can charge, whatever the bank does.
    if order.order_id == "cursed" {
        return Err(HandlerError::Permanent("\u{1b}[31mcursed".into()));
    }
    match down.load(Ordering::SeqCst) {
        // Never answered, once the bank is there.
        false if order.order_id == "hangs" => std::future::pending().await,
        true => Err(HandlerError::Permanent("card 4711 declined".into())),
        false => Ok(()),
    }
}

async fn price(_: AskPrice) {}

/// A directory that is served.
pub struct World {
    dir: Option<TempDir>,
    bank_is_down: Bank,
    bus: Bus,
    running: Vec<Running>,
    runtime: Runtime,
}

impl World {
    /// Two services on a new directory.
    pub fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    /// The same services on this directory.
    pub fn on(dir: TempDir) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bank_is_down = Bank::default();
        let url = format!("embedded:{}", dir.path().display());
        let (bus, running) = runtime.block_on(async {
            let bus = Bus::connect(&url).await.unwrap();
            let payment = Service::new("payment")
                .announce(false)
                .state(bank_is_down.clone())
                .on(charge);
            let prices = Service::new("prices").announce(false).on(price);
            let running = vec![
                payment.start(&bus).await.unwrap(),
                prices.start(&bus).await.unwrap(),
            ];
            (bus, running)
        });
        Self {
            dir: Some(dir),
            bank_is_down,
            bus,
            running,
            runtime,
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// Ends the services and gives the directory, which nobody runs any more.
    pub fn stop(mut self) -> TempDir {
        self.dir.take().unwrap()
    }

    pub fn bank(&self, is_down: bool) {
        self.bank_is_down.store(is_down, Ordering::SeqCst);
    }

    /// Publishes an order with this key.
    pub fn order(&self, order_id: &str, n: u32) {
        let order_id = order_id.to_owned();
        let order = self.bus.publish(OrderPlaced { order_id, n });
        self.runtime.block_on(order).unwrap();
    }

    /// Orders of these keys fail for good, recorded one after the other.
    pub fn fail(&self, keys: &[&str]) {
        let before = self.failures();
        self.bank(true);
        for (n, key) in keys.iter().enumerate() {
            self.order(key, 0);
            self.until("the failure is recorded", || self.failures() > before + n);
        }
    }

    /// How many records the payment service has.
    pub fn failures(&self) -> usize {
        let id = SubscriptionId::parse(PAYMENT).unwrap();
        let failures = self.bus.failures();
        let list = failures.list(&id, None, None, 1000);
        self.runtime.block_on(list).unwrap().len()
    }

    /// What was done to the payment service's failures: action, who, why.
    pub fn audit(&self) -> Vec<(String, String, String)> {
        let id = SubscriptionId::parse(PAYMENT).unwrap();
        let failures = self.bus.failures();
        let entries = self.runtime.block_on(failures.audit(&id, 100)).unwrap();
        let of = |entry: postrider::contract::failure::AuditEntry| {
            (entry.action, entry.reason.by, entry.reason.text)
        };
        entries.into_iter().map(of).collect()
    }

    pub fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < SOON, "{what} did not happen");
            std::thread::yield_now();
        }
    }

    /// Pauses, and gives when nothing new is taken.
    pub fn pause(&self) {
        self.cli(["sub", "pause", PAYMENT]).ok();
        self.until("the pause", || {
            self.cli(["sub", "show", PAYMENT, "-o", "jsonl"]).json()["phase"] == "paused"
        });
    }

    /// The binary, beside this directory.
    pub fn cli<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        let mut command = binary(arguments);
        command.env("POSTRIDER_DIR", self.path());
        ended(&mut command)
    }

    /// The same, with this on its standard input.
    pub fn cli_with(&self, input: &str, arguments: &[&str]) -> Ended {
        let mut command = binary(arguments);
        command.env("POSTRIDER_DIR", self.path());
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.stderr(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        Ended::from(child.wait_with_output().unwrap())
    }

    /// The binary, beside this directory, with its standard output read as it comes.
    pub fn follow(&self, arguments: &[&str]) -> Follow {
        let mut command = binary(arguments);
        command.env("POSTRIDER_DIR", self.path());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Follow { child, out }
    }
}

/// A command that runs until it is interrupted.
pub struct Follow {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Follow {
    /// Its next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Its next line as JSON.
    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Interrupts it. Gives its exit code and what it wrote on standard error.
    pub fn interrupt(mut self) -> (i32, String) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(kill.success());
        let mut err = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code().unwrap(), err)
    }

    /// Stops reading. Gives its exit code.
    pub fn leave(self) -> i32 {
        let Self { mut child, out } = self;
        drop(out);
        child.wait().unwrap().code().unwrap()
    }
}

/// The binary beside a directory.
pub fn beside<A: AsRef<OsStr>>(dir: &Path, arguments: impl IntoIterator<Item = A>) -> Ended {
    let mut command = binary(arguments);
    command.env("POSTRIDER_DIR", dir);
    ended(&mut command)
}

impl Drop for World {
    fn drop(&mut self) {
        for running in self.running.drain(..) {
            self.runtime.block_on(running.stop(Duration::ZERO));
        }
        let _ = self.runtime.block_on(self.bus.close(Duration::ZERO));
    }
}

/// The binary without anything of this process's environment that it would read.
pub fn binary<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("POSTRIDER_DIR").env("USER", "ann");
    command.env_remove("VISUAL").env_remove("EDITOR");
    command
}

pub fn ended(command: &mut Command) -> Ended {
    Ended::from(command.output().unwrap())
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// How the binary ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// It ended well. Gives what it wrote.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It failed with this exit code and this error, in three lines, and wrote no data.
    #[track_caller]
    pub fn fails(self, exit: i32, code: &str) -> Self {
        assert_eq!(self.out, "", "{self:?}");
        self.fails_with_data(exit, code)
    }

    /// The same, after data.
    #[track_caller]
    pub fn fails_with_data(self, exit: i32, code: &str) -> Self {
        assert_eq!(self.code, exit, "{self:?}");
        let lines: Vec<&str> = self.err.lines().collect();
        let last = lines.len().checked_sub(3).map(|from| &lines[from..]);
        let Some([what, why, remedy]) = last else {
            panic!("{self:?}")
        };
        assert!(what.starts_with(&format!("{code}: ")), "{self:?}");
        assert!(why.starts_with("  why:   "), "{self:?}");
        assert!(remedy.starts_with("  to do: "), "{self:?}");
        self
    }

    /// What it wrote as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Its lines, cut into columns.
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.out
            .lines()
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|c| !c.is_empty())
                    .collect()
            })
            .collect()
    }
}
