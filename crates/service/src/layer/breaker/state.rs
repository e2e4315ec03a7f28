//! The breaker's state machine: time and randomness come in as arguments.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) calls_max: usize,
    pub(super) calls_min: usize,
    pub(super) failure_rate: f32,
    pub(super) slow_after: Duration,
    pub(super) slow_rate: f32,
    pub(super) open_for: Duration,
    pub(super) probes: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            calls_max: 100,
            calls_min: 20,
            failure_rate: 0.5,
            slow_after: Duration::from_secs(5),
            slow_rate: 0.8,
            open_for: Duration::from_secs(10),
            probes: 3,
        }
    }
}

/// What a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through and are counted.
    Closed,
    /// No call goes through.
    Open,
    /// A few calls go through to see whether the dependency answers.
    HalfOpen,
}

/// How a call counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Bad,
}

/// A call that was let through, and under which opening: one that ends after the breaker moved on counts for nothing.
#[derive(Debug)]
pub(super) struct Call {
    generation: u64,
}

#[derive(Debug)]
enum Phase {
    Closed { calls: VecDeque<(Verdict, bool)> },
    Open { until: Instant },
    HalfOpen { running: u32, good: u32 },
}

/// A breaker without time, locks or calls.
#[derive(Debug)]
pub(super) struct Machine {
    rules: Rules,
    phase: Phase,
    generation: u64,
}

impl Machine {
    pub(super) fn new(rules: Rules) -> Self {
        let calls = VecDeque::new();
        Self {
            rules,
            phase: Phase::Closed { calls },
            generation: 0,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Lets a call through, or not.
    pub(super) fn admit(&mut self, now: Instant) -> Option<Call> {
        if let Phase::Open { until } = self.phase
            && now >= until
        {
            self.enter(Phase::HalfOpen {
                running: 0,
                good: 0,
            });
        }
        let probes = self.rules.probes;
        match &mut self.phase {
            Phase::Closed { .. } => {}
            Phase::Open { .. } => return None,
            Phase::HalfOpen { running, good } if *running + *good < probes => *running += 1,
            Phase::HalfOpen { .. } => return None,
        }
        Some(Call {
            generation: self.generation,
        })
    }

    /// A call ended. No verdict: it says nothing of the dependency.
    pub(super) fn ended(
        &mut self,
        call: Call,
        verdict: Option<Verdict>,
        took: Duration,
        now: Instant,
        random: u64,
    ) {
        if call.generation != self.generation {
            return;
        }
        let slow = took >= self.rules.slow_after;
        match &mut self.phase {
            Phase::Closed { calls } => {
                let Some(verdict) = verdict else { return };
                calls.push_back((verdict, slow));
                if calls.len() > self.rules.calls_max {
                    calls.pop_front();
                }
                if is_too_bad(calls, &self.rules) {
                    self.open(now, random);
                }
            }
            Phase::HalfOpen { running, good } => {
                *running = running.saturating_sub(1);
                match verdict {
                    Some(Verdict::Good) if !slow => *good += 1,
                    Some(_) => return self.open(now, random),
                    None => {}
                }
                if *good >= self.rules.probes {
                    let calls = VecDeque::new();
                    self.enter(Phase::Closed { calls });
                }
            }
            Phase::Open { .. } => {}
        }
    }

    fn open(&mut self, now: Instant, random: u64) {
        // Up to half as long again: processes that opened together do not probe together.
        let share = (random >> 40) as f32 / (1u32 << 24) as f32;
        let length = self.rules.open_for.mul_f32(1.0 + share / 2.0);
        self.enter(Phase::Open {
            until: now + length,
        });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

fn is_too_bad(calls: &VecDeque<(Verdict, bool)>, rules: &Rules) -> bool {
    if calls.len() < rules.calls_min {
        return false;
    }
    let share = |n: usize| n as f32 / calls.len() as f32;
    let bad = calls.iter().filter(|(v, _)| *v == Verdict::Bad).count();
    let slow = calls.iter().filter(|(_, slow)| *slow).count();
    share(bad) >= rules.failure_rate || share(slow) >= rules.slow_rate
}
