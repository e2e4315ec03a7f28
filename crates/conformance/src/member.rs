//! The service of the cases, and its members.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use postrider::Running;
use postrider::contract::Fut;
use postrider::prelude::*;

use crate::history::{Anomaly, Event, History, What};
use crate::subject::Subject;

/// What is published: the `n`-th of its key.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(topic = "conformance.ledger", type = "entry", key = key)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) n: u32,
}

/// What a handler is to do.
pub(crate) type Act = Arc<
    dyn Fn(Call) -> Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>> + Send + Sync,
>;

/// One start of a handler.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) service: String,
    pub(crate) key: String,
    pub(crate) n: u32,
}

/// What all members of a case share.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) history: History,
    pub(crate) lease: Duration,
    pub(crate) retry: Retry,
    act: Act,
    members: Arc<AtomicU32>,
}

impl Stage {
    /// Handlers that do this.
    pub(crate) fn new<F, R>(subject: &dyn Subject, act: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Self {
            history: History::default(),
            lease: subject.lease(),
            retry: Retry::backoff(millis(20)..millis(100)).forever(),
            act: Arc::new(move |call| Box::pin(act(call))),
            members: Arc::default(),
        }
    }

    /// Handlers that work for `time` and succeed.
    pub(crate) fn working(subject: &dyn Subject, time: Duration) -> Self {
        Self::new(subject, move |_| async move {
            work(time).await;
            Ok(())
        })
    }

    /// Starts a member of a service on a connection of its own.
    pub(crate) async fn start(
        &self,
        subject: &dyn Subject,
        service: &str,
    ) -> Result<Member, Anomaly> {
        let bus = subject.connect().await?;
        let running = self.service(subject, service).start(&bus).await?;
        Ok(Member { running, bus })
    }

    /// The service itself, as a new member.
    pub(crate) fn service(&self, subject: &dyn Subject, name: &str) -> Service {
        let seat = Seat {
            service: name.to_owned(),
            number: self.members.fetch_add(1, Ordering::SeqCst) + 1,
            stage: self.clone(),
        };
        let service = Service::new(name.to_owned()).announce(false).state(seat);
        let service = match subject.failures() {
            Some(failures) => service.failures(failures),
            None => service,
        };
        service.on(handle.retry(self.retry).lease(self.lease).concurrency(32))
    }
}

/// Work that takes this long.
pub(crate) async fn work(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// One member, as its handlers know it.
#[derive(Clone)]
struct Seat {
    service: String,
    number: u32,
    stage: Stage,
}

async fn handle(entry: Entry, meta: Meta, State(seat): State<Seat>) -> Result<(), HandlerError> {
    let call = Call {
        service: seat.service.clone(),
        key: entry.key.clone(),
        n: entry.n,
    };
    let run = Run::start(&seat, &entry, &meta);
    let result = (seat.stage.act)(call).await;
    run.end(&result);
    result
}

/// A handler that runs: however it ends, the history says so.
struct Run {
    history: History,
    event: Event,
}

impl Run {
    fn start(seat: &Seat, entry: &Entry, meta: &Meta) -> Self {
        let event = Event {
            at: Instant::now(),
            service: seat.service.clone(),
            member: seat.number,
            key: entry.key.clone(),
            n: entry.n,
            attempt: meta.attempt(),
            redriven: meta.is_redriven(),
            what: What::Started,
        };
        let history = seat.stage.history.clone();
        history.push(event.clone());
        let event = Event {
            what: What::Cancelled,
            ..event
        };
        Self { history, event }
    }

    fn end(mut self, result: &Result<(), HandlerError>) {
        self.event.what = match result {
            Ok(()) => What::Done,
            Err(_) => What::Failed,
        };
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.event.at = Instant::now();
        self.history.push(self.event.clone());
    }
}

/// A member that runs.
pub(crate) struct Member {
    running: Running,
    pub(crate) bus: Bus,
}

/// How long a member may take to stop.
const GRACE: Duration = Duration::from_secs(10);

impl Member {
    /// Dropped, with its connection: nothing is settled, nothing is said.
    pub(crate) fn crash(self) {
        drop(self);
    }

    /// Drained.
    pub(crate) async fn stop(self) {
        self.running.stop(GRACE).await;
    }
}

/// Publishes `per_key` messages of each key, the keys in turn, from number `from`.
pub(crate) async fn publish(
    bus: &Bus,
    keys: &[String],
    numbers: std::ops::Range<u32>,
) -> Result<(), Anomaly> {
    let entries = numbers.flat_map(|n| {
        keys.iter().map(move |key| Entry {
            key: key.clone(),
            n,
        })
    });
    let entries: Vec<Entry> = entries.collect();
    for result in bus.publish_all(entries).await {
        result?;
    }
    Ok(())
}

/// `k0`, `k1`, ….
pub(crate) fn keys(count: u32) -> Vec<String> {
    (0..count).map(|k| format!("k{k}")).collect()
}

/// What a case gives back.
pub(crate) type Told<'a> = Fut<'a, Result<crate::Findings, Anomaly>>;
