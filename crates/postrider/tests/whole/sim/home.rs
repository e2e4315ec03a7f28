//! A failure store beside the engine, in memory, with the contract of `stores/sqlite`: each change is one durable commit, notes of crashes survive
//! `kill -9` and are synced with the next commit, claims end with the process. The power can fail in a commit, before or after it is durable.
//!
//! Waits are in virtual time (`start_paused`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use postrider::contract::Fut;
use postrider::contract::failure::{
    AuditEntry, CrashNote, CrashState, FailureDraft, FailureGroup, FailureId, FailureRecord,
    FailureState, FailureStore, FinishError, KeyState, OpenState, Reason, RedriveOutcome,
    RedriveToken, Redriven, Selection,
};
use postrider::contract::fault::{Advice, Fault, FaultKind};
use postrider::contract::id::InstanceId;
use postrider::contract::name::SubscriptionId;
use tokio::sync::Notify;

use super::ledger::Shared;
use super::scenario::Fate;
use crate::line::{Cut, Line, cut};

struct Row {
    record: FailureRecord,
    /// The life in which it was claimed, and by whom.
    claim: Option<(u64, InstanceId)>,
    claims: u64,
}

/// What is on the failure store's own disk, of one subscription.
#[derive(Default)]
pub struct Cabinet {
    last: u64,
    rows: BTreeMap<u64, Row>,
    crash: CrashState,
    /// As of the last commit.
    crash_synced: CrashState,
    /// How often it was opened.
    life: u64,
}

impl Cabinet {
    /// The next process opens it. After a power cut the notes since the last commit may be gone.
    pub fn reopen(&mut self, notes_kept: bool) {
        self.life += 1;
        if !notes_kept {
            self.crash = self.crash_synced.clone();
        }
    }

    fn is_parked(&self, key: &Bytes) -> bool {
        self.of_key(key).next().is_some()
    }

    fn of_key<'a>(&'a self, key: &'a Bytes) -> impl Iterator<Item = &'a Row> {
        let rows = self.rows.values();
        rows.filter(move |row| row.record.parked && row.record.draft.key.as_ref() == Some(key))
    }

    fn append(
        &mut self,
        subscription: &SubscriptionId,
        park: Option<&Bytes>,
        drafts: &[FailureDraft],
    ) -> Result<Vec<FailureId>, Fault> {
        let state_of = |row: &Row| row.record.state;
        let mut last = park.and_then(|key| self.of_key(key).last().map(state_of));
        if park.is_some() && last.is_none() && drafts.iter().all(FailureDraft::is_follower) {
            let text = "the key is not parked";
            return Err(Fault::new(FaultKind::NotParked, Advice::FixMessage, text));
        }
        let mut ids = Vec::new();
        for draft in drafts {
            let same = |row: &&Row| {
                let facts = &row.record.draft.facts;
                (facts.message_id, facts.position) == (draft.facts.message_id, draft.facts.position)
            };
            if let Some(row) = self.rows.values().find(same) {
                ids.push(row.record.id);
                continue;
            }
            // A follower of a key that is on its way back joins it.
            let joins = draft.is_follower() && last == Some(FailureState::Redriving);
            let state = match joins {
                true => FailureState::Redriving,
                false => FailureState::Waiting,
            };
            self.last += 1;
            let id = FailureId(self.last);
            let record = FailureRecord {
                id,
                subscription: subscription.clone(),
                state,
                parked: park.is_some(),
                redrives: 0,
                draft: draft.clone(),
            };
            let row = Row {
                record,
                claim: None,
                claims: 0,
            };
            self.rows.insert(id.0, row);
            last = Some(state);
            ids.push(id);
        }
        Ok(ids)
    }

    fn redrive_all(&mut self) -> u64 {
        let waiting = |row: &&mut Row| row.record.state == FailureState::Waiting;
        let rows = self.rows.values_mut().filter(waiting);
        rows.map(|row| row.record.state = FailureState::Redriving)
            .count() as u64
    }

    fn claim(&mut self, member: InstanceId, room: u32) -> Vec<Redriven> {
        let life = self.life;
        // Keys of which another holds something, or of which one was passed over.
        let mut closed: BTreeSet<Bytes> = BTreeSet::new();
        let mut held_to: BTreeMap<Bytes, u64> = BTreeMap::new();
        for (id, row) in &self.rows {
            let Some((_, by)) = row.claim.filter(|(of, _)| *of == life) else {
                continue;
            };
            if let (true, Some(key)) = (row.record.parked, &row.record.draft.key) {
                held_to.insert(key.clone(), *id);
                if by != member {
                    closed.insert(key.clone());
                }
            }
        }
        let mut taken = Vec::new();
        for (id, row) in &mut self.rows {
            let claimed = row.claim.is_some_and(|(of, _)| of == life);
            if row.record.state != FailureState::Redriving
                || claimed
                || taken.len() >= room as usize
            {
                continue;
            }
            if let (true, Some(key)) = (row.record.parked, &row.record.draft.key) {
                let passed = held_to.get(key).is_some_and(|to| id < to);
                if closed.contains(key) || passed {
                    closed.insert(key.clone());
                    continue;
                }
            }
            row.claim = Some((life, member));
            row.claims += 1;
            taken.push(Redriven {
                token: RedriveToken {
                    id: row.record.id,
                    generation: row.claims,
                },
                record: row.record.clone(),
            });
        }
        taken
    }

    fn finish(&mut self, token: &RedriveToken, how: &RedriveOutcome) -> Result<KeyState, Fault> {
        let life = self.life;
        let mine = |row: &&mut Row| {
            row.claims == token.generation && row.claim.is_some_and(|(of, _)| of == life)
        };
        let Some(row) = self.rows.get_mut(&token.id.0).filter(mine) else {
            let text = "the claim belongs to another";
            return Err(Fault::new(FaultKind::LeaseLost, Advice::Rebalance, text));
        };
        let key = row.record.draft.key.clone().filter(|_| row.record.parked);
        row.claim = None;
        match how {
            RedriveOutcome::Done => drop(self.rows.remove(&token.id.0)),
            RedriveOutcome::Released => {}
            RedriveOutcome::Failed(facts) => {
                row.record.state = FailureState::Waiting;
                row.record.redrives += 1;
                row.record.draft.facts = (**facts).clone();
                for other in self.rows.values_mut() {
                    if key.is_some() && other.record.parked && other.record.draft.key == key {
                        other.record.state = FailureState::Waiting;
                    }
                }
            }
        }
        let parked = key.is_some_and(|key| self.is_parked(&key));
        Ok(match parked {
            true => KeyState::Parked,
            false => KeyState::Free,
        })
    }

    fn release(&mut self, member: InstanceId) {
        let rows = self.rows.values_mut();
        let of = rows.filter(|row| row.claim.is_some_and(|(_, by)| by == member));
        of.for_each(|row| row.claim = None);
    }
}

/// The failure store of one service, as one member reaches it.
#[derive(Clone)]
pub struct SimFailures {
    pub stage: usize,
    pub world: Shared,
    pub line: Arc<Line>,
    pub changed: Arc<Notify>,
}

impl SimFailures {
    fn cabinet(&self) -> std::sync::MutexGuard<'_, Cabinet> {
        self.world.cabinets[self.stage].lock().unwrap()
    }

    fn wake(&self) {
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// One commit, in which the power may fail, of which the caller may hear nothing.
    async fn commit<T>(
        &self,
        what: &str,
        change: impl FnOnce(&mut Cabinet) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.line.gate().await;
        let fate = self.world.life().home_commit();
        if let Some(Fate::HomeCut(_, durable)) = fate {
            if durable {
                // Whether it can be done or not: the power is gone.
                drop(change(&mut self.cabinet()));
            }
            self.world
                .say(format!("the power fails in {what}, durable: {durable}"));
            self.world.life().cut.notify_one();
            return std::future::pending().await;
        }
        let line_cut = self.line.cut(what);
        if line_cut == Some(Cut::Before) {
            return Err(cut());
        }
        let changed = {
            let mut cabinet = self.cabinet();
            cabinet.crash_synced = cabinet.crash.clone();
            change(&mut cabinet)
        };
        self.wake();
        self.line.gate().await;
        match line_cut {
            Some(_) => changed.and_then(|_| Err(cut())),
            None => changed,
        }
    }

    async fn keep(
        &self,
        subscription: &SubscriptionId,
        park: Option<Bytes>,
        drafts: Vec<FailureDraft>,
    ) -> Result<Vec<FailureId>, Fault> {
        let (world, stage) = (self.world.clone(), self.stage);
        self.commit("the keeping of a failure", |cabinet| {
            let ids = cabinet.append(subscription, park.as_ref(), &drafts)?;
            drafts.iter().for_each(|draft| world.kept(stage, draft));
            Ok(ids)
        })
        .await
    }
}

impl FailureStore for SimFailures {
    fn is_parked(&self, _: &SubscriptionId, key: &Bytes) -> bool {
        self.cabinet().is_parked(key)
    }

    fn open<'a>(&'a self, _: &'a SubscriptionId) -> Fut<'a, Result<OpenState, Fault>> {
        Box::pin(async {
            let cabinet = self.cabinet();
            let rows = cabinet.rows.values().filter(|row| row.record.parked);
            let parked: BTreeSet<Bytes> = rows
                .filter_map(|row| row.record.draft.key.clone())
                .collect();
            Ok(OpenState {
                crash: cabinet.crash.clone(),
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
            self.line.gate().await;
            let line_cut = self.line.cut("a note");
            if line_cut == Some(Cut::Before) {
                return Err(cut());
            }
            let noted = {
                let mut cabinet = self.cabinet();
                cabinet.crash.apply(&note);
                cabinet.crash.clone()
            };
            match line_cut {
                Some(_) => Err(cut()),
                None => Ok(noted),
            }
        })
    }

    fn append<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(self.keep(subscription, None, drafts))
    }

    fn park<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        key: Bytes,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(self.keep(subscription, Some(key), drafts))
    }

    fn groups<'a>(
        &'a self,
        _: Option<&'a SubscriptionId>,
    ) -> Fut<'a, Result<Vec<FailureGroup>, Fault>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn list<'a>(
        &'a self,
        _: &'a SubscriptionId,
        _: Option<&'a str>,
        after: Option<FailureId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<FailureRecord>, Fault>> {
        Box::pin(async move {
            let cabinet = self.cabinet();
            let from = after.map_or(0, |after| after.0 + 1);
            let rows = cabinet.rows.range(from..).take(limit as usize);
            Ok(rows.map(|(_, row)| row.record.clone()).collect())
        })
    }

    fn get<'a>(
        &'a self,
        _: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<FailureRecord, Fault>> {
        Box::pin(async move {
            let found = self.cabinet().rows.get(&id.0).map(|row| row.record.clone());
            found.ok_or_else(|| {
                Fault::new(FaultKind::NotFound, Advice::FixMessage, "no such failure")
            })
        })
    }

    /// All of them, whatever is selected: nothing else is asked for here.
    fn redrive<'a>(
        &'a self,
        _: &'a SubscriptionId,
        _: Selection,
        _: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        Box::pin(self.commit("a redrive", |cabinet| Ok(cabinet.redrive_all())))
    }

    fn discard<'a>(
        &'a self,
        _: &'a SubscriptionId,
        _: Selection,
        _: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        let fault = Fault::new(FaultKind::Denied, Advice::FixConfig, "nothing is discarded");
        Box::pin(std::future::ready(Err(fault)))
    }

    fn audit<'a>(
        &'a self,
        _: &'a SubscriptionId,
        _: u32,
    ) -> Fut<'a, Result<Vec<AuditEntry>, Fault>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Never cut: a claim whose answer is lost is given back when its process is gone, and this one lives on.
    fn claim<'a>(
        &'a self,
        _: &'a SubscriptionId,
        member: InstanceId,
        room: u32,
    ) -> Fut<'a, Result<Vec<Redriven>, Fault>> {
        Box::pin(async move {
            self.line.gate().await;
            Ok(self.cabinet().claim(member, room))
        })
    }

    fn changed<'a>(&'a self, _: &'a SubscriptionId) -> Fut<'a, ()> {
        Box::pin(self.changed.notified())
    }

    fn finish<'a>(
        &'a self,
        _: &'a SubscriptionId,
        token: RedriveToken,
        outcome: RedriveOutcome,
    ) -> Fut<'a, Result<KeyState, FinishError>> {
        Box::pin(async move {
            let end = |cabinet: &mut Cabinet| cabinet.finish(&token, &outcome);
            let ended = self.commit("the end of a redrive", end).await;
            ended.map_err(|fault| FinishError { fault, token })
        })
    }

    fn release_claims<'a>(
        &'a self,
        _: &'a SubscriptionId,
        member: InstanceId,
    ) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move {
            let released = |cabinet: &mut Cabinet| {
                cabinet.release(member);
                Ok(())
            };
            self.commit("the release of claims", released).await
        })
    }
}
