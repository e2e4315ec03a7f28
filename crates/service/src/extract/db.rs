//! The store in the hands of an async handler: call the outside world first, then commit once.

use std::any::TypeId;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_core::fault::{Fault, HandlerError, ToOutcome};
use postrider_core::store::{ReadFailure, Seen, TxStore};
use postrider_core::{BoxError, Fut};

use super::{Context, FromDelivery, Registry, Tx, in_store};
use crate::delivery::Ending;
use crate::effect::IntoOutcome;
use crate::error::Result;

/// The service's store, for an async handler that calls the outside world first and ends with [`Db::commit`].
///
/// A message that the inbox knows skips the handler before it is called. Between that look and the commit a crash makes the handler run
/// again: what it asks of the outside world must carry an idempotency key from business identity.
///
/// ```text
/// async fn charge(order: OrderPlaced, State(bank): State<Bank>, db: Db<Sqlite>) -> Result<Committed, ChargeError> {
///     let receipt = bank.charge(&format!("charge:{}", order.order_id), order.cents).await?;
///     Ok(db.commit(move |tx| {
///         tx.execute("INSERT INTO payment …", …)?;
///         Ok::<_, ChargeError>(Publish(PaymentCharged { .. }))
///     }).await)
/// }
/// ```
pub struct Db<S: TxStore> {
    store: Arc<S>,
    context: Context,
}

/// Proof that a delivery's commit was tried: what a handler that takes [`Db`] returns, so that a forgotten commit does not compile. Only
/// [`Db::commit`] makes one. Whether the commit happened, was a duplicate or failed is inside, for the framework to act on.
#[must_use = "return it from the handler"]
#[derive(Debug)]
pub struct Committed(pub(crate) Ending);

impl Committed {
    /// Whether the effects are in the store now, by this commit or by an earlier one of the same message.
    #[must_use]
    pub fn is_in_store(&self) -> bool {
        matches!(self.0, Ending::Committed | Ending::Duplicate)
    }
}

impl<S: TxStore> Db<S> {
    /// Commits the delivery: inbox row, the closure's writes, the messages that it returns. The last thing that a handler does.
    ///
    /// The closure MAY run more than once (a group of commits that failed as a whole runs again) and must not wait for anything. If the
    /// message was handled meanwhile, it is not run. At return the outcome is durable, as the store's level says.
    ///
    /// Cancel safety: a dropped commit happened wholly or not at all; the redelivery finds out.
    pub async fn commit<R, F>(self, mut work: F) -> Committed
    where
        R: IntoOutcome,
        F: for<'a, 'c> FnMut(&'a mut Tx<'c, S>) -> R + Send + 'static,
    {
        let run = move |conn: &mut S::Conn| work(&mut Tx::over(conn)).into_outcome();
        Committed(in_store(&self.store, &self.context, run).await)
    }

    /// Ends the delivery without effects of its own: the inbox row alone is committed.
    pub async fn done(self) -> Committed {
        self.commit(|_| ()).await
    }

    /// Reads what is committed, before the outside world is called. It costs no commit and does not wait for the store's writer; the store
    /// refuses what would change something. What it saw may be old by the time of [`Db::commit`]: what must hold is checked there again.
    ///
    /// ```text
    /// let known = db.read(move |db| db.query_row("SELECT …", [&id], |row| row.get(0))).await?;
    /// ```
    ///
    /// Cancel safe. A panic of the closure is a panic of the handler.
    ///
    /// # Errors
    /// The closure's own; a store that fails is `Unavailable`.
    pub async fn read<T, E, F>(&self, look: F) -> Result<T, HandlerError>
    where
        T: std::marker::Send + 'static,
        E: ToOutcome,
        F: FnOnce(&S::Conn) -> Result<T, E> + Send + 'static,
    {
        let slot: Arc<Mutex<Option<std::thread::Result<T>>>> = Arc::default();
        let put = slot.clone();
        let result = self.store.read(Box::new(move |conn| {
            // A panic does not reach the store's thread: it goes on below, where the driver catches it.
            let looked = catch_unwind(AssertUnwindSafe(|| look(conn)));
            let value = looked.map(|r| r.map_err(ToOutcome::to_outcome));
            *put.lock() = Some(match value {
                Ok(value) => Ok(value?),
                Err(panic) => Err(panic),
            });
            Ok(())
        }));
        match result.await {
            Ok(()) => match slot.lock().take() {
                Some(Ok(value)) => Ok(value),
                Some(Err(panic)) => resume_unwind(panic),
                None => Err(HandlerError::Transient(BoxError::from(
                    "the store did not run the read",
                ))),
            },
            Err(ReadFailure::Handler(error)) => Err(error),
            Err(ReadFailure::Store(fault)) => Err(unavailable(fault)),
        }
    }

    /// Whether the inbox knows the message by now. The framework has looked before it called the handler; ask again after a long wait.
    ///
    /// # Errors
    /// The store failed: `Unavailable`.
    pub async fn seen(&self) -> Result<bool, HandlerError> {
        let entry = self.context.inbox_entry();
        let seen = self.store.seen(&entry).await.map_err(unavailable)?;
        Ok(seen != Seen::New)
    }
}

fn unavailable(fault: Fault) -> HandlerError {
    HandlerError::Unavailable(
        postrider_core::fault::Dependency::new("store"),
        fault.into(),
    )
}

impl<S: TxStore> FromDelivery for Db<S> {
    fn store() -> Option<TypeId> {
        Some(TypeId::of::<S>())
    }

    fn check(registry: &Registry) -> Result {
        registry.require_store::<S>().map(drop)
    }

    fn from_delivery(context: &Context) -> Result<Self, HandlerError> {
        let store = context.registry().require_store::<S>();
        Ok(Self {
            store: store.map_err(|e| HandlerError::Stop(e.into()))?,
            context: context.clone(),
        })
    }

    fn seen(context: &Context) -> Option<Fut<'_, Result<Seen, Fault>>> {
        let store = context.registry().store::<S>()?;
        Some(Box::pin(async move {
            let entry = context.inbox_entry();
            store.seen(&entry).await
        }))
    }
}
