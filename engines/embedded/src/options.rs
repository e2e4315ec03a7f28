//! What an engine is opened with.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postrider_core::capability::Durability;
use postrider_core::clock::{Clock, Mono, Timestamp};
use postrider_log::disk::Disk;

/// The largest encoded message where nothing else is said: 16 MiB.
pub const MESSAGE_BYTES_MAX_DEFAULT: usize = 16 << 20;

/// How an engine in a directory behaves.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where time comes from. Lease ends are told on it, so it MUST be the clock of the service.
    pub clock: Arc<dyn Clock>,
    /// The level of topics and queues that do not name one. `Flushed` where nothing is said.
    pub durability: Durability,
    /// The largest encoded message, in bytes: key, headers and payload.
    pub message_bytes_max: usize,
    /// How long ids of messages are remembered, so that the same id published again is stored once. At least this long, at most twice.
    pub dedupe_window: Duration,
    /// How often the state is checkpointed, which bounds how long the next open takes.
    pub checkpoint_every: Duration,
    /// The most that the log may take on the disk, in bytes; checkpoints, a few MiB as a rule, come on top. `None`: as much as there is. At least
    /// eight times `message_bytes_max`. Where it is reached, publishers get `Full` until consumers have settled enough.
    pub disk_bytes_max: Option<u64>,
    /// How long after it was stored a message stays readable that all subscriptions have settled: what `flow` and `msg show` still find, and what a seek
    /// goes back to. Applied when the engine opens, to all its topics and queues and to those that are made later. Zero: not at all. `None`: those that
    /// exist keep what they have, and new ones keep nothing beyond need.
    pub retain: Option<Duration>,
    /// The most bytes of such messages that each topic or queue keeps, the newest. With [`retain`](Self::retain) the stricter of the two counts. `None`: no
    /// limit where `retain` is set.
    pub retain_bytes: Option<u64>,
    /// The disk to use instead of the directory: for tests that break it.
    pub disk: Option<Arc<dyn Disk>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            durability: Durability::Flushed,
            message_bytes_max: MESSAGE_BYTES_MAX_DEFAULT,
            dedupe_window: Duration::from_secs(120),
            checkpoint_every: Duration::from_secs(30),
            disk_bytes_max: None,
            retain: None,
            retain_bytes: None,
            disk: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("durability", &self.durability)
            .field("message_bytes_max", &self.message_bytes_max)
            .field("dedupe_window", &self.dedupe_window)
            .field("checkpoint_every", &self.checkpoint_every)
            .field("disk_bytes_max", &self.disk_bytes_max)
            .field("retain", &self.retain)
            .field("retain_bytes", &self.retain_bytes)
            .finish_non_exhaustive()
    }
}

/// How an engine in memory behaves.
#[derive(Clone)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// Where time comes from. It MUST advance with the time of the tokio runtime (paused or not), by which the engine waits.
    pub clock: Arc<dyn Clock>,
    /// The largest encoded message, in bytes.
    pub message_bytes_max: usize,
    /// How long ids of messages are remembered.
    pub dedupe_window: Duration,
    /// As [`Options::retain`].
    pub retain: Option<Duration>,
    /// As [`Options::retain_bytes`].
    pub retain_bytes: Option<u64>,
}

impl MemoryOptions {
    /// The defaults, on this clock.
    #[must_use]
    pub fn on(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            message_bytes_max: MESSAGE_BYTES_MAX_DEFAULT,
            dedupe_window: Duration::from_secs(120),
            retain: None,
            retain_bytes: None,
        }
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::on(Arc::new(SystemClock))
    }
}

impl std::fmt::Debug for MemoryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryOptions")
            .field("message_bytes_max", &self.message_bytes_max)
            .field("dedupe_window", &self.dedupe_window)
            .field("retain", &self.retain)
            .field("retain_bytes", &self.retain_bytes)
            .finish_non_exhaustive()
    }
}

/// The clock of the system. All of one process share the origin of their monotonic time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn mono(&self) -> Mono {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        Mono(ORIGIN.get_or_init(Instant::now).elapsed())
    }
}
