//! Messages that may have killed a process: the kernel asks for them, the process knows them, the failure store keeps what is known.
//!
//! What waits to be noted goes in one call, beside the other work for the failure store.

use std::collections::BTreeMap;
use std::time::Duration;

use postrider_core::clock::Mono;
use postrider_core::crash::{Change, CrashNote, CrashState};
use postrider_core::id::MessageId;
use postrider_kernel::suspects::{Asked, RAN_MIN};
use postrider_kernel::{Input, Slot, Verdict};

use super::run::{Alarm, Driver};

/// How long a driver that ends waits for the failure store to note that its handlers ended.
const NOTE_MAX: Duration = Duration::from_secs(1);

/// Something to be noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) id: MessageId,
    pub(super) change: Change,
    /// Who waits for it.
    pub(super) waits: Waits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// A message that was asked for.
    Slot(Slot),
    /// The kernel wants to know when what is gone is noted.
    Gone,
    Nobody,
}

/// What is watched. Bounded by what is held.
#[derive(Default)]
pub(super) struct Watch {
    pending: Vec<Pending>,
    /// Watched messages in a handler: since when, and when to note how long.
    running: BTreeMap<MessageId, (Mono, Duration)>,
}

impl Watch {
    /// All that waits to be noted.
    pub(super) fn take(&mut self) -> Vec<Pending> {
        std::mem::take(&mut self.pending)
    }

    /// ORDER: before everything that became due later.
    pub(super) fn put_back(&mut self, mut notes: Vec<Pending>) {
        notes.append(&mut self.pending);
        self.pending = notes;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

impl Driver {
    pub(super) fn ask(&mut self, slot: Slot, id: MessageId) {
        let (now, registry) = (self.now(), &self.runtime.registry);
        let member = self.spec.member;
        let asked = registry.suspects().ask(now, &self.spec.id, member, id);
        self.asked(slot, id, asked);
    }

    fn asked(&mut self, slot: Slot, id: MessageId, asked: Asked) {
        let verdict = match asked {
            Asked::Tell(verdict) => verdict,
            Asked::Note(change) => {
                let waits = Waits::Slot(slot);
                self.watch.pending.push(Pending { id, change, waits });
                return;
            }
        };
        if verdict == Verdict::Go {
            let now = self.now();
            self.watch.running.insert(id, (now, RAN_MIN));
            self.alarm(now.plus(RAN_MIN), Alarm::Ran);
        }
        self.inputs.push_back(Input::Answer { slot, id, verdict });
    }

    pub(super) fn gone(&mut self, id: MessageId, ended: bool) {
        self.watch.running.remove(&id);
        let (now, member) = (self.now(), self.spec.member);
        let mut suspects = self.runtime.registry.suspects();
        let change = suspects.gone(now, &self.spec.id, member, id, ended);
        drop(suspects);
        let waits = Waits::Gone;
        self.watch.pending.push(Pending { id, change, waits });
    }

    /// Notes of watched handlers how long they have run, at each doubling.
    pub(super) fn note_long(&mut self) {
        let now = self.now();
        let mut next = None;
        for (id, (since, due)) in &mut self.watch.running {
            let ran = now.since(*since);
            while ran >= *due {
                let ms = u64::try_from(due.as_millis()).unwrap_or(u64::MAX);
                self.watch.pending.push(Pending {
                    id: *id,
                    change: Change::Ran(ms),
                    waits: Waits::Nobody,
                });
                *due = due.saturating_mul(2);
            }
            let at = since.plus(*due);
            next = Some(next.map_or(at, |next: Mono| next.min(at)));
        }
        if let Some(at) = next {
            self.alarm(at, Alarm::Ran);
        }
    }

    pub(super) fn crash_note(&self, notes: &[Pending]) -> CrashNote {
        let suspects = self.runtime.registry.suspects();
        CrashNote {
            life: suspects.life(),
            explained: suspects.explained(),
            changes: notes.iter().map(|n| (n.id, n.change)).collect(),
        }
    }

    /// The failure store has noted them, and this is what it knows now.
    pub(super) fn noted(&mut self, notes: &[Pending], state: &CrashState) {
        let now = self.now();
        let mut gone = 0;
        for note in notes {
            match note.waits {
                Waits::Slot(slot) => {
                    let registry = &self.runtime.registry;
                    let (whose, member) = (&self.spec.id, self.spec.member);
                    let mut suspects = registry.suspects();
                    let asked = suspects.noted(now, whose, member, note.id, state);
                    drop(suspects);
                    self.asked(slot, note.id, asked);
                }
                Waits::Gone => gone += 1,
                Waits::Nobody => {}
            }
        }
        if gone > 0 {
            self.inputs.push_back(Input::GoneNoted(gone));
        }
    }

    /// The last notes of a driver that ends: its handlers ended, whatever else was given up. Without an answer they look as if the process had died.
    pub(super) async fn note_the_end(&mut self) {
        let notes = self.watch.take();
        let Some(failures) = self.failures.clone().filter(|_| !notes.is_empty()) else {
            return;
        };
        let note = self.crash_note(&notes);
        let noted = tokio::time::timeout(NOTE_MAX, failures.note_crash(&self.spec.id, note)).await;
        if !matches!(noted, Ok(Ok(_))) {
            tracing::debug!(target: "postrider", subscription = %self.spec.id, "the end of its handlers was not noted");
        }
    }
}
