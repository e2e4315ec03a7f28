//! The child process: the six services on one bus. It ends when its standard input does, so that no orphan holds the directory.

mod intake;
mod report;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use postrider::{BusOptions, Outgoing, Running, SubscriptionId};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::faults::Dial;
use crate::messages::PlaceOrders;
use crate::protocol::{Command, ENGINE_DIR, Report, Setup};
use crate::provider::Client;
use crate::services::schema::{SERVICES, tables};
use crate::services::{Chaos, Shop, build, inventory};

/// How long a start waits for the process that held the directory before.
const HOLDER_GOES_WITHIN: Duration = Duration::from_secs(2);
/// How long a stop waits for handlers that run.
const GRACE: Duration = Duration::from_secs(5);
/// Memory for pages of one database.
const CACHE_BYTES: u32 = 4 << 20;
/// Messages that wait to be published a second time, on purpose.
const AGAIN_MAX: usize = 1024;

/// Why the services do not run.
#[derive(Debug)]
struct Stopped {
    code: Option<u16>,
    what: String,
    why: Option<String>,
    remedy: Option<String>,
}

impl Stopped {
    /// With the reasons of its code.
    fn new(code: Option<u16>, what: &str) -> Self {
        Self {
            code,
            what: one_line(what),
            why: None,
            remedy: None,
        }
    }
}

impl From<postrider::Error> for Stopped {
    fn from(error: postrider::Error) -> Self {
        Self {
            why: Some(one_line(error.reason())),
            remedy: Some(one_line(error.advice())),
            ..Self::new(Some(error.code().0), error.what())
        }
    }
}

impl From<postrider::sqlite::Error> for Stopped {
    fn from(error: postrider::sqlite::Error) -> Self {
        Self::new(Some(error.code().0), &error.to_string())
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the report looks at.
struct Services {
    bus: Bus,
    stores: Vec<Sqlite>,
    subscriptions: Vec<SubscriptionId>,
    shop: Shop,
}

/// What `RUST_LOG` says (`warn`, `info,postrider=debug`); warnings where it says nothing that can be read.
fn log_filter() -> Targets {
    std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN))
}

/// Runs the services until standard input ends or says so. What `postrider demo-child` does.
#[must_use]
pub fn main() -> ExitCode {
    tracing_subscriber::registry()
        .with(log_filter())
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .init();
    let (setup, commands) = match listen() {
        Ok(heard) => heard,
        Err(error) => {
            eprintln!(
                "the services are started by `postrider demo`, which tells them what to do: {error}"
            );
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(setup, commands));
    runtime.shutdown_timeout(Duration::from_millis(200));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(stopped) => {
            say(&Report::Fatal {
                code: stopped.code,
                what: stopped.what,
                why: stopped.why,
                remedy: stopped.remedy,
            });
            ExitCode::FAILURE
        }
    }
}

/// Says one line to the supervisor. One that is gone hears nothing.
fn say(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// Reads the set-up, then commands on a thread of its own. The end of the input ends the process at once: whatever is in the air
/// comes again in the next life.
fn listen() -> std::io::Result<(Setup, mpsc::Receiver<Command>)> {
    let mut first = String::new();
    std::io::stdin().lock().read_line(&mut first)?;
    let setup = serde_json::from_str(&first)?;
    let (send, commands) = mpsc::channel(16);
    std::thread::Builder::new()
        .name("supervisor".into())
        .spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if let Ok(command) = serde_json::from_str(&line)
                    && send.blocking_send(command).is_err()
                {
                    // It stops already, within its grace.
                    return;
                }
            }
            std::process::exit(0);
        })?;
    Ok((setup, commands))
}

async fn run(setup: Setup, mut commands: mpsc::Receiver<Command>) -> Result<(), Stopped> {
    let dial = Dial::new(setup.faults);
    let (services, running) = start(&setup, &dial).await?;
    let info = services.bus.info();
    say(&Report::Ready {
        engine: format!("{} {}", info.scheme, info.version),
        durability: report::durability_name(info.durability).to_owned(),
    });
    let services = Arc::new(services);
    let (hold, held) = watch::channel(false);
    let (sent_in, sent) = watch::channel(false);
    let placing = tokio::spawn(intake::place_all(
        services.bus.named("shop"),
        services.stores.first().cloned(),
        setup,
        intake::Gauges {
            held,
            depth: depth_of_intake(&services),
            done: sent_in,
        },
    ));
    let reporting = tokio::spawn(report::report(services.clone(), sent));
    let outcome = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Faults { level }) => dial.set(level),
                Some(Command::Hold) => {
                    hold.send_replace(true);
                }
                Some(Command::Stop) | None => break Ok(()),
            },
            error = first_end(&running) => break Err(Stopped::from(error)),
        }
    };
    placing.abort();
    reporting.abort();
    // Their ends, so that nothing else holds the services.
    let _ = (placing.await, reporting.await);
    stop(running, &services.bus).await;
    outcome
}

/// How many commands of the intake wait, by the engine's word.
fn depth_of_intake(services: &Services) -> intake::Depth {
    let admin = services.bus.engine().admin();
    let wanted = format!("order@queue:{}", <PlaceOrders as Message>::DESTINATION);
    let mut all = services.subscriptions.iter();
    let subscription = all.find(|s| s.to_string() == wanted).cloned();
    Box::new(move || {
        let (admin, subscription) = (admin.clone(), subscription.clone());
        Box::pin(async move {
            match (admin, subscription) {
                (Some(admin), Some(subscription)) => {
                    admin.depth(&subscription).await.map_or(0, |d| d.depth)
                }
                _ => 0,
            }
        })
    })
}

async fn first_end(running: &[Running]) -> postrider::Error {
    let mut ends: Vec<_> = running.iter().map(|r| Box::pin(r.ended())).collect();
    std::future::poll_fn(|cx| {
        ends.iter_mut()
            .find_map(|end| match end.as_mut().poll(cx) {
                std::task::Poll::Ready(error) => Some(std::task::Poll::Ready(error)),
                std::task::Poll::Pending => None,
            })
            .unwrap_or(std::task::Poll::Pending)
    })
    .await
}

async fn stop(running: Vec<Running>, bus: &Bus) {
    let mut stops: Vec<_> = running
        .into_iter()
        .map(|r| Box::pin(r.stop(GRACE)))
        .collect();
    std::future::poll_fn(|cx| {
        stops.retain_mut(|stop| match stop.as_mut().poll(cx) {
            std::task::Poll::Ready(left) => {
                if !left.is_nothing() {
                    tracing::warn!(%left, "a service stopped");
                }
                false
            }
            std::task::Poll::Pending => true,
        });
        if stops.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    if let Err(error) = bus.close(GRACE).await {
        tracing::warn!(%error, "the bus did not close well");
    }
}

async fn start(setup: &Setup, dial: &Dial) -> Result<(Services, Vec<Running>), Stopped> {
    let begin = Instant::now();
    let own = format!("embedded:./{ENGINE_DIR}");
    let engine = setup.engine.as_deref().unwrap_or(&own);
    let mut options = BusOptions::default();
    if setup.engine.is_some() {
        // The demo's keys use the admin API, and an engine of another process owns no directory here.
        options.admin_directory = Some(admin_directory(setup)?);
    }
    let bus = loop {
        match Bus::connect_with(engine, options.clone()).await {
            Err(error) if may_wait(error.code(), begin) => wait(&error.to_string()).await,
            other => break other?,
        }
    };
    let mut stores = Vec::new();
    for service in SERVICES {
        let path = setup.dir.join(format!("{service}.db"));
        let store = loop {
            match Sqlite::options().page_cache_bytes(CACHE_BYTES).open(&path) {
                Err(error) if may_wait(error.code(), begin) => wait(&error.to_string()).await,
                other => break other?,
            }
        };
        stores.push(store.migrate(&[tables(service).as_str()])?);
    }
    let (again, to_repeat) = mpsc::channel(AGAIN_MAX);
    tokio::spawn(repeat(bus.clone(), to_repeat));
    let shop = Shop {
        seed: setup.seed,
        stock: setup.stock,
        provider: Client::new(setup.provider.clone()),
        chaos: Chaos::new(setup.seed, dial.clone(), || say(&Report::Handled), again),
    };
    if let Some(store) = stores.get(2) {
        fill(store, &shop).await?;
    }
    let mut running = Vec::new();
    for (name, store) in SERVICES.iter().zip(&stores) {
        if let Some(service) = build(name, store, &shop) {
            // An engine without failure records has each service's own beside its tables.
            let service = match bus.failure_store() {
                Some(_) => service,
                None => service.failures(Arc::new(store.failures())),
            };
            running.push(service.start(&bus).await?);
        }
    }
    let plans = running.iter().flat_map(Running::plans);
    let services = Services {
        bus,
        stores,
        subscriptions: plans.map(|plan| plan.subscription).collect(),
        shop,
    };
    Ok((services, running))
}

fn admin_directory(setup: &Setup) -> Result<PathBuf, Stopped> {
    let directory = setup.dir.join(ENGINE_DIR);
    std::fs::create_dir_all(&directory).map_err(|e| {
        Stopped::new(
            None,
            &format!("{} cannot be made: {e}", directory.display()),
        )
    })?;
    Ok(directory)
}

fn may_wait(code: postrider::Code, begin: Instant) -> bool {
    let is_held = code == postrider::Code::DIR_LOCKED || code == postrider::Code::STORE_LOCKED;
    is_held && begin.elapsed() < HOLDER_GOES_WITHIN
}

async fn wait(why: &str) {
    say(&Report::WaitingFor {
        what: format!("an old process to go: {}", one_line(why)),
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Fills the shelves: a write that belongs to no message.
async fn fill(store: &Sqlite, shop: &Shop) -> Result<(), Stopped> {
    use postrider::TxStore;
    let stock = shop.stock;
    let done = store
        .write(Box::new(move |db| {
            inventory::fill(db, &stock)
                .map(|()| Vec::new())
                .map_err(|e| HandlerError::Transient(e.into()))
        }))
        .await;
    done.map(drop).map_err(|e| {
        Stopped::new(
            Some(crate::error::STORE_FAILED),
            &format!("the shelves could not be filled: {e:?}"),
        )
    })
}

/// Publishes messages a second time, with the same id, on purpose.
async fn repeat(bus: Bus, mut messages: mpsc::Receiver<Outgoing>) {
    let Ok(publisher) = bus.engine().publisher().await else {
        return;
    };
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, 64).await > 0 {
        for result in publisher.publish(std::mem::take(&mut batch)).await {
            if let Err(error) = result {
                tracing::debug!(%error, "a duplicate was not published");
            }
        }
    }
}
