//! Lives in a row, each in a runtime of its own; what came of it; and the smallest story that fails in the same way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use postrider_log::disk::SimDisk;

use super::ledger::{Shared, World};
use super::life::{End, live};
use super::rot;
use super::scenario::{Fate, Scenario};
use crate::garbled::break_reader;

/// Stories that are tried to find a smaller one.
const SHRINKS_MAX: usize = 120;
/// Lines of a story that are shown.
const LINES_SHOWN: usize = 120;

/// A run in which everything was as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub story: Vec<String>,
    pub crashes: u64,
    pub flips: u64,
    pub messages: u64,
    /// Calls that were cut, members that froze, failures that were kept beside the engine.
    pub cuts: u64,
    pub freezes: u64,
    pub kept_beside: u64,
}

/// A run in which something was wrong.
#[derive(Debug)]
pub struct Failure {
    pub scenario: Scenario,
    pub wrongs: Vec<String>,
    pub story: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "\nseed {} fails. The smallest story found: {:?}",
            self.scenario.seed, self.scenario
        )?;
        let skipped = self.story.len().saturating_sub(LINES_SHOWN);
        if skipped > 0 {
            writeln!(f, "  ({skipped} lines before)")?;
        }
        for line in &self.story[skipped..] {
            writeln!(f, "  {line}")?;
        }
        for wrong in &self.wrongs {
            writeln!(f, "WRONG: {wrong}")?;
        }
        Ok(())
    }
}

/// Runs one story.
pub fn run(scenario: &Scenario) -> Result<Outcome, Box<Failure>> {
    let world = World::new(scenario);
    break_reader(true);
    let ran = catch_unwind(AssertUnwindSafe(|| lives(&world)));
    let story = world.story();
    let mut wrongs = world.wrongs();
    if let Err(panic) = &ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        wrongs.push(format!("it panicked: {}", text.unwrap_or_default()));
    }
    match ran {
        Ok(outcome) if wrongs.is_empty() => Ok(Outcome {
            messages: world.confirmed.lock().unwrap().len() as u64,
            cuts: lines_with(&story, " is cut "),
            freezes: lines_with(&story, " freezes for "),
            kept_beside: lines_with(&story, " beside: "),
            story,
            ..outcome
        }),
        _ => Err(Box::new(Failure {
            scenario: scenario.clone(),
            wrongs,
            story,
        })),
    }
}

fn lines_with(story: &[String], what: &str) -> u64 {
    story.iter().filter(|line| line.contains(what)).count() as u64
}

/// Finds a smaller story that fails too.
pub fn shrink(failure: Box<Failure>) -> Box<Failure> {
    let mut best = failure;
    let mut tries = 0;
    'smaller: loop {
        for smaller in best.scenario.smaller() {
            tries += 1;
            if tries > SHRINKS_MAX {
                return best;
            }
            if let Err(failure) = run(&smaller) {
                best = failure;
                continue 'smaller;
            }
        }
        return best;
    }
}

fn lives(world: &Shared) -> Outcome {
    let mut disk = SimDisk::new(world.dice.below(u64::MAX));
    let mut outcome = Outcome::default();
    let fates: Vec<Option<Fate>> = world
        .scenario
        .lives
        .iter()
        .map(|fate| Some(*fate))
        .collect();
    for fate in fates.into_iter().chain([None]) {
        let (end, next, lasted) = one(world, &disk, fate);
        if end == End::Finished {
            return outcome;
        }
        disk = next;
        outcome.crashes += u64::from(end != End::Stopped);
        let mut kept = || world.dice.one_in(2);
        if end != End::Stopped {
            world
                .stores
                .iter()
                .for_each(|store| store.lock().unwrap().crash(&mut kept));
        }
        for cabinet in &world.cabinets {
            let notes_kept = end != End::Power || world.dice.one_in(2);
            cabinet.lock().unwrap().reopen(notes_kept);
        }
        if world.scenario.rot && !disk.paths().is_empty() {
            outcome.flips += 1;
            runtime().block_on(rot::look(world, &disk));
        }
        let down = Duration::from_millis(world.dice.below(3000));
        world.time.over(lasted, down);
    }
    world.wrong("the last life ended before everything was mended");
    outcome
}

/// One life in a runtime of its own.
fn one(world: &Shared, disk: &SimDisk, fate: Option<Fate>) -> (End, SimDisk, Duration) {
    runtime().block_on(async {
        let began = tokio::time::Instant::now();
        let (end, next) = live(world, disk.clone(), fate).await;
        (end, next, began.elapsed())
    })
}

pub fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime of one thread starts")
}
