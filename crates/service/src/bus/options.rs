//! What can be said of a bus.

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use postrider_core::clock::{Clock, Entropy, Mono, Timestamp};
use postrider_core::text::Text;
use postrider_core::topology::ProvisionMode;
use tokio::time::Instant;

use crate::metrics::{Metrics, Recorder};

/// What can be said of a bus. The defaults are right for most programs.
#[derive(Clone)]
pub struct BusOptions {
    /// What messages from outside a service name as their source. Default: the program's name.
    pub source: Text,
    /// What happens to topics, queues and subscriptions that do not exist. Default: they are created.
    pub provision: ProvisionMode,
    /// Messages that await confirmation at once. Default: 4096.
    pub window_messages_max: usize,
    /// Bytes of these. Default: 64 MiB.
    pub window_bytes_max: usize,
    /// Where time comes from. Default: the system's wall clock, and tokio's monotonic one (which a test can pause).
    pub clock: Arc<dyn Clock>,
    /// Where ids and jitter come from. Default: keys from the operating system.
    pub entropy: Arc<dyn Entropy>,
    /// Where the admin API is served (`DIR/admin.sock`) on an engine that owns no directory. Default: nowhere. An engine that owns one serves it there.
    /// One directory for each process: where another one answers, that is said, and the service runs without.
    pub admin_directory: Option<PathBuf>,
    /// Where metrics go. Default: the memory of this process, for the admin API and [`Metrics::text`].
    pub recorder: Arc<dyn Recorder>,
}

impl Default for BusOptions {
    fn default() -> Self {
        Self {
            source: program_name(),
            provision: ProvisionMode::Create,
            window_messages_max: 4096,
            window_bytes_max: 64 << 20,
            clock: Arc::new(HostClock::default()),
            entropy: Arc::new(HostEntropy::default()),
            admin_directory: None,
            recorder: Arc::new(Metrics::new()),
        }
    }
}

fn program_name() -> Text {
    let program = std::env::args_os().next().unwrap_or_default();
    let stem = std::path::Path::new(&program)
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned());
    Text::from(
        stem.filter(|s| !s.is_empty())
            .unwrap_or_else(|| "postrider".into()),
    )
}

/// The system's wall clock, and tokio's monotonic clock since it was made.
struct HostClock {
    origin: OnceInstant,
}

type OnceInstant = std::sync::OnceLock<Instant>;

impl Default for HostClock {
    fn default() -> Self {
        Self {
            origin: OnceInstant::new(),
        }
    }
}

impl Clock for HostClock {
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn mono(&self) -> Mono {
        let now = Instant::now();
        Mono(now.saturating_duration_since(*self.origin.get_or_init(|| now)))
    }
}

/// A keyed hash of a counter; the key comes from the operating system.
#[derive(Default)]
struct HostEntropy {
    key: RandomState,
    count: AtomicU64,
}

impl Entropy for HostEntropy {
    fn next_u64(&self) -> u64 {
        self.key
            .hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}
