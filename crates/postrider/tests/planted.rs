//! Bugs on purpose, above the log: the simulation of the whole stack finds each within so many seeds, and nothing where none is planted.
//!
//! The bound of each is well above what it takes now, so that the stories may change.
#![cfg(all(feature = "embedded", feature = "planted"))]
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "whole/dice.rs"]
#[allow(dead_code, reason = "the time of `whole.rs` is in it too")]
mod dice;
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
}

/// A bug, who finds it, and within how many seeds.
const BUGS: [(Plant, By, u64); 11] = [
    (Plant::RetryBehindItsKey, By::WholeStack, 100),
    (Plant::ParkOutOfOrder, By::WholeStack, 400),
    (Plant::AttemptNotCounted, By::WholeStack, 200),
    (Plant::PanicAcknowledges, By::WholeStack, 100),
    (Plant::SettleLost, By::WholeStack, 100),
    (Plant::AckBeforePublish, By::WholeStack, 400),
    (Plant::RelayRemovesFirst, By::WholeStack, 400),
    (Plant::IdNotDerived, By::WholeStack, 400),
    (Plant::LeaseNotExtended, By::WholeStack, 100),
    (Plant::ConfirmBeforeSync, By::WholeStack, 100),
    (Plant::DeadLetterInTwo, By::DeadLetters, 100),
];

impl By {
    fn is_good(self, seed: u64) -> bool {
        match self {
            Self::WholeStack => sim::run(&Scenario::of(seed)).is_ok(),
            Self::DeadLetters => sim::dead_letter::crash(seed).is_ok(),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::WholeStack => "simulation of the whole stack",
            Self::DeadLetters => "acceptance_18",
        }
    }
}

/// The first seed that fails.
fn found(by: By, seeds: u64) -> Option<u64> {
    let found = AtomicU64::new(u64::MAX);
    Seeds::first("planted", seeds).each(|seed| {
        let good = by.is_good(seed);
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
    for (bug, by, seeds) in BUGS {
        let planted = planted::plant(bug);
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
}

#[test]
fn without_a_planted_bug_the_same_seeds_pass() {
    let _nothing = planted::none();
    seeds::quiet();
    assert_eq!(found(By::WholeStack, 400), None);
    assert_eq!(found(By::DeadLetters, 100), None);
}
