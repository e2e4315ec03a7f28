//! One unit of work inside its savepoint: inbox row, the handler's writes, outgoing messages, the fence, in this order.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use postrider_core::envelope::Outgoing;
use postrider_core::fault::HandlerError;
use postrider_core::planted::{self, Plant};
use postrider_core::store::{CommitFailure, Committed, Seen, Unit, Work};
use rusqlite::Connection;

use crate::db::Db;
use crate::error::{Error, store_is_to_blame};
use crate::{inbox, outbox};

/// What a handler's panic becomes: transient, and its text begins with `handler panicked: `.
#[derive(Debug, thiserror::Error)]
#[error("handler panicked: {0}")]
pub struct HandlerPanicked(String);

/// Runs a delivery's unit. On `Err` the caller rolls the savepoint back.
pub(crate) fn run_delivery(
    db: &mut Db,
    unit: &Unit,
    work: &mut Work<Connection>,
) -> Result<Committed, CommitFailure> {
    if unit.fence.is_broken() {
        return Err(CommitFailure::Fenced);
    }
    match inbox::insert(db, &unit.inbox)? {
        Seen::New => {}
        Seen::Done => return Ok(Committed::Duplicate),
        Seen::Conflict => return Err(CommitFailure::Conflict),
    }
    let outgoing = run_write(db, work)?;
    if planted::is(Plant::InboxForgotten) && outgoing > 0 {
        inbox::forget(db, &unit.inbox)?;
    }
    // ORDER: last of all. A handler that outlived its lease has run, and none of it is kept.
    if unit.fence.is_broken() && !planted::is(Plant::FenceUnchecked) {
        return Err(CommitFailure::Fenced);
    }
    Ok(Committed::Applied { outgoing })
}

/// Runs a write that belongs to no delivery, and puts its messages into the outbox.
pub(crate) fn run_write(db: &mut Db, work: &mut Work<Connection>) -> Result<u32, CommitFailure> {
    let messages = run_work(db, work)?;
    outbox::insert(db, messages)
}

fn run_work(db: &mut Db, work: &mut Work<Connection>) -> Result<Vec<Outgoing>, CommitFailure> {
    let guard = db.guard.clone();
    let conn = &mut db.conn;
    let (result, refused) = guard.watch(|| catch_unwind(AssertUnwindSafe(|| work(conn))));
    if refused || db.conn.is_autocommit() && !matches!(result, Ok(Err(_))) {
        return Err(CommitFailure::Handler(HandlerError::Permanent(
            Error::TransactionEnded.into(),
        )));
    }
    match result {
        Ok(Ok(messages)) => Ok(messages),
        Ok(Err(error)) => Err(store_is_to_blame(&error)
            .map_or_else(|| CommitFailure::Handler(error), CommitFailure::Store)),
        Err(panic) => {
            let panicked = HandlerPanicked(panic_text(&*panic));
            tracing::error!(error = %panicked, "a transactional handler panicked; its writes are rolled back");
            Err(CommitFailure::Handler(HandlerError::Transient(
                panicked.into(),
            )))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a text".to_owned())
}
