//! What can go wrong, and what the caller does about it.

use std::time::Duration;

use lapin::ErrorKind;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};

/// Why an engine could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL cannot be read. Its text is not repeated: it may hold a password.
    #[error("{code}: the URL of RabbitMQ cannot be read: {reason}", code = Code::URL_MALFORMED)]
    Url {
        /// What is wrong.
        reason: String,
    },
    /// An option is not one, or has no such value.
    #[error("{code}: {reason}", code = Code::URL_MALFORMED)]
    Options {
        /// Which, and what is allowed.
        reason: String,
    },
    /// The server could not be reached, or refused.
    #[error("{0}")]
    Connect(#[source] Fault),
    /// The server is not one that this engine was tested with.
    #[error("{code}: {location} is {found}, and RabbitMQ 4.0 or later is needed: upgrade the server", code = Code::PLAN_REFUSED)]
    Version {
        /// Where it is.
        location: String,
        /// What it says of itself.
        found: String,
    },
}

impl Error {
    /// The stable code: what `postrider explain` takes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Url { .. } | Self::Options { .. } => Code::URL_MALFORMED,
            Self::Connect(fault) => fault.code.unwrap_or(Code::ENGINE_FAILED),
            Self::Version { .. } => Code::PLAN_REFUSED,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = error.code();
        match error {
            Error::Connect(fault) => fault,
            other => {
                let text = other.to_string();
                let text = text.strip_prefix(&format!("{code}: ")).unwrap_or(&text);
                Fault::new(FaultKind::Config, Advice::FixConfig, text).code(code)
            }
        }
    }
}

/// What a call of the driver said, as a fault without effect. `what` was being done.
pub(crate) fn fault(what: &str, error: &lapin::Error) -> Fault {
    let (kind, advice) = match error.kind() {
        ErrorKind::ProtocolError(said) => refused(said),
        ErrorKind::AuthProviderError(_) => (FaultKind::Denied, Advice::FixConfig),
        ErrorKind::SerialisationError(_) => (FaultKind::Protocol, Advice::FixMessage),
        ErrorKind::ParsingError(_) => (FaultKind::Protocol, Advice::Reconnect),
        ErrorKind::ChannelsLimitReached => (FaultKind::Full, Advice::FixConfig),
        _ => (FaultKind::Unreachable, Advice::Reconnect),
    };
    let code = match kind {
        FaultKind::NotFound | FaultKind::Config => Code::TOPOLOGY_DIFFERS,
        FaultKind::TooLarge => Code::PUBLISH_TOO_LARGE,
        _ => Code::ENGINE_FAILED,
    };
    let text = match error.kind() {
        ErrorKind::ProtocolError(said) => format!("{what}: the server said {}", said.get_message()),
        _ => format!("{what}: {error}"),
    };
    Fault::new(kind, advice, text)
        .code(code)
        .because(error.clone())
}

fn refused(said: &AMQPError) -> (FaultKind, Advice) {
    use AMQPHardError as Hard;
    use AMQPSoftError as Soft;
    let soon = Advice::Retry {
        after: Duration::from_secs(1),
    };
    match said.kind() {
        AMQPErrorKind::Soft(Soft::NOTFOUND) => (FaultKind::NotFound, Advice::FixConfig),
        AMQPErrorKind::Soft(Soft::PRECONDITIONFAILED) => (FaultKind::Config, Advice::FixConfig),
        AMQPErrorKind::Soft(Soft::ACCESSREFUSED) => (FaultKind::Denied, Advice::FixConfig),
        AMQPErrorKind::Soft(Soft::CONTENTTOOLARGE) => (FaultKind::TooLarge, Advice::FixMessage),
        AMQPErrorKind::Soft(Soft::RESOURCELOCKED) => (FaultKind::Denied, soon),
        AMQPErrorKind::Soft(_) => (FaultKind::NoRoute, Advice::FixConfig),
        AMQPErrorKind::Hard(Hard::CONNECTIONFORCED | Hard::INTERNALERROR) => {
            (FaultKind::Unreachable, Advice::Reconnect)
        }
        AMQPErrorKind::Hard(Hard::RESOURCEERROR) => (FaultKind::Full, soon),
        AMQPErrorKind::Hard(Hard::NOTALLOWED | Hard::INVALIDPATH) => {
            (FaultKind::Denied, Advice::FixConfig)
        }
        AMQPErrorKind::Hard(_) => (FaultKind::Protocol, Advice::Reconnect),
    }
}

/// No answer within `wait`.
pub(crate) fn too_late(what: &str, wait: Duration) -> Fault {
    let text = format!("{what}: no answer in {wait:?}");
    Fault::new(FaultKind::Timeout, Advice::Reconnect, text).code(Code::ENGINE_FAILED)
}

pub(crate) fn closed() -> Fault {
    Fault::closed("the RabbitMQ engine")
}

/// A delivery whose channel is gone.
pub(crate) fn lease_lost() -> Fault {
    let text = "the channel on which this message was delivered is gone: the server hands the message out again";
    Fault::new(FaultKind::LeaseLost, Advice::Rebalance, text).code(Code::LEASE_LOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: AMQPErrorKind) -> Fault {
        let error: lapin::Error =
            ErrorKind::ProtocolError(AMQPError::new(kind, "because".into())).into();
        fault("declaring", &error)
    }

    #[test]
    fn what_the_server_says_becomes_what_to_do_next() {
        use AMQPErrorKind::{Hard, Soft};
        let cases = [
            (
                Soft(AMQPSoftError::NOTFOUND),
                FaultKind::NotFound,
                Advice::FixConfig,
            ),
            (
                Soft(AMQPSoftError::PRECONDITIONFAILED),
                FaultKind::Config,
                Advice::FixConfig,
            ),
            (
                Soft(AMQPSoftError::ACCESSREFUSED),
                FaultKind::Denied,
                Advice::FixConfig,
            ),
            (
                Hard(AMQPHardError::CONNECTIONFORCED),
                FaultKind::Unreachable,
                Advice::Reconnect,
            ),
            (
                Hard(AMQPHardError::FRAMEERROR),
                FaultKind::Protocol,
                Advice::Reconnect,
            ),
        ];
        for (kind, expected, advice) in cases {
            let fault = said(kind);
            assert_eq!((fault.kind, fault.advice), (expected, advice));
            assert!(fault.message.contains("because"), "{fault}");
        }
        let gone: lapin::Error = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        let fault = fault("publishing", &gone);
        assert_eq!(
            (fault.kind, fault.advice),
            (FaultKind::Unreachable, Advice::Reconnect)
        );
    }
}
