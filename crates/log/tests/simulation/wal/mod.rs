//! The physical layer on a simulated disk: random work, the power cut (or the process killed) at any operation, then opened again.
//!
//! What must hold: nothing reported durable is lost (after a kill: nothing reported written), frames are whole and in order, no LSN is given out
//! twice, what can be read is what was appended.

mod story;

use std::sync::Arc;

use crate::harness::rng::Rng;
use crate::harness::{Op, fields, run, tell};
use postrider_log::Error;
use postrider_log::disk::{Fault, SimDisk};
use story::{What, World};

pub(crate) use story::WalSimulation;

use postrider_log::wal::{
    EntryBytes, FrameRef, JobDone, Location, Lsn, OpenReport, SegmentId, Sync, Visitor, Wal,
    WalOptions,
};

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: [16 << 10, 16 << 10, 32 << 10],
        frame_bytes_max: 40 << 10,
        staged_bytes_max: 48 << 10,
        tail_bytes_max: 8 << 10,
        reserve_bytes: 4 << 10,
        checkpoint_bytes: 24 << 10,
        fill_bytes: 16 << 10,
        pool_segments_max: 2,
    }
}

/// The bodies of one frame, made from its number.
fn bodies(tag: u64) -> Vec<Vec<u8>> {
    let mut random = Rng(tag);
    let count = 1 + random.below(3);
    let one = |_| {
        let len = match random.below(20) {
            0 => random.below(9_000),
            1 => 0,
            _ => random.below(600),
        };
        (0..len.div_ceil(8))
            .flat_map(|_| random.next().to_le_bytes())
            .take(len as usize)
            .collect()
    };
    (0..count).map(one).collect()
}

fn hash(bodies: &[Vec<u8>]) -> u64 {
    let mut state = Rng(bodies.len() as u64);
    for body in bodies {
        state.0 ^= body.len() as u64;
        for chunk in body.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state.0 = state.next() ^ u64::from_le_bytes(word);
        }
    }
    state.next()
}

/// What is known of a frame that was appended.
#[derive(Debug, Clone)]
struct Known {
    lsn: u64,
    hash: u64,
    tag: u64,
    locations: Vec<Location>,
}

/// What a log shows when it is opened.
#[derive(Default)]
struct Replay(Vec<(u64, u64)>);

impl Visitor for Replay {
    fn checkpoint(&mut self, section: &str, bytes: &[u8]) -> Result<(), Error> {
        assert_eq!(section, "history");
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        self.0.extend(
            bytes
                .chunks(16)
                .map(|pair| (number(&pair[..8]), number(&pair[8..]))),
        );
        Ok(())
    }
    fn frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Error> {
        let bodies: Vec<Vec<u8>> = frame.entries().map(|entry| entry.body.to_vec()).collect();
        self.0.push((frame.lsn().0, hash(&bodies)));
        Ok(())
    }
}

/// All that happened to one directory, over its crashes.
#[derive(Default, Clone)]
struct Ledger {
    frames: Vec<Known>,
    tags: u64,
    minted: u64,
    written: u64,
    durable: u64,
    closed: bool,
}

impl Ledger {
    /// Opens the log and holds what it shows against what is known. `survived`: every frame up to this LSN must be there.
    fn open(&mut self, disk: &SimDisk, survived: u64) -> Result<(Wal, OpenReport), Error> {
        // An opening that fails may have taken the mark away.
        let closed = std::mem::take(&mut self.closed);
        let mut replay = Replay::default();
        let (wal, report) = Wal::open(Arc::new(disk.clone()), options(), &mut replay)?;
        let shown = replay.0;
        self.check_shown(&shown);
        if let Some(lost) = self.frames.get(shown.len()) {
            assert!(
                lost.lsn > survived,
                "frame {} is lost, {survived} was confirmed",
                lost.lsn
            );
        }
        if closed {
            assert!(report.clean, "a clean stop is not seen as one");
        }
        assert!(
            report.next.0 > self.minted,
            "{:?} may be given out twice",
            report.next
        );
        self.frames.truncate(shown.len());
        self.durable = report.last.0;
        self.written = report.last.0;
        self.check_reads(&wal);
        Ok((wal, report))
    }

    /// What a log shows is what was appended, from the first frame on.
    fn check_shown(&self, shown: &[(u64, u64)]) {
        assert!(
            shown.len() <= self.frames.len(),
            "a frame came from nowhere"
        );
        for (shown, known) in shown.iter().zip(&self.frames) {
            assert_eq!(
                *shown,
                (known.lsn, known.hash),
                "another frame than was appended"
            );
        }
    }

    /// What can be read is right, where a bit was flipped.
    fn check_reads_damaged(&self, wal: &Wal) {
        for known in &self.frames {
            for (body, location) in bodies(known.tag).iter().zip(&known.locations) {
                if let Ok(read) = wal.read(*location) {
                    assert_eq!(&read[..], &body[..], "served: frame {}", known.lsn);
                }
            }
        }
    }

    fn check_reads(&self, wal: &Wal) {
        let held: Vec<SegmentId> = wal.segments().iter().map(|segment| segment.id).collect();
        for known in &self.frames {
            for (body, location) in bodies(known.tag).iter().zip(&known.locations) {
                match wal.read(*location) {
                    Ok(read) => assert_eq!(&read[..], &body[..], "frame {}", known.lsn),
                    Err(Error::UnknownSegment { segment }) => assert!(!held.contains(&segment)),
                    // A planted failure: it says so, and serves nothing.
                    Err(Error::Io { .. }) => {}
                    Err(error) => panic!("frame {}: {error}", known.lsn),
                }
            }
        }
    }

    fn append(&mut self, wal: &mut Wal, sync: Sync, reserved: bool) -> Result<(), Error> {
        self.tags += 1;
        let tag = self.tags;
        let bodies = bodies(tag);
        let split: Vec<[&[u8]; 2]> = bodies
            .iter()
            .map(|body| body.split_at(body.len() / 3).into())
            .collect();
        let entries: Vec<EntryBytes<'_>> = split
            .iter()
            .map(|body| EntryBytes {
                kind: 1,
                flags: 0,
                body,
            })
            .collect();
        let appended = match reserved {
            true => wal.append_reserved(&entries, sync)?,
            false => wal.append(&entries, sync)?,
        };
        assert!(
            appended.lsn.0 > self.minted,
            "{} was given out before",
            appended.lsn
        );
        self.minted = appended.lsn.0;
        tell(|| {
            let bytes: usize = bodies.iter().map(Vec::len).sum();
            let (lsn, entries) = (appended.lsn, bodies.len());
            format!("appends {lsn}, {entries} entries of {bytes} bytes, sync {sync:?}")
        });
        let known = Known {
            lsn: appended.lsn.0,
            hash: hash(&bodies),
            tag,
            locations: appended.locations,
        };
        self.frames.push(known);
        Ok(())
    }

    fn finish(
        &mut self,
        wal: &mut Wal,
        job: Option<postrider_log::wal::WriteJob>,
    ) -> Result<(), Error> {
        let Some(job) = job else { return Ok(()) };
        self.finished(wal, job.run())
    }

    fn finished(&mut self, wal: &mut Wal, done: JobDone) -> Result<(), Error> {
        let progress = wal.finish(done)?;
        tell(|| {
            format!(
                "written up to {}, synced up to {}",
                progress.written, progress.durable
            )
        });
        self.written = progress.written.0;
        self.durable = progress.durable.0;
        Ok(())
    }

    fn checkpoint(&mut self, wal: &mut Wal, random: &mut Rng) -> Result<(), Error> {
        let upto = self
            .frames
            .iter()
            .rev()
            .find(|known| known.lsn <= self.durable)
            .map_or(0, |known| known.lsn);
        if Lsn(upto) < wal.checkpoint_lsn() {
            return Ok(());
        }
        tell(|| format!("a checkpoint at {}", Lsn(upto)));
        let covered = self.frames.iter().take_while(|known| known.lsn <= upto);
        let history =
            covered.flat_map(|known| [known.lsn.to_le_bytes(), known.hash.to_le_bytes()].concat());
        let job = wal.checkpoint(vec![("history".to_owned(), history.collect())], Lsn(upto))?;
        let done = job.run();
        if random.below(2) == 0 {
            self.append(wal, Sync::Lazy, false).or_else(refused)?;
        }
        wal.finish_checkpoint(done)?;
        let old = wal
            .segments()
            .into_iter()
            .filter(|segment| segment.last_lsn.is_some_and(|last| last <= Lsn(upto)));
        let freed: Vec<SegmentId> = old
            .map(|segment| segment.id)
            .filter(|_| random.below(4) > 0)
            .collect();
        wal.free(&freed)
    }
}

/// Refusals that leave the log usable.
fn refused(error: Error) -> Result<(), Error> {
    match error {
        Error::Full { .. } | Error::Overloaded { .. } => Ok(()),
        error => Err(error),
    }
}

/// How many segments are in their second use or a later one.
fn recycled(disk: &SimDisk) -> u64 {
    let segments = disk
        .paths()
        .into_iter()
        .filter(|path| path.ends_with(".wal"));
    segments
        .filter(|path| {
            disk.content(path)
                .is_some_and(|bytes| bytes.get(12).is_some_and(|used| *used > 1))
        })
        .count() as u64
}

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
    story::life(&mut Rng(seed), 60, &mut story);
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
            let what = story::step(rng);
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

impl Ledger {
    fn finish_all(&mut self, wal: &mut Wal) {
        while let Some(job) = wal.begin().unwrap() {
            wal.finish(job.run()).unwrap();
        }
    }
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
