//! Damage: flipped bits, torn writes, files that are missing, cut or of another time. It is seen, never served, and nothing confirmed is
//! dropped in silence.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use postrider_log::Error;
use postrider_log::disk::SimDisk;
use postrider_log::wal::{
    EntryBytes, FrameRef, Location, Lsn, NoReplay, OpenReport, SegmentId, Sync, Visitor, Wal,
    WalOptions,
};

#[derive(Default, Debug, PartialEq, Eq, Clone)]
struct History {
    sections: Vec<Vec<u8>>,
    frames: Vec<(u64, Vec<u8>)>,
}

impl Visitor for History {
    fn checkpoint(&mut self, _section: &str, bytes: &[u8]) -> Result<(), Error> {
        self.sections.push(bytes.to_vec());
        Ok(())
    }
    fn frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Error> {
        self.frames.push((
            frame.lsn().0,
            frame
                .entries()
                .flat_map(|entry| entry.body.to_vec())
                .collect(),
        ));
        Ok(())
    }
}

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: [16 << 10, 16 << 10, 32 << 10],
        ..WalOptions::default()
    }
}

fn open(disk: &SimDisk) -> Result<(Wal, OpenReport, History), Error> {
    let mut history = History::default();
    let (wal, report) = Wal::open(Arc::new(disk.clone()), options(), &mut history)?;
    Ok((wal, report, history))
}

fn append(wal: &mut Wal, body: &[u8]) -> Location {
    wal.append(
        &[EntryBytes {
            kind: 3,
            flags: 0,
            body: &[body],
        }],
        Sync::Now,
    )
    .unwrap()
    .locations[0]
}

fn commit(wal: &mut Wal) {
    while let Some(job) = wal.begin().unwrap() {
        wal.finish(job.run()).unwrap();
    }
}

fn idle(wal: &mut Wal) {
    if let Some(job) = wal.begin_idle().unwrap() {
        wal.finish(job.run()).unwrap();
    }
}

fn checkpoint(wal: &mut Wal, state: &[u8]) {
    let upto = wal.durable();
    let job = wal
        .checkpoint(vec![("state".to_owned(), state.to_vec())], upto)
        .unwrap();
    wal.finish_checkpoint(job.run()).unwrap();
}

/// A log of a few batches of up to three frames, over three segments.
fn filled(disk: &SimDisk) -> (Wal, Vec<(Location, Vec<u8>)>) {
    let (mut wal, _, _) = open(disk).unwrap();
    let mut placed = Vec::new();
    for n in 0..14u8 {
        for m in 0..=n % 3 {
            let body = vec![n ^ (m << 4); 40 + usize::from(n) * 90];
            placed.push((append(&mut wal, &body), body));
        }
        commit(&mut wal);
    }
    assert!(wal.segments().len() >= 3);
    (wal, placed)
}

fn frames(placed: &[(Location, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
    placed
        .iter()
        .enumerate()
        .map(|(n, (_, body))| (n as u64 + 1, body.clone()))
        .collect()
}

/// 02 §4.4, 6: a bit flipped in every byte of the messages of a log of 1 MiB, while it is open: a reader gets an error. And in every byte of
/// the batches and the header of four logs of 16 KiB after a clean stop, since each takes an opening: it is not opened, and not touched.
#[test]
fn acceptance_06_a_bit_flipped_in_every_byte_is_found_and_never_served() {
    let options = WalOptions {
        segment_bytes: [2 << 20; 3],
        tail_bytes_max: 0,
        ..options()
    };
    let disk = SimDisk::new(1);
    let mut wal = Wal::open(Arc::new(disk.clone()), options, &mut NoReplay)
        .unwrap()
        .0;
    let mut placed = Vec::new();
    let mut used = 0;
    while used < 1 << 20 {
        let body = vec![placed.len() as u8 | 1; 500];
        placed.push((append(&mut wal, &body), body));
        if placed.len() % 7 == 6 {
            commit(&mut wal);
        }
        used = wal.segments()[0].used;
    }
    commit(&mut wal);
    let path = "log/0000000000000001.wal";
    let (mut served, mut refused) = (0_u64, 0_u64);
    for (location, body) in &placed {
        for byte in location.at..location.at + location.len {
            disk.rot(path, byte as usize, (byte % 8) as u8);
            match wal.read(*location) {
                Err(Error::CorruptEntry { .. }) => refused += 1,
                other => panic!("byte {byte} is flipped: {other:?}"),
            }
            disk.rot(path, byte as usize, (byte % 8) as u8);
        }
        assert_eq!(wal.read(*location).unwrap()[..], body[..], "right again");
        served += 1;
    }
    assert!(refused > 850_000 && served > 1_700, "{refused}, {served}");
    drop(wal);
    let mut found = 0_u64;
    for seed in 0..4 {
        found += flip_every_byte_of_a_closed_log(seed);
    }
    println!(
        r#"proof: {{"name":"acceptance_06","what":"a bit flipped in every byte","read":{refused},"opened":{found},"served":0,"undetected":0}}"#
    );
}

/// Every byte of one segment's batches and header is flipped; gives how many flips were found, which is all.
fn flip_every_byte_of_a_closed_log(seed: u64) -> u64 {
    let disk = SimDisk::new(seed);
    let (mut wal, ..) = open(&disk).unwrap();
    let mut bytes: Vec<usize> = (0..92).collect();
    for n in 0..3_u8 {
        let at = append(
            &mut wal,
            &vec![n + 1; 4_000 - 700 * usize::from(seed as u8 % 3)],
        );
        commit(&mut wal);
        let start = at.at as usize & !4095;
        bytes.extend(start..(at.at + at.len) as usize);
    }
    wal.close().unwrap();
    drop(wal);
    let path = "log/0000000000000001.wal";
    let mut found = 0;
    for byte in bytes {
        let bit = (byte % 8) as u8;
        disk.rot(path, byte, bit);
        let before = disk.operations();
        let opened = open(&disk);
        assert!(
            !matches!(opened, Ok(_) | Err(Error::Io { .. })),
            "byte {byte} is flipped: {opened:?}"
        );
        // One sync of the directory, and nothing written.
        assert!(disk.operations() <= before + 1, "refused and touched");
        disk.rot(path, byte, bit);
        found += 1;
    }
    assert!(open(&disk).is_ok());
    found
}

#[test]
fn flipped_bit_is_found_after_a_clean_stop_and_never_served() {
    let disk = SimDisk::new(1);
    let (mut wal, placed) = filled(&disk);
    wal.close().unwrap();
    drop(wal);
    let all = frames(&placed);
    let mut seen = 0;
    for path in disk.paths() {
        let len = disk.content(&path).unwrap().len();
        for byte in (0..len).step_by(13) {
            let damaged = disk.kill();
            damaged.flip(&path, byte, (byte % 8) as u8);
            match open(&damaged) {
                // In the padding, or in what was never written.
                Ok((_, _, history)) => assert_eq!(history.frames, all, "{path} at {byte}"),
                Err(Error::Io { .. } | Error::Poisoned { .. } | Error::Replay { .. }) => {
                    panic!("not how damage is reported")
                }
                Err(_) => {
                    seen += 1;
                    let untouched = damaged.kill();
                    untouched.flip(&path, byte, (byte % 8) as u8);
                    let same = |path: &String| untouched.content(path) == disk.content(path);
                    assert!(
                        disk.paths().iter().all(same),
                        "refused and changed, {path} at {byte}"
                    );
                }
            }
        }
    }
    let used: usize = placed.iter().map(|(_, body)| body.len()).sum();
    assert!(seen > used / 13, "only {seen} flips were seen");
}

/// 02 §4.4, 6: what a later batch proves to have been durable is never cut off in silence.
#[test]
fn acceptance_06_flipped_bit_in_what_a_later_batch_proves_is_corruption_and_is_located() {
    let disk = SimDisk::new(2);
    let (mut wal, placed) = filled(&disk);
    idle(&mut wal);
    drop(wal);
    // The marker proves even the last batch.
    for (nth, (location, body)) in placed.iter().enumerate() {
        let damaged = disk.kill();
        let path = format!("log/{:016x}.wal", location.segment.0);
        damaged.flip(&path, location.at as usize + body.len() / 2, 3);
        let error = open(&damaged).unwrap_err();
        let Error::Corrupt {
            segment,
            at,
            first,
            last,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(
            (*segment, *last),
            (location.segment, Lsn(placed.len() as u64))
        );
        assert!(first.0 <= nth as u64 + 1, "{error}");
        assert!(*at < u64::from(location.at), "{error}");
        assert!(error.to_string().contains("confirmed"), "{error}");
    }
}

#[test]
fn damaged_entry_is_not_served_to_a_reader() {
    let disk = SimDisk::new(3);
    let (wal, placed) = filled(&disk);
    drop(wal);
    let (wal, ..) = open(&disk).unwrap();
    for (location, body) in &placed {
        assert_eq!(&wal.read(*location).unwrap()[..], &body[..]);
        disk.flip(
            &format!("log/{:016x}.wal", location.segment.0),
            location.at as usize + body.len() - 1,
            0,
        );
        assert!(matches!(
            wal.read(*location),
            Err(Error::CorruptEntry { .. })
        ));
        let wrong = Location {
            at: location.at + 1,
            ..*location
        };
        assert!(wal.read(wrong).is_err());
    }
    let far = Location {
        at: u32::MAX,
        len: u32::MAX,
        ..placed[0].0
    };
    assert!(matches!(wal.read(far), Err(Error::CorruptEntry { .. })));
    assert!(
        wal.read(Location {
            at: 3,
            len: 10,
            ..far
        })
        .is_err()
    );
}

/// 02 §4.4, 5.
#[test]
fn acceptance_05_torn_write_at_every_byte_of_the_last_frames_loses_only_what_was_not_confirmed() {
    let disk = SimDisk::new(4);
    let (mut wal, mut placed) = filled(&disk);
    let confirmed = placed.len();
    let before = disk.kill();
    for n in 0..4u8 {
        let body = vec![0xA0 + n; 90];
        placed.push((append(&mut wal, &body), body));
    }
    commit(&mut wal);
    drop(wal);
    let last = placed.last().unwrap();
    let path = format!("log/{:016x}.wal", last.0.segment.0);
    let (old, new) = (
        before.content(&path).unwrap_or_default(),
        disk.content(&path).unwrap(),
    );
    let start = (placed[confirmed].0.at as usize) & !4095;
    let end = last.0.at as usize + last.1.len();
    let all = frames(&placed);
    for cut in start..=end {
        let torn = disk.kill();
        torn.edit(&path, |content| {
            content.truncate(cut);
            content.extend_from_slice(old.get(cut..).unwrap_or_default());
            content.resize(new.len(), 0);
        });
        let (mut wal, report, history) =
            open(&torn).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert!(history.frames.len() >= confirmed, "cut at {cut}");
        assert_eq!(history.frames, all[..history.frames.len()], "cut at {cut}");
        assert_eq!(
            history.frames.len() == all.len(),
            cut == end,
            "cut at {cut}"
        );
        assert!(report.next.0 > all.len() as u64, "cut at {cut}");
        // The log goes on from there, and stays whole.
        append(&mut wal, b"more");
        commit(&mut wal);
        drop(wal);
        let (_, report, again) = open(&torn.crash(cut as u64)).unwrap();
        assert_eq!(again.frames[..history.frames.len()], history.frames[..]);
        assert_eq!(
            again.frames.len(),
            history.frames.len() + 1,
            "cut at {cut}: {report:?}"
        );
        assert_eq!(again.frames.last().unwrap().1, b"more");
    }
    println!(
        r#"proof: {{"name":"acceptance_05","what":"a write torn at every byte of a batch of four frames","bytes":{},"confirmed_lost":0}}"#,
        end - start + 1
    );
}

#[test]
fn truncated_end_is_found_after_a_clean_stop_and_after_an_idle_mark() {
    for clean in [true, false] {
        let disk = SimDisk::new(5);
        let (mut wal, placed) = filled(&disk);
        if clean {
            wal.close().unwrap();
        } else {
            idle(&mut wal);
        }
        drop(wal);
        let last = placed.last().unwrap().0;
        let path = format!("log/{:016x}.wal", last.segment.0);
        disk.edit(&path, |content| {
            // The last confirmed batch, not the marker behind it.
            let start = last.at as usize & !4095;
            content[start..start + 4096].fill(0);
        });
        assert!(
            matches!(open(&disk), Err(Error::Corrupt { .. })),
            "clean: {clean}"
        );
        disk.edit(&path, |content| content.truncate(8192));
        assert!(matches!(open(&disk), Err(Error::CorruptSegment { .. })));
        disk.remove(&path);
        let error = open(&disk).unwrap_err();
        assert!(
            matches!(error, Error::CorruptSegment { .. }) && error.to_string().contains("missing"),
            "{error}"
        );
    }
}

#[test]
fn damaged_checkpoint_falls_back_while_the_log_reaches_back_and_else_refuses() {
    let disk = SimDisk::new(6);
    let (mut wal, mut placed) = filled(&disk);
    checkpoint(&mut wal, b"first");
    let body = vec![1; 100];
    placed.push((append(&mut wal, &body), body));
    commit(&mut wal);
    let between = frames(&placed).split_off(placed.len() - 1);
    checkpoint(&mut wal, b"second");
    drop(wal);
    let flip = |disk: &SimDisk, nth: u64| disk.flip(&format!("ckpt/{nth:016x}.ckpt"), 70, 1);

    let damaged = disk.kill();
    flip(&damaged, 2);
    let (wal, report, history) = open(&damaged).unwrap();
    assert!(report.checkpoint_fell_back);
    assert_eq!(
        history,
        History {
            sections: vec![b"first".to_vec()],
            frames: between
        }
    );
    drop(wal);
    assert_eq!(open(&damaged).unwrap().2, history, "and so again");

    let damaged = disk.kill();
    flip(&damaged, 1);
    flip(&damaged, 2);
    let (_wal, _, history) = open(&damaged).unwrap();
    assert_eq!(
        history,
        History {
            sections: Vec::new(),
            frames: frames(&placed)
        },
        "the log goes back to its start"
    );

    let (mut wal, ..) = open(&disk).unwrap();
    for n in 0..12u8 {
        append(&mut wal, &[n; 3000]);
        commit(&mut wal);
    }
    checkpoint(&mut wal, b"third");
    let sealed: Vec<_> = wal
        .segments()
        .iter()
        .filter(|segment| segment.sealed)
        .map(|segment| segment.id)
        .collect();
    wal.free(&sealed).unwrap();
    while let Some(job) = wal.prepare_step() {
        wal.finish_prepare(job.run()).unwrap();
    }
    drop(wal);
    let before: Vec<_> = disk.paths().iter().map(|path| disk.content(path)).collect();
    assert_eq!(open(&disk.kill()).unwrap().2.sections, [b"third".to_vec()]);
    flip(&disk, 3);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, Error::CorruptCheckpoint { .. }), "{error}");
    flip(&disk, 3);
    let after: Vec<_> = disk.paths().iter().map(|path| disk.content(path)).collect();
    assert!(before == after, "refused and changed");
}

/// 02 §4.4, 8: 10,000 recycled segments, each full of frames of its earlier uses; the power is cut beside every 50th batch.
#[test]
fn acceptance_08_stale_frames_of_recycled_segments_are_never_accepted() {
    const RECYCLES: u64 = 10_000;
    let options = WalOptions {
        segment_bytes: [16 << 10; 3],
        ..options()
    };
    let disk = SimDisk::new(7);
    let mut wal = Wal::open(Arc::new(disk.clone()), options.clone(), &mut NoReplay)
        .unwrap()
        .0;
    let (mut recycled, mut round, mut opened, mut last) = (0, 0_u32, 0, SegmentId(0));
    let body = |round: u32| round.to_le_bytes().repeat(900);
    while recycled < RECYCLES {
        append(&mut wal, &body(round));
        commit(&mut wal);
        round += 1;
        let newest = wal.segments().last().unwrap().id;
        if newest > last {
            last = newest;
            let path = format!("log/{:016x}.wal", newest.0);
            recycled += u64::from(disk.content(&path).unwrap()[12..16] > [1, 0, 0, 0][..]);
            checkpoint(&mut wal, &[]);
            let sealed = wal.segments().into_iter().filter(|segment| segment.sealed);
            let sealed: Vec<SegmentId> = sealed.map(|segment| segment.id).collect();
            wal.free(&sealed).unwrap();
        }
        while let Some(job) = wal.prepare_step() {
            wal.finish_prepare(job.run()).unwrap();
        }
        if round.is_multiple_of(50) {
            let mut history = History::default();
            let after = Arc::new(disk.crash(u64::from(round)));
            let (_, report) = Wal::open(after, options.clone(), &mut history).unwrap();
            assert_eq!(report.last, wal.durable(), "round {round}");
            for (nth, (lsn, found)) in history.frames.iter().enumerate() {
                assert_eq!(*lsn, report.checkpoint.0 + 1 + nth as u64);
                assert_eq!(*found, body(*lsn as u32 - 1), "a stale frame");
            }
            opened += 1;
        }
    }
    println!(
        r#"proof: {{"name":"acceptance_08","what":"segments recycled full of old frames","recycles":{recycled},"opened":{opened},"stale_frames_accepted":0}}"#
    );
}

#[test]
fn manifest_older_than_the_log_is_refused() {
    let disk = SimDisk::new(8);
    let (wal, ..) = open(&disk).unwrap();
    drop(wal);
    let old = disk.content("CURRENT").unwrap();
    let (mut wal, placed) = {
        let (mut wal, ..) = open(&disk).unwrap();
        let mut placed = Vec::new();
        for n in 0..20u8 {
            placed.push(append(&mut wal, &[n; 2000]));
            commit(&mut wal);
        }
        (wal, placed)
    };
    assert!(placed.last().unwrap().segment > placed[0].segment);
    wal.close().unwrap();
    drop(wal);
    disk.edit("CURRENT", |content| *content = old);
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(error, Error::CorruptManifest { .. }) && error.to_string().contains("older"),
        "{error}"
    );
}

#[test]
fn lost_or_damaged_manifest_is_refused() {
    let disk = SimDisk::new(9);
    let (mut wal, _) = filled(&disk);
    wal.close().unwrap();
    drop(wal);
    let whole = disk.content("CURRENT").unwrap();
    for len in 0..whole.len() {
        let cut = disk.kill();
        cut.edit("CURRENT", |content| content.truncate(len));
        assert!(open(&cut).is_err(), "cut to {len}");
    }
    disk.remove("CURRENT");
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(error, Error::NotOurs { .. } | Error::CorruptManifest { .. }),
        "{error}"
    );
    assert!(Wal::open(Arc::new(disk), options(), &mut NoReplay).is_err());
}

#[test]
fn batches_behind_a_torn_one_are_dropped_and_wiped() {
    let disk = SimDisk::new(10);
    let (mut wal, mut placed) = filled(&disk);
    // Until there is room for more in the segment.
    while wal.segments().last().unwrap().used > 12 << 10 {
        placed.push((append(&mut wal, b"more"), b"more".to_vec()));
        commit(&mut wal);
    }
    let lazy = |wal: &mut Wal, body: &[u8]| {
        let appended = wal
            .append(
                &[EntryBytes {
                    kind: 3,
                    flags: 0,
                    body: &[body],
                }],
                Sync::Lazy,
            )
            .unwrap();
        commit(wal);
        appended.locations[0]
    };
    let torn = lazy(&mut wal, b"torn");
    let behind = lazy(&mut wal, b"whole, and behind it");
    assert_eq!(
        torn.segment, behind.segment,
        "the case needs both in one segment"
    );
    drop(wal);
    let path = format!("log/{:016x}.wal", torn.segment.0);
    disk.flip(&path, torn.at as usize, 0);
    let (_, report, history) = open(&disk).unwrap();
    assert_eq!(history.frames, frames(&placed));
    let cut = report.cut.expect("there was something to cut");
    assert_eq!((cut.segment, cut.batches), (torn.segment, 2));
    let content = disk.content(&path).unwrap();
    let wiped = &content[cut.at as usize..];
    assert!(
        !wiped.windows(4).any(|window| window == b"PRB1"),
        "a batch is left behind the end"
    );
}

#[test]
fn garbage_in_any_file_is_an_error_and_never_a_panic() {
    let disk = SimDisk::new(11);
    let (mut wal, placed) = filled(&disk);
    checkpoint(&mut wal, b"state");
    idle(&mut wal);
    drop(wal);
    let all = frames(&placed);
    let paths = disk.paths();
    let mut random = 0x1234_5678_u64;
    let mut next = |bound: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    let mut refused = 0;
    for round in 0..600 {
        let damaged = disk.kill();
        for _ in 0..=next(3) {
            let path = &paths[next(paths.len())];
            let (start, len, how) = (next(9000), 1 + next(600), next(4));
            let noise: Vec<u8> = (0..len).map(|_| next(256) as u8).collect();
            damaged.edit(path, |content| {
                let start = start % content.len().max(1);
                let end = (start + len).min(content.len());
                match how {
                    0 => content[start..end].fill(0),
                    1 => content[start..end].copy_from_slice(&noise[..end - start]),
                    2 => content.truncate(start),
                    _ => content.copy_within(start..end, start / 2),
                }
            });
        }
        match open(&damaged) {
            Ok((_, _, history)) => {
                assert!(history.sections.len() <= 1, "round {round}");
                let from = if history.sections.is_empty() {
                    0
                } else {
                    all.len()
                };
                assert_eq!(
                    history.frames,
                    all[from..],
                    "round {round}: confirmed frames were dropped"
                );
            }
            Err(Error::Io { .. }) => panic!("round {round}: not how damage is reported"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "only {refused} were refused");
}
