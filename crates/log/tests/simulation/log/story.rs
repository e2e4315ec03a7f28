//! What may happen to a log, and in which order.

use std::sync::Arc;

use parking_lot::Mutex;
use postrider_log::disk::Fault;
use postrider_log::{Error, Log, pump};

use super::{DAY_MS, World};
use crate::harness::rng::Rng;
use crate::harness::{Counts, FAULTS, Op, Simulation, tell};

/// One thing that happens to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// In this life nothing asks for a sync but the reserve of offsets.
    Quiet,
    /// The power fails so many operations of the disk further on.
    PowerOffIn(u64),
    /// A call fails so many operations of the disk further on.
    FailIn(Fault, u64),
    /// The disk is full but for so many bytes.
    Fill(u64),
    /// There is room again.
    Room,
    /// The clock on the wall jumps.
    Jump(i64),
    Commit,
    Lease,
    /// A write is begun, and takes until `Finish`.
    Begin,
    Finish,
    Write,
    Upkeep,
    Step,
    PassTime,
    Operate,
    Read,
    ReadEnds,
    Release,
    /// A bit of a file reads wrong for a moment.
    Rot,
    /// The process ends, with or without the machine, and a new one opens the log.
    Restart,
}

/// The log, its host and its users.
pub(crate) struct LogSimulation;

impl Simulation for LogSimulation {
    type What = What;
    const NAME: &'static str = "log";

    fn story(seed: u64) -> Vec<Op<What>> {
        let rng = &mut Rng(seed ^ 0x5709_1d3c);
        let mut story = Vec::new();
        for _ in 0..1 + rng.below(4) {
            life(rng, &mut story);
        }
        story
    }

    fn play(seed: u64, story: &[Op<What>]) -> Counts {
        let mut world = World::new(seed);
        story.iter().for_each(|op| world.act(*op));
        world.rng = Rng(seed);
        world.act(Op {
            what: What::Restart,
            seed,
        });
        world.drain();
        world.counts
    }
}

/// One run of a process, and its end.
fn life(rng: &mut Rng, story: &mut Vec<Op<What>>) {
    let quiet = rng.chance(25);
    if quiet {
        story.push(Op::new(What::Quiet, rng));
    }
    let ahead = 1 + rng.below(120);
    let fault = FAULTS[rng.below(FAULTS.len() as u64) as usize];
    match rng.below(12) {
        0..6 => story.push(Op::new(What::PowerOffIn(ahead), rng)),
        6 => story.push(Op::new(What::FailIn(fault, ahead), rng)),
        _ => {}
    }
    let (full, jumps, rots) = (rng.chance(10), rng.chance(15), rng.chance(10));
    for _ in 0..20 + rng.below(120) {
        if full && rng.chance(6) {
            let what = match rng.below(3) {
                0 => What::Room,
                _ => What::Fill(rng.below(24 << 10)),
            };
            story.push(Op::new(what, rng));
        }
        if jumps && rng.chance(6) {
            let day = if rng.chance(50) { DAY_MS } else { -DAY_MS };
            story.push(Op::new(What::Jump(day), rng));
        }
        if rots && rng.chance(10) {
            story.push(Op::new(What::Rot, rng));
        }
        let what = if quiet { quiet_step(rng) } else { step(rng) };
        story.push(Op::new(what, rng));
    }
    story.push(Op::new(What::Restart, rng));
}

fn quiet_step(rng: &mut Rng) -> What {
    match rng.below(10) {
        0..3 => What::Commit,
        3 => What::Lease,
        4 => What::Begin,
        5 => What::Finish,
        6..8 => What::Write,
        _ => What::ReadEnds,
    }
}

fn step(rng: &mut Rng) -> What {
    match rng.below(21) {
        0..6 => What::Commit,
        6..10 => What::Lease,
        10 => What::Begin,
        11 => What::Finish,
        12..15 => What::Write,
        15 => What::Upkeep,
        16 => What::Step,
        17 => What::PassTime,
        18 => What::Operate,
        19 => What::Read,
        _ if rng.chance(20) => What::Release,
        _ => What::Finish,
    }
}

impl World {
    /// Does one thing. After a failure that was planned nothing more is done until the restart.
    pub(crate) fn act(&mut self, op: Op<What>) {
        self.rng = Rng(op.seed);
        if op.what == What::Restart {
            return self.restart();
        }
        if self.broken {
            return;
        }
        match self.step(op.what) {
            Ok(()) => self.watch_tickets(),
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

    fn step(&mut self, what: What) -> Result<(), Error> {
        let now = self.now();
        match what {
            What::Quiet => self.quiet = true,
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
            What::Jump(ms) => return self.jump(ms),
            What::Commit => return self.commit(),
            What::Lease => return self.lease(),
            What::Begin => return self.begin(),
            What::Finish => return self.finish(),
            What::Write => {
                let progress = pump::write(&self.log, now)?;
                tell(|| match progress {
                    Some(now) => format!(
                        "written up to {}, synced up to {}",
                        now.written, now.durable
                    ),
                    None => "there is nothing to write".to_owned(),
                });
            }
            What::Upkeep => {
                tell(|| "upkeep: a segment is prepared, a checkpoint made, if due".to_owned());
                pump::upkeep(&self.log, now)?;
            }
            What::Step => {
                tell(|| "the pump: a write, upkeep, a checkpoint".to_owned());
                pump::step(&self.log, now)?;
            }
            What::PassTime => return self.pass_time(),
            What::Operate => return self.operate(),
            What::Read => return self.read(),
            What::ReadEnds => return self.read_ends(),
            What::Release => return self.release(),
            What::Rot => return self.rot(),
            What::Restart => unreachable!("act takes it"),
        }
        Ok(())
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Opens the log on the disk as it is.
    pub(super) fn open(&mut self) -> Result<postrider_log::OpenReport, Error> {
        let options = super::options(&mut self.rng);
        let (log, report) = Log::open(Arc::new(self.disk.clone()), options, self.now())?;
        self.log = Mutex::new(log);
        Ok(report)
    }
}
