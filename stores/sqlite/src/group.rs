//! Group commit: one transaction and one sync for whoever is ready, a savepoint each.
//!
//! If a job fails, its savepoint is rolled back and the others go on. If the commit fails, or a statement ends the transaction under
//! everyone, each job runs once more in a transaction of its own, so that the one to blame is found and nobody else pays for it.

use std::time::{Duration, Instant};

use crate::db::Db;
use crate::error::Error;
use crate::outbox;

// The marks keep these texts apart from any that a handler prepares: a cached statement is not looked at by the guard again.
const BEGIN: &str = "BEGIN IMMEDIATE /* postrider */";
const COMMIT: &str = "COMMIT /* postrider */";
const ROLLBACK: &str = "ROLLBACK /* postrider */";
const SET_SAVEPOINT: &str = "SAVEPOINT postrider_unit /* postrider */";
const ROLL_BACK_TO: &str = "ROLLBACK TO postrider_unit /* postrider */";
const RELEASE: &str = "RELEASE postrider_unit /* postrider */";

/// What a job wants done with its savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// Keep it.
    Keep,
    /// Roll it back; the job knows its result.
    Undo,
}

/// Something that runs in a savepoint of its own.
pub(crate) trait Job: Send {
    /// Whether somebody still waits for it.
    fn wanted(&self) -> bool;
    /// Runs it; MAY be called again after a rollback. MUST NOT panic.
    fn run(&mut self, db: &mut Db) -> Ran;
    /// Tells the result of the last run; `Err`: the store failed after it.
    fn settle(self: Box<Self>, end: Result<(), Error>);
}

/// A job of any kind.
pub(crate) type BoxJob = Box<dyn Job>;

/// The bounds of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) jobs: usize,
    pub(crate) time: Duration,
}

/// Runs a group: takes jobs from `next` until it has none or a bound is reached, commits, then tells each its result.
/// `removals` ride along; they are taken out when they are committed.
pub(crate) fn run_group(
    db: &mut Db,
    bounds: Bounds,
    removals: &mut Vec<u64>,
    mut next: impl FnMut() -> Option<BoxJob>,
) {
    let mut batch = Vec::new();
    let began = Instant::now();
    if let Err(error) = begin(db) {
        // Whoever waits already is told now: each would only wait for the same lock again. Who comes after the first of them was told is not one of them.
        let waiting: Vec<BoxJob> = std::iter::from_fn(next).collect();
        for job in waiting {
            job.settle(Err(error.clone()));
        }
        return;
    }
    let mut failure = None;
    while failure.is_none() && batch.len() < bounds.jobs {
        if !batch.is_empty() && began.elapsed() >= bounds.time {
            break;
        }
        let Some(mut job) = next() else { break };
        // CANCEL: a unit whose future was dropped before it began is not run.
        if !job.wanted() {
            continue;
        }
        failure = in_savepoint(db, &mut *job).err();
        batch.push(job);
    }
    let failure = failure.map_or_else(|| finish(db, removals), Err);
    match failure {
        Ok(()) => batch.into_iter().for_each(|job| job.settle(Ok(()))),
        Err(error) => {
            tracing::warn!(%error, jobs = batch.len(), "a group commit failed; each of its jobs runs again alone");
            roll_back(db);
            for job in batch {
                run_alone(db, job);
            }
        }
    }
}

/// Runs a job in a transaction of its own.
fn run_alone(db: &mut Db, mut job: BoxJob) {
    let end = match begin(db) {
        Err(error) => Err(error),
        Ok(()) => {
            let mut ran = Ran::Undo;
            let kept = savepoint(db, &mut *job, &mut ran);
            match (kept, ran) {
                (Ok(()), Ran::Keep) => commit(db),
                // It knows why it failed, and nothing of it is kept, whatever became of the transaction.
                (_, Ran::Undo) => Ok(()),
                (Err(error), Ran::Keep) => Err(error),
            }
        }
    };
    roll_back(db);
    job.settle(end);
}

fn in_savepoint(db: &mut Db, job: &mut dyn Job) -> Result<(), Error> {
    savepoint(db, job, &mut Ran::Undo)
}

/// Runs a job in a savepoint. `Err`: the transaction is not what it was, and everything in it is lost.
fn savepoint(db: &mut Db, job: &mut dyn Job, ran: &mut Ran) -> Result<(), Error> {
    db.run("set a savepoint", SET_SAVEPOINT)?;
    let (numbers, added) = (db.known_numbers(), db.outbox_added.len());
    let parked = db.parked_changes.len();
    *ran = job.run(db);
    if db.conn.is_autocommit() {
        return Err(Error::TransactionEnded);
    }
    if *ran == Ran::Undo {
        db.run("roll back", ROLL_BACK_TO)?;
        db.outbox_added.truncate(added);
        db.parked_changes.truncate(parked);
        if db.known_numbers() != numbers {
            db.forget_numbers();
        }
    }
    db.run("release a savepoint", RELEASE)
}

fn begin(db: &mut Db) -> Result<(), Error> {
    db.outbox_added.clear();
    db.parked_changes.clear();
    db.run("begin", BEGIN)
}

/// What rides along, then the commit.
fn finish(db: &mut Db, removals: &mut Vec<u64>) -> Result<(), Error> {
    let removed = if removals.is_empty() {
        0
    } else {
        outbox::remove(&db.conn, removals)?
    };
    db.hand.advance(&db.conn)?;
    commit(db)?;
    db.shared.outbox_removed(removals, removed);
    removals.clear();
    Ok(())
}

fn commit(db: &mut Db) -> Result<(), Error> {
    if db.shared.commit_is_to_fail() {
        return Err(Error::sqlite("commit")(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
            Some("injected".to_owned()),
        )));
    }
    // DURABILITY: WAL with synchronous=FULL; the sync is in here.
    db.run("commit", COMMIT)?;
    db.shared.outbox_added(&mut db.outbox_added);
    // ORDER: before anybody is told of the commit.
    db.shared.parked.apply(&mut db.parked_changes);
    Ok(())
}

fn roll_back(db: &mut Db) {
    if db.conn.is_autocommit() {
        return reset(db);
    }
    if let Err(error) = db.run("roll back", ROLLBACK) {
        tracing::error!(%error, "a rollback failed");
    }
    reset(db);
}

fn reset(db: &mut Db) {
    db.outbox_added.clear();
    db.parked_changes.clear();
    db.forget_numbers();
    db.hand.reset();
}

#[cfg(test)]
mod tests;
