//! The kernel against a small model of an engine and a failure store, of both shapes: random keys, outcomes, lost leases, parked keys, redrives,
//! pauses, drains, rebalances and crashes.
//!
//! What must hold: a message is dispatched only when all before it of its key are done; one message of a key is in the handler at a time; nothing is
//! both acknowledged and recorded; every bound holds; in the end everything is handled and forgotten.

#![allow(clippy::unwrap_used)]

mod world;

use proptest::prelude::*;
use world::{MODES, Mode, Shape, World};

fn live(shape: Shape, mode: Mode, seed: u64, steps: u32) {
    println!("{shape:?} {mode:?} KERNEL_SEED={seed} KERNEL_STEPS={steps}");
    let mut world = World::new(shape, mode, seed);
    for _ in 0..steps {
        world.step();
    }
    world.finish_everything();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_per_key_holds_on_a_lease_source(seed in any::<u64>(), steps in 20u32..600) {
        live(Shape::Lease, Mode::Park, seed, steps);
    }

    #[test]
    fn order_per_key_holds_on_a_log_source(seed in any::<u64>(), steps in 20u32..600) {
        live(Shape::Log, Mode::Park, seed, steps);
    }

    #[test]
    fn order_per_key_holds_where_a_key_goes_on_without_what_failed(seed in any::<u64>(), steps in 20u32..600) {
        live(Shape::Lease, Mode::Continue, seed, steps);
        live(Shape::Log, Mode::Continue, seed, steps);
    }

    #[test]
    fn unordered_everything_is_handled(seed in any::<u64>(), steps in 20u32..600) {
        live(Shape::Lease, Mode::Unordered, seed, steps);
        live(Shape::Log, Mode::Unordered, seed, steps);
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    number("KERNEL_SEED").map_or(0..count, |seed| seed..seed + 1)
}

/// The seed is printed: `KERNEL_SEED=n` runs that one alone (`KERNEL_STEPS=n` steps of it), `KERNEL_TRACE=1` tells what goes in and out.
#[test]
fn order_per_key_holds_for_many_seeds() {
    let steps = number("KERNEL_STEPS").map_or(1500, |steps| steps as u32);
    for seed in seeds(30) {
        for shape in [Shape::Log, Shape::Lease] {
            for mode in MODES {
                live(shape, mode, seed, steps);
            }
        }
    }
}

/// How many deaths it takes at most: one before it is watched, two until it is a suspect, one in a group, three alone; and until another is a suspect
/// too, its deaths may speak for it while it waits.
fn deaths_max(poisons: u32) -> u32 {
    7 * poisons + 3 * poisons * (poisons - 1)
}

/// E5 suspect_isolation.
#[test]
fn messages_that_kill_the_process_are_found_and_set_aside_and_no_others() {
    let killers: [&[(u8, u32)]; 3] = [&[(2, 3)], &[(2, 3), (4, 0)], &[(0, 1), (1, 1), (3, 2)]];
    let mut most = [0; 4];
    for seed in seeds(8) {
        for shape in [Shape::Log, Shape::Lease] {
            for (mode, poisons) in MODES.into_iter().flat_map(|m| killers.map(|k| (m, k))) {
                let mut world = World::new(shape, mode, seed);
                world.fill(60);
                println!("{shape:?} {mode:?} seed {seed} {poisons:?}");
                world.survive_poison(poisons);
                let max = deaths_max(poisons.len() as u32);
                assert!(world.deaths <= max, "{} deaths", world.deaths);
                // One whose key waited for too long may have been set aside for that.
                let innocent = world.condemned.iter().find(|name| !poisons.contains(name));
                assert_eq!(innocent, None);
                world.poisons.clear();
                world.finish_everything();
                most[poisons.len()] = most[poisons.len()].max(world.deaths);
            }
        }
    }
    println!(
        r#"proof: {{"name":"suspect_isolation","what":"messages that kill the process are set aside, no others","poisons_1_deaths_max":{},"poisons_2_deaths_max":{},"poisons_3_deaths_max":{}}}"#,
        most[1], most[2], most[3]
    );
}

#[test]
fn kills_from_outside_condemn_nobody() {
    for seed in seeds(8) {
        for shape in [Shape::Log, Shape::Lease] {
            for mode in MODES {
                println!("{shape:?} {mode:?} seed {seed}");
                let mut world = World::new(shape, mode, seed);
                world.fill(40);
                world.survive_kills(100, 5 + seed * 10);
                assert!(world.condemned.is_empty(), "{:?}", world.condemned);
                world.finish_everything();
            }
        }
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    for shape in [Shape::Log, Shape::Lease] {
        let said = || {
            let mut world = World::new(shape, Mode::Park, 3);
            (0..2000).for_each(|_| world.step());
            world.said
        };
        assert_eq!(said(), said());
    }
}
