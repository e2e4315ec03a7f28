//! What goes wrong on purpose, and how often.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// How much goes wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing.
    None,
    /// What a bad week brings.
    #[default]
    Default,
    /// What nobody wants to see.
    Heavy,
}

/// The shares, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Requests that the provider answers with 503, nothing executed.
    pub provider_503: u32,
    /// Requests that the provider executes and then does not confirm.
    pub provider_lost_answer: u32,
    /// How long the provider takes, in milliseconds.
    pub provider_latency_ms: (u64, u64),
    /// Events that are published a second time with the same id.
    pub duplicates: u32,
    /// First attempts of a handler that fail.
    pub handler_error: u32,
    /// First attempts of a handler that panic.
    pub handler_panic: u32,
    /// Orders beside which a message is placed that nobody can read.
    pub poison: u32,
}

impl Level {
    /// The name, as the option spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Default => "default",
            Self::Heavy => "heavy",
        }
    }

    /// The next level, round and round.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::None => Self::Default,
            Self::Default => Self::Heavy,
            Self::Heavy => Self::None,
        }
    }

    /// The shares of this level.
    #[must_use]
    pub const fn rates(self) -> Rates {
        match self {
            Self::None => Rates {
                provider_503: 0,
                provider_lost_answer: 0,
                provider_latency_ms: (0, 1),
                duplicates: 0,
                handler_error: 0,
                handler_panic: 0,
                poison: 0,
            },
            Self::Default => Rates {
                provider_503: 50,
                provider_lost_answer: 10,
                provider_latency_ms: (1, 12),
                duplicates: 20,
                handler_error: 5,
                handler_panic: 1,
                poison: 2,
            },
            Self::Heavy => Rates {
                provider_503: 150,
                provider_lost_answer: 30,
                provider_latency_ms: (2, 60),
                duplicates: 50,
                handler_error: 20,
                handler_panic: 3,
                poison: 5,
            },
        }
    }

    /// What goes wrong, in one line.
    #[must_use]
    pub fn describe(self) -> String {
        let r = self.rates();
        if self == Self::None {
            return "none".to_owned();
        }
        let percent = |permille: u32| {
            if permille.is_multiple_of(10) {
                format!("{}%", permille / 10)
            } else {
                format!("{}.{}%", permille / 10, permille % 10)
            }
        };
        format!(
            "provider 503 {} · handler errors {} · duplicates {} · poison {}",
            percent(r.provider_503),
            percent(r.handler_error),
            percent(r.duplicates),
            percent(r.poison),
        )
    }
}

impl Rates {
    /// The provider's latency as a range of milliseconds.
    #[must_use]
    pub const fn latency(&self) -> Range<u64> {
        self.provider_latency_ms.0..self.provider_latency_ms.1
    }
}

/// The level as it is now: shared, and changed while the demo runs.
#[derive(Clone, Debug)]
pub struct Dial(Arc<AtomicU8>);

impl Dial {
    /// A dial set to `level`.
    #[must_use]
    pub fn new(level: Level) -> Self {
        Self(Arc::new(AtomicU8::new(level as u8)))
    }

    /// Sets it.
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        match self.0.load(Ordering::Relaxed) {
            0 => Level::None,
            1 => Level::Default,
            _ => Level::Heavy,
        }
    }

    /// The shares now.
    #[must_use]
    pub fn rates(&self) -> Rates {
        self.level().rates()
    }
}
