//! A subscription as a lease source.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::Fut;
use postrider_core::clock::Mono;
use postrider_core::fault::Fault;
use postrider_core::id::InstanceId;
use postrider_core::source::{Credit, LeaseSource, Leased, Settler};
use postrider_log::{self as log, Level, Lsn, MemberId, StreamId, SubId};
use tokio::sync::Notify;

use crate::convert;
use crate::error::fault;
use crate::settle::EmbeddedSettler;
use crate::shared::Shared;

/// Messages handed over by one call at most, whatever the credit: what bounds how long the lock is held.
const BATCH_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct EmbeddedSource {
    shared: Arc<Shared>,
    sub: SubId,
    /// Of this opened source, not of the process: one process may open a subscription twice.
    member: MemberId,
    instance: InstanceId,
    lease: Duration,
    ready: Arc<Notify>,
    /// Leased, and not yet handed over because their marks are being written.
    taken: Option<Taken>,
    /// A stream that is gone with this source.
    own: Option<StreamId>,
}

#[derive(Debug)]
struct Taken {
    messages: Vec<(log::Leased, bool)>,
    marks: Lsn,
}

impl EmbeddedSource {
    pub(crate) fn new(
        shared: Arc<Shared>,
        sub: SubId,
        instance: InstanceId,
        lease: Duration,
        own: Option<StreamId>,
    ) -> Self {
        let member = shared.new_member();
        let ready = shared.ready_of(sub);
        Self {
            shared,
            sub,
            member,
            instance,
            lease,
            ready,
            taken: None,
            own,
        }
    }

    /// Leases what the credit has room for. `None`: nothing is ready.
    async fn take(&self, room: Credit) -> Result<Option<Taken>, Fault> {
        let messages_max = usize::try_from(room.messages)
            .unwrap_or(usize::MAX)
            .min(BATCH_MAX);
        let bytes_max = usize::try_from(room.bytes).unwrap_or(usize::MAX);
        let leased = self.shared.stage_freeing(|log, now| {
            let batch = log.lease(
                self.sub,
                self.member,
                messages_max,
                bytes_max,
                self.lease,
                now,
            )?;
            if batch.more {
                self.ready.notify_one();
            }
            let parked = |leased: &log::Leased| {
                leased
                    .record
                    .key
                    .as_ref()
                    .is_some_and(|key| log.is_parked(self.sub, key))
            };
            let messages = batch.messages.into_iter().map(|leased| {
                let parked = parked(&leased);
                (leased, parked)
            });
            Ok(Taken {
                messages: messages.collect(),
                marks: batch.lsn,
            })
        });
        // CANCEL: it ends with the call that takes something, so that nothing taken is lost.
        let taken = leased
            .await
            .map_err(|ended| ended.fault())?
            .map_err(|error: log::Error| fault(&error))?;
        if taken.messages.is_empty() {
            return Ok(None);
        }
        Ok(Some(taken))
    }

    /// Hands over what was taken, as far as the credit goes: it may be a smaller one than it was taken with.
    fn hand_over(&mut self, room: Credit) -> Vec<Leased> {
        let Some(mut taken) = self.taken.take() else {
            return Vec::new();
        };
        let count = usize::try_from(room.messages)
            .unwrap_or(usize::MAX)
            .min(taken.messages.len());
        let rest = taken.messages.split_off(count);
        if !rest.is_empty() {
            self.taken = Some(Taken {
                messages: rest,
                marks: taken.marks,
            });
        }
        let hand_over = |(leased, key_parked): (log::Leased, bool)| Leased {
            token: convert::token(self.sub, leased.record.offset, leased.token),
            until: Some(Mono(leased.until)),
            deliveries: Some(leased.attempt.saturating_sub(1)),
            record: convert::record_of(&leased.record),
            key_parked,
        };
        taken.messages.into_iter().map(hand_over).collect()
    }
}

impl LeaseSource for EmbeddedSource {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>> {
        Box::pin(async move {
            if room.messages == 0 {
                // There is nothing to wait for: only a new credit can change that, and it comes with another call.
                return std::future::pending().await;
            }
            let ready = Arc::clone(&self.ready);
            while self.taken.is_none() {
                let woken = ready.notified();
                tokio::pin!(woken);
                // Registered before the look, so that nothing that comes after the look is missed.
                woken.as_mut().enable();
                self.taken = self.take(room).await?;
                if self.taken.is_none() {
                    self.shared.until(woken).await;
                }
            }
            if self.own.is_none() {
                // DURABILITY: the attempt is counted before the handler can start, so it survives a kill -9 in the handler. What
                // is gone with the process needs no count.
                // CANCEL: what was taken stays in `taken` until it is returned.
                let marks = self.taken.as_ref().map_or(Lsn(0), |taken| taken.marks);
                let safe = self.shared.safe(marks, Level::Os).await;
                safe.map_err(|ended| ended.fault())?;
            }
            Ok(self.hand_over(room))
        })
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(EmbeddedSettler::new(Arc::clone(&self.shared), self.lease))
    }
}

impl Drop for EmbeddedSource {
    /// Gives back what this member holds, without counting it: whoever held it is gone by its own will.
    fn drop(&mut self) {
        // An engine that ended has nothing to give back to.
        let _ = self.shared.stage(|log, now| -> Result<(), log::Error> {
            if let Some(own) = self.own {
                return log.delete_stream(own).map(drop);
            }
            log.release_member(self.member, now).map(drop)
        });
        self.shared.release_claims(self.sub, self.instance);
    }
}
