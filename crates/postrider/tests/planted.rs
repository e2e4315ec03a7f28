//! Bugs on purpose, above the log: the simulation of the whole stack finds each within so many seeds, and nothing where none is planted.
//!
//! The bound of each is well above what it takes now, so that the stories may change.
#![cfg(all(feature = "embedded", feature = "planted"))]
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "whole/dice.rs"]
#[allow(dead_code, reason = "the time of `whole.rs` is in it too")]
mod dice;
#[path = "whole/garbled.rs"]
mod garbled;
#[path = "whole/line.rs"]
#[allow(dead_code, reason = "the death of `whole.rs` is in it too")]
mod line;
#[path = "whole/seeds.rs"]
#[allow(dead_code, reason = "the simulation uses the rest of it")]
mod seeds;
#[path = "whole/sim/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the simulation uses the rest of it"
)]
mod sim;

use std::sync::atomic::{AtomicU64, Ordering};

use postrider::contract::planted::{self, Plant};
use seeds::Seeds;
use sim::Scenario;

/// Who finds a bug.
#[derive(Clone, Copy, Debug)]
enum By {
    WholeStack,
    DeadLetters,
    /// The simulation of the whole stack, and only where members freeze.
    Freezes,
    /// And only where calls are cut.
    Cuts,
    /// And only where failures are kept beside the engine.
    Beside,
}

/// A bug, who finds it, and within how many seeds.
const BUGS: [(Plant, By, u64); 16] = [
    (Plant::RetryBehindItsKey, By::WholeStack, 100),
    (Plant::ParkOutOfOrder, By::WholeStack, 400),
    (Plant::AttemptNotCounted, By::WholeStack, 200),
    (Plant::PanicAcknowledges, By::WholeStack, 100),
    (Plant::SettleLost, By::WholeStack, 100),
    (Plant::AckBeforePublish, By::WholeStack, 400),
    (Plant::RelayRemovesFirst, By::WholeStack, 400),
    (Plant::IdNotDerived, By::WholeStack, 400),
    (Plant::LeaseNotExtended, By::WholeStack, 100),
    (Plant::ConfirmBeforeSync, By::WholeStack, 400),
    (Plant::DeadLetterInTwo, By::DeadLetters, 100),
    (Plant::LostLeaseGoesOn, By::Freezes, 800),
    (Plant::CutSettleCounts, By::Cuts, 800),
    (Plant::CutPublishCounts, By::Cuts, 400),
    (Plant::RecordNotKept, By::Beside, 2000),
    (Plant::ParkedNotAsked, By::Beside, 400),
];

impl By {
    fn is_good(self, seed: u64) -> bool {
        match self {
            Self::DeadLetters => sim::dead_letter::crash(seed).is_ok(),
            _ => sim::run(&Scenario::of(seed)).is_ok(),
        }
    }

    /// The same story without the fault that finds the bug. `None`: there is no one fault, or the story is without it anyhow.
    fn without(self, seed: u64) -> Option<Scenario> {
        let with = Scenario::of(seed);
        let mut without = with.clone();
        match self {
            Self::WholeStack | Self::DeadLetters => {}
            Self::Freezes => without.freezes = false,
            Self::Cuts => without.cut_one_in = 0,
            Self::Beside => without.beside = false,
        }
        (with != without).then_some(without)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::WholeStack => "simulation of the whole stack",
            Self::DeadLetters => "acceptance_18",
            Self::Freezes => "simulation of the whole stack, by members that freeze",
            Self::Cuts => "simulation of the whole stack, by answers that are cut",
            Self::Beside => "simulation of the whole stack, by failures beside the engine",
        }
    }
}

/// The first seed that fails.
fn found(by: By, seeds: u64) -> Option<u64> {
    first(seeds, |seed| by.is_good(seed))
}

fn first(seeds: u64, is_good: impl Fn(u64) -> bool + Sync) -> Option<u64> {
    let found = AtomicU64::new(u64::MAX);
    Seeds::first("planted", seeds).each(|seed| {
        let good = is_good(seed);
        if !good {
            found.fetch_min(seed, Ordering::SeqCst);
        }
        good
    });
    Some(found.into_inner()).filter(|seed| *seed < u64::MAX)
}

#[test]
fn every_planted_bug_is_found_within_its_seeds() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut unfound = Vec::new();
    let mut without = Vec::new();
    for (bug, by, seeds) in BUGS {
        let planted = planted::plant(bug);
        let other = |seed| {
            by.without(seed)
                .is_none_or(|story| sim::run(&story).is_ok())
        };
        without.extend(first(seeds, other).map(|seed| (bug, seed)));
        match found(by, seeds) {
            Some(seed) => println!(
                "proof: {{\"name\":\"planted\",\"bug\":\"{bug:?}\",\"found_in_seeds\":{seed},\"within\":{seeds},\"by\":\"{}\"}}",
                by.name()
            ),
            None => unfound.push((bug, seeds)),
        }
        drop(planted);
    }
    // A panic hook that says nothing would hide the result.
    drop(std::panic::take_hook());
    assert!(unfound.is_empty(), "planted and not found: {unfound:?}");
    assert!(
        without.is_empty(),
        "found by something else than what it was planted for: {without:?}"
    );
}

#[test]
fn without_a_planted_bug_the_same_seeds_pass() {
    let _nothing = planted::none();
    seeds::quiet();
    assert_eq!(found(By::WholeStack, 800), None);
    assert_eq!(found(By::DeadLetters, 100), None);
}
