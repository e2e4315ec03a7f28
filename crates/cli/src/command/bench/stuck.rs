//! `stuck`: one message that nobody acknowledges must not pin what comes after it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use postrider::embedded::Options;
use postrider_log::disk::FileDisk;
use postrider_log::{
    Level, Log, MemberId, Now, Publish, RecordIn, Settle, SettleOp, StreamConfig, StreamId, SubId,
    SubscriptionConfig, Tx, pump,
};
use serde_json::{Value, json};

use super::flow::{self, Flow};
use super::place::Place;
use super::row::Row;
use super::{Size, child, runtime};

/// Of the flow by bytes: large messages, since bytes are what it is about.
const PAYLOAD: usize = 16 << 10;
const BATCH: u64 = 64;
/// Of the flow by number.
const ACKED_PER_COMMIT: usize = 1000;
const MIB: f64 = (1 << 20) as f64;

pub(super) fn run(place: &Place, size: Size) -> Result<Vec<Row>> {
    let bytes: u64 = size.pick(16 << 20, 5 << 30);
    let flowed = child::run(&[
        "flow",
        child::text(&place.path("flow"))?,
        &bytes.to_string(),
    ])?;
    let number = |name: &str| child::number(&flowed, name);
    let disk = Row::new(
        "stuck.disk",
        "MiB",
        number("disk_mib_max")?,
        bytes as f64 / MIB,
    )
    .also("msg_per_s", number("msg_per_s")?)
    .also("redelivered_after_restart", number("redelivered")?);
    let memory = Row::new(
        "stuck.memory",
        "MiB",
        number("resident_mib_max")?,
        number("resident_mib_early")?,
    );
    let count: u64 = size.pick(10_000, 50_000_000);
    let acked = child::run(&[
        "acked",
        child::text(&place.path("acked"))?,
        &count.to_string(),
    ])?;
    let number = |name: &str| child::number(&acked, name);
    let state = Row::new(
        "stuck.state",
        "KiB",
        number("state_kib")?,
        number("state_kib_early")?,
    )
    .also("acknowledged", count as f64)
    .also("msg_per_s", number("msg_per_s")?)
    .also("redelivered_after_restart", number("redelivered")?);
    Ok(vec![disk, memory, state])
}

/// Ids of messages are remembered this long: at the default of two minutes they would go on to grow for longer than the flow lasts, up to their
/// limit.
const DEDUPE_WINDOW: Duration = Duration::from_secs(1);

/// Lets bytes flow past one message that is held.
pub(super) fn flow(dir: &Path, bytes: u64) -> Result<Value> {
    runtime()?.block_on(async {
        let mut options = Options::default();
        options.dedupe_window = DEDUPE_WINDOW;
        let mut flow = Flow::open(dir, PAYLOAD, options).await?;
        let mut reader = flow.reader().await?;
        flow.publish(1).await?;
        let held = reader.next().await?;
        ensure!(held.len() == 1, "one message is held");
        let batches = bytes / (BATCH * PAYLOAD as u64);
        let (mut disk, mut early, mut resident) = (0, 0, 0);
        let start = Instant::now();
        for n in 0..batches {
            let messages = flow.messages(BATCH, |_| None);
            let publisher = Arc::clone(&flow.publisher);
            let publish = tokio::spawn(async move { flow::publish(&*publisher, messages).await });
            let mut acked = 0;
            while acked < BATCH {
                let leased = reader.next().await?;
                acked += leased.len() as u64;
                reader.ack(leased).await?;
            }
            publish.await??;
            if n % 16 == 15 || n + 1 == batches {
                disk = disk.max(child::on_disk(dir));
                resident = resident.max(child::resident());
                if early == 0 || n <= batches / 5 {
                    early = resident;
                }
            }
        }
        let took = start.elapsed().as_secs_f64();
        drop((held, reader));
        flow.close().await?;
        Ok(json!({
            "disk_mib_max": disk as f64 / MIB,
            "resident_mib_early": early.max(1) as f64 / MIB,
            "resident_mib_max": resident as f64 / MIB,
            "msg_per_s": (batches * BATCH) as f64 / took,
            "redelivered": runtime_redelivered(dir).await?,
        }))
    })
}

/// What comes again after a restart.
async fn runtime_redelivered(dir: &Path) -> Result<usize> {
    let flow = Flow::open(dir, PAYLOAD, Options::default()).await?;
    let mut reader = flow.reader().await?;
    let count = reader.next().await?.len();
    drop(reader);
    flow.close().await?;
    Ok(count)
}

/// A log without a host.
struct Bare {
    log: Mutex<Log>,
    start: Instant,
    stream: StreamId,
    sub: SubId,
}

impl Bare {
    fn open(dir: &Path) -> Result<Self> {
        let start = Instant::now();
        let disk = Arc::new(FileDisk::new(dir));
        let options = postrider_log::Options::default();
        let (mut log, _) = Log::open(disk, options, now(start))?;
        let config = StreamConfig {
            level: Level::Os,
            ..StreamConfig::default()
        };
        let stream = log.create_stream("bench.acked", config)?.0;
        let config = SubscriptionConfig {
            ordered: false,
            ..SubscriptionConfig::default()
        };
        let sub = log.create_subscription(stream, "bench", config)?.0;
        let log = Mutex::new(log);
        Ok(Self {
            log,
            start,
            stream,
            sub,
        })
    }

    fn commit(&self, tx: Tx) -> Result<()> {
        let now = now(self.start);
        self.log.lock().commit(tx, now)?;
        while !pump::step(&self.log, now)?.is_idle() {}
        Ok(())
    }

    fn publish(&self, count: usize) -> Result<()> {
        let record = RecordIn {
            value: Some("x".into()),
            ..RecordIn::default()
        };
        let publish = Publish {
            stream: self.stream,
            records: vec![record; count],
            ..Publish::default()
        };
        self.commit(Tx {
            publishes: vec![publish],
            ..Tx::default()
        })
    }

    /// Hands out what there is.
    fn lease(&self, max: usize) -> Result<Vec<SettleOp>> {
        let lease = Duration::from_secs(24 * 3600);
        let batch =
            self.log
                .lock()
                .lease(self.sub, MemberId(1), max, 64 << 20, lease, now(self.start))?;
        let op = |leased: postrider_log::Leased| SettleOp {
            sub: self.sub,
            offset: leased.record.offset,
            token: leased.token,
            how: Settle::Ack,
        };
        Ok(batch.messages.into_iter().map(op).collect())
    }

    fn close(self) -> Result<()> {
        Ok(pump::close(&self.log, now(self.start))?)
    }
}

fn now(start: Instant) -> Now {
    Now {
        wall_ms: 1_763_735_534_000,
        mono: start.elapsed(),
    }
}

/// Acknowledges messages behind one that is held. The size of the state is that of the checkpoint that holds it.
pub(super) fn acked(dir: &Path, count: u64) -> Result<Value> {
    let (state_early, _) = acked_once(&dir.join("early"), count.min(10_000))?;
    let start = Instant::now();
    let (state, redelivered) = acked_once(&dir.join("all"), count)?;
    Ok(json!({
        "state_kib": state as f64 / 1024.0,
        "state_kib_early": state_early as f64 / 1024.0,
        "msg_per_s": count as f64 / start.elapsed().as_secs_f64(),
        "redelivered": redelivered,
    }))
}

fn acked_once(dir: &Path, count: u64) -> Result<(u64, usize)> {
    let log = Bare::open(dir)?;
    log.publish(1)?;
    ensure!(log.lease(1)?.len() == 1, "one message is held");
    let mut left = usize::try_from(count)?;
    while left > 0 {
        let batch = left.min(ACKED_PER_COMMIT);
        log.publish(batch)?;
        let settles = log.lease(batch)?;
        ensure!(settles.len() == batch, "what was published is handed out");
        log.commit(Tx {
            settles,
            ..Tx::default()
        })?;
        left -= batch;
    }
    log.close()?;
    let newest = std::fs::read_dir(dir.join("ckpt"))?
        .flatten()
        .max_by_key(std::fs::DirEntry::file_name);
    let state = newest.map_or(Ok(0), |entry| entry.metadata().map(|found| found.len()))?;
    let log = Bare::open(dir)?;
    let redelivered = log.lease(ACKED_PER_COMMIT)?.len();
    Ok((state, redelivered))
}
