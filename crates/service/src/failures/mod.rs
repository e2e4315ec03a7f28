//! Failures by API: groups, lists, one in full, redrive and discard with a reason that is kept.
//!
//! [`Failures`] looks into the failure stores of the subscriptions that run on a bus and into the engine's own. Redrive hands records back to
//! *their* subscription, in key order; nothing is published again. Limits: a page has at most [`PAGE_MAX`] records.

mod describe;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use postrider_core::clock::Clock;
use postrider_core::code::Code;
use postrider_core::failure::{
    AuditEntry, FailureGroup, FailureId, FailureRecord, FailureStore, Original, Reason, Selection,
};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::SubscriptionId;

pub use describe::cause_word;
pub(crate) use describe::{error_chain, group_text};

use crate::driver::Registry;

/// The most records of one page.
pub const PAGE_MAX: u32 = 1000;
/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 1000;

/// Failures of the subscriptions of one bus. Cheap to clone.
#[derive(Clone)]
pub struct Failures {
    registry: Arc<Registry>,
    engine: Option<Arc<dyn FailureStore>>,
    clock: Arc<dyn Clock>,
}

impl Failures {
    pub(crate) fn new(
        registry: Arc<Registry>,
        engine: Option<Arc<dyn FailureStore>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            registry,
            engine,
            clock,
        }
    }

    /// Groups of one subscription or of all, the largest first.
    ///
    /// # Errors
    /// A store cannot be reached; `NotFound` where the subscription has no failure store.
    pub async fn groups(
        &self,
        subscription: Option<&SubscriptionId>,
    ) -> Result<Vec<FailureGroup>, Fault> {
        let mut groups = match subscription {
            Some(id) => self.store(id)?.groups(Some(id)).await?,
            None => self.groups_of_all().await?,
        };
        groups.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.group.cmp(&b.group)));
        Ok(groups)
    }

    /// Records of one subscription after `after`, ascending, at most `limit` (and at most [`PAGE_MAX`]); of one group where it
    /// is given. Bodies may be missing: [`Failures::show`] has them.
    ///
    /// # Errors
    /// As [`Failures::groups`].
    pub async fn list(
        &self,
        subscription: &SubscriptionId,
        group: Option<&str>,
        after: Option<FailureId>,
        limit: u32,
    ) -> Result<Vec<FailureRecord>, Fault> {
        let store = self.store(subscription)?;
        let limit = limit.clamp(1, PAGE_MAX);
        store.list(subscription, group, after, limit).await
    }

    /// One record with its original bytes.
    ///
    /// # Errors
    /// `NotFound`; the store cannot be reached.
    pub async fn show(
        &self,
        subscription: &SubscriptionId,
        id: FailureId,
    ) -> Result<FailureRecord, Fault> {
        self.store(subscription)?.get(subscription, id).await
    }

    /// Marks records for redrive to their subscription, in key order; a record of a parked key brings the whole key. The mark is durable at
    /// return; the handling follows. Gives how many records were marked.
    ///
    /// # Errors
    /// As [`Failures::groups`]; `Config` where the reason is empty or too long. Nothing was marked.
    pub async fn redrive(
        &self,
        subscription: &SubscriptionId,
        which: Selection,
        by: &str,
        why: &str,
    ) -> Result<u64, Fault> {
        let reason = self.reason(by, why)?;
        let store = self.store(subscription)?;
        store.redrive(subscription, which, reason).await
    }

    /// Removes records for good. Gives how many were removed; what is on its way back to the handler is not.
    ///
    /// # Errors
    /// As [`Failures::redrive`]. Nothing was removed.
    pub async fn discard(
        &self,
        subscription: &SubscriptionId,
        which: Selection,
        by: &str,
        why: &str,
    ) -> Result<u64, Fault> {
        let reason = self.reason(by, why)?;
        let store = self.store(subscription)?;
        store.discard(subscription, which, reason).await
    }

    /// Replaces headers and body of a record that waits; its key and its original bytes stay. It is durable at return.
    ///
    /// # Errors
    /// As [`Failures::redrive`]; `NotFound`; `Conflict` where it is on its way back; `Unsupported` where the store cannot. Nothing was changed.
    pub async fn edit(
        &self,
        subscription: &SubscriptionId,
        id: FailureId,
        headers: Vec<(Bytes, Bytes)>,
        body: Bytes,
        (by, why): (&str, &str),
    ) -> Result<(), Fault> {
        let reason = self.reason(by, why)?;
        let store = self.store(subscription)?;
        store.edit(subscription, id, headers, body, reason).await
    }

    /// What a record held before it was edited; `None` where it never was.
    ///
    /// # Errors
    /// As [`Failures::show`].
    pub async fn original(
        &self,
        subscription: &SubscriptionId,
        id: FailureId,
    ) -> Result<Option<Original>, Fault> {
        self.store(subscription)?.original(subscription, id).await
    }

    /// What was done to the subscription's failures, the newest first, at most `limit` (and at most [`PAGE_MAX`]).
    ///
    /// # Errors
    /// As [`Failures::groups`].
    pub async fn audit(
        &self,
        subscription: &SubscriptionId,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, Fault> {
        let store = self.store(subscription)?;
        store.audit(subscription, limit.clamp(1, PAGE_MAX)).await
    }

    /// Subscriptions that do not run any more still have their failures in the engine's own store.
    fn store(&self, id: &SubscriptionId) -> Result<Arc<dyn FailureStore>, Fault> {
        let members = self.registry.members(id);
        let own = members.iter().find_map(|m| m.failures.clone());
        own.or_else(|| self.engine.clone()).ok_or_else(|| {
            let text =
                format!("{id} has no failure store here; list the subscriptions to see which do");
            Fault::new(FaultKind::NotFound, Advice::FixConfig, text).code(Code::ADMIN_NOT_FOUND)
        })
    }

    async fn groups_of_all(&self) -> Result<Vec<FailureGroup>, Fault> {
        let mut groups = match &self.engine {
            Some(engine) => engine.groups(None).await?,
            None => Vec::new(),
        };
        let mut others = BTreeMap::new();
        for running in self.registry.all() {
            let Some(store) = &running.failures else {
                continue;
            };
            others.insert(running.id.clone(), Arc::clone(store));
        }
        for (id, store) in others {
            // The engine's store may know the subscription from a time before it was given another one: both are shown.
            groups.extend(store.groups(Some(&id)).await?);
        }
        Ok(groups)
    }

    pub(crate) fn reason(&self, by: &str, why: &str) -> Result<Reason, Fault> {
        let bad = |text: String| {
            Err(Fault::new(FaultKind::Config, Advice::FixMessage, text)
                .code(Code::ADMIN_BAD_REQUEST))
        };
        let (by, why) = (by.trim(), why.trim());
        if by.is_empty() || why.is_empty() {
            return bad("this needs a reason and who gives it: it is kept in the audit".into());
        }
        if by.len() > REASON_BYTES_MAX || why.len() > REASON_BYTES_MAX {
            return bad(format!(
                "the reason is longer than {REASON_BYTES_MAX} bytes: write less"
            ));
        }
        Ok(Reason {
            by: by.to_owned(),
            text: why.to_owned(),
            at: self.clock.wall(),
        })
    }
}
