//! The contract of core, one method after the other.

use bytes::Bytes;
use postrider_core::Fut;
use postrider_core::clock::Timestamp;
use postrider_core::failure::{
    AuditEntry, Cause, CrashNote, CrashState, FailureDraft, FailureFacts, FailureGroup, FailureId,
    FailureRecord, FailureStore, FinishError, KeyState, OpenState, Original, Reason,
    RedriveOutcome, RedriveToken, Redriven, Selection,
};
use postrider_core::fault::{Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_log::{self as log, FailureIn, FailureOp, Level, Park, Tx};

use super::{EmbeddedFailures, Noted, PAGE_MAX, edit, marked, reason_to_text, unknown_record};
use crate::error::fault;
use crate::names;
use crate::settle;

/// A state that another release wrote otherwise counts as none: what kills a process is then found a few deaths later.
fn crash_state(stored: &[u8]) -> CrashState {
    serde_json::from_slice(stored).unwrap_or_default()
}

impl FailureStore for EmbeddedFailures {
    fn is_parked(&self, subscription: &SubscriptionId, key: &Bytes) -> bool {
        let found = self.with(subscription, |log, sub, _| Ok(log.is_parked(sub, key)));
        match found {
            // Nothing of it has failed yet.
            Err(fault) if fault.kind == FaultKind::NotFound => false,
            found => found.unwrap_or(true),
        }
    }

    fn open<'a>(&'a self, subscription: &'a SubscriptionId) -> Fut<'a, Result<OpenState, Fault>> {
        Box::pin(async move {
            self.with_home(subscription, |log, sub, _| {
                Ok(OpenState {
                    crash: crash_state(&log.crash_state(sub)?),
                    parked: log.parked_keys(sub)?,
                })
            })
        })
    }

    fn note_crash<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        note: CrashNote,
    ) -> Fut<'a, Result<CrashState, Fault>> {
        Box::pin(async move {
            let (ticket, state) = self.with_home(subscription, |log, sub, now| {
                let mut state = crash_state(&log.crash_state(sub)?);
                state.apply(&note);
                let json = serde_json::to_vec(&state).expect("a crash state has a JSON form");
                let tx = Tx {
                    crash_states: vec![(sub, Bytes::from(json))],
                    ..Tx::default()
                };
                Ok((log.commit(tx, now)?, state))
            })?;
            // DURABILITY: written is enough, it is about the death of the process.
            self.shared
                .safe(ticket.lsn, Level::Os)
                .await
                .map_err(|ended| ended.fault().unknown_effect())?;
            Ok(state)
        })
    }

    fn append<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(async move {
            let drafts = drafts.into_iter().map(|draft| (draft, Park::No)).collect();
            self.append_all(subscription, drafts).await
        })
    }

    fn park<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        key: Bytes,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(async move {
            let with_key = drafts.into_iter().map(|draft| {
                let draft = FailureDraft {
                    key: Some(key.clone()),
                    ..draft
                };
                let park = settle::park_of(&draft);
                (draft, park)
            });
            self.append_all(subscription, with_key.collect()).await
        })
    }

    fn groups<'a>(
        &'a self,
        subscription: Option<&'a SubscriptionId>,
    ) -> Fut<'a, Result<Vec<FailureGroup>, Fault>> {
        Box::pin(async move {
            let subscriptions = match subscription {
                Some(one) => vec![one.clone()],
                None => self
                    .shared
                    .stage(|log, _| names::subscriptions(log))
                    .map_err(|ended| ended.fault())?
                    .map_err(|error| fault(&error))?,
            };
            let mut groups = Vec::new();
            for subscription in subscriptions {
                let found = self.with(&subscription, |log, sub, _| {
                    let found = log.failure_groups(sub)?.into_iter().map(|group| {
                        let meta = log.failure(sub, group.sample)?.meta;
                        Ok((group, meta))
                    });
                    found.collect::<Result<Vec<_>, log::Error>>()
                });
                let found = match found {
                    // Dropped since it was listed, or not there yet: it has none.
                    Err(fault) if fault.kind == FaultKind::NotFound => continue,
                    found => found?,
                };
                groups.extend(found.into_iter().map(|(group, meta)| {
                    let facts: Option<FailureFacts> = serde_json::from_slice(&meta).ok();
                    FailureGroup {
                        subscription: subscription.clone(),
                        cause: facts.map_or(Cause::Unreadable, |facts| facts.cause),
                        count: group.open + group.redriving,
                        first: Timestamp(group.first_ms),
                        last: Timestamp(group.last_ms),
                        sample: FailureId(group.sample.0),
                        group: group.group,
                    }
                }));
            }
            Ok(groups)
        })
    }

    fn list<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        group: Option<&'a str>,
        after: Option<FailureId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<FailureRecord>, Fault>> {
        Box::pin(async move {
            let mut after = log::FailureId(after.map_or(0, |id| id.0));
            let max = usize::try_from(limit).unwrap_or(usize::MAX).min(PAGE_MAX);
            let mut records = Vec::new();
            // Filled up where records end meanwhile: a short page is the last.
            while records.len() < max {
                let room = max - records.len();
                let infos = self.with(subscription, |log, sub, _| {
                    log.failures(sub, group, after, room)
                })?;
                let Some(last) = infos.last() else { break };
                after = last.id;
                for info in infos {
                    match self.read(subscription, info) {
                        // Finished since it was listed.
                        Err(fault) if fault.kind == FaultKind::NotFound => {}
                        record => records.push(record?),
                    }
                }
            }
            Ok(records)
        })
    }

    fn get<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<FailureRecord, Fault>> {
        Box::pin(async move {
            let info = self.with(subscription, |log, sub, _| {
                log.failure_info(sub, log::FailureId(id.0))
            })?;
            self.read(
                subscription,
                info.ok_or_else(|| unknown_record(subscription, id))?,
            )
        })
    }

    fn redrive<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        Box::pin(async move {
            let reason = reason_to_text(&reason);
            let op = |sub, ids| FailureOp::Redrive {
                sub,
                ids,
                reason: reason.clone(),
            };
            self.decide(subscription, &which, true, op).await
        })
    }

    fn discard<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        Box::pin(async move {
            let reason = reason_to_text(&reason);
            let op = |sub, ids| FailureOp::Discard {
                sub,
                ids,
                reason: reason.clone(),
            };
            self.decide(subscription, &which, false, op).await
        })
    }

    fn edit<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
        headers: Vec<(Bytes, Bytes)>,
        body: Bytes,
        reason: Reason,
    ) -> Fut<'a, Result<(), Fault>> {
        Box::pin(self.replace(subscription, id, headers, body, reason))
    }

    fn original<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<Option<Original>, Fault>> {
        Box::pin(std::future::ready(self.before_edit(subscription, id)))
    }

    fn audit<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        limit: u32,
    ) -> Fut<'a, Result<Vec<AuditEntry>, Fault>> {
        Box::pin(async move {
            let max = usize::try_from(limit).unwrap_or(usize::MAX);
            let entries = self.with(subscription, |log, sub, _| log.failure_audit(sub, max))?;
            let entry = |audit: log::Audit| {
                let action = match audit.action {
                    log::Action::Redrive => "redrive",
                    log::Action::Discard | log::Action::DiscardMessage(_) => "discard",
                };
                let noted: Option<Noted> = serde_json::from_str(&audit.reason).ok();
                let (reason, said, count) = match noted {
                    Some(noted) => (noted.reason, noted.action, noted.count),
                    None => (plain(audit.reason, audit.at_ms), None, None),
                };
                AuditEntry {
                    action: said.unwrap_or_else(|| action.to_owned()),
                    count: count.unwrap_or(audit.count),
                    reason,
                }
            };
            Ok(entries.into_iter().map(entry).collect())
        })
    }

    fn claim<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        member: InstanceId,
        room: u32,
    ) -> Fut<'a, Result<Vec<Redriven>, Fault>> {
        Box::pin(async move {
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(PAGE_MAX);
            let taken = self.with_home(subscription, |log, sub, _| {
                let mut claims = self.shared.claims.lock();
                let mut taken = Vec::new();
                marked(log, sub, |info| {
                    let key = info.key.clone().filter(|_| info.parked);
                    if claims.is_free(sub, info.id, key.as_ref(), member) {
                        let generation = claims.take(sub, info.id, key, member);
                        taken.push((info, generation));
                    }
                    taken.len() < room
                })?;
                Ok(taken)
            })?;
            let mut redriven = Vec::with_capacity(taken.len());
            for (info, generation) in taken {
                let token = RedriveToken {
                    id: FailureId(info.id.0),
                    generation,
                };
                match self.read(subscription, info) {
                    Ok(record) => redriven.push(Redriven { record, token }),
                    Err(fault) => {
                        self.give_up(subscription, &redriven, &token);
                        return Err(fault);
                    }
                }
            }
            Ok(redriven)
        })
    }

    fn changed<'a>(&'a self, subscription: &'a SubscriptionId) -> Fut<'a, ()> {
        Box::pin(async move {
            let Ok(changed) = self.with_home(subscription, |_, sub, _| {
                Ok(self.shared.claims.lock().changed(sub))
            }) else {
                // The engine ended: the source says so, there is nothing to wait for here.
                return std::future::pending().await;
            };
            let woken = changed.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if !self.is_claimable(subscription) {
                woken.await;
            }
        })
    }

    fn finish<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        token: RedriveToken,
        outcome: RedriveOutcome,
    ) -> Fut<'a, Result<KeyState, FinishError>> {
        Box::pin(async move {
            let finished = self.end_claim(subscription, &token, outcome).await;
            finished.map_err(|fault| FinishError { fault, token })
        })
    }

    fn release_claims<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        member: InstanceId,
    ) -> Fut<'a, Result<(), Fault>> {
        Box::pin(async move {
            let released = self.shared.stage(|log, _| {
                if let Some(sub) = names::find_home(log, subscription) {
                    self.shared.release_claims(sub, member);
                }
            });
            released.map_err(|ended| ended.fault())
        })
    }
}

/// A reason that was written by other means.
fn plain(text: String, at_ms: u64) -> Reason {
    Reason {
        by: String::new(),
        text,
        at: Timestamp(at_ms),
    }
}

impl EmbeddedFailures {
    /// Ends a claim, in the log and in memory.
    async fn end_claim(
        &self,
        subscription: &SubscriptionId,
        token: &RedriveToken,
        outcome: RedriveOutcome,
    ) -> Result<KeyState, Fault> {
        let id = log::FailureId(token.id.0);
        let lost = || settle::lease_lost(&format!("failure record {}", token.id.0));
        let reopened = match &outcome {
            RedriveOutcome::Failed(facts) => Some(FailureIn {
                group: facts.group.clone(),
                meta: settle::facts_to_meta(facts)?,
                ..FailureIn::default()
            }),
            RedriveOutcome::Done | RedriveOutcome::Released => None,
        };
        let (ticket, state) = self
            .with(subscription, |log, sub, now| {
                if !self.shared.claims.lock().holds(sub, id, token.generation) {
                    return Ok(None);
                }
                let key = log.failure_info(sub, id)?.and_then(|info| info.key);
                // What a person edited stays edited when it fails again.
                let reopened = match reopened {
                    Some(failure) => Some(edit::carried(log, sub, id, failure)?),
                    None => None,
                };
                let op = match (&outcome, reopened) {
                    (RedriveOutcome::Released, _) => None,
                    (_, Some(failure)) => Some(FailureOp::Reopen { sub, id, failure }),
                    (_, None) => Some(FailureOp::Resolve { sub, id }),
                };
                let ticket = match op {
                    Some(op) => Some(log.commit(
                        Tx {
                            failures: vec![op],
                            ..Tx::default()
                        },
                        now,
                    )?),
                    None => None,
                };
                self.shared.claims.lock().end(sub, id, token.generation);
                let parked = key.is_some_and(|key| log.is_parked(sub, &key));
                Ok(Some((
                    ticket,
                    if parked {
                        KeyState::Parked
                    } else {
                        KeyState::Free
                    },
                )))
            })?
            .ok_or_else(lost)?;
        if let Some(ticket) = ticket {
            self.confirmed(&ticket).await?;
        }
        Ok(state)
    }
}
