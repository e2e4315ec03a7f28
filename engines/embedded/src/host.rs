//! The thread that writes and syncs, for an engine in a directory.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_log::pump;
use tokio::sync::Notify;

use crate::shared::{Shared, tick};

/// How long nothing must have come before the last batch is proven by a marker.
const IDLE_AFTER: Duration = Duration::from_millis(20);
/// The longest sleep: a bound on what a lost wake-up could cost, not a pace.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The handle of the thread.
#[derive(Debug, Default)]
pub(crate) struct Host {
    state: Mutex<State>,
    kicked: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopped: Notify,
}

#[derive(Debug, Default)]
struct State {
    kicked: bool,
    stop: bool,
    stopped: bool,
}

impl Host {
    /// There is something to write.
    pub(crate) fn kick(&self) {
        let mut state = self.state.lock();
        if !state.kicked {
            state.kicked = true;
            self.kicked.notify_one();
        }
    }

    fn stop(&self) {
        self.state.lock().stop = true;
        self.kick();
    }

    /// Has everything written and the log closed.
    pub(crate) async fn stop_and_wait(&self, grace: Duration) -> Result<(), Fault> {
        self.stop();
        let stopped = async {
            loop {
                let stopped = self.stopped.notified();
                tokio::pin!(stopped);
                stopped.as_mut().enable();
                if self.state.lock().stopped {
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

    /// Waits for a kick. `true`: there was one.
    fn sleep(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.kicked {
            self.kicked.wait_for(&mut state, at_most);
        }
        std::mem::take(&mut state.kicked)
    }

    fn is_stopping(&self) -> bool {
        self.state.lock().stop
    }
}

/// Starts the thread `postrider-log`. It ends when the engine is closed or fails.
pub(crate) fn spawn(shared: &Arc<Shared>) -> std::io::Result<()> {
    let run = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("postrider-log".to_owned())
        .spawn(move || {
            let host = run
                .host
                .as_ref()
                .expect("the thread is made for an engine with a host");
            let ends = Ends { shared: &run, host };
            serve(&run, host);
            drop(ends);
        })?;
    let host = shared
        .host
        .as_ref()
        .expect("an engine in a directory has a host");
    *host.thread.lock() = Some(thread);
    Ok(())
}

/// Says that the thread is gone, whatever it ended by: nobody waits for one that is not there.
struct Ends<'a> {
    shared: &'a Shared,
    host: &'a Host,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.end(crate::waiters::Ended::Poisoned(
                "the thread that writes panicked".to_owned(),
            ));
        }
        self.host.state.lock().stopped = true;
        self.host.stopped.notify_waiters();
    }
}

fn serve(shared: &Shared, host: &Host) {
    let mut marked = false;
    loop {
        let now = shared.now();
        tick(&mut shared.log.lock(), now);
        let step = match pump::step(&shared.log, now) {
            Ok(step) => step,
            Err(error) => return shared.after_write(Some(error)),
        };
        shared.after_write(None);
        if !step.is_idle() {
            marked = false;
            continue;
        }
        if host.is_stopping() {
            return shared.close_inline();
        }
        let timer = shared.log.lock().next_timer(now).unwrap_or(SLEEP_MAX);
        let at_most = if marked {
            timer.min(SLEEP_MAX)
        } else {
            timer.min(IDLE_AFTER)
        };
        if host.sleep(at_most) {
            continue;
        }
        if !marked && timer > at_most {
            // DURABILITY: without it, a flip in the last batch could pass for a torn tail.
            if let Err(error) = pump::idle(&shared.log) {
                return shared.after_write(Some(error));
            }
            marked = true;
        }
    }
}
