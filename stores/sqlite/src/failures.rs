//! The failure store: failure records, parked keys, redrive and crash states of subscriptions.

mod append;
mod edit;
mod parked;
mod redrive;
mod rows;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::failure::{
    AuditEntry, CrashNote, CrashState, FailureDraft, FailureGroup, FailureId, FailureRecord,
    FailureStore, FinishError, KeyState, OpenState, Original, Reason, RedriveOutcome, RedriveToken,
    Redriven, Selection,
};
use postrider_core::fault::Fault;
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use tokio::sync::Notify;

use crate::error::Error;
use crate::store::Sqlite;

pub(crate) use parked::{Change as ParkedChange, ParkedKeys};

/// Wakes whoever waits for records of a subscription to be redriven.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Mutex<HashMap<SubscriptionId, Arc<Notify>>>);

impl Wakers {
    fn of(&self, subscription: &SubscriptionId) -> Arc<Notify> {
        let mut wakers = self.0.lock();
        if let Some(waker) = wakers.get(subscription) {
            return waker.clone();
        }
        let waker = Arc::new(Notify::new());
        // The first look is free: an earlier process may have left something.
        waker.notify_one();
        wakers.insert(subscription.clone(), waker.clone());
        waker
    }

    fn wake(&self, subscription: &SubscriptionId) {
        let waker = self.of(subscription);
        waker.notify_waiters();
        waker.notify_one();
    }
}

/// A [`FailureStore`] in a SQLite database, for engines that keep no failures themselves. Cheap to clone.
///
/// Every change is one durable commit, grouped with whoever is ready. Claims belong to this opening of the database: when its process
/// dies, the next opening hands them out again. A member that goes away while its process lives gives them up with
/// [`FailureStore::release_claims`]. A page of a listing holds at most 1,000 records or groups.
///
/// A follower that comes while its key is on its way back joins it, so that the key becomes free; a record that fails again takes the rest
/// of its key back to waiting.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use postrider_sqlite::{Sqlite, SqliteFailures};
///
/// // Beside the service's own tables, or in a file of its own.
/// let beside = Sqlite::in_memory()?.failures();
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("failures.db");
/// let own = SqliteFailures::open(path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteFailures {
    store: Sqlite,
}

impl SqliteFailures {
    /// Opens or makes a database for failures alone.
    ///
    /// # Errors
    /// See [`Sqlite::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self::of(Sqlite::open(path)?))
    }

    pub(crate) const fn of(store: Sqlite) -> Self {
        Self { store }
    }

    /// The database.
    #[must_use]
    pub const fn store(&self) -> &Sqlite {
        &self.store
    }

    async fn append_all(
        &self,
        subscription: &SubscriptionId,
        key: Option<Bytes>,
        drafts: Vec<FailureDraft>,
    ) -> Result<Vec<FailureId>, Error> {
        let whose = subscription.clone();
        let ids = self
            .store
            .exec(move |db| append::append(db, &whose, key.as_ref(), &drafts))
            .await?
            .ok_or(Error::NotParked)?;
        self.store.shared().failures_changed.wake(subscription);
        Ok(ids)
    }

    /// Looks at a subscription's rows, which must be known.
    async fn look<T: Send + 'static>(
        &self,
        subscription: &SubscriptionId,
        look: impl FnOnce(&rusqlite::Connection, i64) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let name = subscription.to_string();
        self.store
            .look_async(move |conn| look(conn, rows::number_of(conn, &name)?))
            .await
    }

    async fn change(
        &self,
        subscription: &SubscriptionId,
        which: Selection,
        reason: Reason,
        change: redrive::Change,
    ) -> Result<u64, Error> {
        let name = subscription.to_string();
        self.store
            .exec(move |db| {
                let number = rows::number_of(&db.conn, &name)?;
                redrive::change(db, number, &which, &reason, change)
            })
            .await
    }

    async fn claim_some(
        &self,
        subscription: &SubscriptionId,
        member: InstanceId,
        room: u32,
    ) -> Result<Vec<Redriven>, Error> {
        let name = subscription.to_string();
        // Most looks find nothing, and cost no commit.
        if room == 0
            || !self
                .store
                .peek(move |conn| rows::any_redriving(conn, &name))
                .await?
        {
            return Ok(Vec::new());
        }
        let whose = subscription.clone();
        self.store
            .exec(move |db| redrive::claim(db, &whose, member, room))
            .await
    }
}

impl FailureStore for SqliteFailures {
    fn is_parked(&self, subscription: &SubscriptionId, key: &Bytes) -> bool {
        if let Some(known) = self.store.shared().parked.is_parked(subscription, key) {
            return known;
        }
        let name = subscription.to_string();
        let look = self
            .store
            .look_now(|conn| rows::is_parked(conn, &name, key));
        // ORDER: a wrong yes is corrected when the message is to follow the key; a wrong no would let it pass.
        look.unwrap_or(true)
    }

    fn open<'a>(&'a self, subscription: &'a SubscriptionId) -> Fut<'a, Result<OpenState, Fault>> {
        let whose = subscription.clone();
        Box::pin(async move {
            let state = self
                .store
                .exec(move |db| rows::open_state(db, &whose))
                .await;
            state.map_err(|e: Error| e.into())
        })
    }

    fn note_crash<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        note: CrashNote,
    ) -> Fut<'a, Result<CrashState, Fault>> {
        let whose = subscription.clone();
        Box::pin(async move {
            let noted = self
                .store
                .exec(move |db| rows::note_crash(db, &whose, &note))
                .await;
            noted.map_err(|e: Error| e.into())
        })
    }

    fn append<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(async move { Ok(self.append_all(subscription, None, drafts).await?) })
    }

    fn park<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        key: Bytes,
        drafts: Vec<FailureDraft>,
    ) -> Fut<'a, Result<Vec<FailureId>, Fault>> {
        Box::pin(async move { Ok(self.append_all(subscription, Some(key), drafts).await?) })
    }

    fn groups<'a>(
        &'a self,
        subscription: Option<&'a SubscriptionId>,
    ) -> Fut<'a, Result<Vec<FailureGroup>, Fault>> {
        let name = subscription.map(ToString::to_string);
        Box::pin(async move {
            let groups = self
                .store
                .look_async(move |conn| rows::groups(conn, name.as_deref()))
                .await;
            Ok(groups?)
        })
    }

    fn list<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        group: Option<&'a str>,
        after: Option<FailureId>,
        limit: u32,
    ) -> Fut<'a, Result<Vec<FailureRecord>, Fault>> {
        let group = group.map(ToOwned::to_owned);
        let whose = subscription.clone();
        Box::pin(async move {
            let page = self
                .look(subscription, move |conn, number| {
                    rows::list(conn, &whose, number, group.as_deref(), after, limit)
                })
                .await;
            Ok(page?)
        })
    }

    fn get<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<FailureRecord, Fault>> {
        let whose = subscription.clone();
        Box::pin(async move {
            let record = self
                .look(subscription, move |conn, number| {
                    rows::get(conn, &whose, number, id)
                })
                .await;
            Ok(record?)
        })
    }

    fn redrive<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        Box::pin(async move {
            let marked = self
                .change(subscription, which, reason, redrive::Change::Redrive)
                .await?;
            self.store.shared().failures_changed.wake(subscription);
            Ok(marked)
        })
    }

    fn discard<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        which: Selection,
        reason: Reason,
    ) -> Fut<'a, Result<u64, Fault>> {
        Box::pin(async move {
            let removed = self
                .change(subscription, which, reason, redrive::Change::Discard)
                .await;
            Ok(removed?)
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
        let whose = subscription.clone();
        let edit = edit::Edit {
            headers,
            body,
            reason,
        };
        Box::pin(async move {
            edit.check()?;
            let edited = self
                .store
                .exec(move |db| {
                    let number = rows::number_of(&db.conn, &whose.to_string())?;
                    edit::edit(db, &whose, number, id, &edit)
                })
                .await;
            Ok(edited?)
        })
    }

    fn original<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        id: FailureId,
    ) -> Fut<'a, Result<Option<Original>, Fault>> {
        let whose = subscription.clone();
        Box::pin(async move {
            let original = self
                .look(subscription, move |conn, number| {
                    edit::original(conn, &whose, number, id)
                })
                .await;
            Ok(original?)
        })
    }

    fn audit<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        limit: u32,
    ) -> Fut<'a, Result<Vec<AuditEntry>, Fault>> {
        Box::pin(async move {
            let entries = self
                .look(subscription, move |conn, number| {
                    rows::audit(conn, number, limit)
                })
                .await;
            Ok(entries?)
        })
    }

    fn claim<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        member: InstanceId,
        room: u32,
    ) -> Fut<'a, Result<Vec<Redriven>, Fault>> {
        Box::pin(async move { Ok(self.claim_some(subscription, member, room).await?) })
    }

    fn changed<'a>(&'a self, subscription: &'a SubscriptionId) -> Fut<'a, ()> {
        let waker = self.store.shared().failures_changed.of(subscription);
        Box::pin(async move { waker.notified().await })
    }

    fn finish<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        token: RedriveToken,
        outcome: RedriveOutcome,
    ) -> Fut<'a, Result<KeyState, FinishError>> {
        let whose = subscription.clone();
        Box::pin(async move {
            let (id, generation) = (token.id, token.generation);
            let ended = self
                .store
                .exec(move |db| {
                    redrive::finish(db, &whose, &RedriveToken { id, generation }, &outcome)
                })
                .await;
            let state = ended.map_err(|error: Error| FinishError {
                fault: error.into(),
                token,
            })?;
            self.store.shared().failures_changed.wake(subscription);
            Ok(state)
        })
    }

    fn release_claims<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        member: InstanceId,
    ) -> Fut<'a, Result<(), Fault>> {
        let name = subscription.to_string();
        Box::pin(async move {
            let look = name.clone();
            // Most members hold nothing, and that costs no commit.
            let any = self
                .store
                .peek(move |conn| rows::any_held(conn, &look))
                .await?;
            if any {
                let released = self
                    .store
                    .exec(move |db| redrive::release(db, &name, member))
                    .await;
                released.map_err(|error: Error| Fault::from(error))?;
                self.store.shared().failures_changed.wake(subscription);
            }
            Ok(())
        })
    }
}
