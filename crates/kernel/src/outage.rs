//! A dependency is down: consumption pauses, and one message asks now and then whether it is back.

use std::time::Duration;

use postrider_core::clock::{Mono, SplitMix64};
use postrider_core::fault::Dependency;
use postrider_core::policy::Retry;

use crate::config::{OUTAGES_MAX, PROBE_WAIT_MAX};
use crate::dispatch::Entry;
use crate::io::Slot;
use crate::kernel::Kernel;
use crate::message::State;
use crate::retry::decorrelated;

#[derive(Debug)]
struct Outage {
    dependency: Dependency,
    /// The message that asks; with the sequence that tells it from a later one of its slot.
    probe: Option<(u64, Slot)>,
    probing: bool,
    probe_at: Mono,
    wait: Duration,
}

/// Dependencies that are down. While there is one, nothing is dispatched but its probe.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    down: Vec<Outage>,
}

impl Outages {
    pub(crate) fn is_empty(&self) -> bool {
        self.down.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.down.len()
    }

    /// A handler met a dependency that is down. Gives whether that is news.
    pub(crate) fn report(
        &mut self,
        rng: &mut SplitMix64,
        rule: &Retry,
        dependency: Dependency,
        by: (u64, Slot),
        now: Mono,
    ) -> bool {
        let max = rule.max.min(PROBE_WAIT_MAX);
        if let Some(outage) = self.down.iter_mut().find(|o| o.dependency == dependency) {
            if outage.probing && outage.probe == Some(by) {
                outage.probing = false;
                outage.wait = decorrelated(rng, rule.base, max, outage.wait);
                outage.probe_at = now.plus(outage.wait);
            }
            return false;
        }
        // The probe of another dependency met this one: that one answered.
        self.down.retain(|o| !(o.probing && o.probe == Some(by)));
        if self.down.len() >= OUTAGES_MAX {
            return false;
        }
        let wait = decorrelated(rng, rule.base, max, rule.base);
        self.down.push(Outage {
            dependency,
            probe: Some(by),
            probing: false,
            probe_at: now.plus(wait),
            wait,
        });
        true
    }

    pub(crate) fn available(&mut self, dependency: &Dependency) {
        self.down.retain(|o| o.dependency != *dependency);
    }

    /// Whether a message is to ask as soon as it may.
    pub(crate) fn is_probe(&self, slot: Slot) -> bool {
        let mut probes = self.down.iter().filter(|o| !o.probing);
        probes.any(|o| o.probe.is_some_and(|(_, s)| s == slot))
    }

    /// The handler of a probe ended; `answers`: in a way that shows that the dependency is back.
    pub(crate) fn probed(&mut self, slot: Slot, answers: bool) {
        let is_probe = |o: &Outage| o.probing && o.probe.is_some_and(|(_, s)| s == slot);
        if answers {
            self.down.retain(|o| !is_probe(o));
        }
    }

    /// A message is gone: it cannot ask any more.
    pub(crate) fn forget(&mut self, slot: Slot, now: Mono) {
        for outage in &mut self.down {
            if outage.probe.is_some_and(|(_, s)| s == slot) {
                outage.probe = None;
                if std::mem::take(&mut outage.probing) {
                    outage.probe_at = now.plus(outage.wait);
                }
            }
        }
    }

    fn next_probe(&self, now: Mono) -> Option<usize> {
        self.down
            .iter()
            .position(|o| !o.probing && o.probe_at <= now)
    }
}

impl Kernel {
    /// Starts the probes whose time has come: the message that met the outage, else whose turn it is. Without any message, the pause ends.
    pub(crate) fn probe(&mut self) {
        while let Some(index) = self.outages.next_probe(self.now) {
            if !self.has_free_handler() || self.asking > 0 {
                return;
            }
            let wanted = self.outages.down[index].probe;
            let Some(slot) = wanted
                .and_then(|probe| self.ready_slot(probe))
                .or_else(|| self.any_ready())
            else {
                if self.running > 0 || !self.messages.is_empty() {
                    // What is held or handled will be ready some time.
                    let outage = &mut self.outages.down[index];
                    outage.probe_at = self.now.plus(outage.wait);
                    continue;
                }
                self.outages.down.remove(index);
                continue;
            };
            let outage = &mut self.outages.down[index];
            outage.probe = Some((self.messages.at(slot).seq, slot));
            if self.must_ask(slot) {
                self.ask(slot);
                return;
            }
            let outage = &mut self.outages.down[index];
            outage.probing = true;
            self.start(slot);
            if !matches!(
                self.messages.get(slot).map(|m| m.state),
                Some(State::Running { .. })
            ) {
                // It was set aside instead.
                let outage = &mut self.outages.down[index];
                outage.probing = false;
                outage.probe = None;
            }
        }
    }

    /// When the outages want to be looked at again.
    pub(crate) fn outage_alarm(&self) -> Option<Mono> {
        let probes = self
            .outages
            .down
            .iter()
            .filter(|o| !o.probing)
            .map(|o| o.probe_at);
        let oldest = self
            .messages
            .oldest()
            .filter(|m| m.is_leased() && m.is_held());
        let release = oldest.map(|m| m.received.plus(self.config.policy.limits.hold_max));
        probes.chain(release).filter(|at| *at > self.now).min()
    }

    fn ready_slot(&self, (seq, slot): (u64, Slot)) -> Option<Slot> {
        let message = self
            .messages
            .get(slot)
            .filter(|m| m.seq == seq && m.state == State::Queued)?;
        match message.lane {
            Some(lane) => (self.head(lane) == Some(slot)).then_some(slot),
            None => Some(slot),
        }
    }

    fn any_ready(&self) -> Option<Slot> {
        self.ready
            .iter()
            .find_map(|entry: &Entry| self.resolve(*entry))
    }
}
