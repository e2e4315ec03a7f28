//! Bugs on purpose: the simulations find each of them, within so many seeds, and find nothing where none is planted.
//!
//! A simulation that cannot fail proves nothing. Each bug here is a line in the log's own code, where such a bug would be. The bound of each
//! is well above what it takes now, so that the stories may change.
#![allow(clippy::unwrap_used)]

#[path = "simulation/harness/mod.rs"]
#[allow(dead_code)] // The simulations use the rest of it.
mod harness;
#[path = "simulation/log/mod.rs"]
#[allow(dead_code, unused_imports)]
mod log;
#[path = "simulation/wal/mod.rs"]
#[allow(dead_code, unused_imports)]
mod wal;

use harness::{first_failure, shortest};
use log::LogSimulation;
use postrider_log::planted::{self, Plant};
use wal::WalSimulation;

/// Who finds a bug.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// The simulation of the physical layer.
    Wal,
    /// The simulation of the whole log.
    Log,
}

impl By {
    fn first_failure(self, seeds: u64) -> Option<(u64, String)> {
        match self {
            By::Wal => first_failure::<WalSimulation>(seeds),
            By::Log => first_failure::<LogSimulation>(seeds),
        }
    }
}

/// A bug, who finds it, and within how many seeds.
const BUGS: [(Plant, By, u64); 26] = [
    (Plant::AckBeforeSync, By::Wal, 100),
    (Plant::SyncOfWrongFile, By::Wal, 200),
    (Plant::FailedSyncBelieved, By::Log, 400),
    (Plant::SegmentDirectoryNotSynced, By::Wal, 100),
    (Plant::RenameNotSynced, By::Wal, 100),
    (Plant::TmpFileNotSynced, By::Wal, 100),
    (Plant::CurrentBeforeCheckpoint, By::Wal, 2_000),
    (Plant::CheckpointCoversTooMuch, By::Log, 100),
    (Plant::SettleLost, By::Log, 100),
    (Plant::LeaseMarkLost, By::Log, 100),
    (Plant::CrcNotCheckedAtOpen, By::Wal, 500),
    (Plant::CrcNotCheckedOnRead, By::Log, 100),
    (Plant::SyncedLsnTooHigh, By::Log, 200),
    (Plant::StaleFramesAccepted, By::Wal, 400),
    (Plant::LsnReused, By::Wal, 100),
    (Plant::PageCacheBelieved, By::Log, 600),
    (Plant::OffsetsReused, By::Log, 100),
    (Plant::ReserveNotDurable, By::Log, 300),
    (Plant::ToldUnreserved, By::Log, 200),
    (Plant::SeenBeforeDurable, By::Log, 100),
    (Plant::FreedTooEarly, By::Wal, 600),
    (Plant::HalfATransaction, By::Log, 100),
    (Plant::StaleLeaseSettles, By::Log, 1_000),
    (Plant::KeyPassesItself, By::Log, 300),
    (Plant::DelayNotClamped, By::Log, 200),
    (Plant::DelayForgotten, By::Log, 100),
];

#[test]
fn every_planted_bug_is_found_within_its_seeds() {
    for (bug, by, seeds) in BUGS {
        let _there = planted::plant(bug);
        let Some((seed, _)) = by.first_failure(seeds) else {
            panic!("{bug:?} is planted, and {seeds} seeds of {by:?} do not find it");
        };
        println!(
            r#"proof: {{"name":"planted","bug":"{bug:?}","found_in_seeds":{seed},"within":{seeds},"by":"{by:?} simulation"}}"#
        );
    }
}

/// What one reads of a seed that fails is a story, not a trace.
#[test]
fn the_story_of_a_planted_bug_is_short() {
    let bugs = [
        (Plant::AckBeforeSync, By::Wal),
        (Plant::SegmentDirectoryNotSynced, By::Wal),
        (Plant::SettleLost, By::Log),
        (Plant::OffsetsReused, By::Log),
        (Plant::StaleLeaseSettles, By::Log),
    ];
    for (bug, by) in bugs {
        let _there = planted::plant(bug);
        let (seed, broken) = by.first_failure(2_000).expect("it is found");
        let short = match by {
            By::Wal => shortest::<WalSimulation>(seed, &broken),
            By::Log => shortest::<LogSimulation>(seed, &broken),
        };
        let (left, were) = short.operations;
        println!(
            "{bug:?}, seed {seed}: {left} of {were} operations\n  {}",
            short.lines.join("\n  ")
        );
        assert!(left <= 16 && left < were, "{bug:?}: {left} of {were}");
        println!(r#"proof: {{"name":"shrunk","bug":"{bug:?}","operations":{were},"left":{left}}}"#);
    }
}

#[test]
fn without_a_planted_bug_the_same_seeds_pass() {
    let _nothing = planted::none();
    for by in [By::Wal, By::Log] {
        let of = BUGS.iter().filter(|(_, other, _)| *other == by);
        let seeds = of.map(|(.., seeds)| *seeds).max().unwrap();
        if let Some((seed, broken)) = by.first_failure(seeds) {
            panic!("no bug is planted, and seed {seed} of {by:?} fails: {broken}");
        }
    }
}
