//! What every handle of one engine shares: the log under its one lock, and who waits for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::clock::Clock;
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_log::{self as log, Level, Log, Lsn, MemberId, Now, SubId, Ticket, pump};
use tokio::sync::Notify;

use crate::error::{Error, fault};
use crate::failures::Claims;
use crate::host::Host;
use crate::names;
use crate::waiters::{Ended, Wait, Waiters};

/// How an engine was asked to behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) message_bytes_max: usize,
    pub(crate) dedupe_window: Duration,
    /// Of streams that do not name one.
    pub(crate) level: Level,
}

/// One open engine.
///
/// Lock order: `log`, then `claims`; `waiters` and `ready` are taken last and alone. No lock is held across an await, and none
/// while the disk writes or syncs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) log: Mutex<Log>,
    pub(crate) clock: Arc<dyn ClockDebug>,
    pub(crate) settings: Settings,
    pub(crate) claims: Mutex<Claims>,
    waiters: Mutex<Waiters>,
    /// Who waits for something to lease, per subscription.
    ready: Mutex<HashMap<SubId, Arc<Notify>>>,
    members: AtomicU64,
    /// Something was written or synced, or the engine ended.
    progressed: Notify,
    /// Streams grew, readers were replaced, or the engine ended.
    pub(crate) grown: Notify,
    /// The thread that writes. `None`: whoever commits does it.
    host: Option<Host>,
}
