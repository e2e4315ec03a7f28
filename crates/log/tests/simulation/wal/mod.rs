//! The physical layer on a simulated disk: random work, the power cut (or the process killed) at any operation, then opened again.
//!
//! What must hold: nothing reported durable is lost (after a kill: nothing reported written), frames are whole and in order, no LSN is given out
//! twice, what can be read is what was appended.

mod story;

use std::sync::Arc;

use crate::harness::rng::Rng;
use crate::harness::tell;
use postrider_log::Error;
use postrider_log::disk::SimDisk;
pub(crate) use story::{WalSimulation, What, World, life, step};

use postrider_log::wal::{
    EntryBytes, FrameRef, JobDone, Location, Lsn, OpenReport, SegmentId, Sync, Visitor, Wal,
    WalOptions,
};

pub(crate) fn options() -> WalOptions {
    WalOptions {
        disk_bytes_max: None,
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
pub(crate) struct Ledger {
    frames: Vec<Known>,
    tags: u64,
    minted: u64,
    written: u64,
    pub(crate) durable: u64,
    closed: bool,
}

impl Ledger {
    /// Opens the log and holds what it shows against what is known. `survived`: every frame up to this LSN must be there.
    pub(crate) fn open(
        &mut self,
        disk: &SimDisk,
        survived: u64,
    ) -> Result<(Wal, OpenReport), Error> {
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

    pub(crate) fn append(
        &mut self,
        wal: &mut Wal,
        sync: Sync,
        reserved: bool,
    ) -> Result<(), Error> {
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

    pub(crate) fn finish(
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

impl Ledger {
    pub(crate) fn finish_all(&mut self, wal: &mut Wal) {
        while let Some(job) = wal.begin().unwrap() {
            wal.finish(job.run()).unwrap();
        }
    }
}
