//! The process that is traced: a real log on a real directory. Before each call of the disk it writes a mark that the trace shows.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::{Disk, DiskFile, FileDisk, LockOutcome, OpenMode};
use postrider_log::wal::WalOptions;
use postrider_log::{
    Kind, Log, MemberId, Now, Options, Publish, RecordIn, Settle, SettleOp, StreamConfig,
    SubscriptionConfig, Tx, pump,
};

/// Marks begin so.
pub(crate) const MARK: &str = "traced: ";

/// Past the capture of the test harness, in one system call.
fn mark(text: &str) {
    let line = format!("{MARK}{text}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

pub(crate) fn options() -> Options {
    Options {
        wal: WalOptions {
            segment_bytes: [16 << 10, 16 << 10, 32 << 10],
            checkpoint_bytes: 24 << 10,
            reserve_bytes: 2048,
            fill_bytes: 16 << 10,
            ..WalOptions::default()
        },
        ..Options::default()
    }
}

pub(crate) const NOW: Now = Now {
    wall_ms: 1_700_000_000_000,
    mono: std::time::Duration::from_secs(1),
};
pub(crate) const EVENTS: &str = "shop.audit";

/// Publishes, settles, checkpoints; every second process closes its log in order.
pub(crate) fn run(directory: &Path) {
    let disk = Marked(FileDisk::new(directory));
    let (mut log, _) = Log::open(Arc::new(disk), options(), NOW).unwrap();
    let kind = |kind| StreamConfig {
        kind,
        ..StreamConfig::default()
    };
    let events = log.create_stream(EVENTS, kind(Kind::Events)).unwrap().0;
    let work = log.create_stream("shop.work", kind(Kind::Queue)).unwrap().0;
    let config = SubscriptionConfig::default();
    let sub = log.create_subscription(work, "workers", config).unwrap().0;
    let next = log.next_offset(events).unwrap();
    let log = Mutex::new(log);
    pump::run_until_idle(&log, NOW).unwrap();
    for id in next..next + 40 {
        let record = RecordIn {
            id: u128::from(id + 1).to_le_bytes(),
            value: Some(Bytes::from(vec![id as u8; 700])),
            ..RecordIn::default()
        };
        let publish = |stream| Publish {
            stream,
            records: vec![record.clone()],
            ..Publish::default()
        };
        let tx = Tx {
            publishes: vec![publish(events), publish(work)],
            ..Tx::default()
        };
        let ticket = log.lock().commit(tx, NOW).unwrap();
        if id % 3 > 0 {
            pump::run_until_idle(&log, NOW).unwrap();
            assert!(log.lock().is_safe(&ticket));
            mark(&format!("confirmed {}", id + 1));
        }
        let lease = std::time::Duration::from_secs(60);
        let batch = log.lock().lease(sub, MemberId(1), 2, 1 << 20, lease, NOW);
        let settles = batch.unwrap().messages.into_iter().map(|leased| SettleOp {
            sub,
            offset: leased.record.offset,
            token: leased.token,
            how: Settle::Ack,
        });
        let tx = Tx {
            settles: settles.collect(),
            ..Tx::default()
        };
        log.lock().commit(tx, NOW).unwrap();
    }
    pump::run_until_idle(&log, NOW).unwrap();
    mark(&format!("confirmed {}", next + 40));
    pump::idle(&log).unwrap();
    if next > 0 {
        pump::close(&log, NOW).unwrap();
    }
    mark("end");
}

/// The real disk, with a mark before each of its calls.
#[derive(Debug)]
struct Marked(FileDisk);

#[derive(Debug)]
struct MarkedFile(Arc<dyn DiskFile>, String);

impl Disk for Marked {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        mark(&format!("open {mode:?} {path}"));
        let file = self.0.open(path, mode)?;
        Ok(Arc::new(MarkedFile(file, path.to_owned())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        mark(&format!("rename {from} {to}"));
        self.0.rename(from, to)
    }
    fn unlink(&self, path: &str) -> io::Result<()> {
        mark(&format!("unlink {path}"));
        self.0.unlink(path)
    }
    fn mkdir(&self, path: &str) -> io::Result<()> {
        mark(&format!("mkdir {path}"));
        self.0.mkdir(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        mark(&format!("list {path}"));
        self.0.list(path)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        mark(&format!("sync_dir {path}"));
        self.0.sync_dir(path)
    }
    fn lock(&self, path: &str) -> io::Result<LockOutcome> {
        mark(&format!("lock {path}"));
        self.0.lock(path)
    }
    fn entropy(&self) -> io::Result<[u8; 16]> {
        mark("entropy");
        self.0.entropy()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

impl DiskFile for MarkedFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        mark(&format!("read_at {}", self.1));
        self.0.read_at(buf, at)
    }
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        mark(&format!("write_at {} {at} {}", self.1, bytes.len()));
        self.0.write_at(bytes, at)
    }
    fn sync_data(&self) -> io::Result<()> {
        mark(&format!("sync_data {}", self.1));
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        mark(&format!("len {}", self.1));
        self.0.len()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        mark(&format!("allocate {} {len}", self.1));
        self.0.allocate(len)
    }
}
