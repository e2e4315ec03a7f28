//! Settling and extending leases.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::Fut;
use postrider_core::clock::Mono;
use postrider_core::code::Code;
use postrider_core::failure::{FailureDraft, FailureFacts};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::planted::{self, Plant};
use postrider_core::settle::{LeaseToken, Settle, SettleError, SettleOp};
use postrider_core::source::Settler;
use postrider_log::{self as log, Park, Ticket, Tx};

use crate::convert;
use crate::error::fault;
use crate::shared::Shared;

/// What an operation is in the log.
pub(crate) fn to_log(op: &SettleOp) -> Result<log::SettleOp, Fault> {
    let (sub, offset, token) = convert::untoken(&op.token);
    let how = match &op.settle {
        Settle::Ack => log::Settle::Ack,
        Settle::RetryAfter { delay, .. } => log::Settle::Return {
            delay: *delay,
            count: true,
        },
        Settle::Release => log::Settle::Return {
            delay: Duration::ZERO,
            count: false,
        },
        Settle::DeadLetter(draft) => log::Settle::Dead(failure_in(draft, Park::No)?),
        Settle::Park(draft) => log::Settle::Dead(failure_in(draft, park_of(draft))?),
    };
    Ok(log::SettleOp {
        sub,
        offset,
        token,
        how,
    })
}

/// How a draft parks its key: a follower only where the key is parked already. Without a key there is nothing to park.
pub(crate) fn park_of(draft: &FailureDraft) -> Park {
    match &draft.key {
        None => Park::No,
        Some(_) if draft.is_follower() => Park::Behind,
        Some(_) => Park::Key,
    }
}

/// What the log keeps beside the original bytes.
pub(crate) fn failure_in(draft: &FailureDraft, park: Park) -> Result<log::FailureIn, Fault> {
    let group = draft.facts.group.clone();
    Ok(log::FailureIn {
        group,
        meta: facts_to_meta(&draft.facts)?,
        key: draft.key.clone(),
        park,
    })
}

pub(crate) fn facts_to_meta(facts: &FailureFacts) -> Result<Bytes, Fault> {
    let json = serde_json::to_vec(facts).map_err(|error| {
        Fault::new(
            FaultKind::Protocol,
            Advice::FixMessage,
            "the facts of a failure cannot be written as JSON",
        )
        .because(error)
    })?;
    Ok(Bytes::from(json))
}

#[derive(Debug)]
pub(crate) struct EmbeddedSettler {
    shared: Arc<Shared>,
    lease: Duration,
}

impl EmbeddedSettler {
    pub(crate) fn new(shared: Arc<Shared>, lease: Duration) -> Self {
        Self { shared, lease }
    }

    /// Settles what can be settled in one commit. An operation whose lease is over, or whose key is not parked any more, is
    /// taken out and the others go through; so at most one commit per such operation is refused.
    async fn settle_all(&self, ops: &[SettleOp]) -> (Vec<Option<Fault>>, Option<Ticket>) {
        let mut refused: Vec<Option<Fault>> = Vec::new();
        refused.resize_with(ops.len(), || None);
        let mut open: Vec<(usize, log::SettleOp)> = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            match to_log(op) {
                Ok(op) => open.push((index, op)),
                Err(fault) => refused[index] = Some(fault),
            }
        }
        while !open.is_empty() {
            let staged = self.shared.stage_freeing(|log, now| {
                let settles = open.iter().map(|(_, op)| op.clone()).collect();
                let tx = Tx {
                    settles,
                    ..Tx::default()
                };
                log.commit(tx, now)
            });
            let error = match staged.await {
                Ok(Ok(ticket)) => return (refused, Some(ticket)),
                Ok(Err(error)) => error,
                Err(ended) => {
                    open.iter()
                        .for_each(|(index, _)| refused[*index] = Some(ended.fault()));
                    return (refused, None);
                }
            };
            let (log::Error::LeaseLost { sub, offset }
            | log::Error::NotParked {
                sub,
                offset: Some(offset),
            }) = error
            else {
                open.iter()
                    .for_each(|(index, _)| refused[*index] = Some(fault(&error)));
                return (refused, None);
            };
            // Two operations of one message: the later ones are the stale ones, but the log does not say which it meant.
            let before = open.len();
            let mut gone = None;
            open.retain(|(index, op)| {
                let it = op.sub == sub && op.offset == offset;
                if it {
                    refused[*index] = Some(fault(&error));
                    gone = Some(*index);
                }
                !it
            });
            let gone = gone.expect("the log refuses only an operation that it was given");
            assert!(open.len() < before, "each round takes one out");
            give_back_behind(gone, ops, &mut open, &mut refused);
        }
        (refused, None)
    }
}

/// ORDER: where a message cannot be parked, none of its key behind it may be: it would stand before one that comes again. Those behind are
/// given back instead, uncounted, and answered as lost.
fn give_back_behind(
    gone: usize,
    ops: &[SettleOp],
    open: &mut [(usize, log::SettleOp)],
    refused: &mut [Option<Fault>],
) {
    let Some(key) = parked_key(&ops[gone]) else {
        return;
    };
    let (sub, ..) = convert::untoken(&ops[gone].token);
    for (index, op) in open.iter_mut().filter(|(index, _)| *index > gone) {
        if op.sub == sub && parked_key(&ops[*index]) == Some(key) {
            op.how = log::Settle::Return {
                delay: Duration::ZERO,
                count: false,
            };
            refused[*index] = Some(lease_lost("a message behind one that was lost"));
        }
    }
}

fn parked_key(op: &SettleOp) -> Option<&Bytes> {
    match &op.settle {
        Settle::Park(draft) => draft.key.as_ref(),
        _ => None,
    }
}

impl Settler for EmbeddedSettler {
    fn settle<'a>(&'a self, ops: Vec<SettleOp>) -> Fut<'a, Vec<Result<(), SettleError>>> {
        Box::pin(async move {
            let (refused, ticket) = self.settle_all(&ops).await;
            let records =
                |op: &SettleOp| matches!(op.settle, Settle::DeadLetter(_) | Settle::Park(_));
            let waits = ops
                .iter()
                .zip(&refused)
                .any(|(op, refused)| refused.is_none() && records(op));
            let mut ended = None;
            if let (true, Some(ticket)) = (waits, ticket) {
                // DURABILITY: a failure record is promised, an acknowledgement alone may come back.
                ended = self.shared.confirmed(&ticket).await.err();
            }
            let results = ops.into_iter().zip(refused).map(|(op, refused)| {
                let lost = || {
                    ended
                        .as_ref()
                        .filter(|_| records(&op))
                        .map(|ended| ended.fault().unknown_effect())
                };
                match refused.or_else(lost) {
                    Some(fault) => Err(SettleError { fault, op }),
                    None => Ok(()),
                }
            });
            results.collect()
        })
    }

    fn extend<'a>(
        &'a self,
        tokens: &'a [&'a LeaseToken],
        by: Duration,
    ) -> Fut<'a, Vec<Result<Mono, Fault>>> {
        let by = if by.is_zero() { self.lease } else { by };
        let extended = self.shared.stage(|log, now| {
            let until = Mono(now.mono).plus(by);
            let mut results = Vec::with_capacity(tokens.len());
            // Usually all of them are of one subscription.
            for run in tokens.chunk_by(|a, b| convert::untoken(a).0 == convert::untoken(b).0) {
                let leases = run.iter().map(|token| convert::untoken(token));
                let leases: Vec<_> = leases.map(|(_, offset, lease)| (offset, lease)).collect();
                let sub = convert::untoken(run[0]).0;
                if planted::is(Plant::LeaseNotExtended) {
                    results.extend(leases.iter().map(|_| Ok(until)));
                    continue;
                }
                match log.extend(sub, &leases, by, now) {
                    Ok(held) => {
                        results.extend(held.iter().zip(&leases).map(|(held, (offset, _))| {
                            if *held {
                                Ok(until)
                            } else {
                                Err(lease_lost(&format!("message {offset}")))
                            }
                        }))
                    }
                    Err(error) => results.extend(leases.iter().map(|_| Err(fault(&error)))),
                }
            }
            results
        });
        let all_ended =
            |ended: crate::waiters::Ended| tokens.iter().map(|_| Err(ended.fault())).collect();
        Box::pin(std::future::ready(extended.unwrap_or_else(all_ended)))
    }
}

/// The fault of a lease that is over.
pub(crate) fn lease_lost(what: &str) -> Fault {
    let text = format!("the lease of {what} is over: it belongs to another now, drop the work");
    Fault::new(FaultKind::LeaseLost, Advice::Rebalance, text).code(Code::LEASE_LOST)
}
