//! The queue of jobs and the one thread that writes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::db::Db;
use crate::error::Error;
use crate::group::{Bounds, BoxJob, Job, Ran, run_group};

/// How long removals wait for a commit to ride on before they get one of their own.
const REMOVALS_WAIT: Duration = Duration::from_millis(50);
/// This many removals do not wait.
const REMOVALS_MAX: usize = 4096;

/// A call into the writer: a closure, and who waits for its result.
pub(crate) struct Call<T, E, F> {
    work: F,
    result: Option<Result<T, E>>,
    reply: Reply<Result<T, E>>,
    /// Its place in the queue.
    _permit: Option<OwnedSemaphorePermit>,
}

/// How a result gets back.
pub(crate) enum Reply<R> {
    /// To a future.
    Future(oneshot::Sender<R>),
    /// To a thread that waits.
    Thread(std::sync::mpsc::Sender<R>),
}

impl<T, E, F> Call<T, E, F>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: FnMut(&mut Db) -> Result<T, E> + Send + 'static,
{
    pub(crate) fn job(
        work: F,
        reply: Reply<Result<T, E>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> BoxJob {
        Box::new(Self {
            work,
            result: None,
            reply,
            _permit: permit,
        })
    }
}

impl<T, E, F> Job for Call<T, E, F>
where
    T: Send,
    E: From<Error> + Send,
    F: FnMut(&mut Db) -> Result<T, E> + Send,
{
    fn wanted(&self) -> bool {
        match &self.reply {
            Reply::Future(sender) => !sender.is_closed(),
            Reply::Thread(_) => true,
        }
    }

    fn run(&mut self, db: &mut Db) -> Ran {
        let result = (self.work)(db);
        let ran = if result.is_ok() { Ran::Keep } else { Ran::Undo };
        self.result = Some(result);
        ran
    }

    fn settle(self: Box<Self>, end: Result<(), Error>) {
        let result = match (end, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(E::from(Error::WriterGone)),
            (Err(error), _) => Err(E::from(error)),
        };
        // A receiver that is gone wanted to know no more.
        match self.reply {
            Reply::Future(sender) => drop(sender.send(result)),
            Reply::Thread(sender) => drop(sender.send(result)),
        }
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<BoxJob>,
    removals: Vec<u64>,
    closing: bool,
    /// The thread ended.
    gone: bool,
}

/// Jobs on their way to the writer. Bounded by permits.
pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    room: Arc<Semaphore>,
}

enum Next {
    Job(BoxJob),
    Removals,
    Closed,
}

impl Queue {
    pub(crate) fn new(jobs_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            room: Arc::new(Semaphore::new(jobs_max.max(1))),
        }
    }

    /// A place in the queue; waits while it is full.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().acquire_owned().await.ok()
    }

    pub(crate) fn push(&self, job: BoxJob) {
        let mut state = self.state.lock();
        if state.closing || state.gone {
            let error = if state.closing {
                Error::Closed
            } else {
                Error::WriterGone
            };
            drop(state);
            job.settle(Err(error));
            return;
        }
        state.jobs.push_back(job);
        self.ready.notify_one();
    }

    pub(crate) fn push_removals(&self, numbers: &[u64]) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.closing || state.gone {
            return Err(Error::Closed);
        }
        let was_idle = state.removals.is_empty();
        state.removals.extend_from_slice(numbers);
        if was_idle || state.removals.len() >= REMOVALS_MAX {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Lets the writer finish what is queued, and end.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.ready.notify_one();
    }

    fn next(&self) -> Next {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Next::Job(job);
            }
            if state.removals.len() >= REMOVALS_MAX {
                return Next::Removals;
            }
            match (state.closing, state.removals.is_empty()) {
                (true, true) => return Next::Closed,
                (true, false) => return Next::Removals,
                (false, true) => self.ready.wait(&mut state),
                (false, false) => {
                    if self.ready.wait_for(&mut state, REMOVALS_WAIT).timed_out()
                        && state.jobs.is_empty()
                    {
                        return Next::Removals;
                    }
                }
            }
        }
    }

    fn try_next(&self) -> Option<BoxJob> {
        self.state.lock().jobs.pop_front()
    }

    fn run(&self, db: &mut Db, bounds: Bounds) {
        loop {
            let mut first = match self.next() {
                Next::Closed => return,
                Next::Job(job) => Some(job),
                Next::Removals => None,
            };
            let only_removals = first.is_none();
            let mut removals = std::mem::take(&mut self.state.lock().removals);
            run_group(db, bounds, &mut removals, || {
                first
                    .take()
                    .or_else(|| (!only_removals).then(|| self.try_next())?)
            });
            if !removals.is_empty() {
                let mut state = self.state.lock();
                if only_removals && state.closing {
                    // They stay in the outbox and are published again, with the same ids.
                    continue;
                }
                removals.append(&mut state.removals);
                state.removals = removals;
                if state.jobs.is_empty() {
                    // The disk is full or locked: not again at once.
                    self.ready.wait_for(&mut state, REMOVALS_WAIT);
                }
            }
        }
    }
}

/// Whatever ends the writer: nobody waits for it for ever.
struct Farewell(Arc<Queue>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.gone = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.0.room.close();
        for job in jobs {
            job.settle(Err(Error::WriterGone));
        }
    }
}

/// Starts the writer. `keep` is dropped when it ends: the lock of the database.
pub(crate) fn start(
    queue: Arc<Queue>,
    mut db: Db,
    bounds: Bounds,
    keep: impl Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("postrider-sqlite".to_owned())
        .spawn(move || {
            let farewell = Farewell(queue.clone());
            queue.run(&mut db, bounds);
            // ORDER: the connection's end checkpoints the WAL; only then may another process have the database.
            if let Err((_, error)) = db.conn.close() {
                tracing::warn!(%error, "the database did not close cleanly; the next open recovers it");
            }
            drop(keep);
            drop(farewell);
        })
}
