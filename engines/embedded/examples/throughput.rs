//! How fast a directory takes confirmed messages, next to what its disk can do at all:
//!
//! ```text
//! cargo run --release -p postrider-embedded --example throughput -- DIR [SECONDS]
//! ```
//!
//! Prints messages per second of publishes of 1 KiB with 256 outstanding, each confirmed after a sync; the same with a consumer
//! that acknowledges each; and, as the measure of the disk, what a bare loop of a write and `fdatasync` reaches with one message and
//! with 256 at once. Numbers of one machine mean little; the ratio says what the engine costs.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postrider_core::clock::Timestamp;
use postrider_core::engine::Engine;
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::id::{InstanceId, MessageId};
use postrider_core::message::Key;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::settle::{Settle, SettleOp};
use postrider_core::source::{Credit, LeaseSource, SeekTo, Source};
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{ProvisionMode, SubscriptionNeed, Topology};
use postrider_embedded::{Embedded, Options};

const OUTSTANDING: u32 = 256;
const PAYLOAD: usize = 1024;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = args
        .next()
        .ok_or("name a directory that does not exist yet")?;
    let directory = Path::new(&directory);
    let time = Duration::from_secs(args.next().map_or(Ok(5), |text| text.parse())?);
    std::fs::create_dir(directory)?;

    let one = raw(&directory.join("raw"), PAYLOAD, time)?;
    println!("bare write + sync of 1 KiB          {one:>9.0} syncs/s");
    let many = raw(&directory.join("raw"), PAYLOAD * OUTSTANDING as usize, time)?;
    let disk = many * f64::from(OUTSTANDING);
    println!("bare write + sync of 256 KiB        {many:>9.0} syncs/s = {disk:.0} KiB/s");
    let published = run(&directory.join("publish"), time, false).await?;
    let (of_disk, per_sync) = (published / disk, published / one);
    println!(
        "publish, 256 outstanding            {published:>9.0} msg/s   {of_disk:.2} of the disk, {per_sync:.1} x one sync each"
    );
    let handled = run(&directory.join("handle"), time, true).await?;
    println!(
        "publish, hand out and acknowledge   {handled:>9.0} msg/s   {:.2} of the disk",
        handled / disk
    );
    Ok(())
}

/// Writes and syncs in a file that was filled before, as the log does. Gives syncs per second.
fn raw(path: &Path, size: usize, time: Duration) -> io::Result<f64> {
    const FILE: u64 = 64 << 20;
    let file = std::fs::File::create(path)?;
    for at in (0..FILE).step_by(1 << 20) {
        file.write_all_at(&vec![0; 1 << 20], at)?;
    }
    file.sync_all()?;
    let bytes = vec![7u8; size];
    let (start, mut count, mut at) = (Instant::now(), 0u32, 0);
    while start.elapsed() < time {
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        // The next block, as a log that never rewrites one.
        at = (at + (size as u64).next_multiple_of(4096)) % (FILE - (1 << 20));
        count += 1;
    }
    std::fs::remove_file(path)?;
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

fn message(destination: &Destination, n: u64) -> Outgoing {
    let id = MessageId::v7(Timestamp(n), [n, n]);
    let time = Timestamp(1_763_735_534_000);
    let mut envelope = Envelope::new(id, "throughput".into(), "sample".into(), time);
    envelope.key = Some(Key::of(&(n % 1_000)));
    let payload = vec![b'x'; PAYLOAD].into();
    Outgoing {
        destination: destination.clone(),
        envelope,
        payload,
    }
}

async fn run(directory: &Path, time: Duration, handle: bool) -> Result<f64> {
    let engine = Embedded::open(directory, Options::default())?;
    let destination = Destination::topic("samples")?;
    let id = SubscriptionId::parse("sink@topic:samples")?;
    let need = SubscriptionNeed {
        id: id.clone(),
        ordered: true,
        start: SeekTo::Earliest,
    };
    let topology = Topology {
        destinations: Vec::new(),
        subscriptions: vec![need],
    };
    engine.provision(&topology, ProvisionMode::Create).await?;
    let next = Arc::new(AtomicU64::new(1));
    let handled = Arc::new(AtomicU64::new(0));
    if handle {
        let spec = SubscriptionSpec::new(id, InstanceId(1));
        let Source::Lease(source) = engine.open(&spec).await? else {
            return Err("the engine opens subscriptions as lease sources".into());
        };
        tokio::spawn(drain(source, Arc::clone(&handled)));
    }
    let publisher = engine.publisher().await?;
    let mut tasks = tokio::task::JoinSet::new();
    let start = Instant::now();
    for _ in 0..OUTSTANDING {
        let (publisher, destination) = (Arc::clone(&publisher), destination.clone());
        let next = Arc::clone(&next);
        tasks.spawn(async move {
            while start.elapsed() < time {
                let n = next.fetch_add(1, Ordering::Relaxed);
                for result in publisher.publish(vec![message(&destination, n)]).await {
                    result.expect("the disk is there");
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let took = start.elapsed().as_secs_f64();
    let published = next.load(Ordering::Relaxed) - 1;
    let count = if handle {
        handled.load(Ordering::Relaxed)
    } else {
        published
    };
    engine.close(Duration::from_secs(10)).await?;
    Ok(count as f64 / took)
}

async fn drain(mut source: Box<dyn LeaseSource>, handled: Arc<AtomicU64>) {
    let settler = source.settler();
    let room = Credit {
        messages: 1024,
        bytes: 8 << 20,
    };
    while let Ok(leased) = source.next(room).await {
        let count = leased.len() as u64;
        let ops = leased.into_iter().map(|one| SettleOp {
            token: one.token,
            settle: Settle::Ack,
        });
        if settler
            .settle(ops.collect())
            .await
            .iter()
            .all(std::result::Result::is_ok)
        {
            handled.fetch_add(count, Ordering::Relaxed);
        }
    }
}
