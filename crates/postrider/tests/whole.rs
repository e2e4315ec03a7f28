//! The delivery path as a whole on SQLite itself, its writer thread, its savepoints and its failure store: under everything that goes wrong, in virtual
//! time, and in a process that is killed.
//!
//! `POSTRIDER_SEEDS=n` runs a fifth of n, since a seed is a long story here; `POSTRIDER_SEED=s` this one alone. The short stories, on a disk
//! whose power fails, are in `whole_simulation.rs`, with the same faults and a store that is simulated.
#![cfg(all(feature = "sqlite", feature = "embedded"))]
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "whole/chain.rs"]
mod chain;
#[path = "whole/dice.rs"]
mod dice;
#[path = "whole/garbled.rs"]
mod garbled;
#[path = "whole/kill.rs"]
mod kill;
#[path = "whole/line.rs"]
#[allow(dead_code, reason = "the simulation uses the rest of it")]
mod line;
#[path = "whole/run.rs"]
mod run;

const SEEDS_DEFAULT: u64 = 50;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is a number")),
        )
    };
    match number("POSTRIDER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("POSTRIDER_SEEDS").map_or(SEEDS_DEFAULT, |n| (n / 5).max(1)) + 1,
    }
}

/// Names the seed of a run that panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nagain with POSTRIDER_SEED={}\n", self.0);
        }
    }
}

#[test]
fn effects_happen_once_and_in_order_through_everything() {
    quiet();
    for seed in seeds() {
        let _named = Named(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run::run(seed));
    }
}

/// Panics that the test asked for are not printed.
fn quiet() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some("chaos") {
            hook(info);
        }
    }));
}
