//! The physical layer, by seed, cut at every operation, after a failed sync, on a full disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use postrider_log::Error;
use postrider_log::disk::{Fault, SimDisk};
use postrider_log::wal::{EntryBytes, Sync, Wal};

use crate::harness::rng::Rng;
use crate::harness::{Op, fields, run};
use crate::wal::{Ledger, WalSimulation, What, World, life, options, step};

/// 02 §4.4, 2: 10,000 seeds in CI.
#[test]
fn acceptance_02_acknowledged_frames_survive_power_cuts_and_kills() {
    let counts = run::<WalSimulation>();
    println!(
        r#"proof: {{"name":"wal_simulation","what":"the physical layer of the log on a disk whose power fails"{}}}"#,
        fields(&counts)
    );
    let seeds = counts.get("seeds").copied().unwrap_or_default();
    if seeds >= 500 {
        assert!(
            counts["frames"] > seeds * 20,
            "the workload hardly survives: {counts:?}"
        );
        let happens = [
            "power cuts",
            "kills",
            "power cuts while opening",
            "recycled",
            "full disks",
            "flipped bits",
            "flips refused at opening",
            "slow writes",
            "planned failures",
        ];
        for what in happens {
            assert!(counts.get(what) > Some(&0), "never: {what}");
        }
    }
}

/// A few stories of one life, cut at each single operation of the disk, opening included.
#[test]
fn power_may_fail_at_every_operation() {
    let mut cuts = 0;
    for seed in 1..=10 {
        let story = one_life(seed);
        let play = |disk: &SimDisk| {
            let mut world = World::new(disk.clone());
            world.open(0);
            story.iter().for_each(|op| world.act(*op));
            world.ledger
        };
        let whole = SimDisk::new(seed);
        play(&whole);
        assert!(whole.operations() > 40, "the story does too little");
        for operation in 1..=whole.operations() {
            let disk = SimDisk::new(seed);
            disk.power_off_at(operation);
            let ledger = play(&disk);
            assert!(disk.is_off());
            for way in 0..3 {
                let after = disk.crash(seed ^ (operation << 8) ^ way);
                let (mut ledger, survived) = (ledger.clone(), ledger.durable);
                let opened = ledger.open(&after, survived);
                opened.unwrap_or_else(|error| {
                    panic!("seed {seed}, operation {operation}, way {way}: {error}")
                });
                cuts += 1;
            }
        }
    }
    println!(
        r#"proof: {{"name":"wal_cut_everywhere","what":"the power cut at every operation of ten stories of the physical layer","cuts":{cuts}}}"#
    );
}

/// 02 §4.4, 4: of the writes and the new names between two syncs every subset survives, for up to 10 of them.
#[test]
fn acceptance_04_every_subset_of_unsynced_writes_keeps_what_was_confirmed() {
    const POINTS: usize = 6;
    let (mut points, mut subsets) = ([0; 11], 0_u64);
    for seed in 1..=300 {
        let mut world = World::new(SimDisk::new(seed));
        world.open(0);
        for op in unsynced_life(seed) {
            world.act(op);
            let pending = world.disk.pending();
            let n = pending.len();
            if n == 0 || n > 10 || points[n] >= POINTS {
                continue;
            }
            points[n] += 1;
            for mask in 0..1_u32 << n {
                let kept = pending.iter().enumerate();
                let kept = kept.filter(|(nth, _)| mask >> nth & 1 == 1);
                let kept: BTreeSet<u64> = kept.map(|(_, operation)| *operation).collect();
                let after = world.disk.crash_keeping(&kept);
                let mut ledger = world.ledger.clone();
                let survived = ledger.durable;
                let opened = ledger.open(&after, survived);
                opened.unwrap_or_else(|error| {
                    panic!("seed {seed}, {kept:?} of {pending:?} survive: {error}")
                });
                subsets += 1;
            }
        }
        if points[1..].iter().all(|of_n| *of_n >= POINTS) {
            break;
        }
    }
    assert!(points[1..].iter().all(|of_n| *of_n >= POINTS), "{points:?}");
    println!(
        r#"proof: {{"name":"acceptance_04","what":"every subset of up to 10 unsynced writes and names","points":{},"subsets":{subsets},"lost":0}}"#,
        10 * POINTS
    );
}

/// A life that hardly ever syncs.
fn unsynced_life(seed: u64) -> Vec<Op<What>> {
    let rng = &mut Rng(seed);
    let mut story = Vec::new();
    for _ in 0..60 {
        let what: &[What] = match rng.below(20) {
            0 => &[What::Append],
            1..3 => &[What::Prepare],
            3 => &[What::Checkpoint],
            _ => &[What::AppendLazy, What::Begin, What::Finish],
        };
        story.extend(what.iter().map(|what| Op::new(*what, rng)));
    }
    story
}

/// A life without an end and without a failure.
fn one_life(seed: u64) -> Vec<Op<What>> {
    let mut story = Vec::new();
    life(&mut Rng(seed), 60, &mut story);
    let quiet = |op: &Op<What>| {
        !matches!(
            op.what,
            What::PowerOffIn(_) | What::FailIn(..) | What::Fill(_) | What::Restart
        )
    };
    story.retain(quiet);
    story
}

/// 02 §4.4, 9: a sync (or a write) fails once; nothing is confirmed after it, nothing that was confirmed is lost, and the next start is an
/// ordinary one. 1,000 stories, each with the failure at another operation.
#[test]
fn acceptance_09_after_a_failed_sync_nothing_is_confirmed_and_nothing_confirmed_is_lost() {
    let seeds = 1_000;
    for seed in 1..=seeds {
        let rng = &mut Rng(seed);
        let mut world = World::new(SimDisk::new(seed));
        world.open(0);
        let disk = world.disk.clone();
        let fault = [Fault::Sync, Fault::Write][(seed % 2) as usize];
        let ahead = rng.below(60);
        world.act(Op::new(What::FailIn(fault, ahead), rng));
        while !world.broken {
            let what = step(rng);
            world.act(Op::new(what, rng));
        }
        let (mut wal, mut ledger) = world.into_parts();
        assert!(wal.is_poisoned(), "seed {seed}");
        let durable = wal.durable();
        let one = [EntryBytes {
            kind: 1,
            flags: 0,
            body: &[b"more"],
        }];
        let appended = wal.append(&one, Sync::Now);
        assert!(matches!(appended, Err(Error::Poisoned { .. })));
        assert!(matches!(wal.begin(), Err(Error::Poisoned { .. })));
        assert!(matches!(wal.begin_sync(), Err(Error::Poisoned { .. })));
        assert!(matches!(wal.close(), Err(Error::Poisoned { .. })));
        assert_eq!(wal.durable(), durable);
        drop(wal);
        // The next process sees a page cache that shows more than the disk has. What it confirms must be on the disk.
        let killed = disk.kill();
        let (mut wal, report) = ledger.open(&killed, durable.0).unwrap();
        ledger.append(&mut wal, Sync::Now, false).unwrap();
        let job = wal.begin().unwrap();
        ledger.finish(&mut wal, job).unwrap();
        assert!(ledger.durable > report.last.0);
        let after = killed.crash(rng.next());
        let survived = ledger.durable;
        ledger.open(&after, survived).unwrap();
    }
    println!(
        r#"proof: {{"name":"acceptance_09","what":"a sync or a write fails once","stories":{seeds},"confirmed_after_it":0,"lost":0}}"#
    );
}

/// 02 §4.4, 10, physical layer: publishers are refused before the last bytes are used, what frees space goes on, and with space publishers do.
#[test]
fn acceptance_10_a_full_disk_refuses_publishers_first_and_recovers_unaided() {
    let disk = SimDisk::new(1);
    let mut world = Ledger::default();
    let (mut wal, _) = world.open(&disk, 0).unwrap();
    let used: u64 = disk
        .paths()
        .iter()
        .map(|path| disk.content(path).unwrap().len() as u64)
        .sum();
    disk.set_capacity(Some(used + 1024));
    let body = [7; 300];
    let entry = [EntryBytes {
        kind: 1,
        flags: 0,
        body: &[&body],
    }];
    let refused = loop {
        match wal.append(&entry, Sync::Now) {
            Ok(_) => world.finish_all(&mut wal),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(!wal.is_poisoned());
    wal.append_reserved(&entry, Sync::Now)
        .expect("the reserve is for settles");
    world.finish_all(&mut wal);
    assert_eq!(wal.durable(), wal.last());
    let job = wal.prepare_step().expect("space is looked for again");
    assert!(matches!(
        wal.finish_prepare(job.run()),
        Err(Error::Full { .. })
    ));
    assert!(matches!(
        wal.append(&entry, Sync::Now),
        Err(Error::Full { .. })
    ));
    disk.set_capacity(None);
    while let Some(job) = wal.prepare_step() {
        wal.finish_prepare(job.run()).unwrap();
    }
    wal.append(&entry, Sync::Now).unwrap();
    world.finish_all(&mut wal);
    assert_eq!(wal.durable(), wal.last());
    let last = wal.last();
    drop(wal);
    let (_, report) = Wal::open(
        Arc::new(disk.crash(3)),
        options(),
        &mut postrider_log::wal::NoReplay,
    )
    .unwrap();
    assert_eq!(report.last, last);
}

#[test]
fn making_a_directory_may_be_killed_and_then_lose_power() {
    let open = |disk: &SimDisk| {
        Wal::open(
            Arc::new(disk.clone()),
            options(),
            &mut postrider_log::wal::NoReplay,
        )
        .map(|_| ())
    };
    let whole = SimDisk::new(1);
    open(&whole).unwrap();
    assert!(whole.operations() > 10);
    for first in 1..=whole.operations() {
        let disk = SimDisk::new(1);
        disk.power_off_at(first);
        assert!(open(&disk).is_err());
        for second in 1..=whole.operations() {
            let again = disk.kill();
            again.power_off_at(second);
            let _ = open(&again);
            for way in 0..6 {
                let after = again.crash(first * 1_000 + second * 10 + way);
                open(&after).unwrap_or_else(|error| panic!("{first}, {second}, {way}: {error}"));
            }
        }
    }
}
