//! A transactional store in memory with the contract of `stores/sqlite`: inbox, rows and outbox in one commit, which survives every crash;
//! removals from the outbox are kept with the next commit only, and the relay's reads and removals overlap. It is deterministic, and the power can
//! fail in a commit.
//!
//! Waits are in virtual time (`start_paused`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postrider::contract::Fut;
use postrider::contract::clock::Timestamp;
use postrider::contract::envelope::Outgoing;
use postrider::contract::fault::Fault;
use postrider::contract::id::{BodyHash, MessageId};
use postrider::contract::store::{
    CommitFailure, Committed, InboxEntry, Look, Outbox, OutboxRow, ReadFailure, Seen, Store,
    StoreInfo, TxStore, Unit, Work,
};
use tokio::sync::Notify;

use super::ledger::Shared;
use super::scenario::Fate;
use crate::line::Line;

/// What a handler writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows(pub Vec<(String, u32)>);

/// What is on the store's own disk.
#[derive(Default)]
pub struct Tables {
    pub rows: Rows,
    inbox: BTreeMap<(String, MessageId), BodyHash>,
    outbox: BTreeMap<u64, Outgoing>,
    last: u64,
    /// Removed, and not yet durably so.
    removed: BTreeMap<u64, Outgoing>,
}

impl Tables {
    /// Messages in the outbox.
    pub fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// After a crash: what was removed since the last commit may be there again.
    pub fn crash(&mut self, mut kept: impl FnMut() -> bool) {
        let removed = std::mem::take(&mut self.removed);
        self.outbox.extend(removed.into_iter().filter(|_| kept()));
    }
}

pub type Disk = Arc<Mutex<Tables>>;

/// The store of one service, opened in one life, as one member reaches it.
pub struct SimStore {
    info: StoreInfo,
    stage: usize,
    disk: Disk,
    world: Shared,
    line: Arc<Line>,
    changed: Arc<Notify>,
}

impl SimStore {
    pub fn open(stage: usize, world: Shared, line: Arc<Line>, changed: Arc<Notify>) -> Self {
        let info = StoreInfo {
            product: "simulated",
            version: "1".into(),
            location: "memory".into(),
            holds_messages: false,
        };
        changed.notify_one();
        Self {
            info,
            stage,
            disk: world.stores[stage].clone(),
            world,
            line,
            changed,
        }
    }

    fn look(&self, entry: &InboxEntry) -> Seen {
        let disk = self.disk.lock().unwrap();
        match disk.inbox.get(&inbox_key(entry)) {
            None => Seen::New,
            Some(body) if *body == entry.body => Seen::Done,
            Some(_) => Seen::Conflict,
        }
    }

    /// The order of the contract: inbox, work, outbox, fence, commit.
    fn commit(&self, unit: &Unit, work: &mut Work<Rows>) -> Result<Committed, CommitFailure> {
        if unit.fence.is_broken() {
            return Err(CommitFailure::Fenced);
        }
        match self.look(&unit.inbox) {
            Seen::New => {}
            Seen::Done => return Ok(Committed::Duplicate),
            Seen::Conflict => return Err(CommitFailure::Conflict),
        }
        let mut rows = self.disk.lock().unwrap().rows.clone();
        let before = rows.0.len();
        let sent = work(&mut rows).map_err(CommitFailure::Handler)?;
        if unit.fence.is_broken() {
            return Err(CommitFailure::Fenced);
        }
        let outgoing = sent.len() as u32;
        let new = rows.0[before..].to_vec();
        {
            let mut disk = self.disk.lock().unwrap();
            disk.rows = rows;
            let key = inbox_key(&unit.inbox);
            disk.inbox.insert(key, unit.inbox.body);
            for message in sent {
                disk.last += 1;
                let number = disk.last;
                disk.outbox.insert(number, message);
            }
            disk.removed.clear();
        }
        for (key, n) in new {
            self.world.ended(self.stage, &key, n);
        }
        self.changed.notify_one();
        Ok(Committed::Applied { outgoing })
    }
}

/// Waits for its turn, as one waits for a writer or for a disk.
async fn turn(world: &Shared, line: &Line) {
    line.live().await;
    if world.dice.one_in(3) {
        let wait = Duration::from_millis(world.dice.below(8));
        tokio::time::sleep(wait).await;
        line.live().await;
    }
}

fn inbox_key(entry: &InboxEntry) -> (String, MessageId) {
    (entry.subscription.to_string(), entry.message)
}

impl Store for SimStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    fn seen<'a>(&'a self, entry: &'a InboxEntry) -> Fut<'a, Result<Seen, Fault>> {
        Box::pin(async { Ok(self.look(entry)) })
    }

    fn prune_inbox(&self, _: Timestamp) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(0) })
    }

    fn outbox(&self) -> Option<Arc<dyn Outbox>> {
        Some(Arc::new(SimOutbox {
            disk: self.disk.clone(),
            changed: self.changed.clone(),
            world: self.world.clone(),
            line: self.line.clone(),
        }))
    }

    fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
}

impl TxStore for SimStore {
    type Conn = Rows;

    fn transact<'a>(
        &'a self,
        unit: Unit,
        mut work: Work<Rows>,
    ) -> Fut<'a, Result<Committed, CommitFailure>> {
        Box::pin(async move {
            turn(&self.world, &self.line).await;
            let cut = match self.world.life().commit() {
                Some(Fate::StoreCut(_, durable)) => Some(durable),
                _ => None,
            };
            if cut == Some(false) {
                self.world.say("the power fails before a commit");
                self.world.life().cut.notify_one();
                return std::future::pending().await;
            }
            let committed = self.commit(&unit, &mut work);
            if cut == Some(true) {
                self.world.say("the power fails after a commit");
                self.world.life().cut.notify_one();
                return std::future::pending().await;
            }
            turn(&self.world, &self.line).await;
            committed
        })
    }

    fn write<'a>(&'a self, _: Work<Rows>) -> Fut<'a, Result<u32, CommitFailure>> {
        Box::pin(async { Ok(0) })
    }

    fn read<'a>(&'a self, look: Look<Rows>) -> Fut<'a, Result<(), ReadFailure>> {
        Box::pin(async move {
            let rows = self.disk.lock().unwrap().rows.clone();
            look(&rows).map_err(ReadFailure::Handler)
        })
    }
}

struct SimOutbox {
    disk: Disk,
    changed: Arc<Notify>,
    world: Shared,
    line: Arc<Line>,
}

impl Outbox for SimOutbox {
    fn take<'a>(&'a self, after: u64, limit: u32) -> Fut<'a, Result<Vec<OutboxRow>, Fault>> {
        Box::pin(async move {
            let row = |(number, message): (&u64, &Outgoing)| OutboxRow {
                number: *number,
                message: message.clone(),
            };
            let taken = {
                let disk = self.disk.lock().unwrap();
                let rows = disk.outbox.range(after + 1..).take(limit as usize);
                rows.map(row).collect()
            };
            turn(&self.world, &self.line).await;
            Ok(taken)
        })
    }

    fn remove<'a>(&'a self, numbers: Vec<u64>) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move {
            {
                let mut disk = self.disk.lock().unwrap();
                for number in numbers {
                    if let Some(message) = disk.outbox.remove(&number) {
                        disk.removed.insert(number, message);
                    }
                }
            }
            turn(&self.world, &self.line).await;
            Ok(())
        })
    }

    fn changed(&self) -> Fut<'_, ()> {
        Box::pin(self.changed.notified())
    }

    fn depth(&self) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(self.disk.lock().unwrap().outbox.len() as u64) })
    }
}
