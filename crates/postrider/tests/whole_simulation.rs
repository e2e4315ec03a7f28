//! The whole stack under simulation, by seed: see `whole/sim`.
//!
//! `POSTRIDER_SEEDS=n` runs n seeds, `POSTRIDER_SEED=s` this one alone, `POSTRIDER_SWARM_MINUTES=m` other ones until the time is over.
#![cfg(feature = "embedded")]
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
mod seeds;
#[path = "whole/sim/mod.rs"]
mod sim;

use std::sync::Mutex;

use seeds::Seeds;
use sim::{Failure, Outcome, Scenario};

const SEEDS_DEFAULT: u64 = 300;
/// Of these, each is run twice.
const SEEDS_TWICE: u64 = 100;
const CRASHES: u64 = 1000;

#[test]
fn nothing_confirmed_is_lost_and_effects_happen_once_through_power_cuts_of_the_whole_stack() {
    seeds::quiet();
    let sum = Mutex::new(Outcome::default());
    let failed: Mutex<Option<Box<Failure>>> = Mutex::default();
    let seeds = Seeds::from_environment("the whole stack", SEEDS_DEFAULT);
    let ran = seeds.each(|seed| match sim::run(&Scenario::of(seed)) {
        Ok(outcome) => {
            let mut sum = sum.lock().unwrap();
            sum.crashes += outcome.crashes;
            sum.flips += outcome.flips;
            sum.messages += outcome.messages;
            sum.cuts += outcome.cuts;
            sum.freezes += outcome.freezes;
            sum.kept_beside += outcome.kept_beside;
            true
        }
        Err(failure) => {
            let mut first = failed.lock().unwrap();
            if first
                .as_ref()
                .is_none_or(|f| failure.scenario.seed < f.scenario.seed)
            {
                *first = Some(failure);
            }
            false
        }
    });
    if let Some(failure) = failed.into_inner().unwrap() {
        let seed = failure.scenario.seed;
        let failure = sim::shrink(failure);
        panic!(
            "{failure}\nagain: POSTRIDER_SEED={seed} cargo test -p postrider --all-features --test whole_simulation\n"
        );
    }
    let sum = sum.into_inner().unwrap();
    if ran >= SEEDS_DEFAULT {
        let least = sum.cuts.min(sum.freezes).min(sum.kept_beside);
        assert!(least > ran / 20, "faults that hardly happen: {sum:?}");
    }
    println!(
        "proof: {{\"name\":\"whole_stack_simulation\",\"what\":\"log, kernel, driver, relay and store on a simulated disk and clock\",\
         \"seeds\":{ran},\"messages\":{},\"crashes\":{},\"flips\":{},\"cuts\":{},\"freezes\":{},\"failures_beside\":{}}}",
        sum.messages, sum.crashes, sum.flips, sum.cuts, sum.freezes, sum.kept_beside
    );
}

#[test]
fn one_seed_is_one_story() {
    seeds::quiet();
    for seed in 1..=SEEDS_TWICE {
        let scenario = Scenario::of(seed);
        let [first, second] = [(); 2].map(|()| match sim::run(&scenario) {
            Ok(outcome) => outcome.story,
            Err(failure) => panic!("{failure}"),
        });
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let before = first[at.saturating_sub(12)..at].join("\n");
            panic!(
                "seed {seed} told two stories:\n{before}\n{}\n{}",
                first[at], second[at]
            );
        }
        assert_eq!(first.len(), second.len(), "seed {seed} told two stories");
    }
}

/// 18: whenever the power fails, a dead letter is in exactly one of source and failures.
#[test]
fn acceptance_18_a_dead_letter_is_in_exactly_one_place_across_a_thousand_crashes() {
    seeds::quiet();
    let wrong: Mutex<Option<(u64, String)>> = Mutex::default();
    let crashes = Seeds::first("dead letters", CRASHES).each(|seed| {
        let found = sim::dead_letter::crash(seed);
        let good = found.is_ok();
        if let Err(what) = found {
            *wrong.lock().unwrap() = Some((seed, what));
        }
        good
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_none(), "{wrong:?}");
    println!(
        "proof: {{\"name\":\"acceptance_18\",\"what\":\"a dead letter is in exactly one of source and failures when the power fails\",\
         \"crashes\":{crashes}}}"
    );
}
