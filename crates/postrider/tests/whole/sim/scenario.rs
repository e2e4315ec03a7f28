//! What a seed means: how much there is of everything, and how each life ends. All of it can be made smaller.

use postrider::contract::clock::SplitMix64;

/// How a life ends, if it does not end before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The power fails in this operation of the disk.
    PowerCut(u64),
    /// `kill -9` after this operation of the disk: the page cache stays.
    Kill(u64),
    /// A write fails after this operation of the disk.
    WriteError(u64),
    /// A sync fails after this operation of the disk.
    SyncError(u64),
    /// The disk is full from this operation on, for this many milliseconds; later the power fails.
    Full(u64, u64),
    /// The power fails in this commit of a service's store; it is durable or not.
    StoreCut(u64, bool),
    /// The power fails in this commit of a failure store beside the engine; it is durable or not.
    HomeCut(u64, bool),
    /// The power fails at this time, in milliseconds.
    At(u64),
    /// The services are stopped and the engine is closed.
    Stop,
}

/// One small story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub seed: u64,
    pub keys: usize,
    pub per_key: u32,
    pub publishers: usize,
    /// Members of each service.
    pub members: usize,
    /// How often handlers fail, in thousandths.
    pub trouble: u64,
    /// Messages that are delivered later.
    pub delayed: u32,
    /// Lives that end badly. After them comes one in which everything is mended.
    pub lives: Vec<Fate>,
    /// The wall clock jumps.
    pub jumps: bool,
    /// Syncs take long now and then.
    pub slow: bool,
    /// Members come, go and are killed while the process lives.
    pub churn: bool,
    /// The disk of the first life is looked at with one bit flipped.
    pub rot: bool,
    /// Failures are kept beside the engine, not in it.
    pub beside: bool,
    /// Members freeze, some for longer than their leases.
    pub freezes: bool,
    /// Of so many calls of engine and failure store one is cut, before or after it is done; 0: none is.
    pub cut_one_in: u64,
    /// Of so many messages one cannot be read until the end; 0: all can.
    pub garbled_one_in: u64,
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        let mut chance = SplitMix64::new(seed ^ 0x5ce0_a210);
        let mut between = |low: u64, high: u64| low + chance.below(high - low);
        let lives = between(0, 4);
        let lives = (0..lives).map(|_| fate(&mut between)).collect();
        Self {
            seed,
            keys: between(1, 4) as usize,
            per_key: between(2, 6) as u32,
            publishers: between(1, 4) as usize,
            members: between(1, 3) as usize,
            trouble: [0, 60, 150, 300][between(0, 4) as usize],
            delayed: between(0, 3) as u32,
            lives,
            jumps: between(0, 3) == 0,
            slow: between(0, 3) == 0,
            churn: between(0, 3) == 0,
            rot: between(0, 8) == 0,
            beside: between(0, 3) == 0,
            freezes: between(0, 3) == 0,
            cut_one_in: [0, 0, 60, 20][between(0, 4) as usize],
            garbled_one_in: [0, 0, 0, 12][between(0, 4) as usize],
        }
    }

    /// Smaller stories that may fail in the same way, the smallest first.
    pub fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut one = |change: &dyn Fn(&mut Self)| {
            let mut smaller = self.clone();
            change(&mut smaller);
            if smaller != *self {
                all.push(smaller);
            }
        };
        one(&|s| s.lives.clear());
        (0..self.lives.len()).for_each(|at| {
            one(&move |s| {
                s.lives.remove(at);
            });
        });
        one(&|s| s.keys = 1);
        one(&|s| s.per_key = (s.per_key / 2).max(1));
        one(&|s| s.per_key = (s.per_key - 1).max(1));
        one(&|s| s.trouble = 0);
        one(&|s| s.churn = false);
        one(&|s| s.members = 1);
        one(&|s| s.publishers = 1);
        one(&|s| s.delayed = 0);
        one(&|s| s.jumps = false);
        one(&|s| s.slow = false);
        one(&|s| s.rot = false);
        one(&|s| s.beside = false);
        one(&|s| s.freezes = false);
        one(&|s| s.cut_one_in = 0);
        one(&|s| s.garbled_one_in = 0);
        all
    }
}

fn fate(between: &mut impl FnMut(u64, u64) -> u64) -> Fate {
    // A new directory takes some ten operations, and a message some two a stage.
    let operation = match between(0, 4) {
        0 => between(1, 30),
        _ => between(20, 160),
    };
    match between(0, 18) {
        0..6 => Fate::PowerCut(operation),
        6 | 7 => Fate::Kill(operation),
        8 => Fate::WriteError(operation),
        9 | 10 => Fate::SyncError(operation),
        11 => Fate::Full(operation, between(50, 3000)),
        12 | 13 => Fate::StoreCut(between(1, 16), between(0, 2) == 0),
        14 => Fate::At(between(1, 6000)),
        15 | 16 => Fate::HomeCut(between(1, 8), between(0, 2) == 0),
        _ => Fate::Stop,
    }
}
