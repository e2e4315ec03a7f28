//! What can go wrong, with its code, and what the caller does next.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind, HandlerError};
use postrider_core::store::CommitFailure;
use rusqlite::ErrorCode;

/// Why the store could not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another `Sqlite` of this process, holds the database.
    #[error(
        "{} is held by {holder}; stop it, or clone the `Sqlite` that is open in this process",
        path.display()
    )]
    Locked {
        /// The database.
        path: PathBuf,
        /// Who holds it, as far as the lock file says.
        holder: String,
    },
    /// The tables were written by a newer program.
    #[error("{} was written by a newer version: {what}; run a version at least as new", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// What is newer.
        what: String,
    },
    /// The database does not keep what it confirmed.
    #[error("{} would lose commits that were acknowledged: {what}", path.display())]
    NotDurable {
        /// The database.
        path: PathBuf,
        /// Which setting did not take.
        what: String,
    },
    /// The path is not a database that can be opened. Nothing was touched.
    #[error("{} cannot be opened: {why}", path.display())]
    NotUsable {
        /// The path.
        path: PathBuf,
        /// What is there instead, and what to do.
        why: String,
        /// What the operating system said.
        source: Option<Arc<io::Error>>,
    },
    /// The database file is damaged. It was not repaired and not written to.
    #[error("{} is damaged ({source}); keep the file, copy it, restore from a backup", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// A stored row of ours cannot be read.
    #[error("row {number} of {table} cannot be read: {why}")]
    Row {
        /// The table.
        table: &'static str,
        /// The row.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A migration of the user's tables did not work. None of its statements took effect.
    #[error("migration {number} of the service's tables: {why}")]
    Migration {
        /// Its number, from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// SQLite refused a statement.
    #[error("SQLite failed to {doing}: {source}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// A statement of the handler ended the transaction that it ran in.
    #[error(
        "a statement ended the transaction it ran in; the store commits, so write no BEGIN, COMMIT or ROLLBACK and no `OR ROLLBACK`"
    )]
    TransactionEnded,
    /// No subscription of that name ever used this store.
    #[error("no subscription `{0}` is known to this store")]
    UnknownSubscription(String),
    /// No such failure record.
    #[error("subscription `{subscription}` has no failure record {id}")]
    NoSuchFailure {
        /// The subscription.
        subscription: String,
        /// The record.
        id: u64,
    },
    /// The record is on its way back to the handler: what the handler gets must not change under it.
    #[error(
        "failure {id} of {subscription} is on its way back to the handler: edit it when it has failed again"
    )]
    OnItsWay {
        /// The subscription.
        subscription: String,
        /// The record.
        id: u64,
    },
    /// An edited message is too large.
    #[error(
        "the edited message has {bytes} bytes, at most {max} are taken: publish it anew and discard the failure"
    )]
    EditTooLarge {
        /// Its headers and body, in bytes.
        bytes: usize,
        /// The most, in bytes.
        max: usize,
    },
    /// The key is not parked any more, so nothing follows it.
    #[error("the key is not parked any more; handle its messages")]
    NotParked,
    /// The claim on a failure record belongs to another, or ended.
    #[error("the claim on failure record {0} belongs to another")]
    ClaimLost(u64),
    /// The removal of outbox rows was not committed. They stay.
    #[error("published messages could not be removed from the outbox; try again")]
    NotRemoved,
    /// The thread that writes is gone.
    #[error("the store's writer thread ended; open the database again")]
    WriterGone,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    pub(crate) fn sqlite(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Sqlite {
            doing,
            source: Arc::new(source),
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Locked { .. } => Code::STORE_LOCKED,
            Self::Newer { .. } => Code::STORE_NEWER,
            Self::NotDurable { .. } => Code::STORE_NOT_DURABLE,
            Self::OnItsWay { .. } => Code::CLI_CONFLICT,
            Self::EditTooLarge { .. } => Code::PUBLISH_TOO_LARGE,
            _ => Code::STORE_FAILED,
        }
    }

    fn sqlite_code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite { source, .. } | Self::Damaged { source, .. } => {
                source.sqlite_error_code()
            }
            _ => None,
        }
    }

    fn kind_and_advice(&self) -> (FaultKind, Advice) {
        let retry = |ms| Advice::Retry {
            after: Duration::from_millis(ms),
        };
        match self {
            Self::Locked { .. } | Self::NotUsable { .. } => (FaultKind::Denied, Advice::FixConfig),
            Self::Newer { .. } | Self::NotDurable { .. } | Self::Migration { .. } => {
                (FaultKind::Config, Advice::FixConfig)
            }
            Self::Damaged { .. } | Self::Row { .. } => (FaultKind::Corrupt, Advice::StopOwner),
            Self::TransactionEnded => (FaultKind::Conflict, Advice::FixConfig),
            Self::UnknownSubscription(_) | Self::NoSuchFailure { .. } => {
                (FaultKind::NotFound, Advice::FixConfig)
            }
            Self::OnItsWay { .. } => (FaultKind::Conflict, Advice::FixMessage),
            Self::EditTooLarge { .. } => (FaultKind::TooLarge, Advice::FixMessage),
            Self::NotParked => (FaultKind::NotParked, Advice::FixMessage),
            Self::NotRemoved => (FaultKind::Unreachable, retry(1_000)),
            Self::ClaimLost(_) => (FaultKind::LeaseLost, Advice::Rebalance),
            Self::WriterGone | Self::Closed => (FaultKind::Closed, Advice::StopOwner),
            Self::Sqlite { .. } => match self.sqlite_code() {
                Some(ErrorCode::DiskFull) => (FaultKind::Full, retry(1_000)),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                    (FaultKind::Timeout, retry(100))
                }
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    (FaultKind::Corrupt, Advice::StopOwner)
                }
                Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                    (FaultKind::Denied, Advice::FixConfig)
                }
                _ => (FaultKind::Unreachable, retry(1_000)),
            },
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let (kind, advice) = error.kind_and_advice();
        let fault = Fault::new(kind, advice, error.to_string()).code(error.code());
        // DURABILITY: when the sync of a commit fails, its frames are in the WAL and a crash right now might bring them back.
        let maybe_written = matches!(
            &error,
            Error::Sqlite {
                doing: "commit",
                ..
            }
        ) && error.sqlite_code() == Some(ErrorCode::SystemIoFailure);
        let fault = if maybe_written || matches!(error, Error::WriterGone) {
            fault.unknown_effect()
        } else {
            fault
        };
        fault.because(error)
    }
}

impl From<Error> for CommitFailure {
    fn from(error: Error) -> Self {
        match &error {
            Error::TransactionEnded => Self::Handler(HandlerError::Permanent(error.into())),
            // A deferred constraint is looked at by COMMIT itself: the handler's writes broke it, not the store.
            Error::Sqlite {
                doing: "commit", ..
            } if error.sqlite_code() == Some(ErrorCode::ConstraintViolation) => {
                Self::Handler(HandlerError::Transient(error.into()))
            }
            _ => Self::Store(error.into()),
        }
    }
}

/// What the database itself did wrong, if that is what is behind a handler's error: no attempt is burned for a full disk.
pub(crate) fn store_is_to_blame(error: &HandlerError) -> Option<Fault> {
    if matches!(error, HandlerError::Stop(_) | HandlerError::Unavailable(..)) {
        return None;
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&**error.source_error());
    while let Some(error) = next {
        let code = error
            .downcast_ref::<rusqlite::Error>()
            .and_then(rusqlite::Error::sqlite_error_code);
        if code.is_some_and(is_environment) {
            let fault = Fault::new(
                FaultKind::Unreachable,
                Advice::Retry {
                    after: Duration::from_secs(1),
                },
                format!("SQLite failed in a handler's statement: {error}"),
            );
            return Some(fault.code(Code::STORE_FAILED));
        }
        next = error.source();
    }
    None
}

fn is_environment(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen
    )
}
