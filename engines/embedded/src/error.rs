//! What can go wrong, with the stable codes that a user meets.

use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_log::Error as LogError;

/// Why an engine could not be opened.
///
/// Where the directory is the reason ([`Error::Log`] with a code from 1001 to 1012), nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log said no.
    #[error("{}: {0}", code_of(.0))]
    Log(#[source] LogError),
    /// The options contradict themselves.
    #[error("{}: {reason}", Code::CONFIG_CONTRADICTS)]
    Options {
        /// Which, and what is allowed.
        reason: String,
    },
    /// The thread that writes could not be started.
    #[error("{}: the thread that writes the log could not be started: {0}", Code::LOG_IO)]
    Thread(#[source] std::io::Error),
}

impl Error {
    /// The stable code: what `postrider explain` takes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Log(error) => code_of(error),
            Self::Options { .. } => Code::CONFIG_CONTRADICTS,
            Self::Thread(_) => Code::LOG_IO,
        }
    }
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Log(error) => fault(error),
            other => Fault::new(FaultKind::Config, Advice::FixConfig, plain(&other)).code(other.code()),
        }
    }
}

/// The text without the code in front, which a fault prints by itself.
fn plain(error: &Error) -> String {
    let text = error.to_string();
    let code = format!("{}: ", error.code());
    text.strip_prefix(&code).map_or(text.clone(), str::to_owned)
}

/// The stable code of what the log said.
pub(crate) fn code_of(error: &LogError) -> Code {
    match error {
        LogError::Locked { .. } => Code::DIR_LOCKED,
        LogError::NotOurs { .. } => Code::DIR_NOT_OURS,
        LogError::NotADirectory { .. } => Code::DIR_IS_A_FILE,
        LogError::ReadOnly { .. } => Code::DIR_NOT_WRITABLE,
        LogError::NewerVersion { .. } | LogError::Unsupported { .. } => Code::DIR_NEWER,
        LogError::CorruptManifest { .. } => Code::MANIFEST_CORRUPT,
        LogError::CorruptCheckpoint { .. } => Code::CHECKPOINT_CORRUPT,
        LogError::CorruptSegment { .. }
        | LogError::Corrupt { .. }
        | LogError::CorruptEntry { .. }
        | LogError::Replay { .. } => Code::LOG_CORRUPT,
        LogError::Poisoned { .. } | LogError::Closed => Code::LOG_POISONED,
        LogError::Full { .. } => Code::DISK_FULL,
        LogError::Overloaded { .. } => Code::PUBLISH_OVERLOADED,
        LogError::FrameTooLarge { .. } => Code::PUBLISH_TOO_LARGE,
        LogError::Options { .. } => Code::CONFIG_CONTRADICTS,
        _ => Code::LOG_IO,
    }
}
