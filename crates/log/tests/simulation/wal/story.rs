//! What may happen to the physical layer, and in which order.

use std::sync::Arc;

use postrider_log::Error;
use postrider_log::disk::{Fault, SimDisk};
use postrider_log::wal::{JobDone, Sync, Wal, WriteJob};

use super::{Ledger, Replay, options, recycled, refused};
use crate::harness::rng::Rng;
use crate::harness::{Counts, FAULTS, Op, Simulation, tell};

/// One thing that happens to the physical layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The power fails so many operations of the disk further on.
    PowerOffIn(u64),
    /// A call fails so many operations of the disk further on.
    FailIn(Fault, u64),
    /// The disk is full but for so many bytes.
    Fill(u64),
    /// There is room again.
    Room,
    Append,
    AppendLazy,
    /// A write, and something may be staged meanwhile.
    Write,
    /// A write is begun, and takes until `Finish`.
    Begin,
    Finish,
    Sync,
    Idle,
    Prepare,
    Checkpoint,
    /// All that can be read is right.
    Read,
    /// It is closed in order.
    Close,
    /// The process ends, with or without the machine, and a new one opens the log.
    Restart,
}

/// A write that takes its time.
enum UnderWay {
    Begun(WriteJob),
    Done(JobDone),
}

/// A directory, its log, and what is known of it.
pub(crate) struct World {
    rng: Rng,
    pub(crate) disk: SimDisk,
    wal: Option<Wal>,
    under_way: Option<UnderWay>,
    pub(crate) ledger: Ledger,
    faulty: bool,
    full: bool,
    pub(crate) broken: bool,
    counts: Counts,
}

/// The physical layer and its host.
pub(crate) struct WalSimulation;

impl Simulation for WalSimulation {
    type What = What;
    const NAME: &'static str = "wal";

    fn story(seed: u64) -> Vec<Op<What>> {
        let rng = &mut Rng(seed ^ 0x0a1d_77e5);
        let mut story = Vec::new();
        for _ in 0..1 + rng.below(4) {
            let steps = 40 + rng.below(60);
            life(rng, steps, &mut story);
        }
        story
    }

    fn play(seed: u64, story: &[Op<What>]) -> Counts {
        let mut world = World::new(SimDisk::new(seed));
        world.open(0);
        story.iter().for_each(|op| world.act(*op));
        world.rng = Rng(seed);
        world.last();
        world.counts
    }
}

/// One run of a process, and its end.
pub(crate) fn life(rng: &mut Rng, steps: u64, story: &mut Vec<Op<What>>) {
    let ahead = 1 + rng.below(160);
    let fault = FAULTS[rng.below(FAULTS.len() as u64) as usize];
    match rng.below(12) {
        0..8 => story.push(Op::new(What::PowerOffIn(ahead), rng)),
        8 => story.push(Op::new(What::FailIn(fault, ahead), rng)),
        _ => {}
    }
    let full = rng.chance(15);
    for _ in 0..steps {
        if full && rng.chance(8) {
            let what = match rng.below(3) {
                0 => What::Room,
                _ => What::Fill(rng.below(40 << 10)),
            };
            story.push(Op::new(what, rng));
        }
        let what = step(rng);
        story.push(Op::new(what, rng));
    }
    if rng.chance(33) {
        story.push(Op::new(What::Close, rng));
    }
    story.push(Op::new(What::Restart, rng));
}

pub(crate) fn step(rng: &mut Rng) -> What {
    match rng.below(22) {
        0..8 => What::Append,
        8..10 => What::AppendLazy,
        10..14 => What::Write,
        14 => What::Begin,
        15 => What::Finish,
        16 => What::Sync,
        17 => What::Idle,
        18..20 => What::Prepare,
        20 => What::Checkpoint,
        _ if rng.chance(20) => What::Read,
        _ => What::Prepare,
    }
}

impl World {
    pub(crate) fn new(disk: SimDisk) -> World {
        World {
            rng: Rng(0),
            disk,
            wal: None,
            under_way: None,
            ledger: Ledger::default(),
            faulty: false,
            full: false,
            broken: false,
            counts: Counts::new(),
        }
    }

    /// Opens the log; every frame up to `survived` must be there. It may fail if the power does.
    pub(crate) fn open(&mut self, survived: u64) {
        match self.ledger.open(&self.disk, survived) {
            Ok((wal, report)) => {
                tell(|| {
                    let (last, next) = (report.last, report.next);
                    format!("it opens, and finds all up to {last}; next is {next}")
                });
                self.wal = Some(wal);
                self.broken = false;
            }
            Err(error) => {
                assert!(self.disk.is_off(), "does not open: {error}");
                tell(|| "the power fails while it opens".to_owned());
                self.count("power cuts while opening");
                self.broken = true;
            }
        }
    }

    /// The log that is open, and what is known of it.
    pub(crate) fn into_parts(self) -> (Wal, Ledger) {
        (self.wal.expect("it is open"), self.ledger)
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Does one thing. After a failure that was planned nothing more is done until the restart.
    pub(crate) fn act(&mut self, op: Op<What>) {
        self.rng = Rng(op.seed);
        if op.what == What::Restart {
            return self.restart();
        }
        if self.broken {
            return;
        }
        let Some(mut wal) = self.wal.take() else {
            return;
        };
        let result = self.step(&mut wal, op.what);
        self.wal = Some(wal);
        match result {
            Ok(()) => {}
            Err(error) if error.is_no_space() && self.full => {
                tell(|| "   refused: the disk is full".to_owned());
                self.count("refused for space");
            }
            Err(error) => {
                assert!(self.disk.is_off() || self.faulty, "{error}");
                tell(|| format!("   fails: {error}; nothing more until the restart"));
                self.broken = true;
            }
        }
    }

    fn step(&mut self, wal: &mut Wal, what: What) -> Result<(), Error> {
        let ledger = &mut self.ledger;
        match what {
            What::PowerOffIn(ahead) => {
                tell(|| format!("the power will fail {ahead} operations of the disk from here"));
                self.disk.power_off_at(self.disk.operations() + ahead);
            }
            What::FailIn(fault, ahead) => {
                tell(|| format!("a {fault:?} will fail {ahead} operations of the disk from here"));
                self.faulty = true;
                self.count("planned failures");
                self.disk.inject(fault, self.disk.operations() + ahead);
            }
            What::Fill(bytes) => {
                tell(|| format!("the disk is full but for {bytes} bytes"));
                self.full = true;
                self.disk.set_capacity(Some(self.disk.used() + bytes));
                self.count("full disks");
            }
            What::Room => {
                tell(|| "the disk has room again".to_owned());
                self.disk.set_capacity(None);
            }
            What::Append => ledger.append(wal, Sync::Now, false).or_else(refused)?,
            What::AppendLazy => {
                let reserved = self.rng.chance(50);
                ledger.append(wal, Sync::Lazy, reserved).or_else(refused)?;
            }
            What::Write => {
                let job = wal.begin()?;
                if job.is_some() && self.rng.below(3) == 0 {
                    // Staged while the job is under way.
                    ledger.append(wal, Sync::Now, false).or_else(refused)?;
                }
                ledger.finish(wal, job)?;
            }
            What::Begin => {
                let Some(job) = wal.begin()? else {
                    return Ok(());
                };
                tell(|| "a write is begun, and takes its time".to_owned());
                self.under_way = Some(match self.rng.chance(50) {
                    true => UnderWay::Begun(job),
                    false => UnderWay::Done(job.run()),
                });
                self.count("slow writes");
            }
            What::Finish => return self.finish(wal),
            What::Sync => {
                let job = wal.begin_sync()?;
                ledger.finish(wal, job)?;
            }
            What::Idle => {
                let job = wal.begin_idle()?;
                ledger.finish(wal, job)?;
            }
            What::Prepare => {
                if let Some(job) = wal.prepare_step() {
                    tell(|| "a slice of upkeep".to_owned());
                    wal.finish_prepare(job.run()).map(|_| ()).or_else(refused)?;
                }
            }
            What::Checkpoint => ledger.checkpoint(wal, &mut self.rng)?,
            What::Read => ledger.check_reads(wal),
            What::Close => return self.close(wal),
            What::Restart => unreachable!("act takes it"),
        }
        Ok(())
    }

    fn finish(&mut self, wal: &mut Wal) -> Result<(), Error> {
        let done = match self.under_way.take() {
            None => return Ok(()),
            Some(UnderWay::Begun(job)) => job.run(),
            Some(UnderWay::Done(done)) => done,
        };
        tell(|| "the slow write is over".to_owned());
        self.ledger.finished(wal, done)
    }

    fn close(&mut self, wal: &mut Wal) -> Result<(), Error> {
        self.finish(wal)?;
        tell(|| "it is closed in order".to_owned());
        wal.close()?;
        self.ledger.durable = wal.durable().0;
        self.ledger.closed = true;
        // A closed log does nothing more.
        self.broken = true;
        Ok(())
    }

    /// The process ends, perhaps the machine too; and again, while it opens, perhaps.
    fn restart(&mut self) {
        if let Some(UnderWay::Begun(job)) = self.under_way.take()
            && self.rng.chance(50)
        {
            drop(job.run());
        }
        self.wal = None;
        let mut killed = self.rng.below(4) == 0 && !self.disk.is_off();
        loop {
            if killed {
                tell(|| "the process is killed".to_owned());
                self.count("kills");
                self.disk = self.disk.kill();
                self.disk.set_capacity(None);
            } else {
                tell(|| "the power is cut".to_owned());
                self.count("power cuts");
                self.disk = self.disk.crash(self.rng.next());
                // What was only written is gone, also what an earlier kill had left in the page cache.
                self.ledger.written = self.ledger.durable;
            }
            if self.rng.chance(20) {
                self.open_with_a_flipped_bit();
            }
            if self.rng.chance(25) {
                let operation = 1 + self.rng.below(60);
                self.disk.power_off_at(operation);
            }
            let survived = self.ledger.written;
            self.open(survived);
            if !self.broken {
                break;
            }
            killed = self.rng.below(4) == 0;
        }
        (self.faulty, self.full) = (false, false);
        *self.counts.entry("recycled").or_default() += recycled(&self.disk);
    }

    /// A copy of the disk has one bit flipped: it is refused, or all that it shows is right.
    fn open_with_a_flipped_bit(&mut self) {
        let copy = self.disk.kill();
        let paths = copy.paths();
        let Some(path) = self.rng.pick(&paths) else {
            return;
        };
        let content = copy.content(path).unwrap_or_default();
        let from = self.rng.below(content.len().max(1) as u64) as usize;
        let said = |from: usize| {
            let found = content.get(from..)?.iter().position(|byte| *byte != 0);
            found.map(|at| from + at)
        };
        let Some(byte) = said(from).or_else(|| said(0)) else {
            return;
        };
        copy.flip(path, byte, self.rng.below(8) as u8);
        self.count("flipped bits");
        let mut replay = Replay::default();
        match Wal::open(Arc::new(copy), options(), &mut replay) {
            Ok((wal, _)) => {
                self.ledger.check_shown(&replay.0);
                self.ledger.check_reads_damaged(&wal);
            }
            Err(Error::Io { .. }) => panic!("not how damage is reported: {path} at {byte}"),
            Err(_) => self.count("flips refused at opening"),
        }
    }

    /// A last life, closed in order and opened again.
    fn last(&mut self) {
        self.restart();
        self.disk.power_off_at(u64::MAX);
        let mut wal = self.wal.take().expect("it opened");
        self.ledger.append(&mut wal, Sync::Now, false).unwrap();
        wal.close().unwrap();
        drop(wal);
        self.ledger.closed = true;
        let last = self.ledger.minted;
        self.open(last);
        assert!(self.wal.is_some(), "does not open after a clean stop");
        *self.counts.entry("frames").or_default() += self.ledger.frames.len() as u64;
    }
}
