//! Which seeds are run, and by how many threads: each thread has a runtime, and so a time, of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Seeds in a row, from `first` on, until `last` or until the time is over.
pub struct Seeds {
    what: &'static str,
    first: u64,
    last: u64,
    until: Option<Instant>,
}

impl Seeds {
    /// As the environment says; otherwise so many, from 1.
    pub fn from_environment(what: &'static str, default: u64) -> Self {
        let seeds = |first, last, until| Self {
            what,
            first,
            last,
            until,
        };
        if let Some(seed) = number("POSTRIDER_SEED") {
            return seeds(seed, seed, None);
        }
        if let Some(minutes) = number("POSTRIDER_SWARM_MINUTES") {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let first = since.unwrap_or_default().as_nanos() as u64 >> 8 & 0xffff_ffff_ffff;
            println!("{what}: seeds from {first}, for {minutes} minutes");
            let until = Instant::now() + Duration::from_secs(minutes * 60);
            return seeds(first, u64::MAX, Some(until));
        }
        seeds(1, number("POSTRIDER_SEEDS").unwrap_or(default), None)
    }

    /// So many, from 1, whatever the environment says.
    pub const fn first(what: &'static str, count: u64) -> Self {
        Self {
            what,
            first: 1,
            last: count,
            until: None,
        }
    }

    /// Runs them until one fails, and gives how many were run.
    pub fn each(&self, run: impl Fn(u64) -> bool + Sync) -> u64 {
        let next = AtomicU64::new(self.first);
        let (ran, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !failed.load(Ordering::SeqCst)
                        && self.until.is_none_or(|until| Instant::now() < until)
                    {
                        let seed = next.fetch_add(1, Ordering::SeqCst);
                        if seed > self.last {
                            return;
                        }
                        if !run(seed) {
                            failed.store(true, Ordering::SeqCst);
                        }
                        let done = ran.fetch_add(1, Ordering::SeqCst) + 1;
                        if self.until.is_some() && done.is_multiple_of(5000) {
                            println!("{}: {done} seeds", self.what);
                        }
                    }
                });
            }
        });
        ran.into_inner()
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Panics that a test asked for are not printed.
pub fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload_as_str() != Some("chaos") {
                hook(info);
            }
        }));
    });
}
