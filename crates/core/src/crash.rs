//! What is known of messages that were in a handler when a process died: kept in the failure store, changed by notes.
//!
//! Only messages that were *handed out before* are watched: each is noted before its handler starts, and the note goes when its handler ends, however
//! that is. So a note that another process finds says that the message was in a handler, or waited for its turn, when that process died. From
//! [`SUSPECT_DEATHS`] deaths on a message is a *suspect*: suspects are tried after the process has lived for a while without any, those with fewer than
//! [`ALONE_DEATHS`] in groups, the others one at a time, and at [`CONDEMNED_DEATHS`] one is set aside. Why these rules:
//! `docs/decisions/0010-who-killed-the-process.md`.

use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, MessageId};

/// Deaths in a row with a message in a handler from which on it is a suspect: tried with few others, and not at once.
pub const SUSPECT_DEATHS: u32 = 2;
/// Deaths from which on a suspect is tried alone: it was in a group of suspects that died.
pub const ALONE_DEATHS: u32 = SUSPECT_DEATHS + 1;
/// Deaths at which a message is set aside as `crash_loop`: [`ALONE_DEATHS`] and three more, at each of which it was the only suspect in a handler.
pub const CONDEMNED_DEATHS: u32 = ALONE_DEATHS + 3;
/// Suspects in handlers of one process at once at most.
pub const GROUP_MAX: usize = 16;
/// Messages of a subscription that are watched at once at most; of more, the oldest is forgotten.
pub const WATCHED_MAX: usize = 1024;
/// Processes that died of a suspect and are remembered at most.
const EXPLAINED_MAX: usize = 16;

/// What the failure store keeps of crashes, for one subscription. Written as JSON by the stores; fields that are missing are empty, others are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CrashState {
    /// Messages that are in a handler or wait for their turn as suspects, the oldest first. At most [`WATCHED_MAX`].
    pub watched: Vec<Watched>,
    /// Processes that died while a suspect was in a handler: their deaths are explained.
    pub explained: Vec<InstanceId>,
}

/// A message that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Which.
    pub id: MessageId,
    /// Deaths of a process in a row at which it was in a handler.
    #[serde(default)]
    pub deaths: u32,
    /// The process that has it; `None`: it was given back.
    #[serde(default)]
    pub life: Option<InstanceId>,
    /// In a handler there, or about to be; else it waits for its turn as a suspect.
    #[serde(default)]
    pub running: bool,
    /// How long it was in a handler at least, the longest of all times: milliseconds.
    #[serde(default)]
    pub ran_ms: u64,
}

impl Watched {
    /// It is tried: later than the rest, with few others.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.deaths >= SUSPECT_DEATHS
    }

    /// It is tried while no other suspect is in a handler.
    #[must_use]
    pub const fn is_tried_alone(&self) -> bool {
        self.deaths >= ALONE_DEATHS
    }

    /// It is set aside.
    #[must_use]
    pub const fn is_condemned(&self) -> bool {
        self.deaths >= CONDEMNED_DEATHS
    }
}

/// What happens to a watched message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is about to be handled, unless it turns out to be a suspect: then it waits. Counts a death where another process had it in a handler.
    Begin,
    /// A suspect is about to be handled.
    Try,
    /// It has been in a handler for this long, in milliseconds.
    Ran(u64),
    /// Its handler ended, or it was set aside: it is watched no more.
    Ended,
    /// It was given back without a handler: what is known of it stays.
    PutBack,
}

/// Changes by one process, applied as one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashNote {
    /// The process.
    pub life: InstanceId,
    /// Other processes that died of a suspect of another subscription: their deaths say nothing about who waited.
    pub explained: Vec<InstanceId>,
    /// What happens, in order.
    pub changes: Vec<(MessageId, Change)>,
}

impl CrashState {
    /// What is known of a message.
    #[must_use]
    pub fn of(&self, id: MessageId) -> Option<&Watched> {
        self.watched.iter().find(|w| w.id == id)
    }

    /// Applies a note. Applying it twice has the effect of once.
    pub fn apply(&mut self, note: &CrashNote) {
        for (id, change) in &note.changes {
            self.change(note, *id, *change);
        }
        let over = self.watched.len().saturating_sub(WATCHED_MAX);
        self.watched.drain(..over);
        let over = self.explained.len().saturating_sub(EXPLAINED_MAX);
        self.explained.drain(..over);
    }

    fn change(&mut self, note: &CrashNote, id: MessageId, change: Change) {
        let index = self.watched.iter().position(|w| w.id == id);
        let mine = index.filter(|index| self.watched[*index].life == Some(note.life));
        match change {
            Change::Begin => {
                let found = index.map(|index| self.watched.remove(index));
                let watched = self.begun(note, id, found);
                self.watched.push(watched);
            }
            Change::Try => {
                if let Some(index) = mine {
                    self.watched[index].running = true;
                }
            }
            Change::Ran(ms) => {
                if let Some(index) = mine {
                    let watched = &mut self.watched[index];
                    watched.ran_ms = watched.ran_ms.max(ms);
                }
            }
            Change::Ended => {
                if let Some(index) = mine {
                    self.watched.remove(index);
                }
            }
            Change::PutBack => match mine {
                Some(index) if self.watched[index].deaths == 0 => {
                    self.watched.remove(index);
                }
                Some(index) => {
                    self.watched[index].life = None;
                    self.watched[index].running = false;
                }
                None => {}
            },
        }
    }

    fn begun(&mut self, note: &CrashNote, id: MessageId, found: Option<Watched>) -> Watched {
        let mut watched = found.unwrap_or(Watched {
            id,
            deaths: 0,
            life: None,
            running: false,
            ran_ms: 0,
        });
        match watched.life {
            Some(life) if life == note.life => return watched,
            Some(life) if watched.running => {
                if watched.is_suspect() && !self.explained.contains(&life) {
                    self.explained.push(life);
                }
                watched.deaths = watched.deaths.saturating_add(1);
            }
            // The process died while no suspect was in a handler: whatever it was, it was not this one.
            Some(life) if !self.is_explained(note, life) => {
                watched.deaths = watched.deaths.saturating_sub(1).max(SUSPECT_DEATHS);
            }
            _ => {}
        }
        watched.life = Some(note.life);
        watched.running = !watched.is_suspect();
        watched
    }

    /// Whether a suspect was in a handler when this process died.
    fn is_explained(&self, note: &CrashNote, life: InstanceId) -> bool {
        let tried = |w: &Watched| w.life == Some(life) && w.running && w.is_suspect();
        self.explained.contains(&life)
            || note.explained.contains(&life)
            || self.watched.iter().any(tried)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(n: u64) -> MessageId {
        MessageId::parse_or_hash(&n.to_string())
    }

    fn note(state: &mut CrashState, life: u64, changes: &[(u64, Change)]) {
        let changes = changes.iter().map(|(n, change)| (id(*n), *change));
        state.apply(&CrashNote {
            life: InstanceId(life),
            explained: Vec::new(),
            changes: changes.collect(),
        });
    }

    fn deaths(state: &CrashState, n: u64) -> Option<u32> {
        state.of(id(n)).map(|w| w.deaths)
    }

    #[test]
    fn a_message_whose_handler_ended_is_forgotten() {
        let mut state = CrashState::default();
        note(&mut state, 1, &[(1, Change::Begin), (2, Change::Begin)]);
        note(&mut state, 1, &[(1, Change::Ended)]);
        assert_eq!((deaths(&state, 1), deaths(&state, 2)), (None, Some(0)));
        note(&mut state, 1, &[(2, Change::Ended)]);
        assert_eq!(state, CrashState::default());
    }

    #[test]
    fn only_deaths_in_a_handler_and_in_a_row_count() {
        let mut state = CrashState::default();
        note(&mut state, 1, &[(1, Change::Begin), (2, Change::Begin)]);
        note(&mut state, 2, &[(1, Change::Begin), (2, Change::Begin)]);
        note(&mut state, 2, &[(2, Change::Ended)]);
        note(&mut state, 3, &[(1, Change::Begin), (2, Change::Begin)]);
        assert_eq!((deaths(&state, 1), deaths(&state, 2)), (Some(2), Some(0)));
        assert!(!state.of(id(1)).unwrap().running, "a suspect waits");
        assert!(state.of(id(2)).unwrap().running);
    }

    #[test]
    fn a_death_without_any_suspect_speaks_for_those_who_waited() {
        let mut state = CrashState::default();
        for life in 1..=3 {
            note(&mut state, life, &[(1, Change::Begin), (2, Change::Begin)]);
        }
        assert_eq!((deaths(&state, 1), deaths(&state, 2)), (Some(2), Some(2)));
        note(&mut state, 3, &[(1, Change::Try)]);
        // The third died with 1 alone: that says nothing about 2, whoever asks first.
        note(&mut state, 4, &[(2, Change::Begin), (1, Change::Begin)]);
        assert_eq!((deaths(&state, 1), deaths(&state, 2)), (Some(3), Some(2)));
        // The fourth died while both waited, and the fifth.
        note(&mut state, 5, &[(1, Change::Begin), (2, Change::Begin)]);
        note(&mut state, 6, &[(1, Change::Begin), (2, Change::Begin)]);
        assert_eq!((deaths(&state, 1), deaths(&state, 2)), (Some(2), Some(2)));
    }

    #[test]
    fn a_death_that_another_subscription_explains_speaks_for_nobody() {
        let mut state = CrashState::default();
        for life in 1..=3 {
            note(&mut state, life, &[(1, Change::Begin)]);
        }
        note(&mut state, 3, &[(1, Change::Try)]);
        note(&mut state, 4, &[(1, Change::Begin)]);
        let begin = |life, explained: &[u64]| CrashNote {
            life: InstanceId(life),
            explained: explained.iter().copied().map(InstanceId).collect(),
            changes: vec![(id(1), Change::Begin)],
        };
        state.apply(&begin(5, &[4]));
        assert_eq!(deaths(&state, 1), Some(3));
        state.apply(&begin(6, &[]));
        assert_eq!(deaths(&state, 1), Some(2));
    }

    #[test]
    fn what_was_given_back_keeps_what_is_known_of_it() {
        let mut state = CrashState::default();
        for life in 1..=4 {
            note(&mut state, life, &[(1, Change::Begin), (1, Change::Try)]);
        }
        note(&mut state, 4, &[(1, Change::PutBack), (2, Change::PutBack)]);
        note(&mut state, 5, &[(1, Change::Begin), (1, Change::Ran(700))]);
        assert_eq!((deaths(&state, 1), deaths(&state, 2)), (Some(3), None));
        assert_eq!(state.of(id(1)).unwrap().ran_ms, 700);
    }

    #[test]
    fn of_another_process_nothing_is_ended() {
        let mut state = CrashState::default();
        note(&mut state, 1, &[(1, Change::Begin)]);
        note(&mut state, 2, &[(1, Change::Begin)]);
        note(&mut state, 1, &[(1, Change::Ended), (1, Change::Ran(9))]);
        assert_eq!(state.of(id(1)).unwrap().ran_ms, 0);
        let again = state.clone();
        note(&mut state, 2, &[(1, Change::Begin)]);
        assert_eq!(state, again, "twice is once");
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let mut state = CrashState::default();
        for n in 0..=WATCHED_MAX as u64 {
            note(&mut state, 1, &[(n, Change::Begin)]);
        }
        assert_eq!(state.watched.len(), WATCHED_MAX);
        assert_eq!((deaths(&state, 0), deaths(&state, 1)), (None, Some(0)));
    }

    #[test]
    fn the_states_of_earlier_releases_are_read() {
        let read = |text: &str| serde_json::from_str::<CrashState>(text).unwrap();
        let old = r#"{"crashes":3,"suspects":[["0190b7a5-1f6e-7cc3-98c4-dc0c0c07398f",2]]}"#;
        assert_eq!(read(old), CrashState::default());
        let mut state = CrashState::default();
        note(&mut state, 7, &[(1, Change::Begin), (1, Change::Ran(250))]);
        assert_eq!(read(&serde_json::to_string(&state).unwrap()), state);
        let least = format!(r#"{{"watched":[{{"id":"{}","later":1}}]}}"#, id(1));
        assert_eq!(read(&least).watched[0].deaths, 0);
    }
}
