//! A transaction of one delivery.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_core::fault::HandlerError;
use postrider_core::store::{self, CommitFailure, TxStore, Work};

use crate::context::Context;
use crate::delivery::Ending;
use crate::effect::{Effects, seal_effects};

/// The transaction of one delivery: it derefs to the store's connection. Inbox row, writes and outgoing messages are one commit; an error
/// or a panic undoes all of it. A handler that takes it is a plain `fn`: nobody awaits inside a transaction.
pub struct Tx<'c, S: TxStore> {
    conn: &'c mut S::Conn,
}

impl<'c, S: TxStore> Tx<'c, S> {
    /// A transaction over this connection: for calling a handler as a plain function in a test.
    pub fn over(conn: &'c mut S::Conn) -> Self {
        Self { conn }
    }
}

impl<S: TxStore> Deref for Tx<'_, S> {
    type Target = S::Conn;
    fn deref(&self) -> &S::Conn {
        self.conn
    }
}

impl<S: TxStore> DerefMut for Tx<'_, S> {
    fn deref_mut(&mut self) -> &mut S::Conn {
        self.conn
    }
}

/// Runs one commit of one delivery. `work` MAY run more than once.
///
/// A panic of `work` does not reach the store's thread: it is carried over and goes on here, where the driver catches it.
pub(crate) async fn in_store<S, F>(store: &Arc<S>, context: &Context, mut work: F) -> Ending
where
    S: TxStore,
    F: FnMut(&mut S::Conn) -> Result<Effects, HandlerError> + Send + 'static,
{
    let panicked: Arc<Mutex<Option<Box<dyn Any + Send>>>> = Arc::default();
    let note = panicked.clone();
    let within = context.clone();
    let trace = crate::telemetry::current();
    let unit: Work<S::Conn> = Box::new(move |conn| {
        let run = catch_unwind(AssertUnwindSafe(|| {
            let drafts = work(conn)?.into_drafts();
            let drafts = drafts.map_err(|e| HandlerError::Permanent(e.into()))?;
            seal_effects(drafts, &within.delivery, within.host.bus.source(), trace)
                .map_err(|e| HandlerError::Permanent(e.into()))
        }));
        run.unwrap_or_else(|panic| {
            *note.lock() = Some(panic);
            Err(HandlerError::Transient("the handler panicked".into()))
        })
    });
    let result = store.transact(context.unit(), unit).await;
    let panic = panicked.lock().take();
    if let (Some(panic), Err(CommitFailure::Handler(_))) = (panic, &result) {
        resume_unwind(panic);
    }
    ending_of(result)
}

pub(crate) fn ending_of(result: Result<store::Committed, CommitFailure>) -> Ending {
    match result {
        Ok(store::Committed::Applied { .. }) => Ending::Committed,
        Ok(store::Committed::Duplicate) => Ending::Duplicate,
        Err(CommitFailure::Handler(error)) => Ending::Failed(error),
        Err(CommitFailure::Conflict) => Ending::Conflict,
        Err(CommitFailure::Fenced) => Ending::Fenced,
        Err(CommitFailure::Store(fault)) => Ending::StoreFault(fault),
    }
}
