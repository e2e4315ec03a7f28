//! What can go wrong, with the stable codes that a user meets.

use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_log::Error as LogError;

use crate::waiters::Ended;

/// Why an engine could not be opened.
///
/// Where the directory is the reason ([`Error::Log`] with a code from 1001 to 1012), nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log said no.
    #[error("{code}: {0}", code = code_of(.0))]
    Log(#[source] LogError),
    /// The options contradict themselves.
    #[error("{code}: {reason}", code = Code::CONFIG_CONTRADICTS)]
    Options {
        /// Which, and what is allowed.
        reason: String,
    },
    /// The thread that writes could not be started.
    #[error("{code}: the thread that writes the log could not be started: {0}", code = Code::LOG_IO)]
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
            Error::Log(error) => fault(&error),
            other => {
                Fault::new(FaultKind::Config, Advice::FixConfig, plain(&other)).code(other.code())
            }
        }
    }
}

/// The text without the code in front, which a fault prints by itself.
fn plain(error: &Error) -> String {
    let text = error.to_string();
    let code = format!("{}: ", error.code());
    text.strip_prefix(&code)
        .map_or_else(|| text.clone(), str::to_owned)
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
        | LogError::Malformed { .. }
        | LogError::UnknownSegment { .. }
        | LogError::Replay { .. } => Code::LOG_CORRUPT,
        LogError::Poisoned { .. } | LogError::Closed => Code::LOG_POISONED,
        error if error.is_no_space() => Code::DISK_FULL,
        LogError::Overloaded { .. } => Code::PUBLISH_OVERLOADED,
        LogError::FrameTooLarge { .. } | LogError::TooLarge { .. } => Code::PUBLISH_TOO_LARGE,
        LogError::Conflict { .. } => Code::PUBLISH_CONFLICT,
        LogError::Invalid { .. } | LogError::Name { .. } => Code::PUBLISH_BAD_ENVELOPE,
        LogError::LeaseLost { .. } => Code::LEASE_LOST,
        LogError::Fenced { .. } => Code::FENCED,
        LogError::UnknownStream { .. } | LogError::UnknownSubscription { .. } => {
            Code::TOPOLOGY_DIFFERS
        }
        LogError::UnknownFailure { .. } => Code::ADMIN_NOT_FOUND,
        LogError::NotParked { .. } => Code::KEY_BLOCKED_TOO_LONG,
        LogError::Options { .. } => Code::CONFIG_CONTRADICTS,
        _ => Code::LOG_IO,
    }
}

/// How long a publisher waits before it tries a full disk again.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// What the caller of the engine does about what the log said.
pub(crate) fn fault(error: &LogError) -> Fault {
    use FaultKind as K;
    let soon = Advice::Retry {
        after: Duration::from_millis(10),
    };
    let (kind, advice) = match error {
        LogError::Locked { .. }
        | LogError::NotOurs { .. }
        | LogError::NotADirectory { .. }
        | LogError::ReadOnly { .. } => (K::Denied, Advice::FixConfig),
        LogError::NewerVersion { .. } | LogError::Unsupported { .. } | LogError::Options { .. } => {
            (K::Config, Advice::FixConfig)
        }
        LogError::CorruptManifest { .. }
        | LogError::CorruptCheckpoint { .. }
        | LogError::CorruptSegment { .. }
        | LogError::Corrupt { .. }
        | LogError::CorruptEntry { .. }
        | LogError::Malformed { .. }
        | LogError::UnknownSegment { .. }
        | LogError::Replay { .. } => (K::Corrupt, Advice::StopOwner),
        LogError::Poisoned { .. } | LogError::Closed => (K::Closed, Advice::StopOwner),
        error if error.is_no_space() => (K::Full, Advice::Retry { after: FULL_RETRY }),
        LogError::Overloaded { .. } => (K::Throttled, soon),
        LogError::FrameTooLarge { .. } | LogError::TooLarge { .. } => {
            (K::TooLarge, Advice::FixMessage)
        }
        LogError::Conflict { .. } => (K::Conflict, Advice::Rebalance),
        LogError::LeaseLost { .. } => (K::LeaseLost, Advice::Rebalance),
        LogError::Fenced { .. } => (K::Fenced, Advice::StopOwner),
        LogError::NotParked { .. } => (K::NotParked, Advice::Rebalance),
        LogError::UnknownStream { .. } | LogError::UnknownSubscription { .. } => {
            (K::NotFound, Advice::FixConfig)
        }
        LogError::UnknownFailure { .. } => (K::NotFound, Advice::FixMessage),
        LogError::Invalid { .. } | LogError::Name { .. } | LogError::Refused { .. } => {
            (K::Config, Advice::FixMessage)
        }
        _ => (K::Denied, Advice::StopOwner),
    };
    Fault::new(kind, advice, error.to_string()).code(code_of(error))
}

impl Ended {
    /// What every call says from now on.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Closed => Fault::closed("the embedded engine"),
            Self::Poisoned(reason) => {
                let text = format!(
                    "the log stopped after a failure ({reason}), and nothing after it is confirmed: look at the disk, then start again"
                );
                Fault::new(FaultKind::Closed, Advice::StopOwner, text).code(Code::LOG_POISONED)
            }
        }
    }
}
