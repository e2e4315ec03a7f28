//! `durable`: publishes of 1 KiB, each confirmed after a sync.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use parking_lot::{Condvar, Mutex};
use postrider::BusOptions;
use postrider::embedded::{Embedded, Options};
use postrider::prelude::*;
use postrider_log::{Log, Now, RecordIn, StreamConfig, StreamId, pump};
use tokio::runtime::Runtime;

use super::meter::{Counts, Meter, Metered, WRITER};
use super::place::Place;
use super::raw::Raw;
use super::rounds::{Rounds, median};
use super::row::Row;
use super::{GRACE, Size, child, runtime};

/// Messages that await confirmation at once.
const OUTSTANDING: u64 = 256;
const PAYLOAD: usize = 1024;
/// A slow disk is measured as it is then.
const WARM_UP_MAX: Duration = Duration::from_secs(20);

/// An event whose JSON has about 1 KiB.
#[derive(Message, Serialize, Deserialize, Clone)]
#[message(topic = "bench.durable", type = "sample", key = n)]
struct Sample {
    n: u64,
    text: String,
}

pub(super) fn run(place: &Place, size: Size) -> Result<Vec<Row>> {
    let time = Duration::from_millis(size.pick(60, 900));
    let count = size.pick(1, 9);
    let mut raw = Raw::new(&place.path("raw"))?;
    let mut rows = Vec::new();
    {
        let log = LogSide::open(&place.path("log"))?;
        warm_up(size, || log.round(time), &log.meter)?;
        rows.push(grouped("durable.log", &mut raw, count, time, || {
            log.round(time)
        })?);
        rows.push(alone(
            "durable.log.latency",
            &mut raw,
            count,
            time / 3,
            || log.each_us(time / 3),
        )?);
        log.close()?;
    }
    let bus = BusSide::open(&place.path("bus"))?;
    warm_up(size, || bus.round(time), &bus.meter)?;
    rows.push(grouped("durable.bus", &mut raw, count, time, || {
        bus.round(time)
    })?);
    rows.push(alone(
        "durable.bus.latency",
        &mut raw,
        count,
        time / 3,
        || bus.each_us(time / 3),
    )?);
    bus.close()?;
    Ok(rows)
}

/// Until segments are used again. The first ones are small, and the large ones that follow are filled with zeros beside the writes: the bare
/// loop's file was filled before it began.
fn warm_up(size: Size, mut round: impl FnMut() -> Result<Round>, meter: &Meter) -> Result<()> {
    let start = Instant::now();
    let enough = size.pick(0, 640 << 20);
    loop {
        round()?;
        if meter.counts().written >= enough || start.elapsed() >= WARM_UP_MAX {
            return Ok(());
        }
    }
}

/// What one side did in one round.
struct Round {
    messages: u64,
    took: f64,
    disk: Counts,
    /// Of all threads.
    cpu_s: f64,
}

/// Rounds with many outstanding, beside groups of the same size written and synced by a bare loop.
fn grouped(
    name: &'static str,
    raw: &mut Raw,
    count: usize,
    time: Duration,
    mut round: impl FnMut() -> Result<Round>,
) -> Result<Row> {
    let mut rounds = Rounds::default();
    let (mut per_sync, mut busy, mut overhead) = (Vec::new(), Vec::new(), Vec::new());
    let mut cpu = Vec::new();
    for _ in 0..count {
        let Round {
            messages,
            took,
            disk,
            cpu_s,
        } = round()?;
        let group = messages as f64 / disk.syncs.max(1) as f64;
        let bytes = (group * PAYLOAD as f64) as usize;
        let theirs = raw.groups_per_s(bytes, time)? * group;
        rounds.add(messages as f64 / took, theirs);
        per_sync.push(group);
        busy.push(100.0 * disk.busy_s / took);
        overhead.push(disk.written as f64 / messages.max(1) as f64);
        cpu.push(1e6 * cpu_s / messages.max(1) as f64);
    }
    Ok(Row::of(name, "msg/s", &rounds)
        .also("messages_per_sync", median(per_sync))
        .also("committer_in_write_and_sync_percent", median(busy))
        .also("bytes_written_per_message", median(overhead))
        .also("processor_us_per_message", median(cpu))
        .also("outstanding", OUTSTANDING as f64))
}

/// Rounds with one outstanding: medians of how long each took.
fn alone(
    name: &'static str,
    raw: &mut Raw,
    count: usize,
    time: Duration,
    mut each_us: impl FnMut() -> Result<Vec<f64>>,
) -> Result<Row> {
    let mut rounds = Rounds::default();
    let mut beyond = Vec::new();
    for _ in 0..count {
        let (ours, theirs) = (median(each_us()?), median(raw.each_us(PAYLOAD, time)?));
        rounds.add(ours, theirs);
        beyond.push(ours - theirs);
    }
    Ok(Row::of(name, "µs p50", &rounds)
        .also("beyond_write_and_sync_us", median(beyond))
        .also("outstanding", 1.0))
}

fn now(start: Instant) -> Now {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        mono: start.elapsed(),
    }
}

/// The log alone, driven as its host drives it: a thread that writes, one that keeps segments ready, and one publisher.
struct LogSide {
    shared: Arc<LogShared>,
    meter: Arc<Meter>,
    stream: StreamId,
    threads: Vec<std::thread::JoinHandle<()>>,
    number: AtomicU64,
}

struct LogShared {
    log: Mutex<Log>,
    start: Instant,
    durable: AtomicU64,
    /// Something is staged.
    staged: Signal,
    /// Something was confirmed.
    confirmed: Signal,
    stop: AtomicBool,
    /// The publisher writes by itself.
    inline: Mutex<bool>,
}

#[derive(Default)]
struct Signal {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn kick(&self) {
        let mut set = self.set.lock();
        if !*set {
            *set = true;
            self.changed.notify_one();
        }
    }

    fn wait(&self) {
        let mut set = self.set.lock();
        if !*set {
            self.changed.wait_for(&mut set, Duration::from_millis(10));
        }
        *set = false;
    }
}

impl LogSide {
    fn open(path: &Path) -> Result<Self> {
        let (disk, meter) = Metered::new(path);
        let start = Instant::now();
        let (mut log, _) = Log::open(disk, postrider_log::Options::default(), now(start))?;
        let stream = log
            .create_stream("bench.durable", StreamConfig::default())?
            .0;
        let shared = Arc::new(LogShared {
            log: Mutex::new(log),
            start,
            durable: AtomicU64::new(0),
            staged: Signal::default(),
            confirmed: Signal::default(),
            stop: AtomicBool::new(false),
            inline: Mutex::new(false),
        });
        let threads = [
            (WRITER, LogShared::write as fn(&LogShared)),
            ("postrider-upkeep", LogShared::upkeep),
        ];
        let spawn = |(name, run): (&str, fn(&LogShared))| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(move || run(&shared))
        };
        let threads = threads
            .into_iter()
            .map(spawn)
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            shared,
            meter,
            stream,
            threads,
            number: AtomicU64::new(1),
        })
    }

    fn publish(&self, payload: &bytes::Bytes) -> Result<u64> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let mut id = [7; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let record = RecordIn {
            id,
            key: Some(bytes::Bytes::copy_from_slice(
                &(number % 1000).to_le_bytes(),
            )),
            value: Some(payload.clone()),
            ..RecordIn::default()
        };
        let now = now(self.shared.start);
        let mut log = self.shared.log.lock();
        Ok(log.publish_one(self.stream, &record, now)?.lsn.0)
    }

    fn round(&self, time: Duration) -> Result<Round> {
        let payload = bytes::Bytes::from(vec![b'x'; PAYLOAD]);
        let (before, start) = (self.meter.counts(), Instant::now());
        let cpu = child::cpu_s();
        let (mut last, mut messages) = (0, 0);
        while start.elapsed() < time {
            while last >= self.shared.durable.load(Ordering::Acquire) + OUTSTANDING {
                self.shared.check()?;
                self.shared.confirmed.wait();
            }
            last = self.publish(&payload)?;
            self.shared.staged.kick();
            messages += 1;
        }
        let took = start.elapsed().as_secs_f64();
        let disk = self.meter.counts().since(before);
        while self.shared.durable.load(Ordering::Acquire) < last {
            self.shared.check()?;
            self.shared.confirmed.wait();
        }
        Ok(Round {
            messages,
            took,
            disk,
            cpu_s: child::cpu_s() - cpu,
        })
    }

    /// One at a time, written and synced by the caller, as a program does that has the log to itself.
    fn each_us(&self, time: Duration) -> Result<Vec<f64>> {
        let mut inline = self.shared.inline.lock();
        *inline = true;
        let payload = bytes::Bytes::from(vec![b'x'; PAYLOAD]);
        let (start, mut each) = (Instant::now(), Vec::new());
        while start.elapsed() < time {
            let one = Instant::now();
            let lsn = self.publish(&payload)?;
            while !self.shared.log.lock().is_durable(postrider_log::Lsn(lsn)) {
                pump::write(&self.shared.log, now(self.shared.start))?;
            }
            each.push(one.elapsed().as_secs_f64() * 1e6);
        }
        *inline = false;
        Ok(each)
    }

    fn close(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().ok().context("a thread of the log panicked")?;
        }
        pump::close(&self.shared.log, now(self.shared.start))?;
        Ok(())
    }
}

impl LogShared {
    fn check(&self) -> Result<()> {
        anyhow::ensure!(!self.log.lock().is_poisoned(), "the log stopped");
        Ok(())
    }

    fn write(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            let inline = self.inline.lock();
            let progress = pump::write(&self.log, now(self.start));
            drop(inline);
            match progress {
                Ok(Some(progress)) => {
                    self.durable.store(progress.durable.0, Ordering::Release);
                    self.confirmed.kick();
                }
                Ok(None) => self.staged.wait(),
                // The publisher sees that the log stopped.
                Err(_) => return,
            }
        }
    }

    fn upkeep(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            match pump::upkeep(&self.log, now(self.start)) {
                Ok(step) if step.is_idle() => std::thread::sleep(Duration::from_millis(1)),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

/// A typed bus on a directory.
struct BusSide {
    runtime: Runtime,
    bus: Bus,
    meter: Arc<Meter>,
}

impl BusSide {
    fn open(path: &Path) -> Result<Self> {
        let runtime = runtime()?;
        let (disk, meter) = Metered::new(path);
        let mut options = Options::default();
        options.disk = Some(disk);
        let engine = Embedded::open(path, options)?;
        let bus = Bus::from_engine(Arc::new(engine), BusOptions::default());
        let bus = runtime.block_on(bus)?;
        Ok(Self {
            runtime,
            bus,
            meter,
        })
    }

    fn round(&self, time: Duration) -> Result<Round> {
        let (before, start) = (self.meter.counts(), Instant::now());
        let cpu = child::cpu_s();
        let messages = self.runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..OUTSTANDING {
                tasks.spawn(publish_until(self.bus.clone(), task, start + time));
            }
            let mut messages = 0;
            while let Some(done) = tasks.join_next().await {
                messages += done??;
            }
            anyhow::Ok(messages)
        })?;
        Ok(Round {
            messages,
            took: start.elapsed().as_secs_f64(),
            disk: self.meter.counts().since(before),
            cpu_s: child::cpu_s() - cpu,
        })
    }

    fn each_us(&self, time: Duration) -> Result<Vec<f64>> {
        let bus = self.bus.clone();
        let run = async move {
            let (start, mut each) = (Instant::now(), Vec::new());
            while start.elapsed() < time {
                let one = Instant::now();
                bus.publish(sample(each.len() as u64)).await?;
                each.push(one.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(each)
        };
        self.runtime.block_on(self.runtime.spawn(run))?
    }

    fn close(self) -> Result<()> {
        Ok(self.runtime.block_on(self.bus.close(GRACE))?)
    }
}

fn sample(n: u64) -> Sample {
    Sample {
        n: n % 1000,
        text: "x".repeat(PAYLOAD - 20),
    }
}

async fn publish_until(bus: Bus, task: u64, end: Instant) -> Result<u64> {
    let sample = sample(task);
    let mut count = 0;
    while Instant::now() < end {
        bus.publish(sample.clone()).await?;
        count += 1;
    }
    Ok(count)
}
