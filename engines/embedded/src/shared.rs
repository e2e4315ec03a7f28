//! What every handle of one engine shares: the log under its one lock, and who waits for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::clock::Clock;
use postrider_core::fault::Fault;
use postrider_core::id::InstanceId;
use postrider_core::planted::{self, Plant};
use postrider_log::{
    self as log, Level, Log, Lsn, MemberId, Now, Retention, SubId, Ticket, Wakes, pump,
};
use tokio::sync::Notify;

use crate::error::Error;
use crate::failures::Claims;
use crate::host::{self, Host};
use crate::waiters::{Ended, Wait, Waiters};

/// How an engine was asked to behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) message_bytes_max: usize,
    pub(crate) dedupe_window: Duration,
    /// Of streams that do not name one.
    pub(crate) level: Level,
    /// Of topics and queues that do not name one; `None`: what they have.
    pub(crate) retention: Option<Retention>,
}

/// One open engine.
///
/// Lock order: `log`, then `claims`; `waiters` and `ready` are taken last. No lock is held across an await, and none while the
/// disk writes or syncs.
pub(crate) struct Shared {
    pub(crate) log: Mutex<Log>,
    pub(crate) claims: Mutex<Claims>,
    pub(crate) settings: Settings,
    clock: Arc<dyn Clock>,
    waiters: Mutex<Waiters>,
    /// What `waiters` knows with the reason, to be asked on every call.
    has_ended: AtomicBool,
    /// Who waits for something to lease, per subscription.
    ready: Mutex<HashMap<SubId, Arc<Notify>>>,
    members: AtomicU64,
    /// Something was written or synced, or the engine ended.
    progressed: Notify,
    /// Rounds of upkeep that found nothing to do, with nothing on its way that frees space.
    stalls: AtomicU64,
    /// It was said that there is no room for a checkpoint.
    checkpoint_waits: AtomicBool,
    /// Streams grew, readers were replaced, or the engine ended.
    pub(crate) grown: Notify,
    /// What writes. `None`: whoever commits does.
    pub(crate) host: Option<Host>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// How the log stood at one moment, and whom that concerns.
#[derive(Debug)]
pub(crate) struct Stand {
    written: Lsn,
    durable: Lsn,
    wakes: Wakes,
}

impl Stand {
    pub(crate) fn of(log: &mut Log) -> Self {
        Self {
            written: log.written(),
            durable: log.durable(),
            wakes: log.take_wakes(),
        }
    }
}

/// Why nothing could be staged.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The log said no.
    Log(log::Error),
    /// The engine ended.
    Ended(Ended),
}

impl Refused {
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Log(error) => crate::error::fault(error),
            Self::Ended(ended) => ended.fault(),
        }
    }
}

impl Shared {
    /// An engine whose commits are written by whoever makes them.
    pub(crate) fn inline(log: Log, clock: Arc<dyn Clock>, settings: Settings) -> Arc<Self> {
        Arc::new(Self::new(log, clock, settings, None))
    }

    /// An engine with a thread that writes.
    pub(crate) fn start(
        log: Log,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<Arc<Self>, Error> {
        let shared = Arc::new(Self::new(log, clock, settings, Some(Host::default())));
        host::spawn(&shared).map_err(Error::Thread)?;
        Ok(shared)
    }

    /// An engine that writes when it is stepped.
    pub(crate) fn stepped(log: Log, clock: Arc<dyn Clock>, settings: Settings) -> Arc<Self> {
        Arc::new(Self::new(log, clock, settings, Some(Host::stepped())))
    }

    fn new(log: Log, clock: Arc<dyn Clock>, settings: Settings, host: Option<Host>) -> Self {
        let mut waiters = Waiters::default();
        waiters.progress(log.written(), log.durable()).tell();
        Self {
            log: Mutex::new(log),
            claims: Mutex::default(),
            settings,
            clock,
            waiters: Mutex::new(waiters),
            has_ended: AtomicBool::new(false),
            ready: Mutex::default(),
            members: AtomicU64::new(1),
            progressed: Notify::new(),
            stalls: AtomicU64::new(0),
            checkpoint_waits: AtomicBool::new(false),
            grown: Notify::new(),
            host,
        }
    }

    pub(crate) fn is_memory(&self) -> bool {
        self.host.is_none()
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            wall_ms: self.clock.wall().millis(),
            mono: self.clock.mono().0,
        }
    }

    /// A member that was never used in this process.
    pub(crate) fn new_member(&self) -> MemberId {
        MemberId(self.members.fetch_add(1, Ordering::Relaxed))
    }

    /// Why the engine ended, if it did.
    pub(crate) fn ended(&self) -> Option<Ended> {
        match self.has_ended.load(Ordering::Acquire) {
            true => self.waiters.lock().ended().cloned(),
            false => None,
        }
    }

    /// Runs this under the lock, and has what it staged written.
    ///
    /// # Errors
    /// The engine ended: nothing was run.
    pub(crate) fn stage<T>(&self, run: impl FnOnce(&mut Log, Now) -> T) -> Result<T, Ended> {
        if let Some(ended) = self.ended() {
            return Err(ended);
        }
        let now = self.now();
        let (out, wakes, wants_write) = {
            let mut log = self.log.lock();
            if self.is_memory() {
                tick(&mut log, now);
            }
            let out = run(&mut log, now);
            (out, log.take_wakes(), log.wants_write(now))
        };
        self.wake(&wakes);
        match &self.host {
            // Whatever sets a timer that is earlier than the others also writes something.
            Some(host) if wants_write => host.kick(),
            None if wants_write => self.write_inline(now),
            _ => {}
        }
        Ok(out)
    }

    /// As [`stage`](Self::stage), and waits while the log has more to write than it takes.
    pub(crate) async fn stage_patiently<T>(
        &self,
        mut run: impl FnMut(&mut Log, Now) -> Result<T, log::Error>,
    ) -> Result<T, Refused> {
        match self.stage(&mut run).map_err(Refused::Ended)? {
            Err(log::Error::Overloaded { .. }) => {}
            Err(error) => return Err(Refused::Log(error)),
            Ok(out) => return Ok(out),
        }
        loop {
            // Registered before it is tried again, so that no progress in between is missed.
            let progressed = self.progressed.notified();
            tokio::pin!(progressed);
            progressed.as_mut().enable();
            match self.stage(&mut run).map_err(Refused::Ended)? {
                Err(log::Error::Overloaded { .. }) => progressed.await,
                Err(error) => return Err(Refused::Log(error)),
                Ok(out) => return Ok(out),
            }
        }
    }

    /// As [`stage`](Self::stage), for what frees space: where there is none left, waits until upkeep has freed some, or has surely nothing to
    /// free. Cancel safe: nothing was staged while it waits.
    pub(crate) async fn stage_freeing<T>(
        &self,
        mut run: impl FnMut(&mut Log, Now) -> Result<T, log::Error>,
    ) -> Result<Result<T, log::Error>, Ended> {
        let tried = self.stage(&mut run)?;
        let (Some(host), Err(log::Error::Full { .. })) = (&self.host, &tried) else {
            return Ok(tried);
        };
        // The first of them may have begun before this was tried.
        let enough = self.stalls.load(Ordering::SeqCst) + STALLS;
        loop {
            // Registered before it is tried again, so that nothing that happens after that is missed.
            let progressed = self.progressed.notified();
            tokio::pin!(progressed);
            progressed.as_mut().enable();
            let stalled = self.stalls.load(Ordering::SeqCst) >= enough;
            let tried = self.stage(&mut run)?;
            if stalled || !matches!(tried, Err(log::Error::Full { .. })) {
                return Ok(tried);
            }
            host.kick_upkeep();
            progressed.await;
        }
    }

    /// Says once that there is no room for checkpoints, and once that there is again.
    pub(crate) fn after_checkpoint(&self, step: &pump::Step) {
        if step.checkpoint_waits && !self.checkpoint_waits.swap(true, Ordering::SeqCst) {
            tracing::warn!(
                "the disk has no room for a checkpoint: the log goes on, but frees nothing and takes longer to start; free space"
            );
        }
        if step.checkpoint && self.checkpoint_waits.swap(false, Ordering::SeqCst) {
            tracing::info!("the disk has room for checkpoints again");
        }
    }

    /// A round of upkeep is over.
    pub(crate) fn after_upkeep(&self, busy: bool) {
        if !busy && !self.log.lock().is_freeing() {
            self.stalls.fetch_add(1, Ordering::SeqCst);
        }
        self.progressed.notify_waiters();
    }

    fn write_inline(&self, now: Now) {
        let result = pump::write_inline(&self.log, now);
        self.after_write(result.err());
    }

    /// Tells everybody what is written and synced now, or that nothing more will be.
    pub(crate) fn after_write(&self, failed: Option<log::Error>) {
        let stand = Stand::of(&mut self.log.lock());
        self.tell(stand, failed);
    }

    /// Tells everybody how the log stood after a write, or that nothing more will be.
    pub(crate) fn tell(&self, stand: Stand, failed: Option<log::Error>) {
        let Stand {
            written,
            durable,
            wakes,
        } = stand;
        let safe = self.waiters.lock().progress(written, durable);
        // Without the lock: who is woken publishes again, and waits again.
        safe.tell();
        match failed {
            None => {}
            Some(log::Error::Closed) => self.end(Ended::Closed),
            Some(error) => {
                tracing::error!(%error, "the log stopped: nothing more is confirmed");
                self.end(Ended::Poisoned(error.to_string()));
            }
        }
        self.wake(&wakes);
        self.progressed.notify_waiters();
    }

    /// Nothing more is confirmed, and everybody who waits is told so.
    pub(crate) fn end(&self, why: Ended) {
        {
            let mut waiters = self.waiters.lock();
            // ORDER: before anybody is told, since whoever is told asks for the reason, which then waits for the lock.
            self.has_ended.store(true, Ordering::Release);
            waiters.end(why);
        }
        let ready: Vec<Arc<Notify>> = self.ready.lock().values().cloned().collect();
        ready.iter().for_each(|ready| ready.notify_waiters());
        self.progressed.notify_waiters();
        self.grown.notify_waiters();
        self.claims.lock().wake_all();
    }

    pub(crate) fn wake(&self, wakes: &Wakes) {
        if !wakes.subscriptions.is_empty() {
            let ready = self.ready.lock();
            let woken = wakes.subscriptions.iter().filter_map(|sub| ready.get(sub));
            woken.for_each(|ready| ready.notify_waiters());
        }
        if !wakes.streams.is_empty() {
            self.grown.notify_waiters();
        }
    }

    /// What wakes those who wait for something to lease.
    pub(crate) fn ready_of(&self, sub: SubId) -> Arc<Notify> {
        Arc::clone(self.ready.lock().entry(sub).or_default())
    }

    /// Waits until what a ticket stands for may be told.
    pub(crate) async fn confirmed(&self, ticket: &Ticket) -> Result<(), Ended> {
        self.safe(ticket.lsn, ticket.told_at).await
    }

    /// Waits until a frame is safe at this level. Cancel safe.
    pub(crate) async fn safe(&self, lsn: Lsn, level: Level) -> Result<(), Ended> {
        if planted::is(Plant::ConfirmBeforeSync) {
            return Ok(());
        }
        let wait = self.waiters.lock().wait(lsn, level);
        match wait {
            Wait::Done => Ok(()),
            Wait::Ended(ended) => Err(ended),
            Wait::Pending(wait) => match wait.await {
                Ok(()) => Ok(()),
                Err(_) => Err(self.ended().unwrap_or(Ended::Closed)),
            },
        }
    }

    /// Waits for a wake-up. In memory nobody else looks at the time, so whoever waits lets it pass.
    pub(crate) async fn until(&self, woken: impl Future<Output = ()>) {
        if !self.is_memory() {
            return woken.await;
        }
        tokio::pin!(woken);
        loop {
            let timer = self.log.lock().next_timer(self.now());
            let Some(timer) = timer else {
                return woken.await;
            };
            // A timer that is due was just looked at: a clock that is read in milliseconds needs a moment to reach it.
            let timer = timer.max(Duration::from_millis(1));
            if tokio::time::timeout(timer, woken.as_mut()).await.is_ok() {
                return;
            }
            // What became due wakes whom it concerns, be it us.
            if self.stage(|_, _| ()).is_err() {
                return;
            }
        }
    }

    /// The member is gone: what it claimed of the subscription's failures can be claimed again.
    pub(crate) fn release_claims(&self, sub: SubId, member: InstanceId) {
        self.claims.lock().release(sub, member);
    }

    /// Closes in order, and waits for it at most `grace`.
    pub(crate) async fn close(&self, grace: Duration) -> Result<(), Fault> {
        match &self.host {
            Some(host) if host.steps().is_none() => host.stop_and_wait(grace).await?,
            _ => self.close_inline(),
        }
        match self.ended() {
            Some(ended @ Ended::Poisoned(_)) => Err(ended.fault()),
            _ => Ok(()),
        }
    }

    /// Closes in order, as far as it can be done.
    pub(crate) fn close_blocking(&self) {
        match &self.host {
            Some(host) if host.steps().is_none() => host.stop_and_join(),
            _ => self.close_inline(),
        }
    }

    /// Everything staged is written and synced, a checkpoint is made, the stop is marked as a clean one.
    pub(crate) fn close_inline(&self) {
        if self.ended().is_some() {
            return;
        }
        let failed = pump::close(&self.log, self.now()).err();
        self.after_write(failed);
        self.end(Ended::Closed);
    }
}

/// So many rounds of upkeep without anything to do, and what is full stays full.
const STALLS: u64 = 2;

/// Lets time pass in the log. What could not be done for want of space is tried again later.
pub(crate) fn tick(log: &mut Log, now: Now) {
    if let Err(error) = log.tick(now) {
        tracing::debug!(%error, "what is due waits");
    }
}
