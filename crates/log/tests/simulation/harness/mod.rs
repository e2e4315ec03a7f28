//! What the simulations share: a seed makes a story, a story is played, and one that breaks a promise is told as short as it goes.
//!
//! | variable | |
//! |---|---|
//! | `POSTRIDER_SEEDS=n` | how many seeds are tried (500) |
//! | `POSTRIDER_SEED_START=n` | with which seed to begin (1) |
//! | `POSTRIDER_SEED=n` | this seed alone |
//! | `POSTRIDER_SWARM_MINUTES=n` | random seeds for so long, the first of them printed |
//!
//! Each operation of a story has a seed of its own, so that one may leave and the others stay what they were.

pub(crate) mod rng;
mod shrink;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use postrider_log::disk::Fault;
use rng::Rng;

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op<W> {
    pub(crate) what: W,
    /// Everything about it that is left to chance.
    pub(crate) seed: u64,
}

impl<W> Op<W> {
    pub(crate) fn new(what: W, rng: &mut Rng) -> Self {
        Op {
            what,
            seed: rng.next(),
        }
    }
}

/// What may fail once. A failed sync is the treacherous one.
pub(crate) const FAULTS: [Fault; 6] = [
    Fault::Sync,
    Fault::Sync,
    Fault::Write,
    Fault::Read,
    Fault::Directory,
    Fault::Name,
];

/// How often what was done.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// A simulation: what may happen, and what must hold.
pub(crate) trait Simulation {
    type What: Debug + Copy + Send + Sync;
    /// By which its test is found.
    const NAME: &'static str;
    /// The story of a seed.
    fn story(seed: u64) -> Vec<Op<Self::What>>;
    /// Plays a story. Panics where a promise is broken.
    fn play(seed: u64, story: &[Op<Self::What>]) -> Counts;
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static TOLD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Adds a line to the story, if anybody listens.
pub(crate) fn tell(line: impl FnOnce() -> String) {
    TOLD.with_borrow_mut(|told| {
        if let Some(lines) = told {
            lines.push(line());
        }
    });
}

/// Plays a story; `Err` is what was broken.
pub(crate) fn played<S: Simulation>(seed: u64, story: &[Op<S::What>]) -> Result<Counts, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANIC.set(info.to_string());
            } else {
                before(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| S::play(seed, story)));
    QUIET.set(before);
    result.map_err(|_| PANIC.take())
}

/// The same, with its lines.
fn told<S: Simulation>(seed: u64, story: &[Op<S::What>]) -> (Result<Counts, String>, Vec<String>) {
    TOLD.set(Some(Vec::new()));
    let result = played::<S>(seed, story);
    (result, TOLD.take().unwrap_or_default())
}

/// A number of the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Which seeds are tried: from where on, and until when.
struct Plan {
    next: AtomicU64,
    /// Behind the last.
    end: u64,
    until: Option<Instant>,
}

impl Plan {
    fn of_environment(name: &str) -> Plan {
        let start = number("POSTRIDER_SEED_START");
        let seeds = |from: u64, count| Plan {
            next: AtomicU64::new(from),
            end: from.saturating_add(count),
            until: None,
        };
        if let Some(seed) = number("POSTRIDER_SEED") {
            return seeds(seed, 1);
        }
        let Some(minutes) = number("POSTRIDER_SWARM_MINUTES") else {
            return seeds(start.unwrap_or(1), number("POSTRIDER_SEEDS").unwrap_or(500));
        };
        let random = std::hash::RandomState::new().build_hasher().finish();
        let start = start.unwrap_or(random >> 16);
        println!("swarm: {name} from seed {start} for {minutes} minutes");
        Plan {
            until: Some(Instant::now() + Duration::from_secs(minutes * 60)),
            ..seeds(start, u64::MAX)
        }
    }

    fn take(&self) -> Option<u64> {
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        let late = self.until.is_some_and(|until| Instant::now() >= until);
        (seed < self.end && !late).then_some(seed)
    }
}

/// Plays the story of each seed, on every core; fails with the shortest story of the first seed that fails.
pub(crate) fn run<S: Simulation>() -> Counts {
    let plan = Plan::of_environment(S::NAME);
    let (counts, failed, stop) = (
        Mutex::new(Counts::new()),
        Mutex::new(None),
        AtomicBool::new(false),
    );
    let work = || {
        let mut mine = Counts::new();
        while !stop.load(Ordering::Relaxed)
            && let Some(seed) = plan.take()
        {
            match played::<S>(seed, &S::story(seed)) {
                Ok(one) => add(&mut mine, one),
                Err(broken) => {
                    stop.store(true, Ordering::Relaxed);
                    failed.lock().unwrap().get_or_insert((seed, broken));
                }
            }
            add(&mut mine, Counts::from([("seeds", 1)]));
        }
        add(&mut counts.lock().unwrap(), mine);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(work);
        });
    });
    if let Some((seed, broken)) = failed.into_inner().unwrap() {
        panic!("{}", report::<S>(seed, &broken));
    }
    counts.into_inner().unwrap()
}

fn add(sum: &mut Counts, more: Counts) {
    for (name, count) in more {
        *sum.entry(name).or_default() += count;
    }
}

/// The first seed of 1 to `max` that breaks a promise, and which.
#[allow(dead_code)] // Only the tests of planted bugs look for one.
pub(crate) fn first_failure<S: Simulation>(max: u64) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(1), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let first = found.lock().unwrap().keys().next().copied();
            if seed > first.unwrap_or(max) {
                return;
            }
            if let Err(broken) = played::<S>(seed, &S::story(seed)) {
                found.lock().unwrap().insert(seed, broken);
            }
        }
    };
    std::thread::scope(|scope| {
        (0..2).for_each(|_| {
            scope.spawn(work);
        });
    });
    found.into_inner().unwrap().pop_first()
}

/// A story that fails, as short as it goes.
pub(crate) struct Short {
    /// Operations that are left, and that there were.
    pub(crate) operations: (usize, usize),
    /// What happens, in plain words.
    pub(crate) lines: Vec<String>,
    /// What is broken then.
    broken: Option<String>,
}

/// The fewest operations of a seed's story with which the same promise breaks.
pub(crate) fn shortest<S: Simulation>(seed: u64, broken: &str) -> Short {
    let whole = S::story(seed);
    // The same promise: another one that the shorter story breaks is another story.
    let place = |broken: &str| broken.lines().next().map(str::to_owned);
    let same = |story: &[Op<S::What>]| {
        let again = played::<S>(seed, story);
        again.is_err_and(|again| place(&again) == place(broken))
    };
    let short = shrink::shortest(&whole, same);
    let (result, lines) = told::<S>(seed, &short);
    Short {
        operations: (short.len(), whole.len()),
        lines,
        broken: result.err(),
    }
}

/// What to print of a seed that fails: what is broken, the shortest story, how to see it again.
pub(crate) fn report<S: Simulation>(seed: u64, broken: &str) -> String {
    let short = shortest::<S>(seed, broken);
    let (left, were) = short.operations;
    let mut text = format!("seed {seed} of the {} simulation: {broken}\n", S::NAME);
    text += &format!("the shortest story that fails ({left} of {were} operations):\n");
    for (nth, line) in short.lines.iter().enumerate() {
        text += &format!("{:4}. {line}\n", nth + 1);
    }
    if let Some(broken) = short.broken {
        text += &format!("   => {broken}\n");
    }
    text += &format!(
        "to see it again: POSTRIDER_SEED={seed} cargo test -p postrider-log --test simulation {}_tests",
        S::NAME
    );
    text
}

/// The counts as the fields of a proof line.
pub(crate) fn fields(counts: &Counts) -> String {
    let fields = counts
        .iter()
        .map(|(name, count)| format!(",\"{}\":{count}", name.replace(' ', "_")));
    fields.collect()
}

#[test]
fn a_failing_seed_is_told_as_short_as_it_goes() {
    struct Sum;
    impl Simulation for Sum {
        type What = u64;
        const NAME: &'static str = "sum";
        fn story(seed: u64) -> Vec<Op<u64>> {
            let mut rng = Rng(seed);
            (0..100).map(|n| Op::new(n, &mut rng)).collect()
        }
        fn play(_: u64, story: &[Op<u64>]) -> Counts {
            let mut seen = Vec::new();
            for op in story {
                tell(|| format!("number {}", op.what));
                seen.push(op.what);
                let broken = seen.contains(&17) && seen.contains(&63);
                assert!(!broken, "17 and 63 do not go together");
            }
            Counts::new()
        }
    }
    let broken = played::<Sum>(5, &Sum::story(5)).unwrap_err();
    let text = report::<Sum>(5, &broken);
    assert!(text.contains("(2 of 100 operations)"), "{text}");
    assert!(
        text.contains("   1. number 17\n   2. number 63\n"),
        "{text}"
    );
    assert!(text.contains("17 and 63 do not go together"), "{text}");
    assert!(text.contains("POSTRIDER_SEED=5"), "{text}");
}
