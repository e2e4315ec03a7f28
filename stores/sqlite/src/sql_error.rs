//! What a failed statement means for the delivery, so that a handler may end with `?`.

use postrider_core::fault::{HandlerError, ToOutcome};
use rusqlite::ErrorCode;

/// A failed statement of a handler, which says by itself what it means for the delivery.
///
/// | what SQLite said | outcome |
/// |---|---|
/// | busy, locked, interrupted, out of memory, disk full, I/O | transient: retried by the policy |
/// | all else: a constraint, wrong SQL, a wrong type, no row | permanent: the same statement fails again |
///
/// A handler for which "no row" or a broken constraint is a business answer uses an error type of its own with `#[derive(Fault)]`.
#[derive(Debug, thiserror::Error)]
#[error("a statement failed: {0}")]
pub struct SqlError(#[from] rusqlite::Error);

impl SqlError {
    /// What SQLite said.
    #[must_use]
    pub const fn inner(&self) -> &rusqlite::Error {
        &self.0
    }

    fn may_pass(&self) -> bool {
        matches!(
            self.0.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::OutOfMemory
                    | ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
            )
        )
    }
}

impl ToOutcome for SqlError {
    fn to_outcome(self) -> HandlerError {
        if self.may_pass() {
            HandlerError::Transient(self.into())
        } else {
            HandlerError::Permanent(self.into())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(code: i32) -> HandlerError {
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        SqlError::from(error).to_outcome()
    }

    #[test]
    fn what_may_pass_is_retried_and_what_fails_again_is_not() {
        for code in [rusqlite::ffi::SQLITE_BUSY, rusqlite::ffi::SQLITE_FULL] {
            assert!(matches!(of(code), HandlerError::Transient(_)), "{code}");
        }
        for code in [
            rusqlite::ffi::SQLITE_CONSTRAINT,
            rusqlite::ffi::SQLITE_ERROR,
        ] {
            assert!(matches!(of(code), HandlerError::Permanent(_)), "{code}");
        }
        let no_row = SqlError::from(rusqlite::Error::QueryReturnedNoRows);
        assert!(matches!(no_row.to_outcome(), HandlerError::Permanent(_)));
    }
}
