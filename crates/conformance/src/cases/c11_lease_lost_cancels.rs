//! **Set-up**: one member, on a thread and runtime of its own. **Action**: three messages of one key; the handler of the first stands still with its
//! whole thread, as a process that is stopped (`SIGSTOP`), until another member that starts then has handled the key. Then it goes on (`SIGCONT`)
//! and waits at an `await`. **Expected**: the second member handles all three within a few leases; the first one's handler is cancelled, it settles
//! nothing, and both then go on with what is published next, in order.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{SOON, counted};
use crate::history::{Anomaly, History, Repeats, What, handled, in_order, nothing_lost};
use crate::member::{Stage, publish};
use crate::subject::Subject;
use crate::verdict::Findings;

/// How long the thread stands still at most, should the case fail.
const STILL_MAX: Duration = Duration::from_secs(120);

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let (go_on, stands) = channel::<()>();
    let stage = stage(subject, stands);
    let first = Frozen::start(&stage, subject).await?;
    let keys = ["k".to_owned()];
    let publisher = subject.connect().await?;
    publish(&publisher, &keys, 0..3).await?;
    let history = &stage.history;
    history
        .until("the first message", SOON, |e| {
            e.iter().any(|e| e.what == What::Started)
        })
        .await?;
    let frozen = Instant::now();
    let second = stage.start(subject, "reader").await?;
    history
        .until("the second member", SOON, |e| handled(e) == 3)
        .await?;
    let taken = frozen.elapsed();
    let _ = go_on.send(());
    history
        .until("the cancellation of the first handler", SOON, |e| {
            e.iter().any(|e| e.what == What::Cancelled)
        })
        .await?;
    publish(&publisher, &keys, 3..6).await?;
    history
        .until("what was published after it", SOON, |e| handled(e) == 6)
        .await?;
    second.stop().await;
    first.stop().await;
    judge(history, taken)
}

/// The first handler of all stands still, with its thread.
fn stage(subject: &dyn Subject, stands: Receiver<()>) -> Stage {
    let once: Arc<OnceLock<()>> = Arc::default();
    let stands = Arc::new(Mutex::new(stands));
    Stage::new(subject, move |_| {
        let is_first = once.set(()).is_ok();
        let stands = stands.clone();
        async move {
            if is_first {
                // On purpose without an `await`: the member's runtime has this one thread.
                let _ = stands.lock().recv_timeout(STILL_MAX);
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    })
}

fn judge(history: &History, taken: Duration) -> Result<Findings, Anomaly> {
    let events = history.events();
    nothing_lost(&events, &[("k".to_owned(), 6)])?;
    in_order(&events, Repeats::OfSuffix)?;
    let first = events.iter().find(|e| e.what == What::Started);
    let of_first = first.map(|f| {
        let ends = events
            .iter()
            .filter(|e| (e.member, e.n) == (f.member, f.n) && e.what != What::Started);
        ends.map(|e| e.what).next()
    });
    if of_first != Some(Some(What::Cancelled)) {
        let what = format!("the first handler ended otherwise than cancelled: {of_first:?}");
        return Err(Anomaly::Other { what });
    }
    let millis = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
    Ok(counted(&events).with("taken_over_ms", millis))
}

/// A member on a thread of its own, whose runtime has no other.
struct Frozen {
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl Frozen {
    async fn start(stage: &Stage, subject: &dyn Subject) -> Result<Self, Anomaly> {
        let connected = subject.connect();
        let service = stage.service(subject, "reader");
        let (stop, stopping) = oneshot::channel();
        let (done, stopped) = oneshot::channel();
        let (started, starting) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let running = match connected.await {
                    Ok(bus) => service.start(&bus).await,
                    Err(error) => Err(error),
                };
                match running {
                    Ok(running) => {
                        let _ = started.send(Ok(()));
                        let _ = stopping.await;
                        running.stop(Duration::from_secs(10)).await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
            let _ = done.send(());
        });
        let lost = |_| Anomaly::Other {
            what: "the member's thread ended".into(),
        };
        starting.await.map_err(lost)??;
        Ok(Self { stop, stopped })
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.stopped.await;
    }
}
