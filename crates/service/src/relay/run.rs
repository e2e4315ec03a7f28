//! The relay's loop: `select!` only receives, one function then acts.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use postrider_core::clock::{Mono, backoff};
use postrider_core::engine::Receipt;
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Effect, Fault};
use postrider_core::planted::{self, Plant};
use postrider_core::store::OutboxRow;
use tokio::sync::mpsc;

use super::window::{Cursor, LaneId, Window};
use super::{BATCH_ROWS_MAX, CALLS_MAX, POLL, Point, RelaySetup, RelayStatus, STUCK_RETRY};
use crate::metrics::{Counter, Gauge, OUTBOX_DEPTH, RELAY_PUBLISHED, RELAY_RETRIES, RELAY_STUCK};

/// Rows of one removal.
const REMOVE_MAX: usize = 1024;

enum Event {
    Taken(Cursor, Result<Vec<OutboxRow>, Fault>),
    Published(Vec<Sent>, Vec<Result<Receipt, Fault>>),
    Removed(Vec<u64>, Result<(), Fault>),
    Depth(Result<u64, Fault>),
    Changed,
    Timer,
    /// Told to, or (`false`) nobody can any more.
    Stop(bool),
}

/// A row of an outstanding call.
struct Sent {
    number: u64,
    destination: postrider_core::name::Destination,
    lane: LaneId,
    id: postrider_core::id::MessageId,
}

/// The relay was killed at a point (by a test).
struct Killed;

pub(super) struct Relay {
    setup: RelaySetup,
    status: Arc<Mutex<RelayStatus>>,
    stopped: mpsc::Receiver<()>,
    window: Window,
    jobs: FuturesUnordered<BoxFuture<'static, Event>>,
    calls: usize,
    taking: bool,
    removing: bool,
    /// The outbox is being counted: a slow store is not asked again meanwhile.
    counting: bool,
    stopping: bool,
    /// Nobody holds a handle any more. The relay goes on: its owner is the process.
    orphaned: bool,
    /// The last take, up to this cursor, gave nothing more.
    drained: bool,
    read_to: Cursor,
    /// The engine or the store is away until then.
    engine_wait: Wait,
    store_wait: Wait,
    poll_at: Mono,
    cells: Cells,
}

#[derive(Default)]
struct Wait {
    until: Option<Mono>,
    tries: u32,
}

struct Cells {
    published: Arc<dyn Counter>,
    retries: Arc<dyn Counter>,
    stuck: Arc<dyn Gauge>,
    depth: Arc<dyn Gauge>,
}

impl Relay {
    pub(super) fn new(
        setup: RelaySetup,
        status: Arc<Mutex<RelayStatus>>,
        stopped: mpsc::Receiver<()>,
    ) -> Self {
        let values = [setup.service.as_str()];
        let cells = Cells {
            published: setup.recorder.counter(RELAY_PUBLISHED, &values),
            retries: setup.recorder.counter(RELAY_RETRIES, &values),
            stuck: setup.recorder.gauge(RELAY_STUCK, &values),
            depth: setup.recorder.gauge(OUTBOX_DEPTH, &values),
        };
        let poll_at = setup.clock.mono().plus(POLL);
        Self {
            setup,
            status,
            stopped,
            window: Window::default(),
            jobs: FuturesUnordered::new(),
            calls: 0,
            taking: false,
            removing: false,
            counting: false,
            stopping: false,
            drained: false,
            read_to: Cursor::default(),
            orphaned: false,
            engine_wait: Wait::default(),
            store_wait: Wait::default(),
            poll_at,
            cells,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let Ok(wake) = self.act() else { return };
            self.note_status();
            if self.stopping && self.calls == 0 && !self.removing {
                return;
            }
            let event = self.receive(wake).await;
            if self.handle(event).is_err() {
                return;
            }
        }
    }

    /// Only receives.
    async fn receive(&mut self, wake: Mono) -> Event {
        let wait = wake.since(self.setup.clock.mono());
        tokio::select! {
            biased;
            stop = self.stopped.recv(), if !self.stopping && !self.orphaned => Event::Stop(stop.is_some()),
            Some(event) = self.jobs.next() => event,
            () = self.setup.outbox.changed(), if self.drained && !self.stopping => Event::Changed,
            () = tokio::time::sleep(wait) => Event::Timer,
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Killed> {
        match event {
            Event::Stop(true) => self.stopping = true,
            Event::Stop(false) => self.orphaned = true,
            Event::Changed => self.drained = false,
            Event::Timer => self.maybe_poll(),
            Event::Taken(cursor, result) => self.handle_taken(cursor, result)?,
            Event::Published(sent, results) => self.handle_published(sent, results)?,
            Event::Removed(numbers, result) => self.handle_removed(&numbers, result)?,
            Event::Depth(result) => {
                self.counting = false;
                if let Ok(depth) = result {
                    self.cells.depth.set(depth as f64);
                }
            }
        }
        Ok(())
    }

    /// Starts whatever may start. Gives when to look again.
    fn act(&mut self) -> Result<Mono, Killed> {
        let now = self.now();
        let woken = self.window.wake(now);
        if self.window.cursor() != self.read_to {
            self.drained = false;
        }
        let store_away = self.store_wait.until.is_some_and(|until| until > now);
        let engine_away = self.engine_wait.until.is_some_and(|until| until > now);
        if !self.taking && !self.drained && !self.stopping && !store_away && self.window.has_room()
        {
            self.take();
        }
        while self.calls < CALLS_MAX && !self.stopping && !engine_away {
            let batch = self.window.next_batch(now);
            if batch.is_empty() {
                break;
            }
            self.publish(batch)?;
        }
        if !self.removing && !store_away {
            let numbers = self.window.to_remove(REMOVE_MAX);
            if !numbers.is_empty() {
                self.remove(numbers)?;
            }
        }
        let waits = [woken, self.engine_wait.until, self.store_wait.until];
        let later = waits.into_iter().flatten().filter(|at| *at > now);
        Ok(later.fold(self.poll_at, Mono::min))
    }

    fn take(&mut self) {
        self.taking = true;
        let outbox = Arc::clone(&self.setup.outbox);
        let cursor = self.window.take_begins();
        self.jobs.push(Box::pin(async move {
            let rows = outbox.take(cursor.after, BATCH_ROWS_MAX as u32).await;
            Event::Taken(cursor, rows)
        }));
    }

    fn publish(&mut self, batch: Vec<OutboxRow>) -> Result<(), Killed> {
        self.reach(Point::BeforePublish)?;
        self.calls += 1;
        let publisher = Arc::clone(&self.setup.publisher);
        let sent = batch.iter().map(|row| Sent {
            number: row.number,
            destination: row.message.destination.clone(),
            lane: LaneId::of(row.number, &row.message),
            id: row.message.envelope.id,
        });
        let sent: Vec<Sent> = sent.collect();
        if planted::is(Plant::RelayRemovesFirst) {
            self.remove(sent.iter().map(|row| row.number).collect())?;
        }
        let messages: Vec<Outgoing> = batch.into_iter().map(|row| row.message).collect();
        self.jobs.push(Box::pin(async move {
            let results = publisher.publish(messages).await;
            Event::Published(sent, results)
        }));
        Ok(())
    }

    fn remove(&mut self, numbers: Vec<u64>) -> Result<(), Killed> {
        self.reach(Point::BeforeRemove)?;
        self.removing = true;
        let outbox = Arc::clone(&self.setup.outbox);
        self.jobs.push(Box::pin(async move {
            let result = outbox.remove(numbers.clone()).await;
            Event::Removed(numbers, result)
        }));
        Ok(())
    }

    fn handle_taken(
        &mut self,
        cursor: Cursor,
        result: Result<Vec<OutboxRow>, Fault>,
    ) -> Result<(), Killed> {
        self.taking = false;
        match result {
            Ok(rows) => {
                self.store_wait = Wait::default();
                self.reach(Point::Taken)?;
                self.drained = !self.window.admit(cursor, rows);
                self.read_to = self.window.cursor();
            }
            Err(fault) => self.store_failed(&fault),
        }
        Ok(())
    }

    fn handle_published(
        &mut self,
        sent: Vec<Sent>,
        results: Vec<Result<Receipt, Fault>>,
    ) -> Result<(), Killed> {
        self.calls -= 1;
        self.reach(Point::Published)?;
        let lanes: HashSet<&LaneId> = sent.iter().map(|s| &s.lane).collect();
        let away = |r: &Result<Receipt, Fault>| matches!(r, Err(f) if f.is_retriable());
        if lanes.len() > 1 && results.iter().all(away) {
            self.engine_failed(&sent, &results);
            return Ok(());
        }
        let mut failed: HashSet<LaneId> = HashSet::new();
        let mut results = results.into_iter();
        for sent in sent {
            // A publisher that answers with too few results broke its contract: what it did not answer is published again.
            let Some(result) = results.next() else {
                self.window.returned(sent.number);
                continue;
            };
            match result {
                Ok(_) => {
                    self.cells.published.add(1);
                    self.status.lock().published += 1;
                    self.engine_wait = Wait::default();
                    self.window
                        .published(sent.number, !failed.contains(&sent.lane));
                }
                Err(fault)
                    if planted::is(Plant::CutPublishCounts) && fault.effect == Effect::Unknown =>
                {
                    self.window
                        .published(sent.number, !failed.contains(&sent.lane));
                }
                Err(fault) => {
                    self.window.returned(sent.number);
                    if failed.insert(sent.lane.clone()) {
                        self.row_failed(&sent, &fault);
                    }
                }
            }
        }
        Ok(())
    }

    fn handle_removed(&mut self, numbers: &[u64], result: Result<(), Fault>) -> Result<(), Killed> {
        self.removing = false;
        match result {
            Ok(()) => {
                self.reach(Point::Removed)?;
                self.window.removed(numbers);
            }
            Err(fault) => {
                self.store_failed(&fault);
                if self.stopping {
                    // The rows stay and are published again at the next start: the ids are the same.
                    self.window.removed(numbers);
                }
            }
        }
        Ok(())
    }

    /// One lane's first row failed: the lane waits.
    fn row_failed(&mut self, sent: &Sent, fault: &Fault) {
        self.cells.retries.add(1);
        let now = self.now();
        let stuck = matches!(fault.advice, Advice::FixMessage);
        if stuck && !self.window.is_stuck(&sent.lane) {
            tracing::error!(
                target: "postrider",
                service = %self.setup.service,
                row = sent.number,
                message = %sent.id,
                destination = %sent.destination,
                %fault,
                "the engine will never take this outbox row as it is: its key waits, other keys go on; \
                 raise the limit that it breaks, or remove the row by hand"
            );
        }
        if !stuck {
            tracing::warn!(
                target: "postrider",
                service = %self.setup.service,
                row = sent.number,
                destination = %sent.destination,
                %fault,
                "an outbox row was not taken; its key waits and is tried again"
            );
        }
        let random = self.setup.entropy.next_u64();
        let least = least_wait(fault);
        self.window.block(&sent.lane, stuck, |tries| {
            now.plus(match stuck {
                true => STUCK_RETRY,
                false => backoff(tries, random).max(least),
            })
        });
        self.status.lock().last_fault = Some(fault.to_string());
    }

    /// Nothing of a call with several lanes went through: the engine is away, no lane is to blame.
    fn engine_failed(&mut self, sent: &[Sent], results: &[Result<Receipt, Fault>]) {
        for sent in sent {
            self.window.returned(sent.number);
            self.cells.retries.add(1);
        }
        let fault = results.iter().find_map(|r| r.as_ref().err());
        let least = fault.map_or(Duration::ZERO, least_wait);
        let wait = self
            .engine_wait
            .next(self.setup.entropy.next_u64())
            .max(least);
        self.engine_wait.until = Some(self.now().plus(wait));
        if let Some(fault) = fault {
            tracing::warn!(target: "postrider", service = %self.setup.service, %fault, ?wait, "the relay waits for the engine");
            self.status.lock().last_fault = Some(fault.to_string());
        }
    }

    fn store_failed(&mut self, fault: &Fault) {
        let wait = self.store_wait.next(self.setup.entropy.next_u64());
        self.store_wait.until = Some(self.now().plus(wait));
        tracing::warn!(target: "postrider", service = %self.setup.service, %fault, ?wait, "the relay waits for its store");
        self.status.lock().last_fault = Some(fault.to_string());
    }

    /// A store whose commits become visible out of order (several writers) may show a lower number later: from time to time
    /// the relay reads from the beginning. What it knows is skipped.
    fn maybe_poll(&mut self) {
        if self.now() < self.poll_at {
            return;
        }
        self.poll_at = self.now().plus(POLL);
        self.drained = false;
        self.window.rewind();
        if std::mem::replace(&mut self.counting, true) {
            return;
        }
        let outbox = Arc::clone(&self.setup.outbox);
        self.jobs
            .push(Box::pin(async move { Event::Depth(outbox.depth().await) }));
    }

    fn note_status(&self) {
        let mut status = self.status.lock();
        status.waiting = self.window.len();
        status.calls = self.calls;
        status.blocked_keys = self.window.blocked();
        status.stuck_keys = self.window.stuck();
        self.cells.stuck.set(status.stuck_keys as f64);
    }

    fn reach(&self, point: Point) -> Result<(), Killed> {
        match &self.setup.probe {
            Some(probe) if probe(point) == ControlFlow::Break(()) => Err(Killed),
            _ => Ok(()),
        }
    }

    fn now(&self) -> Mono {
        self.setup.clock.mono()
    }
}

impl Wait {
    fn next(&mut self, random: u64) -> Duration {
        self.tries = self.tries.saturating_add(1);
        backoff(self.tries, random)
    }
}

fn least_wait(fault: &Fault) -> Duration {
    match fault.advice {
        Advice::Retry { after } => after,
        _ => Duration::ZERO,
    }
}
