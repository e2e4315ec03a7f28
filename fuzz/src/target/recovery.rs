//! Opening a log directory whose files were changed behind its back: it opens with what is left, or refuses, and what it opens works.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_log::disk::{Disk, SimDisk};
use postrider_log::{
    FailureIn, Header, Log, MemberId, Now, Options, Park, Publish, RecordIn, Settle, SettleOp,
    StreamConfig, SubscriptionConfig, Tx, fuzz, pump,
};

/// Bytes of an operation: which file, what, where (3), with what.
const OP: usize = 6;

fn now(ms: u64) -> Now {
    Now::from_millis(1_700_000_000_000 + ms, ms)
}

/// A directory with records, settles, failures, a parked key and a checkpoint, after a kill.
fn sound() -> &'static SimDisk {
    static DISK: OnceLock<SimDisk> = OnceLock::new();
    DISK.get_or_init(|| made().expect("a simulated disk takes it"))
}

fn made() -> Result<SimDisk, postrider_log::Error> {
    let disk = SimDisk::new(7);
    let (log, _) = Log::open(
        Arc::new(disk.clone()) as Arc<dyn Disk>,
        Options::default(),
        now(0),
    )?;
    let log = Mutex::new(log);
    for round in 0..3u64 {
        let stream = log
            .lock()
            .create_stream("shop.order", StreamConfig::default())?
            .0;
        let sub = log
            .lock()
            .create_subscription(stream, "inventory", SubscriptionConfig::default())?
            .0;
        let records = (0..8u64).map(|n| RecordIn {
            key: Some(Bytes::from(format!("order-{}", n % 3))),
            value: Some(Bytes::from(format!("payload {round} {n}"))),
            headers: vec![Header {
                name: Bytes::from_static(b"ce_id"),
                value: Some(Bytes::from_static(b"1")),
            }],
            ..RecordIn::default()
        });
        let publish = Publish {
            stream,
            records: records.collect(),
            ..Publish::default()
        };
        log.lock().commit(
            Tx {
                publishes: vec![publish],
                crash_states: vec![(sub, Bytes::from_static(b"{}"))],
                ..Tx::default()
            },
            now(round),
        )?;
        pump::run_until_idle(&log, now(round))?;
        let batch = log.lock().lease(
            sub,
            MemberId(1),
            4,
            1 << 20,
            Duration::from_secs(30),
            now(round),
        )?;
        let settles = batch
            .messages
            .iter()
            .enumerate()
            .map(|(n, leased)| SettleOp {
                sub,
                offset: leased.record.offset,
                token: leased.token,
                how: match n {
                    0 if round == 0 => Settle::Dead(FailureIn {
                        group: "no such item".to_owned(),
                        meta: Bytes::from_static(b"{}"),
                        key: leased.record.key.clone(),
                        park: Park::Key,
                    }),
                    1 => Settle::Return {
                        delay: Duration::from_secs(1),
                        count: true,
                    },
                    _ => Settle::Ack,
                },
            });
        let settles = settles.collect();
        log.lock().commit(
            Tx {
                settles,
                ..Tx::default()
            },
            now(round),
        )?;
        pump::run_until_idle(&log, now(round))?;
        if round == 1 {
            log.lock().request_checkpoint(now(round));
            pump::run_until_idle(&log, now(round))?;
        }
    }
    Ok(disk.kill())
}

/// Each six bytes change one file.
pub fn run(input: &[u8]) {
    let disk = sound().kill();
    let paths = disk.paths();
    for (op, rest) in input.chunks_exact(OP).zip(1..).take(64) {
        let path = &paths[usize::from(op[0]) % paths.len()];
        let at = usize::from(op[2]) << 16 | usize::from(op[3]) << 8 | usize::from(op[4]);
        let rest = input.get(rest * OP..).unwrap_or_default();
        if op[1] % 8 == 7 {
            disk.remove(path);
            continue;
        }
        disk.edit(path, |file| edit(file, op[1] % 8, at, op[5], rest));
    }
    if let Ok((log, _)) = Log::open(
        Arc::new(disk) as Arc<dyn Disk>,
        Options::default(),
        now(9_000),
    ) {
        use_it(log);
    }
}

fn edit(file: &mut Vec<u8>, what: u8, at: usize, with: u8, rest: &[u8]) {
    // Most of a segment is empty: places are counted in what is written.
    let written = file
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let at = at % (written + 64);
    let span = usize::from(with) * 16;
    match what {
        0 | 1 => {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= with.max(1);
            }
        }
        2 => file.truncate(at),
        3 => file
            .iter_mut()
            .skip(at)
            .take(span)
            .for_each(|byte| *byte = 0),
        4 => {
            let copy: Vec<u8> = file.iter().copied().take(span).collect();
            copy.iter()
                .zip(file.iter_mut().skip(at))
                .for_each(|(from, to)| *to = *from);
        }
        5 => rest
            .iter()
            .zip(file.iter_mut().skip(at))
            .for_each(|(from, to)| *to = *from),
        _ => *file = rest.to_vec(),
    }
}

/// What opened must go on working, or say that it does not.
fn use_it(log: Log) {
    let log = Mutex::new(log);
    let stream = log
        .lock()
        .create_stream("shop.order", StreamConfig::default());
    let Ok((stream, ..)) = stream else { return };
    let sub = log
        .lock()
        .create_subscription(stream, "inventory", SubscriptionConfig::default());
    let record = RecordIn {
        key: Some("order-9".into()),
        value: Some("after".into()),
        ..RecordIn::default()
    };
    let publish = Publish {
        stream,
        records: vec![record],
        ..Publish::default()
    };
    let published = log.lock().commit(
        Tx {
            publishes: vec![publish],
            ..Tx::default()
        },
        now(9_100),
    );
    let pumped = pump::run_until_idle(&log, now(9_100));
    if let (Ok((sub, ..)), Ok(_), Ok(_)) = (sub, published, pumped) {
        let leased = log.lock().lease(
            sub,
            MemberId(2),
            100,
            1 << 20,
            Duration::from_secs(30),
            now(99_000),
        );
        drop(leased);
        let log = log.lock();
        let _ = (log.parked_keys(sub), log.crash_state(sub));
    }
}

/// The entries of the directory's segments, once each.
pub(super) fn entries() -> Vec<(String, Vec<u8>)> {
    let disk = sound();
    let mut entries: Vec<Vec<u8>> = disk
        .paths()
        .iter()
        .filter_map(|path| disk.content(path))
        .flat_map(|file| fuzz::entries(&file))
        .collect();
    entries.sort();
    entries.dedup();
    let named = entries.into_iter().enumerate();
    named
        .map(|(n, bytes)| (format!("entry-{n:02}-kind-{}", bytes[0]), bytes))
        .collect()
}

/// One operation of each kind on each file.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let files = sound().paths().len() as u8;
    let mut seeds = vec![("untouched".to_owned(), Vec::new())];
    for file in 0..files {
        for what in [0, 2, 3, 4, 6, 7] {
            seeds.push((
                format!("file-{file}-op-{what}"),
                vec![file, what, 0, 1, 7, 3],
            ));
        }
    }
    seeds
}
