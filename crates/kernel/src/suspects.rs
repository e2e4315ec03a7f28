//! Crash loops: a message that kills the process is found by handling one message at a time, and set aside.
//!
//! The rules. Before the first dispatch of an owner, `crashes + 1` is stored; after progress, 0; after a clean stop without progress, what was
//! there. *Progress* is: an acknowledgement was stored (on a log: a commit that moves the watermark), and every message that came back from
//! an earlier owner (`deliveries > 0`) as the first of its key has had its handler end once (what came behind it was in no handler). So a poison
//! message among good ones still counts up. From three crashes on messages are handled alone, those that came back first, each
//! with its id stored as a suspect before; one that comes with two deaths is not dispatched again but fails as `CrashLoop`. When none
//! that came back is left that can be handled now, things go on as ever.

use postrider_core::failure::CrashState;
use postrider_core::id::MessageId;

use crate::config::{CRASHES_BEFORE_SUSPICION, SUSPECT_DEATHS_MAX, SUSPECTS_MAX};

/// Whether a message may be dispatched now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// Store this first, and ask again when it is stored.
    Note(CrashState),
    /// A note is on its way.
    Wait,
}

/// What is known of crashes, and what is stored of it.
#[derive(Debug)]
pub(crate) struct CrashGuard {
    enabled: bool,
    /// What the last owner left.
    found: u32,
    /// What is stored now.
    stored: u32,
    started: bool,
    alone: bool,
    suspects: Vec<(MessageId, u32)>,
    /// Suspects that came with as many deaths as it takes.
    condemned: Vec<MessageId>,
    /// The message that is noted as being alone in the handler.
    chosen: Option<MessageId>,
    /// Notes that are not stored yet.
    pending: u32,
    /// Messages that came back and whose handler has not ended yet.
    probation: u32,
    passed: u32,
    progress: bool,
}

impl CrashGuard {
    pub(crate) const fn new(enabled: bool) -> Self {
        Self {
            enabled,
            found: 0,
            stored: 0,
            started: false,
            alone: false,
            suspects: Vec::new(),
            condemned: Vec::new(),
            chosen: None,
            pending: 0,
            probation: 0,
            passed: 0,
            progress: false,
        }
    }

    pub(crate) fn opened(&mut self, state: CrashState) {
        self.found = state.crashes;
        self.stored = state.crashes;
        self.suspects = state.suspects;
        self.suspects.truncate(SUSPECTS_MAX);
        let condemned = self
            .suspects
            .iter()
            .filter(|(_, deaths)| *deaths >= SUSPECT_DEATHS_MAX);
        self.condemned = condemned.map(|(id, _)| *id).collect();
        self.alone = self.enabled && state.crashes >= CRASHES_BEFORE_SUSPICION;
    }

    /// One message at a time.
    pub(crate) const fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whether messages that came back are to be watched.
    pub(crate) const fn is_watching(&self) -> bool {
        self.enabled && (!self.started || self.stored > 0)
    }

    /// A message came back that may have been in a handler when its last owner died.
    pub(crate) fn watch(&mut self) {
        self.probation += 1;
    }

    /// A watched message ended its handler, or is gone.
    pub(crate) fn unwatch(&mut self) {
        assert!(self.probation > 0, "a message is watched once");
        self.probation -= 1;
    }

    /// The last owner may have died of something.
    pub(crate) const fn found_crashes(&self) -> bool {
        self.found > 0
    }

    /// It killed the process often enough.
    pub(crate) fn is_condemned(&self, id: MessageId) -> bool {
        self.enabled && self.condemned.contains(&id)
    }

    pub(crate) fn admit(&mut self, id: MessageId) -> Admission {
        if !self.enabled {
            return Admission::Go;
        }
        if self.alone && self.chosen != Some(id) {
            if self.pending > 0 {
                return Admission::Wait;
            }
            self.accuse(id);
            self.chosen = Some(id);
            return Admission::Note(self.note_start());
        }
        if !self.started {
            return Admission::Note(self.note_start());
        }
        if self.pending > 0 && (self.alone || !self.progress) {
            Admission::Wait
        } else {
            Admission::Go
        }
    }

    pub(crate) fn noted(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    pub(crate) const fn is_noting(&self) -> bool {
        self.pending > 0
    }

    /// The message that was noted as alone cannot be dispatched: another is chosen.
    pub(crate) fn unchoose(&mut self) {
        if let Some(id) = self.chosen.take()
            && let Some(suspect) = self.suspects.iter_mut().find(|(s, _)| *s == id)
        {
            suspect.1 -= 1;
            self.suspects.retain(|(_, deaths)| *deaths > 0);
        }
    }

    pub(crate) const fn chosen(&self) -> Option<MessageId> {
        self.chosen
    }

    /// A handler ended, however: the process lives.
    pub(crate) fn survived(&mut self, id: MessageId) {
        if self.alone {
            self.chosen = None;
            self.passed += 1;
        }
        self.acquit(id);
    }

    /// A condemned message was set aside.
    pub(crate) fn set_aside(&mut self, id: MessageId) {
        self.passed += 1;
        self.acquit(id);
    }

    /// See the rules above.
    pub(crate) fn progressed(&mut self) {
        self.progress |= self.started && self.pending == 0;
    }

    /// The note that ends the watch, once all is well.
    pub(crate) fn maybe_clear(&mut self) -> Option<CrashState> {
        let over = if self.alone {
            self.passed > 0 && self.chosen.is_none()
        } else {
            self.probation == 0 && self.progress
        };
        if !self.enabled || !over || self.stored == 0 || (!self.started && self.passed == 0) {
            return None;
        }
        self.alone = false;
        self.found = 0;
        self.progress |= self.started;
        Some(self.note(0))
    }

    /// The note of a clean stop: it was no crash.
    pub(crate) fn stopped(&mut self) -> Option<CrashState> {
        if !self.enabled || !self.started || self.stored <= self.found {
            return None;
        }
        self.unchoose();
        Some(self.note(self.found))
    }

    pub(crate) fn suspects(&self) -> usize {
        self.suspects.len()
    }

    fn note_start(&mut self) -> CrashState {
        self.started = true;
        self.note(self.found.saturating_add(1))
    }

    fn note(&mut self, crashes: u32) -> CrashState {
        self.stored = crashes;
        self.pending += 1;
        CrashState {
            crashes,
            suspects: self.suspects.clone(),
        }
    }

    fn accuse(&mut self, id: MessageId) {
        self.unchoose();
        if let Some(suspect) = self.suspects.iter_mut().find(|(s, _)| *s == id) {
            suspect.1 += 1;
            return;
        }
        if self.suspects.len() >= SUSPECTS_MAX {
            self.suspects.remove(0);
        }
        self.suspects.push((id, 1));
    }

    fn acquit(&mut self, id: MessageId) {
        self.suspects.retain(|(s, _)| *s != id);
        self.condemned.retain(|s| *s != id);
    }
}
