//! A failure store in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::failure::*;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use tokio::sync::Notify;

#[derive(Default)]
struct Inner {
    next: u64,
    records: BTreeMap<FailureId, FailureRecord>,
    claimed: HashMap<FailureId, InstanceId>,
    generation: u64,
    audit: Vec<AuditEntry>,
    crash: CrashState,
}

/// A failure store of one subscription, in memory.
pub struct FakeFailures {
    subscription: SubscriptionId,
    inner: Mutex<Inner>,
    changed: Notify,
    /// The next calls that write fail, the last first.
    pub faults: Mutex<Vec<Fault>>,
    /// How many of the next calls of `finish` fail.
    pub finishes_fail: Mutex<u32>,
    /// The next claim wakes the first, and gives its records once the second was told.
    pub claim_waits: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
    /// `changed` returns at once, as it may.
    pub always_changed: Mutex<bool>,
    /// Calls of `changed`.
    pub looks: Mutex<u32>,
}

impl FakeFailures {
    pub fn new(subscription: &SubscriptionId) -> Arc<Self> {
        Arc::new(Self {
            subscription: subscription.clone(),
            inner: Mutex::default(),
            changed: Notify::new(),
            faults: Mutex::default(),
            finishes_fail: Mutex::default(),
            claim_waits: Mutex::default(),
            always_changed: Mutex::default(),
            looks: Mutex::default(),
        })
    }
    pub fn insert(&self, draft: FailureDraft, parked: bool) -> FailureId {
        let mut inner = self.inner.lock();
        let same = |r: &&FailureRecord| {
            r.draft.facts.message_id == draft.facts.message_id
                && r.draft.facts.position == draft.facts.position
        };
        if let Some(record) = inner.records.values().find(same) {
            return record.id;
        }
        inner.next += 1;
        let id = FailureId(inner.next);
        let record = FailureRecord {
            id,
            subscription: self.subscription.clone(),
            state: FailureState::Waiting,
            parked,
            redrives: 0,
            draft,
        };
        inner.records.insert(id, record);
        id
    }
    pub fn is_parked(&self, key: &Bytes) -> bool {
        let inner = self.inner.lock();
        inner
            .records
            .values()
            .any(|r| r.parked && r.draft.key.as_ref() == Some(key))
    }
    pub fn records(&self) -> Vec<FailureRecord> {
        self.inner.lock().records.values().cloned().collect()
    }
    pub fn claimed(&self) -> usize {
        self.inner.lock().claimed.len()
    }
    pub fn crash(&self) -> CrashState {
        self.inner.lock().crash.clone()
    }
    pub fn set_crash(&self, crash: CrashState) {
        self.inner.lock().crash = crash;
    }
    fn fault(&self) -> Result<(), Fault> {
        self.faults.lock().pop().map_or(Ok(()), Err)
    }
    fn select(&self, which: &Selection) -> Vec<FailureId> {
        let inner = self.inner.lock();
        let chosen = inner.records.values().filter(|r| match which {
            Selection::Ids(ids) => ids.contains(&r.id),
            Selection::Group(group) => r.draft.facts.group == *group,
            Selection::Key(key) => r.draft.key.as_ref() == Some(key),
            Selection::All => true,
        });
        let chosen: Vec<_> = chosen.collect();
        let keys: HashSet<_> = chosen
            .iter()
            .filter(|r| r.parked)
            .map(|r| r.draft.key.clone())
            .collect();
        let with_key = |r: &&FailureRecord| {
            chosen.iter().any(|c| c.id == r.id) || (r.parked && keys.contains(&r.draft.key))
        };
        inner
            .records
            .values()
            .filter(with_key)
            .map(|r| r.id)
            .collect()
    }
}

fn not_found() -> Fault {
    Fault::new(FaultKind::NotFound, Advice::FixMessage, "no such failure")
}

impl FailureStore for FakeFailures {
    fn is_parked(&self, _: &SubscriptionId, key: &Bytes) -> bool {
        FakeFailures::is_parked(self, key)
    }

    fn open<'a>(&'a self, _: &'a SubscriptionId) -> Fut<'a, Result<OpenState, Fault>> {
        Box::pin(async move {
            self.fault()?;
            let inner = self.inner.lock();
            let parked = inner.records.values().filter(|r| r.parked);
            let parked: HashSet<Bytes> = parked.filter_map(|r| r.draft.key.clone()).collect();
            Ok(OpenState {
                crash: inner.crash.clone(),
                parked: parked.into_iter().collect(),
            })
        })
    }
    fn note_crash<'a>(
        &'a self,
        _: &'a SubscriptionId,
        note: CrashNote,
    ) -> Fut<'a, Result<CrashState, Fault>> {
        Box::pin(async move {
            self.fault()?;
            let mut inner = self.inner.lock();
            inner.crash.apply(&note);
            Ok(inner.crash.clone())
        })
    }
    fn append<'a>(
        &'a self,
        _: &'a SubscriptionId,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(async move {
            self.fault()?;
            Ok(drafts.into_iter().map(|d| self.insert(d, false)).collect())
        })
    }
    fn park<'a>(
        &'a self,
        _: &'a SubscriptionId,
        key: Bytes,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(async move {
            self.fault()?;
            if drafts.iter().all(FailureDraft::is_follower) && !self.is_parked(&key) {
                return Err(Fault::new(
                    FaultKind::NotParked,
                    Advice::FixMessage,
                    "not parked",
                ));
            }
            Ok(drafts.into_iter().map(|d| self.insert(d, true)).collect())
        })
    }
    fn groups<'a>(
        &'a self,
        _: Option<&'a SubscriptionId>,
    ) -> Fut<'a, Result<Vec<FailureGroup>, Fault>> {
        Box::pin(async move {
            let mut groups: BTreeMap<String, FailureGroup> = BTreeMap::new();
            for record in self.records() {
                let facts = &record.draft.facts;
                let group = groups
                    .entry(facts.group.clone())
                    .or_insert_with(|| FailureGroup {
                        subscription: record.subscription.clone(),
                        group: facts.group.clone(),
                        cause: facts.cause,
                        count: 0,
                        first: facts.failed_at,
                        last: facts.failed_at,
                        sample: record.id,
                    });
                group.count += 1;
                group.last = facts.failed_at;
            }
            Ok(groups.into_values().collect())
        })
    }
    fn list<'a>(
        &'a self,
        _: &'a SubscriptionId,
        group: Option<&'a str>,
        after: Option<FailureId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<FailureRecord>, Fault>> {
        Box::pin(async move {
            let records = self.records().into_iter();
            let records = records.filter(|r| after.is_none_or(|a| r.id > a));
            let records = records.filter(|r| group.is_none_or(|g| r.draft.facts.group == g));
            Ok(records.take(limit as usize).collect())
        })
    }
    fn get<'a>(
        &'a self,
        _: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<FailureRecord, Fault>> {
        Box::pin(async move {
            let inner = self.inner.lock();
            inner.records.get(&id).cloned().ok_or_else(not_found)
        })
    }
    fn redrive<'a>(
        &'a self,
        _: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        Box::pin(async move {
            let ids = self.select(&which);
            let count = ids.len() as u64;
            let mut inner = self.inner.lock();
            for id in ids {
                inner.records.get_mut(&id).unwrap().state = FailureState::Redriving;
            }
            let action = "redrive".to_owned();
            inner.audit.insert(
                0,
                AuditEntry {
                    action,
                    count,
                    reason,
                },
            );
            drop(inner);
            self.changed.notify_one();
            Ok(count)
        })
    }
    fn discard<'a>(
        &'a self,
        _: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        Box::pin(async move {
            let ids = match &which {
                Selection::Ids(ids) => ids.clone(),
                other => self.select(other),
            };
            let mut inner = self.inner.lock();
            let before = inner.records.len();
            inner
                .records
                .retain(|id, r| !(ids.contains(id) && r.state == FailureState::Waiting));
            let count = (before - inner.records.len()) as u64;
            let action = "discard".to_owned();
            inner.audit.insert(
                0,
                AuditEntry {
                    action,
                    count,
                    reason,
                },
            );
            Ok(count)
        })
    }
    fn audit<'a>(
        &'a self,
        _: &'a SubscriptionId,
        limit: u32,
    ) -> Fut<'a, Result<Vec<AuditEntry>, Fault>> {
        Box::pin(async move {
            let inner = self.inner.lock();
            Ok(inner.audit.iter().take(limit as usize).cloned().collect())
        })
    }
    fn claim<'a>(
        &'a self,
        _: &'a SubscriptionId,
        member: InstanceId,
        room: u32,
    ) -> Fut<'a, Result<Vec<Redriven>, Fault>> {
        Box::pin(async move {
            let waits = self.claim_waits.lock().take();
            if let Some((wake, told)) = waits {
                wake.notify_waiters();
                told.notified().await;
            }
            let mut inner = self.inner.lock();
            let waiting = |r: &&FailureRecord| r.state == FailureState::Redriving;
            let free = inner
                .records
                .values()
                .filter(waiting)
                .filter(|r| !inner.claimed.contains_key(&r.id));
            let records: Vec<FailureRecord> = free.take(room as usize).cloned().collect();
            inner.generation += 1;
            let generation = inner.generation;
            let claim = |record: FailureRecord| Redriven {
                token: RedriveToken {
                    id: record.id,
                    generation,
                },
                record,
            };
            inner.claimed.extend(records.iter().map(|r| (r.id, member)));
            Ok(records.into_iter().map(claim).collect())
        })
    }
    fn changed<'a>(&'a self, _: &'a SubscriptionId) -> Fut<'a, ()> {
        *self.looks.lock() += 1;
        if *self.always_changed.lock() {
            return Box::pin(std::future::ready(()));
        }
        Box::pin(self.changed.notified())
    }
    fn finish<'a>(
        &'a self,
        _: &'a SubscriptionId,
        token: RedriveToken,
        outcome: RedriveOutcome,
    ) -> Fut<'a, Result<KeyState, FinishError>> {
        Box::pin(async move {
            let failing = self.finishes_fail.lock().checked_sub(1);
            if let Some(left) = failing {
                *self.finishes_fail.lock() = left;
                let fault = super::passing();
                return Err(FinishError { fault, token });
            }
            if let Err(fault) = self.fault() {
                return Err(FinishError { fault, token });
            }
            let mut inner = self.inner.lock();
            if inner.claimed.remove(&token.id).is_none() {
                let fault = Fault::new(FaultKind::LeaseLost, Advice::FixMessage, "not yours");
                return Err(FinishError { fault, token });
            }
            let Some(record) = inner.records.get_mut(&token.id) else {
                let fault = not_found();
                return Err(FinishError { fault, token });
            };
            let key = record.draft.key.clone();
            let parked = record.parked;
            match outcome {
                RedriveOutcome::Done => {
                    inner.records.remove(&token.id);
                }
                RedriveOutcome::Failed(facts) => {
                    record.state = FailureState::Waiting;
                    record.redrives += 1;
                    record.draft.facts = *facts;
                    for other in inner.records.values_mut() {
                        if parked && other.draft.key == key {
                            other.state = FailureState::Waiting;
                        }
                    }
                }
                RedriveOutcome::Released => {}
            }
            let left = inner
                .records
                .values()
                .any(|r| r.parked && r.draft.key == key);
            Ok(if left {
                KeyState::Parked
            } else {
                KeyState::Free
            })
        })
    }
    fn release_claims<'a>(
        &'a self,
        _: &'a SubscriptionId,
        member: InstanceId,
    ) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move {
            self.fault()?;
            self.inner.lock().claimed.retain(|_, m| *m != member);
            self.changed.notify_one();
            Ok(())
        })
    }
}
