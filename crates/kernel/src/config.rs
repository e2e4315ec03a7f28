//! What a kernel is told at its start.

use std::time::Duration;

use postrider_core::policy::{Policy, Retry};

/// What a kernel is told at its start: the policy of the subscription, and what its source and failure store can do.
#[derive(Clone, Debug)]
pub struct Config {
    /// What happens when a handler fails, and every bound.
    pub policy: Policy,
    /// How long a lease of the source lasts: leases are extended when a third of it has passed. `None`: as long as the connection,
    /// or a log source.
    pub lease: Option<Duration>,
    /// How many bytes of `done_above` a commit can carry ([`LogSource::done_bytes_max`](postrider_core::source::LogSource::done_bytes_max)).
    /// 0: none, then commits carry the watermark alone and nothing is held back for it.
    pub done_bytes_max: usize,
    /// A failure store keeps failure records, parked keys and crash states. Without one, keys cannot be parked and crash loops not be seen.
    pub failure_store: bool,
    /// The engine has dead letters of its own: a message can be set aside without a failure store, a key cannot.
    pub native_dead_letter: bool,
    /// Deliveries are lost only together and come again in order ([`LeaseSource::loses_together`](postrider_core::source::LeaseSource::loses_together)):
    /// nothing is waited for when one was lost.
    pub loses_together: bool,
    /// The engine hands out again after a delay (`DelayedRetry`). Without it, what waits for a retry is held.
    pub delayed_retry: bool,
}

/// Parked keys that the kernel remembers at most. Above it no further key is parked: the key is held instead.
pub const PARKED_KEYS_MAX: usize = 1 << 20;
/// Dependencies that are waited for at once at most; a further one is asked when one of these is back.
pub const OUTAGES_MAX: usize = 16;
/// The longest wait between two probes of a dependency.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest wait for which an unordered message without a timed lease is held rather than given back.
pub const UNLEASED_HOLD_MAX: Duration = Duration::from_secs(30);
/// How long lost messages of a key are waited for where leases have no time of their own.
pub const UNLEASED_GAP: Duration = Duration::from_secs(30);
/// How long after the deadline of a drain a handler that was cancelled may take to end.
pub const CANCEL_GRACE: Duration = Duration::from_secs(1);

impl Config {
    /// The configuration of a lease source with a failure store.
    #[must_use]
    pub const fn lease(policy: Policy, lease: Option<Duration>) -> Self {
        Self {
            policy,
            lease,
            done_bytes_max: 0,
            failure_store: true,
            native_dead_letter: false,
            loses_together: false,
            delayed_retry: true,
        }
    }

    /// The configuration of a log source with a failure store.
    #[must_use]
    pub const fn log(policy: Policy, done_bytes_max: usize) -> Self {
        Self {
            policy,
            lease: None,
            done_bytes_max,
            failure_store: true,
            native_dead_letter: false,
            loses_together: false,
            delayed_retry: true,
        }
    }

    /// Redriven records in the kernel at once at most: an eighth of the window.
    #[must_use]
    pub fn redrive_messages_max(&self) -> u32 {
        (self.policy.limits.window_messages_max / 8).max(1)
    }

    /// The retry rule with this index; the last one where there are fewer.
    pub(crate) fn rule(&self, index: u16) -> Retry {
        let rules = &self.policy.retries;
        let last = rules.last().copied().unwrap_or_default();
        rules.get(usize::from(index)).copied().unwrap_or(last)
    }

    /// How long lost messages of a key are waited for.
    pub(crate) fn gap(&self) -> Duration {
        self.lease.unwrap_or(UNLEASED_GAP)
    }

    /// The longest wait for which an unordered message is held.
    pub(crate) fn hold_wait_max(&self) -> Duration {
        self.lease.unwrap_or(UNLEASED_HOLD_MAX)
    }
}
