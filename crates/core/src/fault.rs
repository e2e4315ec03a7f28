//! Errors that answer what the caller does next.

use std::fmt;
use std::time::Duration;

use crate::BoxError;
use crate::capability::Capability;
use crate::code::Code;

/// What went wrong in an engine or a store, whether it may have taken effect, and what to do next.
#[derive(Debug)]
pub struct Fault {
    /// What kind of thing went wrong.
    pub kind: FaultKind,
    /// Whether the operation may have taken effect: the question every caller must answer before it tries again.
    pub effect: Effect,
    /// What the caller does next.
    pub advice: Advice,
    /// The stable code, where a user can meet this.
    pub code: Option<Code>,
    /// One sentence: what, why, what to do. Lower case, no full stop.
    pub message: String,
    /// What lies underneath.
    pub source: Option<BoxError>,
}

/// Whether an operation that failed may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It did not.
    NotApplied,
    /// Nobody knows. Repeating it with the same message id is always safe.
    Unknown,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Try again after at least this long.
    Retry {
        /// How long to wait first.
        after: Duration,
    },
    /// Open the connection again, then try again.
    Reconnect,
    /// The ownership moved: take the next assignment.
    Rebalance,
    /// The message itself is wrong; trying again cannot help.
    FixMessage,
    /// The configuration or the topology is wrong; a person must act.
    FixConfig,
    /// Stop: nothing more can be promised by this owner.
    StopOwner,
}

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The other side cannot be reached.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The other side asks for less.
    Throttled,
    /// Nobody would receive it.
    NoRoute,
    /// Over a size limit.
    TooLarge,
    /// No room left.
    Full,
    /// Not allowed.
    Denied,
    /// No such thing.
    NotFound,
    /// The expected version or state is not there.
    Conflict,
    /// A newer owner took over.
    Fenced,
    /// The lease ran out.
    LeaseLost,
    /// A key is not parked (any more), so nothing can be appended behind it.
    NotParked,
    /// The engine lacks this.
    Unsupported(Capability),
    /// The other side broke its protocol.
    Protocol,
    /// Stored bytes are damaged.
    Corrupt,
    /// Data that should be there was removed.
    DataLoss,
    /// Wrong configuration.
    Config,
    /// It was closed.
    Closed,
}

impl Fault {
    /// A fault without effect.
    #[must_use]
    pub fn new(kind: FaultKind, advice: Advice, message: impl Into<String>) -> Self {
        Self {
            kind,
            effect: Effect::NotApplied,
            advice,
            code: None,
            message: message.into(),
            source: None,
        }
    }

    /// The same fault with a stable code.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    /// The same fault, whose effect is unknown.
    #[must_use]
    pub fn unknown_effect(mut self) -> Self {
        self.effect = Effect::Unknown;
        self
    }

    /// The same fault with what lies underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An earlier message of the same destination and key was not published, so this one was not either. `may_pass`: trying again can help the
    /// earlier one.
    #[must_use]
    pub fn behind_failed(may_pass: bool) -> Self {
        let after = Duration::ZERO;
        let (advice, remedy) = match may_pass {
            true => (Advice::Retry { after }, "publish both again"),
            false => (Advice::FixMessage, "mend that one, then publish both"),
        };
        let text = format!(
            "an earlier message of this key was not published, and this one must not pass it: {remedy}"
        );
        Self::new(FaultKind::Conflict, advice, text).code(Code::PUBLISH_BEHIND_FAILED)
    }

    /// The engine or store was closed.
    #[must_use]
    pub fn closed(what: &str) -> Self {
        Self::new(
            FaultKind::Closed,
            Advice::StopOwner,
            format!("{what} is closed"),
        )
    }

    /// Whether trying again can help.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        matches!(self.advice, Advice::Retry { .. } | Advice::Reconnect)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

impl From<crate::name::NameError> for Fault {
    fn from(error: crate::name::NameError) -> Self {
        Self::new(FaultKind::Config, Advice::FixConfig, error.to_string())
            .code(Code::NAME_MALFORMED)
    }
}

impl From<crate::codec::CodecError> for Fault {
    fn from(error: crate::codec::CodecError) -> Self {
        Self::new(FaultKind::Protocol, Advice::FixMessage, error.to_string())
            .code(Code::PAYLOAD_UNREADABLE)
            .because(error)
    }
}

/// What a handler's error means for the delivery. `#[derive(Fault)]` on an error type implements [`ToOutcome`] for it.
#[derive(Debug)]
pub enum HandlerError {
    /// It may work next time: retried by the policy.
    Transient(BoxError),
    /// It may work after this long: retried, not before.
    RetryAfter(Duration, BoxError),
    /// It will never work: a failure record at once.
    Permanent(BoxError),
    /// A dependency is down: consumption pauses, no attempt is burned.
    Unavailable(Dependency, BoxError),
    /// Stop the service: something is so wrong that handling on would do harm.
    Stop(BoxError),
}

impl HandlerError {
    /// The error underneath.
    #[must_use]
    pub fn source_error(&self) -> &BoxError {
        match self {
            Self::Transient(e)
            | Self::RetryAfter(_, e)
            | Self::Permanent(e)
            | Self::Unavailable(_, e)
            | Self::Stop(e) => e,
        }
    }
}

/// The name of something that a handler depends on; breakers and pauses are per dependency.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dependency(pub crate::text::Text);

impl Dependency {
    /// The dependency of that name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(crate::text::Text::from_static(name))
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An error type that says what it means for the delivery: what `#[derive(Fault)]` implements.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it means for a delivery",
    note = "add `#[derive(Fault)]` with `#[fault(transient)]`, `#[fault(permanent)]`, … on each variant",
    note = "or return `HandlerError` itself"
)]
pub trait ToOutcome: Sized {
    /// What the error means for the delivery.
    fn to_outcome(self) -> HandlerError;
}

impl ToOutcome for HandlerError {
    fn to_outcome(self) -> HandlerError {
        self
    }
}

impl ToOutcome for std::convert::Infallible {
    fn to_outcome(self) -> HandlerError {
        match self {}
    }
}
