//! The physical layer, by seed, cut at every operation, after a failed sync, on a full disk.

use std::sync::Arc;

use postrider_log::Error;
use postrider_log::disk::{Fault, SimDisk};
use postrider_log::wal::{EntryBytes, Sync, Wal};

use crate::harness::rng::Rng;
use crate::harness::{Op, fields, run};
use crate::wal::{Ledger, WalSimulation, What, World, life, options, step};

#[test]
fn acknowledged_frames_survive_power_cuts_and_kills() {
    let counts = run::<WalSimulation>();
    println!(
        r#"proof: {{"name":"wal_simulation","what":"the physical layer of the log on a disk whose power fails"{}}}"#,
        fields(&counts)
    );
    let seeds = counts["seeds"];
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
