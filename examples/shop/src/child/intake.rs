//! The intake: sends the orders to the order service, in batches, and never more than a window ahead of what has ended. The order service's
//! table decides what is new, so that a batch that is sent again places nothing twice.

use std::collections::HashSet;
use std::time::Duration;

use postrider::prelude::*;
use postrider::sqlite::Sqlite;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::input::{Order, OrderFile, made_up, short_hash};
use crate::messages::PlaceOrders;
use crate::protocol::{COMMAND_ORDERS_MAX as BATCH, Orders, Setup};

/// Orders that are placed and have not ended: more are not placed.
const WINDOW: u64 = 2_000;
/// Rows that are looked up at once, to pass over what is placed.
const LOOK: usize = 512;
/// How often orders leave at a rate.
const BEAT: Duration = Duration::from_millis(20);

/// How often the orders that have not ended are counted, at most.
const COUNT_EVERY: Duration = Duration::from_millis(20);

/// How many commands of the intake wait.
pub(super) type Depth = Box<dyn Fn() -> Fut<u64> + Send + Sync>;
/// A boxed future of the intake.
pub(super) type Fut<T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send>>;

/// What the intake watches and tells.
pub(super) struct Gauges {
    /// No more orders.
    pub(super) held: watch::Receiver<bool>,
    /// Commands that wait to be handled.
    pub(super) depth: Depth,
    /// Told when all orders of the input are accepted by the bus.
    pub(super) done: watch::Sender<bool>,
}

/// Places all orders of the input.
pub(super) async fn place_all(bus: Bus, store: Option<Sqlite>, setup: Setup, gauges: Gauges) {
    let Some(store) = store else { return };
    let placed = loop {
        match store
            .read(|db| db.query_row("SELECT COUNT(*) FROM orders", [], |r| r.get::<_, i64>(0)))
            .await
        {
            Ok(n) => break n.unsigned_abs(),
            Err(error) => {
                tracing::warn!(%error, "the placed orders cannot be counted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let (rows, orders) = mpsc::channel(4 * LOOK);
    let (from, seed) = (setup.orders.clone(), setup.seed);
    let reader = tokio::task::spawn_blocking(move || read(&from, seed, placed, &rows));
    let mut intake = Intake {
        bus,
        store,
        pace: setup.rate.map(Pace::new),
        gauges,
        open: 0,
        counted: None,
        room: 1,
    };
    let all = intake.run(orders).await;
    match reader.await {
        Ok(Ok(())) if all => {
            intake.gauges.done.send_replace(true);
        }
        Ok(Err(error)) => tracing::error!(%error, "the orders cannot be read to their end"),
        _ => {}
    }
}

/// Reads valid orders into the channel until it closes.
fn read(from: &Orders, seed: u64, placed: u64, to: &mpsc::Sender<Order>) -> crate::Result<()> {
    match from {
        Orders::File(path) => {
            let mut file = OrderFile::open(path)?;
            // ORDER: the first row of an id is the order. Commands overtake each other, so a later row must not be sent at all.
            let mut seen = HashSet::new();
            while let Some(row) = file.next_row()? {
                if let Ok(order) = row.order
                    && seen.insert(short_hash(&order.order_id))
                    && to.blocking_send(order).is_err()
                {
                    break;
                }
            }
        }
        Orders::MadeUp(total) => {
            for n in placed + 1..=total.unwrap_or(u64::MAX) {
                if to.blocking_send(made_up(seed, n)).is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

struct Intake {
    bus: Bus,
    store: Sqlite,
    pace: Option<Pace>,
    gauges: Gauges,
    /// Orders that have not ended: as counted, and what was sent since.
    open: u64,
    counted: Option<Instant>,
    /// Orders in the next batch: few at first, so that the first is soon on its way.
    room: usize,
}

impl Intake {
    /// Whether all were sent.
    async fn run(&mut self, mut orders: mpsc::Receiver<Order>) -> bool {
        let mut rows = Vec::new();
        loop {
            if rows.is_empty() {
                let limit = if self.pace.is_some() { BATCH } else { LOOK };
                if orders.recv_many(&mut rows, limit).await == 0 {
                    return true;
                }
                self.drop_known(&mut rows).await;
                continue;
            }
            if !self.wait_for_window().await {
                return false;
            }
            let mut count = self.room.min(rows.len());
            if let Some(pace) = &mut self.pace {
                count = count.min(pace.next().await);
            }
            let batch: Vec<_> = rows.drain(..count).collect();
            self.send(batch).await;
            self.room = (self.room * 2).min(BATCH);
        }
    }

    /// Only spares work: the table decides.
    async fn drop_known(&self, rows: &mut Vec<Order>) {
        let ids: Vec<_> = rows.iter().map(|o| o.order_id.clone()).collect();
        let known = self.store.read(move |db| {
            let mut look = db.prepare_cached("SELECT 1 FROM orders WHERE order_id = ?1")?;
            let mut known = HashSet::new();
            for id in ids {
                if look.exists([&id])? {
                    known.insert(id);
                }
            }
            Ok(known)
        });
        match known.await {
            Ok(known) if !known.is_empty() => rows.retain(|o| !known.contains(&o.order_id)),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "known orders are sent again"),
        }
    }

    /// Whether there is room now; not when no more orders are wanted.
    async fn wait_for_window(&mut self) -> bool {
        loop {
            if *self.gauges.held.borrow() {
                return false;
            }
            if self.counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
                self.count().await;
            }
            if self.open < WINDOW {
                return true;
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    async fn count(&mut self) {
        let open = self.store.read(|db| {
            db.prepare_cached("SELECT COUNT(*) FROM orders WHERE state IN ('placed', 'paid')")?
                .query_row([], |row| row.get::<_, i64>(0))
        });
        match open.await {
            Ok(open) => {
                self.open = open.unsigned_abs() + (self.gauges.depth)().await * BATCH as u64;
            }
            Err(error) => tracing::debug!(%error, "open orders cannot be counted"),
        }
        self.counted = Some(Instant::now());
    }

    async fn send(&mut self, orders: Vec<Order>) {
        self.open += orders.len() as u64;
        loop {
            match self
                .bus
                .send(PlaceOrders {
                    orders: orders.clone(),
                })
                .await
            {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "orders were not accepted; they are sent again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// So many orders per second.
struct Pace {
    rate: u32,
    beat: tokio::time::Interval,
    begin: Instant,
    given: u64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            rate,
            beat,
            begin: Instant::now(),
            given: 0,
        }
    }

    /// Waits until at least one order is due; gives how many are. What was missed by more than a second is let go.
    async fn next(&mut self) -> usize {
        loop {
            let due = 1 + self.begin.elapsed().as_millis() as u64 * u64::from(self.rate) / 1000;
            let behind = due.saturating_sub(self.given);
            if behind > 0 {
                let count = behind.min(BATCH as u64);
                self.given = due.saturating_sub(u64::from(self.rate)).max(self.given) + count;
                return count as usize;
            }
            self.beat.tick().await;
        }
    }
}
