//! Who killed the process: what all subscriptions of one process know of it together, since all of them die together.
//!
//! Decides, without I/O or clock, what a kernel hears when it [asks](crate::Output::Ask) for a message that was handed out before. What must be
//! stored first comes out as a [`Change`], and goes on with what the failure store answers. The rules, and why they are as they are, stand in
//! `docs/decisions/0010-who-killed-the-process.md`; what is stored in [`postrider_core::crash`].
//!
//! A *suspect* (it was in a handler at two deaths in a row) waits until this process has lived for [`CALM_FACTOR`] times as long as the suspect was
//! ever seen in a handler, and while another suspect of any subscription is in one.

use std::collections::HashMap;
use std::time::Duration;

use postrider_core::clock::Mono;
use postrider_core::crash::{Change, CrashState, Watched};
use postrider_core::id::{InstanceId, MessageId};
use postrider_core::name::SubscriptionId;

use crate::io::Verdict;

/// How much longer than with a suspect the process must have lived without one before the next try.
pub const CALM_FACTOR: u32 = 4;
/// What a suspect counts for at least when it was in a handler for less. Handlers that are watched are noted when they have run this long, and at each
/// doubling.
pub const RAN_MIN: Duration = Duration::from_millis(250);
/// The longest calm that is waited for.
pub const CALM_MAX: Duration = Duration::from_secs(600);
/// How soon a suspect asks again while another is in a handler.
pub const TURN_WAIT: Duration = Duration::from_millis(100);

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Tell the kernel.
    Tell(Verdict),
    /// Store this first, then ask [`Suspects::noted`].
    Note(Change),
}

/// Whose message it is.
type Whose = (SubscriptionId, MessageId);

/// What the subscriptions of one process know of crashes. One per process; not shared by itself.
#[derive(Debug)]
pub struct Suspects {
    life: InstanceId,
    /// When the first subscription was opened.
    born: Option<Mono>,
    /// Processes that died while a suspect was in a handler, as far as the subscriptions that were opened know.
    explained: Vec<InstanceId>,
    /// Suspects in this process that wait or are tried. Bounded by the windows.
    known: HashMap<Whose, Watched>,
    /// The suspect that is in a handler, and the member that has it.
    trying: Option<(Whose, InstanceId)>,
}

impl Suspects {
    /// Of a process with this identity, new at each start.
    #[must_use]
    pub fn new(life: InstanceId) -> Self {
        Self {
            life,
            born: None,
            explained: Vec::new(),
            known: HashMap::new(),
            trying: None,
        }
    }

    /// This process.
    #[must_use]
    pub const fn life(&self) -> InstanceId {
        self.life
    }

    /// Processes whose death a suspect explains; goes with each note.
    #[must_use]
    pub fn explained(&self) -> Vec<InstanceId> {
        self.explained.clone()
    }

    /// A subscription is opened, and its failure store knew this.
    pub fn opened(&mut self, now: Mono, state: &CrashState) {
        self.born.get_or_insert(now);
        let tried = state.watched.iter().filter(|w| w.running && w.is_suspect());
        let lives = tried.filter_map(|w| w.life).chain(state.explained.clone());
        for life in lives.filter(|life| *life != self.life) {
            if !self.explained.contains(&life) {
                self.explained.push(life);
            }
        }
    }

    /// A member's kernel asks for a message that was handed out before.
    pub fn ask(
        &mut self,
        now: Mono,
        whose: &SubscriptionId,
        member: InstanceId,
        id: MessageId,
    ) -> Asked {
        let whose = (whose.clone(), id);
        if self.known.contains_key(&whose) {
            self.turn(now, whose, member)
        } else {
            Asked::Note(Change::Begin)
        }
    }

    /// The change that was asked for is stored, and this is the state after it.
    pub fn noted(
        &mut self,
        now: Mono,
        whose: &SubscriptionId,
        member: InstanceId,
        id: MessageId,
        state: &CrashState,
    ) -> Asked {
        let whose = (whose.clone(), id);
        let is_tried = self
            .trying
            .as_ref()
            .is_some_and(|(tried, _)| *tried == whose);
        let suspect = state.of(id).filter(|w| w.is_suspect());
        match suspect {
            // Where the store dropped it, there is nothing against it.
            None => Asked::Tell(Verdict::Go),
            Some(_) if is_tried => Asked::Tell(Verdict::Go),
            Some(watched) => {
                self.known.insert(whose.clone(), watched.clone());
                self.turn(now, whose, member)
            }
        }
    }

    /// A suspect's turn: condemned, tried now, or later.
    fn turn(&mut self, now: Mono, whose: Whose, member: InstanceId) -> Asked {
        let watched = &self.known[&whose];
        if watched.is_condemned() {
            return Asked::Tell(Verdict::Condemned);
        }
        let lived = now.since(self.born.unwrap_or(now));
        let calm = calm(watched);
        if lived < calm {
            return Asked::Tell(Verdict::Hold(calm - lived));
        }
        match &self.trying {
            Some((tried, by)) if *tried != whose || *by != member => {
                Asked::Tell(Verdict::Hold(TURN_WAIT))
            }
            _ => {
                self.trying = Some((whose, member));
                Asked::Note(Change::Alone)
            }
        }
    }

    /// A message that was asked for is out of its handler, was set aside, or was given back. Gives what is to be stored.
    pub fn gone(
        &mut self,
        whose: &SubscriptionId,
        member: InstanceId,
        id: MessageId,
        ended: bool,
    ) -> Change {
        let whose = (whose.clone(), id);
        let trying = self.trying.as_ref();
        if trying.is_some_and(|(tried, by)| *tried == whose && *by == member) {
            self.trying = None;
        }
        self.known.remove(&whose);
        if ended {
            Change::Ended
        } else {
            Change::PutBack
        }
    }

    /// A member is gone, with whatever it had.
    pub fn closed(&mut self, whose: &SubscriptionId, member: InstanceId) {
        let mine = |tried: &Whose, by: &InstanceId| tried.0 == *whose && *by == member;
        if self
            .trying
            .as_ref()
            .is_some_and(|(tried, by)| mine(tried, by))
        {
            self.trying = None;
        }
    }
}

/// How long the process must have lived before a suspect is tried.
fn calm(watched: &Watched) -> Duration {
    // What was noted is a lower bound: less than twice as long is possible.
    let ran = Duration::from_millis(watched.ran_ms).saturating_mul(2);
    ran.max(RAN_MIN).saturating_mul(CALM_FACTOR).min(CALM_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use postrider_core::crash::CrashNote;

    use super::*;

    const MEMBER: InstanceId = InstanceId(9);

    fn whose(name: &str) -> SubscriptionId {
        SubscriptionId::parse(&format!("{name}@topic:shop.order")).unwrap()
    }

    fn id(name: &str) -> MessageId {
        MessageId::parse_or_hash(name)
    }

    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }

    /// A process that begins at 0 on this state; asks, and stores what it is told to.
    struct Process<'a> {
        suspects: Suspects,
        stored: &'a mut CrashState,
    }

    impl<'a> Process<'a> {
        fn start(life: u64, stored: &'a mut CrashState) -> Self {
            let mut suspects = Suspects::new(InstanceId(life));
            suspects.opened(at(0), stored);
            Self { suspects, stored }
        }

        fn ask(&mut self, now: u64, name: &str) -> Verdict {
            let sub = whose("shipping");
            let mut asked = self.suspects.ask(at(now), &sub, MEMBER, id(name));
            while let Asked::Note(change) = asked {
                self.store(name, change);
                asked = self
                    .suspects
                    .noted(at(now), &sub, MEMBER, id(name), self.stored);
            }
            match asked {
                Asked::Tell(verdict) => verdict,
                Asked::Note(_) => unreachable!(),
            }
        }

        fn ends(&mut self, name: &str) {
            let change = self
                .suspects
                .gone(&whose("shipping"), MEMBER, id(name), true);
            self.store(name, change);
        }

        fn store(&mut self, name: &str, change: Change) {
            self.stored.apply(&CrashNote {
                life: self.suspects.life(),
                explained: self.suspects.explained(),
                changes: vec![(id(name), change)],
            });
        }
    }

    fn hold(ms: u64) -> Verdict {
        Verdict::Hold(Duration::from_millis(ms))
    }

    /// Everything that came back is asked for at once and again while the process lives; a poison kills it at once.
    #[test]
    fn two_poisons_among_others_are_condemned_within_bounds() {
        let mut stored = CrashState::default();
        let names = ["a", "p", "b", "q", "c"];
        let mut left: Vec<&str> = names.to_vec();
        let mut deaths = 0;
        for life in 0.. {
            let mut process = Process::start(life, &mut stored);
            let mut died = false;
            'life: for now in (0..5000).step_by(100) {
                for name in left.clone() {
                    match process.ask(now, name) {
                        Verdict::Go if ["p", "q"].contains(&name) => {
                            died = true;
                            break 'life;
                        }
                        Verdict::Go | Verdict::Condemned => {
                            process.ends(name);
                            left.retain(|n| *n != name);
                        }
                        Verdict::Hold(_) => {}
                    }
                }
            }
            deaths += u32::from(died);
            if left.is_empty() {
                break;
            }
        }
        assert!(deaths <= 10, "{deaths} deaths");
    }

    #[test]
    fn a_suspect_is_tried_after_a_calm_and_with_no_other() {
        let mut stored = CrashState::default();
        for life in 0..2 {
            let mut process = Process::start(life, &mut stored);
            assert_eq!(process.ask(0, "a"), Verdict::Go);
            assert_eq!(process.ask(0, "b"), Verdict::Go);
        }
        let mut process = Process::start(2, &mut stored);
        assert_eq!(process.ask(0, "a"), hold(1000));
        assert_eq!(process.ask(400, "b"), hold(600));
        assert_eq!(process.ask(500, "c"), Verdict::Go, "it is no suspect");
        assert_eq!(process.ask(1000, "a"), Verdict::Go);
        assert_eq!(process.ask(1000, "b"), hold(100));
        process.ends("a");
        assert_eq!(process.ask(1100, "b"), Verdict::Go);
        process.ends("b");
        process.ends("c");
        assert_eq!(stored, CrashState::default());
    }

    #[test]
    fn a_suspect_with_a_long_handler_waits_longer() {
        let mut stored = CrashState::default();
        for life in 0..2 {
            let mut process = Process::start(life, &mut stored);
            assert_eq!(process.ask(0, "a"), Verdict::Go);
            process.store("a", Change::Ran(2000));
        }
        let mut process = Process::start(2, &mut stored);
        assert_eq!(process.ask(0, "a"), hold(16_000));
    }

    #[test]
    fn only_one_subscription_of_a_process_tries_a_suspect() {
        let mut stored = CrashState::default();
        for life in 0..2 {
            Process::start(life, &mut stored).ask(0, "a");
        }
        let mut suspects = Suspects::new(InstanceId(2));
        suspects.opened(at(0), &stored);
        let (one, two) = (whose("shipping"), whose("billing"));
        stored.apply(&CrashNote {
            life: InstanceId(2),
            explained: Vec::new(),
            changes: vec![(id("a"), Change::Begin)],
        });
        let now = at(2000);
        let alone = Asked::Note(Change::Alone);
        assert_eq!(suspects.noted(now, &one, MEMBER, id("a"), &stored), alone);
        let later = Asked::Tell(Verdict::Hold(TURN_WAIT));
        assert_eq!(suspects.noted(now, &two, MEMBER, id("a"), &stored), later);
        suspects.closed(&one, MEMBER);
        assert_eq!(suspects.ask(now, &two, MEMBER, id("a")), alone);
    }
}
