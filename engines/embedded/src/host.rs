//! The threads of an engine in a directory: one writes and syncs, one keeps segments ready and makes checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_log::{Log, Now, pump};
use tokio::sync::Notify;

use crate::shared::{Shared, Stand, tick};
use crate::waiters::Ended;

/// How long nothing must have come before the last batch is proven by a marker.
pub(crate) const IDLE_AFTER: Duration = Duration::from_millis(20);
/// The longest sleep: a bound on what a lost wake-up could cost, not a pace.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The shortest sleep: what is due may be the other thread's to do.
pub(crate) const SLEEP_MIN: Duration = Duration::from_millis(1);

/// The handle of the threads.
#[derive(Debug, Default)]
pub(crate) struct Host {
    writer: Signal,
    upkeep: Signal,
    stop: AtomicBool,
    ended: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopped: Notify,
    /// There are no threads: whoever has the [`Stepper`](crate::Stepper) is told instead.
    steps: Option<Notify>,
}

/// Wakes one thread. A kick that comes before the sleep is not lost.
#[derive(Debug, Default)]
struct Signal {
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn kick(&self) {
        let mut kicked = self.kicked.lock();
        if !*kicked {
            *kicked = true;
            self.changed.notify_one();
        }
    }

    /// Waits for a kick. `true`: there was one.
    fn sleep(&self, at_most: Duration) -> bool {
        let mut kicked = self.kicked.lock();
        if !*kicked {
            self.changed
                .wait_for(&mut kicked, at_most.clamp(SLEEP_MIN, SLEEP_MAX));
        }
        std::mem::take(&mut *kicked)
    }
}

impl Host {
    /// One without threads.
    pub(crate) fn stepped() -> Self {
        Self {
            steps: Some(Notify::new()),
            ..Self::default()
        }
    }

    /// What is told of work, where there are no threads.
    pub(crate) const fn steps(&self) -> Option<&Notify> {
        self.steps.as_ref()
    }

    /// There is something to write.
    pub(crate) fn kick(&self) {
        match &self.steps {
            Some(steps) => steps.notify_one(),
            None => self.writer.kick(),
        }
    }

    /// Space is wanted.
    pub(crate) fn kick_upkeep(&self) {
        match &self.steps {
            Some(steps) => steps.notify_one(),
            None => self.upkeep.kick(),
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.writer.kick();
        self.upkeep.kick();
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Has everything written and the log closed.
    pub(crate) async fn stop_and_wait(&self, grace: Duration) -> Result<(), Fault> {
        self.stop();
        let stopped = async {
            loop {
                let stopped = self.stopped.notified();
                tokio::pin!(stopped);
                stopped.as_mut().enable();
                if self.ended.load(Ordering::SeqCst) {
                    return;
                }
                stopped.await;
            }
        };
        tokio::time::timeout(grace, stopped).await.map_err(|_| {
            let text = format!(
                "the log was not closed within {grace:?}: the disk is slow, closing goes on"
            );
            Fault::new(FaultKind::Timeout, Advice::StopOwner, text).unknown_effect()
        })
    }

    /// The same, and waits for the end of the thread.
    pub(crate) fn stop_and_join(&self) {
        self.stop();
        let thread = self.thread.lock().take();
        // A thread that panicked has said so; there is nothing left to close.
        let _ = thread.map(JoinHandle::join);
    }
}

/// Starts the threads `postrider-log` and `postrider-upkeep`. They end when the engine is closed or fails.
pub(crate) fn spawn(shared: &Arc<Shared>) -> std::io::Result<()> {
    let run = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("postrider-log".to_owned())
        .spawn(move || {
            let host = host_of(&run);
            let ends = Ends { shared: &run, host };
            std::thread::scope(|scope| {
                let name = "postrider-upkeep".to_owned();
                let upkeep = std::thread::Builder::new().name(name);
                match upkeep.spawn_scoped(scope, || serve_upkeep(&run, host)) {
                    Ok(_) => serve_writes(&run, host),
                    Err(error) => {
                        run.end(Ended::Poisoned(format!("no thread for upkeep: {error}")))
                    }
                }
                host.stop();
            });
            // Both are done: nothing is outstanding.
            run.close_inline();
            drop(ends);
        })?;
    *host_of(shared).thread.lock() = Some(thread);
    Ok(())
}

fn host_of(shared: &Shared) -> &Host {
    shared
        .host
        .as_ref()
        .expect("an engine in a directory has a host")
}

/// Says that the threads are gone, whatever they ended by: nobody waits for what is not there.
struct Ends<'a> {
    shared: &'a Shared,
    host: &'a Host,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared
                .end(Ended::Poisoned("a thread of the log panicked".to_owned()));
        }
        self.host.ended.store(true, Ordering::SeqCst);
        self.host.stopped.notify_waiters();
    }
}

/// Ends the other thread too, whatever this one ended by.
struct StopsBoth<'a>(&'a Host);

impl Drop for StopsBoth<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Lets time pass, writes and syncs: the group commit, whose batch is what came during the last sync.
fn serve_writes(shared: &Shared, host: &Host) {
    let _stops = StopsBoth(host);
    let mut marked = false;
    loop {
        let Some(wrote) = write_round(shared, shared.now()) else {
            return;
        };
        if wrote.any {
            if wrote.upkeep {
                host.upkeep.kick();
            }
            marked = false;
            continue;
        }
        if host.is_stopping() {
            return;
        }
        let timer = next_timer(shared).unwrap_or(SLEEP_MAX);
        let at_most = if marked { timer } else { timer.min(IDLE_AFTER) };
        if host.writer.sleep(at_most) || marked || timer <= at_most {
            continue;
        }
        if !mark_idle(shared) {
            return;
        }
        marked = true;
    }
}

/// Keeps the next segment ready, frees old ones, makes checkpoints: beside the writes, since each slice takes a sync of its own.
fn serve_upkeep(shared: &Shared, host: &Host) {
    let _stops = StopsBoth(host);
    while !host.is_stopping() {
        let now = shared.now();
        let Some(busy) = upkeep_round(shared, now) else {
            return;
        };
        let (wants_write, timer) = {
            let log = shared.log.lock();
            (
                log.wants_write(now),
                log.next_timer(now).unwrap_or(SLEEP_MAX),
            )
        };
        if wants_write {
            // A checkpoint waits for its last frame to be durable.
            host.writer.kick();
        }
        if !busy {
            host.upkeep.sleep(timer);
        }
    }
}

/// What a round of the thread that writes did.
pub(crate) struct Wrote {
    /// Something was written.
    pub(crate) any: bool,
    /// The thread for upkeep may have something to do.
    upkeep: bool,
}

/// One round of the thread that writes. `None`: the engine ended, and everybody was told.
pub(crate) fn write_round(shared: &Shared, now: Now) -> Option<Wrote> {
    let before = |log: &mut Log| tick(log, now);
    let after = |log: &mut Log| (Stand::of(log), log.wants_upkeep(now));
    let (progress, (stand, upkeep)) = pump::write_between(&shared.log, now, before, after);
    match progress {
        Ok(progress) => {
            shared.tell(stand, None);
            Some(Wrote {
                any: progress.is_some(),
                upkeep,
            })
        }
        Err(error) => {
            shared.tell(stand, Some(error));
            None
        }
    }
}

/// One round of the thread for upkeep: whether there was something to do. `None`: the engine ended, and everybody was told.
pub(crate) fn upkeep_round(shared: &Shared, now: Now) -> Option<bool> {
    match pump::upkeep(&shared.log, now) {
        Ok(step) => {
            shared.after_checkpoint(&step);
            shared.after_upkeep(!step.is_idle());
            Some(!step.is_idle())
        }
        Err(error) => {
            shared.after_write(Some(error));
            None
        }
    }
}

/// The last batch is proven by a marker, once nothing has come for a while. `false`: the engine ended.
pub(crate) fn mark_idle(shared: &Shared) -> bool {
    // DURABILITY: without it, damage to the last batch could pass for a torn tail.
    match pump::idle(&shared.log) {
        Ok(()) => true,
        Err(error) => {
            shared.after_write(Some(error));
            false
        }
    }
}

fn next_timer(shared: &Shared) -> Option<Duration> {
    shared.log.lock().next_timer(shared.now())
}
