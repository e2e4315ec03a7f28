//! The failure store over the log: a parked key is its parked records, in order.

mod claims;
mod edit;
mod store;

use std::sync::Arc;

use postrider_core::browse::Sought;
use postrider_core::clock::Timestamp;
use postrider_core::code::Code;
use postrider_core::failure::{
    FailureDraft, FailureFacts, FailureId, FailureRecord, FailureState, Reason, RedriveToken,
    Redriven, Selection,
};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::SubscriptionId;
use postrider_log::{
    self as log, FailureIn, FailureInfo, FailureOp, Kind, Log, Now, Park, SubId, Ticket, Tx,
};

pub(crate) use claims::Claims;

use crate::convert;
use crate::error::fault;
use crate::names;
use crate::settle;
use crate::shared::Shared;

/// Records in one page at most.
const PAGE_MAX: usize = 1_000;
/// Records in one commit of a redrive or a discard.
const COMMIT_MAX: usize = 10_000;

/// Keeps failure records, parked keys and crash states in the log. For subscriptions of this engine and of others.
#[derive(Debug)]
pub(crate) struct EmbeddedFailures {
    shared: Arc<Shared>,
}

/// Gives a subscription, or its absence, from under the lock.
type Found<T> = Result<T, Fault>;

impl EmbeddedFailures {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Runs this under the lock, with the subscription.
    fn with<T>(
        &self,
        subscription: &SubscriptionId,
        run: impl FnOnce(&mut Log, SubId, Now) -> Result<T, log::Error>,
    ) -> Found<T> {
        let done = self.shared.stage(|log, now| {
            let sub = names::find_home(log, subscription).ok_or_else(|| unknown(subscription))?;
            run(log, sub, now).map_err(|error| fault(&error))
        });
        done.map_err(|ended| ended.fault())?
    }

    /// The same, and makes a home for the failures of a subscription of another engine.
    fn with_home<T>(
        &self,
        subscription: &SubscriptionId,
        run: impl FnOnce(&mut Log, SubId, Now) -> Result<T, log::Error>,
    ) -> Found<T> {
        let done = self.shared.stage(|log, now| -> Result<T, log::Error> {
            let sub = match names::find_home(log, subscription) {
                Some(sub) => sub,
                None => {
                    let config = self.shared.config(Kind::Topic);
                    let stream = log
                        .create_stream(&names::elsewhere(subscription), config)?
                        .0;
                    let service = subscription.service.as_str();
                    log.create_subscription(stream, service, log::SubscriptionConfig::default())?
                        .0
                }
            };
            run(log, sub, now)
        });
        done.map_err(|ended| ended.fault())?
            .map_err(|error| fault(&error))
    }

    async fn confirmed(&self, ticket: &Ticket) -> Found<()> {
        self.shared
            .confirmed(ticket)
            .await
            .map_err(|ended| ended.fault().unknown_effect())
    }

    async fn append_all(
        &self,
        subscription: &SubscriptionId,
        drafts: Vec<(FailureDraft, Park)>,
    ) -> Found<Vec<FailureId>> {
        let mut failures = Vec::with_capacity(drafts.len());
        for (draft, park) in &drafts {
            let id = draft.facts.message_id.map_or([0; 16], |id| *id.as_bytes());
            let record = Box::new(log::RecordIn {
                id,
                ..convert::raw_in(draft.raw.clone())
            });
            failures.push((
                settle::failure_in(draft, *park)?,
                record,
                draft.facts.position,
            ));
        }
        let ticket = self.with_home(subscription, |log, sub, now| {
            let append = |(failure, record, source): (FailureIn, _, u64)| FailureOp::Append {
                sub,
                failure,
                record,
                source: Some(source),
            };
            let failures = failures.into_iter().map(append).collect();
            log.commit(
                Tx {
                    failures,
                    ..Tx::default()
                },
                now,
            )
        })?;
        self.confirmed(&ticket).await?;
        Ok(ticket.failures.iter().map(|id| FailureId(id.0)).collect())
    }

    /// Reads one record with its bytes.
    fn read(&self, subscription: &SubscriptionId, info: FailureInfo) -> Found<FailureRecord> {
        let failure = self.with(subscription, |log, sub, _| log.failure(sub, info.id))?;
        let facts = facts_of(&info, &failure.meta);
        let original = convert::raw_of(&failure.record);
        let raw = match edit::read(&failure.meta) {
            Some(edited) => edited.apply(&original),
            None => original,
        };
        Ok(FailureRecord {
            id: FailureId(info.id.0),
            subscription: subscription.clone(),
            state: state_of(info.state),
            parked: info.parked,
            // The redrive under way is not one before.
            redrives: info
                .redrives
                .saturating_sub(u32::from(info.state == log::FailureState::Redriving)),
            draft: FailureDraft {
                key: info.key,
                facts,
                raw,
            },
        })
    }

    /// The records that are meant and wait for a person. A record of a parked key brings its key where `whole_keys` says so.
    fn select(
        log: &Log,
        sub: SubId,
        which: &Selection,
        whole_keys: bool,
    ) -> Result<Vec<log::FailureId>, log::Error> {
        let mut chosen = std::collections::BTreeSet::new();
        let mut choose = |info: &FailureInfo| {
            match &info.key {
                Some(key) if info.parked && whole_keys => {
                    chosen.extend(log.failures_of_key(sub, key)?)
                }
                _ => {
                    chosen.insert(info.id);
                }
            }
            Ok::<(), log::Error>(())
        };
        match which {
            Selection::Ids(ids) => {
                for id in ids {
                    if let Some(info) = log.failure_info(sub, log::FailureId(id.0))? {
                        choose(&info)?;
                    }
                }
            }
            Selection::Group(_) | Selection::Key(_) | Selection::All => {
                let group = if let Selection::Group(group) = which {
                    Some(group.as_str())
                } else {
                    None
                };
                for info in log.failures(sub, group, log::FailureId(0), usize::MAX)? {
                    match which {
                        Selection::Key(key) if info.key.as_ref() != Some(key) => {}
                        _ => choose(&info)?,
                    }
                }
            }
        }
        let mut waiting = Vec::with_capacity(chosen.len());
        for id in chosen {
            let open = log
                .failure_info(sub, id)?
                .is_some_and(|info| info.state == log::FailureState::Open);
            waiting.extend(open.then_some(id));
        }
        Ok(waiting)
    }

    /// Commits a decision about many records, piece by piece; gives how many there were.
    async fn decide(
        &self,
        subscription: &SubscriptionId,
        which: &Selection,
        whole_keys: bool,
        op: impl Fn(SubId, Vec<log::FailureId>) -> FailureOp + Send + Sync,
    ) -> Found<u64> {
        let (count, ticket) = self.with(subscription, |log, sub, now| {
            let chosen = Self::select(log, sub, which, whole_keys)?;
            if chosen.is_empty() {
                return Ok((0, None));
            }
            // One frame, so that it happens wholly or not at all, up to a size that a frame always takes.
            let failures = chosen.chunks(COMMIT_MAX).map(|ids| op(sub, ids.to_vec()));
            let ticket = log.commit(
                Tx {
                    failures: failures.collect(),
                    ..Tx::default()
                },
                now,
            )?;
            self.shared.claims.lock().wake(sub);
            Ok((chosen.len() as u64, Some(ticket)))
        })?;
        if let Some(ticket) = ticket {
            self.confirmed(&ticket).await?;
        }
        Ok(count)
    }

    /// Ends claims that the caller will not get to know.
    fn give_up(&self, subscription: &SubscriptionId, claimed: &[Redriven], last: &RedriveToken) {
        let tokens = claimed.iter().map(|redriven| &redriven.token).chain([last]);
        // An engine that ended holds no claims.
        let _ = self.with(subscription, |_, sub, _| {
            let mut claims = self.shared.claims.lock();
            for token in tokens {
                claims.end(sub, log::FailureId(token.id.0), token.generation);
            }
            Ok(())
        });
    }

    /// Whether a claim by anybody could give something.
    fn is_claimable(&self, subscription: &SubscriptionId) -> bool {
        let looked = self.with(subscription, |log, sub, _| {
            let claims = self.shared.claims.lock();
            let mut any = false;
            marked(log, sub, |info| {
                any = !claims.is_taken(sub, info.id);
                !any
            })?;
            Ok(any)
        });
        looked.unwrap_or(false)
    }
}

/// Shows the records that are marked for redrive, in order, until `look` has seen enough.
fn marked(
    log: &Log,
    sub: SubId,
    mut look: impl FnMut(FailureInfo) -> bool,
) -> Result<(), log::Error> {
    const PAGE: usize = 256;
    let mut after = log::FailureId(0);
    loop {
        let page = log.redriving(sub, after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.id;
        for info in page {
            if !look(info) {
                return Ok(());
            }
        }
    }
}

fn unknown(subscription: &SubscriptionId) -> Fault {
    let text = format!("there is no subscription {subscription}: list the subscriptions first");
    Fault::new(FaultKind::NotFound, Advice::FixConfig, text).code(Code::ADMIN_NOT_FOUND)
}

fn unknown_record(subscription: &SubscriptionId, id: FailureId) -> Fault {
    let text = format!(
        "{subscription} has no failure record {}: list them again",
        id.0
    );
    Fault::new(FaultKind::NotFound, Advice::FixMessage, text).code(Code::ADMIN_NOT_FOUND)
}

fn state_of(state: log::FailureState) -> FailureState {
    match state {
        log::FailureState::Open => FailureState::Waiting,
        log::FailureState::Redriving => FailureState::Redriving,
    }
}

/// The facts, as they were stored. Facts of a release that wrote them otherwise are shown as far as the log knows them.
fn facts_of(info: &FailureInfo, meta: &[u8]) -> FailureFacts {
    serde_json::from_slice(meta).unwrap_or_else(|error| FailureFacts {
        message_id: None,
        message_type: None,
        cause: postrider_core::failure::Cause::Unreadable,
        group: info.group.clone(),
        errors: vec![format!(
            "the facts stored with this record cannot be read: {error}"
        )],
        attempts: 0,
        first_seen: Timestamp(info.at_ms),
        failed_at: Timestamp(info.at_ms),
        position: info.source.unwrap_or(0),
    })
}

/// What the reason of the log holds: who, why and when as JSON. What the log has no word for says its name and its count itself.
#[derive(serde::Serialize, serde::Deserialize)]
struct Noted {
    #[serde(flatten)]
    reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl Noted {
    fn text(reason: &Reason, action: Option<&str>, count: Option<u64>) -> String {
        let noted = Self {
            reason: reason.clone(),
            action: action.map(str::to_owned),
            count,
        };
        serde_json::to_string(&noted).unwrap_or_else(|_| reason.text.clone())
    }
}

/// The audit keeps who, why and when as JSON in the reason of the log.
fn reason_to_text(reason: &Reason) -> String {
    Noted::text(reason, None, None)
}

/// A seek in the audit, with how many messages it concerns.
pub(crate) fn seek_reason(reason: &Reason, sought: &Sought) -> String {
    Noted::text(reason, Some("seek"), Some(sought.skipped + sought.again))
}
