//! Who killed the process: what all subscriptions of one process know of it together, since all of them die together.
//!
//! Decides, without I/O or clock, what a kernel hears when it [asks](crate::Output::Ask) for a message that was handed out before. What must be
//! stored first comes out as a [`Change`], and goes on with what the failure store answers. The rules, and why they are as they are, stand in
//! `docs/decisions/0010-who-killed-the-process.md`; what is stored in [`postrider_core::crash`].
//!
//! A *suspect* (it was in a handler at two deaths in a row) waits until this process has lived for [`CALM_FACTOR`] times as long as the suspect was
//! ever seen in a handler. Then suspects are tried in groups of [`GROUP_MAX`] over all subscriptions; one that was in a group that died is tried alone,
//! and before the next group.

use std::collections::HashMap;
use std::time::Duration;

use postrider_core::clock::Mono;
use postrider_core::crash::{Change, CrashState, GROUP_MAX, Watched};
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
/// How soon a suspect asks again while others are in handlers. Where many wait they are spread: about a group of them asks in each such time.
pub const TURN_WAIT: Duration = Duration::from_millis(20);
/// The longest wait for a turn between two questions.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(2);
/// While nobody's try ends, the questions become rarer: one in this share of the time since the last change.
const STILL_SHARE: u32 = 8;

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

/// A suspect in this process.
#[derive(Debug)]
struct Suspect {
    member: InstanceId,
    watched: Watched,
    /// In a handler, or about to be; else it waits.
    tried: bool,
}

/// What the subscriptions of one process know of crashes. One per process; not shared by itself.
#[derive(Debug)]
pub struct Suspects {
    life: InstanceId,
    /// When the first subscription was opened.
    born: Option<Mono>,
    /// Processes that died while a suspect was in a handler, as far as the subscriptions that were opened know.
    explained: Vec<InstanceId>,
    /// Suspects in this process that wait or are tried. Bounded by the windows.
    known: HashMap<Whose, Suspect>,
    /// How many of them are tried, and whether it is one alone.
    tried: usize,
    alone: bool,
    /// Suspects that are to be tried alone and wait: when each asks again. No group grows while one is about to.
    alone_at: HashMap<Whose, Mono>,
    /// When a try began or ended last.
    changed: Mono,
    /// Spreads those who wait.
    turns: u32,
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
            tried: 0,
            alone: false,
            alone_at: HashMap::new(),
            changed: Mono(Duration::ZERO),
            turns: 0,
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
        let is_tried = self.known.get(&whose).is_some_and(|s| s.tried);
        let suspect = state.of(id).filter(|w| w.is_suspect());
        match suspect {
            // Where the store dropped it, there is nothing against it.
            None => Asked::Tell(Verdict::Go),
            Some(_) if is_tried => Asked::Tell(Verdict::Go),
            Some(watched) => {
                let suspect = Suspect {
                    member,
                    watched: watched.clone(),
                    tried: false,
                };
                self.known.insert(whose.clone(), suspect);
                self.turn(now, whose, member)
            }
        }
    }

    /// A suspect's turn: condemned, tried now, or later.
    fn turn(&mut self, now: Mono, whose: Whose, member: InstanceId) -> Asked {
        let suspect = &self.known[&whose];
        if suspect.watched.is_condemned() {
            return Asked::Tell(Verdict::Condemned);
        }
        let alone = suspect.watched.is_tried_alone();
        let calm = calm(&suspect.watched);
        let lived = now.since(self.born.unwrap_or(now));
        let may = match suspect {
            Suspect { tried: true, .. } if suspect.member == member => {
                return Asked::Note(Change::Try);
            }
            // Another member has it: by its lease it will not for long.
            Suspect { tried: true, .. } => false,
            _ if alone => self.tried == 0,
            _ => self.tried < GROUP_MAX && !self.alone && !self.is_kept(now),
        };
        if lived >= calm && may {
            self.begin(now, &whose, member, alone);
            return Asked::Note(Change::Try);
        }
        let wait = if lived < calm {
            calm - lived
        } else {
            self.wait(now, alone)
        };
        if alone {
            self.alone_at.insert(whose, now.plus(wait));
        }
        Asked::Tell(Verdict::Hold(wait))
    }

    fn begin(&mut self, now: Mono, whose: &Whose, member: InstanceId, alone: bool) {
        if let Some(suspect) = self.known.get_mut(whose) {
            suspect.tried = true;
            suspect.member = member;
        }
        self.alone_at.remove(whose);
        self.tried += 1;
        self.alone = alone;
        self.changed = now;
    }

    /// Whether the next turn is kept for one that is tried alone, and asks now or soon.
    fn is_kept(&self, now: Mono) -> bool {
        // One that does not come is not waited for.
        let due = |at: &Mono| at.since(now) <= TURN_WAIT && now.since(*at) <= TURN_WAIT * 5;
        self.alone_at.values().any(due)
    }

    /// How long until a suspect that must wait for others asks again.
    fn wait(&mut self, now: Mono, alone: bool) -> Duration {
        let waiting = if alone {
            self.alone_at.len()
        } else {
            let others = self.tried + self.alone_at.len();
            self.known.len().saturating_sub(others) / GROUP_MAX
        };
        let spread = u32::try_from(waiting).unwrap_or(u32::MAX).max(1);
        self.turns = self.turns.wrapping_add(1);
        let wait = TURN_WAIT.saturating_mul(1 + self.turns % spread);
        let still = if self.tried > 0 {
            now.since(self.changed) / STILL_SHARE
        } else {
            Duration::ZERO
        };
        wait.max(still).min(TURN_WAIT_MAX)
    }

    /// A message that was asked for is out of its handler, was set aside, or was given back. Gives what is to be stored.
    pub fn gone(
        &mut self,
        now: Mono,
        whose: &SubscriptionId,
        member: InstanceId,
        id: MessageId,
        ended: bool,
    ) -> Change {
        let whose = (whose.clone(), id);
        // What another member tries is its own.
        let mine = |s: &Suspect| !s.tried || s.member == member;
        if self.known.get(&whose).is_some_and(mine) {
            self.forget(now, &whose);
        }
        if ended {
            Change::Ended
        } else {
            Change::PutBack
        }
    }

    fn forget(&mut self, now: Mono, whose: &Whose) {
        self.alone_at.remove(whose);
        if self.known.remove(whose).is_some_and(|s| s.tried) {
            self.tried -= 1;
            self.alone = false;
            self.changed = now;
        }
    }

    /// A member is gone, with whatever it had.
    pub fn closed(&mut self, whose: &SubscriptionId, member: InstanceId) {
        let mine = |(of, s): &(&Whose, &Suspect)| of.0 == *whose && s.member == member;
        let had = self.known.iter().filter(mine).map(|(of, _)| of.clone());
        for whose in had.collect::<Vec<_>>() {
            self.forget(self.changed, &whose);
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

        fn ends(&mut self, now: u64, name: &str) {
            let change = self
                .suspects
                .gone(at(now), &whose("shipping"), MEMBER, id(name), true);
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

    /// So many messages were in a handler at this many deaths.
    fn known(names: &[String], deaths: u32) -> CrashState {
        let watched = names.iter().map(|name| Watched {
            id: id(name),
            deaths,
            life: None,
            running: false,
            ran_ms: 0,
        });
        CrashState {
            watched: watched.collect(),
            explained: Vec::new(),
        }
    }

    fn names(kind: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{kind}{n}")).collect()
    }

    /// A service whose messages all came back: each is asked for when it may be, and handled for 20 ms.
    struct Service {
        stored: CrashState,
        lives: u64,
        left: Vec<String>,
        condemned: Vec<String>,
        deaths: u32,
        /// When the last life ended, and how long all of them were: milliseconds.
        lived: u64,
        in_all: u64,
    }

    const HANDLER_MS: u64 = 20;

    impl Service {
        fn new(left: Vec<String>, stored: CrashState) -> Self {
            Self {
                stored,
                lives: 0,
                left,
                condemned: Vec::new(),
                deaths: 0,
                lived: 0,
                in_all: 0,
            }
        }

        /// One life: until a message of `p…` kills it, somebody does from outside, or nothing is left.
        fn live(&mut self, killed_at: u64) {
            self.lives += 1;
            let mut next: HashMap<String, u64> = self.left.iter().map(|n| (n.clone(), 0)).collect();
            let mut running: HashMap<String, u64> = HashMap::new();
            let mut process = Process::start(self.lives, &mut self.stored);
            self.lived = killed_at;
            for now in (0..killed_at).step_by(5) {
                let ended = running.extract_if(|_, until| *until <= now);
                for (name, _) in ended.collect::<Vec<_>>() {
                    process.ends(now, &name);
                    self.left.retain(|n| *n != name);
                }
                let mut due: Vec<String> = next
                    .extract_if(|_, at| *at <= now)
                    .map(|(n, _)| n)
                    .collect();
                due.sort();
                for name in due {
                    match process.ask(now, &name) {
                        Verdict::Go => {
                            let deaths = process.stored.of(id(&name)).map_or(0, |w| w.deaths);
                            running.insert(name.clone(), now + HANDLER_MS);
                            process.check(&running);
                            if name.starts_with('p') {
                                assert!(deaths < postrider_core::crash::CONDEMNED_DEATHS);
                                self.lived = now;
                                self.in_all += now;
                                self.deaths += 1;
                                return;
                            }
                        }
                        Verdict::Condemned => {
                            process.ends(now, &name);
                            self.left.retain(|n| *n != name);
                            self.condemned.push(name);
                        }
                        Verdict::Hold(wait) => {
                            next.insert(name, now + wait.as_millis() as u64);
                        }
                    }
                }
                if self.left.is_empty() {
                    self.lived = now;
                    break;
                }
            }
            self.in_all += self.lived;
        }
    }

    impl Process<'_> {
        /// No more suspects than a group, and one that goes alone is alone.
        fn check(&self, running: &HashMap<String, u64>) {
            let of = |name: &String| self.stored.of(id(name)).filter(|w| w.is_suspect());
            let tried: Vec<&Watched> = running.keys().filter_map(of).collect();
            assert!(tried.len() <= GROUP_MAX, "{} at once", tried.len());
            let alone = tried.iter().any(|w| w.is_tried_alone());
            assert!(!alone || tried.len() == 1, "{tried:?}");
        }
    }

    /// What the decision says: two until it is a suspect, one in a group, three alone.
    #[test]
    fn a_poison_among_many_is_condemned_after_six_deaths_and_nobody_else() {
        let mut all = names("a", 100);
        all.push("p".to_owned());
        let mut service = Service::new(all, CrashState::default());
        while !service.left.is_empty() {
            service.live(60_000);
        }
        assert_eq!(service.condemned, ["p"]);
        assert_eq!(service.deaths, 6);
        // Four lives begin with a calm of a second, and a hundred are tried meanwhile.
        assert!(service.in_all < 8000, "{} ms", service.in_all);
    }

    #[test]
    fn three_poisons_in_one_group_are_condemned_and_nobody_else() {
        let mut all = names("a", 40);
        all.extend(names("p", 3));
        let mut service = Service::new(all, CrashState::default());
        while !service.left.is_empty() {
            service.live(60_000);
        }
        service.condemned.sort();
        assert_eq!(service.condemned, names("p", 3));
        assert!(service.deaths <= 18, "{} deaths", service.deaths);
    }

    #[test]
    fn a_thousand_suspects_are_through_in_seconds() {
        let all = names("a", 1000);
        let mut service = Service::new(all.clone(), known(&all, 2));
        service.live(60_000);
        assert_eq!(service.left, Vec::<String>::new());
        assert!(service.lived < 5000, "{} ms", service.lived);
    }

    /// Lives of all lengths around the calm, and a poison among them: what stood beside it is not condemned.
    #[test]
    fn a_storm_of_kills_condemns_nobody_and_is_over_soon_after() {
        for seed in 0..6 {
            let mut rng = postrider_core::clock::SplitMix64::new(seed);
            let all = names("a", 100);
            let mut service = Service::new(all.clone(), known(&all, 2));
            for _ in 0..60 {
                service.live(rng.below(200 + 400 * seed));
                // What ended is replaced: the same load, whatever was handled.
                for name in all.iter().filter(|_| rng.below(100) < 30) {
                    if !service.left.contains(name) {
                        service.left.push(name.clone());
                    }
                }
            }
            let poisoned = seed % 2 == 1;
            if poisoned {
                service.left.push("p".to_owned());
            }
            while !service.left.is_empty() {
                service.live(60_000);
            }
            let must: &[String] = if poisoned { &["p".to_owned()] } else { &[] };
            assert_eq!(service.condemned, must, "seed {seed}");
            assert_eq!(service.deaths, if poisoned { 6 } else { 0 }, "seed {seed}");
            let took = service.lived;
            assert!(took < 9000, "seed {seed}: {took} ms in the last life");
        }
    }

    #[test]
    fn suspects_are_tried_after_a_calm_and_together() {
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
        assert_eq!(process.ask(1000, "b"), Verdict::Go);
        for name in ["a", "b", "c"] {
            process.ends(1000, name);
        }
        assert_eq!(stored, CrashState::default());
    }

    #[test]
    fn who_was_in_a_group_that_died_is_tried_alone_and_before_the_next_group() {
        let (old, new) = (names("a", 2), names("b", 20));
        let mut stored = known(&old, 3);
        stored.watched.extend(known(&new, 2).watched);
        let mut process = Process::start(2, &mut stored);
        for name in old.iter().chain(&new) {
            assert_eq!(process.ask(0, name), hold(1000));
        }
        assert_eq!(
            process.ask(1000, "b0"),
            hold(20),
            "a0 and a1 are about to ask"
        );
        assert_eq!(process.ask(1000, "a0"), Verdict::Go);
        assert!(matches!(process.ask(1001, "a1"), Verdict::Hold(_)));
        assert!(matches!(process.ask(1001, "b0"), Verdict::Hold(_)));
        process.ends(1010, "a0");
        assert!(matches!(process.ask(1011, "b0"), Verdict::Hold(_)));
        assert_eq!(process.ask(1021, "a1"), Verdict::Go);
        process.ends(1030, "a1");
        for name in &new[..GROUP_MAX] {
            assert_eq!(process.ask(1031, name), Verdict::Go);
        }
        assert!(matches!(process.ask(1031, "b16"), Verdict::Hold(_)));
        process.ends(1040, "b3");
        assert_eq!(process.ask(1041, "b16"), Verdict::Go);
    }

    /// A suspect that is to go alone and never asks again does not keep the others.
    #[test]
    fn who_does_not_come_is_not_waited_for() {
        let mut stored = known(&names("a", 1), 3);
        stored.watched.extend(known(&names("b", 1), 2).watched);
        let mut process = Process::start(2, &mut stored);
        assert_eq!(process.ask(900, "a0"), hold(100));
        assert!(matches!(process.ask(1000, "b0"), Verdict::Hold(_)));
        assert_eq!(process.ask(1101, "b0"), Verdict::Go);
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
    fn while_a_try_goes_on_for_long_the_others_ask_rarely() {
        let all = names("a", 2);
        let mut stored = known(&all, 3);
        let mut process = Process::start(2, &mut stored);
        assert_eq!(process.ask(1000, "a0"), Verdict::Go);
        assert_eq!(process.ask(1000, "a1"), hold(20));
        assert_eq!(process.ask(9000, "a1"), hold(1000));
        assert_eq!(process.ask(90_000, "a1"), hold(2000));
    }

    #[test]
    fn only_one_subscription_of_a_process_tries_a_suspect_that_goes_alone() {
        let mut suspects = Suspects::new(InstanceId(2));
        let mut stored = known(&names("a", 1), 3);
        suspects.opened(at(0), &stored);
        let (one, two) = (whose("shipping"), whose("billing"));
        stored.apply(&CrashNote {
            life: InstanceId(2),
            explained: Vec::new(),
            changes: vec![(id("a0"), Change::Begin)],
        });
        let now = at(2000);
        let tried = Asked::Note(Change::Try);
        assert_eq!(suspects.noted(now, &one, MEMBER, id("a0"), &stored), tried);
        let later = Asked::Tell(Verdict::Hold(TURN_WAIT));
        assert_eq!(suspects.noted(now, &two, MEMBER, id("a0"), &stored), later);
        suspects.closed(&one, MEMBER);
        assert_eq!(suspects.ask(now, &two, MEMBER, id("a0")), tried);
    }
}
