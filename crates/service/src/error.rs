//! The error of the framework: one code, one line what, one line why, one line what to do.

use std::fmt;

use postrider_core::BoxError;
use postrider_core::code::Code;
use postrider_core::fault::{Effect, Fault, FaultKind, HandlerError, ToOutcome};

/// What the framework's operations give.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Why something did not work: a stable code, what happened, why it happens, what to do about it.
///
/// It prints as three lines, also through `Debug`, so that `main` may return it:
///
/// ```text
/// PR-1101: no engine for the scheme `kafka`
///   why:   the program was built without the feature that brings it, or the scheme is misspelt
///   to do: build with the cargo feature `kafka`
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    what: String,
    why: String,
    remedy: String,
    effect: Effect,
    retriable: bool,
    source: Option<BoxError>,
}

impl Error {
    /// An error of this code: `what` says it of this case; why and what to do come from the code's page.
    #[must_use]
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        let page = code.explain();
        Self(Box::new(Inner {
            code,
            what: what.into(),
            why: page.map(|p| p.why.to_owned()).unwrap_or_default(),
            remedy: page.map(|p| p.remedy.to_owned()).unwrap_or_default(),
            effect: Effect::NotApplied,
            retriable: false,
            source: None,
        }))
    }

    /// The same error with another line for what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = remedy.into();
        self
    }

    /// The same error with another line for why it happens.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.0.why = why.into();
        self
    }

    /// The same error with what lies underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error, which may go away when it is tried again.
    #[must_use]
    pub(crate) fn retriable(mut self) -> Self {
        self.0.retriable = true;
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What happened, in one line.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Why it happens, in one line.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.why
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.0.remedy
    }

    /// Whether the operation may have taken effect. `Unknown`: repeat it with the same message id.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.0.retriable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.what)?;
        let mut below = std::error::Error::source(self);
        while let Some(source) = below {
            let text = source.to_string();
            if !self.0.what.contains(&text) {
                write!(f, ": {text}")?;
            }
            below = source.source();
        }
        write!(f, "\n  why:   {}\n  to do: {}", self.0.why, self.0.remedy)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

/// Engines, stores and names: whatever says what it is as a [`Fault`].
impl<F: Into<Fault>> From<F> for Error {
    fn from(fault: F) -> Self {
        let fault = fault.into();
        let code = fault.code.unwrap_or_else(|| code_of(&fault.kind));
        let retriable = fault.is_retriable();
        let mut error = Self::new(code, fault.message);
        error.0.effect = fault.effect;
        error.0.retriable = retriable;
        error.0.source = fault.source;
        error
    }
}

/// The code of a fault that carries none.
const fn code_of(kind: &FaultKind) -> Code {
    match kind {
        FaultKind::TooLarge => Code::PUBLISH_TOO_LARGE,
        FaultKind::NoRoute => Code::PUBLISH_NO_ROUTE,
        FaultKind::Throttled => Code::PUBLISH_OVERLOADED,
        FaultKind::Conflict => Code::PUBLISH_CONFLICT,
        FaultKind::Fenced => Code::FENCED,
        FaultKind::LeaseLost => Code::LEASE_LOST,
        FaultKind::Full => Code::DISK_FULL,
        FaultKind::Corrupt => Code::LOG_CORRUPT,
        FaultKind::DataLoss => Code::LOG_TRIMMED,
        FaultKind::Config => Code::CONFIG_CONTRADICTS,
        _ => Code::ENGINE_FAILED,
    }
}

/// A handler that hands an error of the bus on: it is tried again where that can help, and refused for good otherwise.
impl ToOutcome for Error {
    fn to_outcome(self) -> HandlerError {
        if self.is_retriable() {
            HandlerError::Transient(self.into())
        } else {
            HandlerError::Permanent(self.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::fault::Advice;

    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let error = Error::new(Code::STATE_MISSING, "`charge` takes `State<Provider>`");
        let text = format!("{error:?}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "PR-1406: `charge` takes `State<Provider>`");
        assert!(lines[1].starts_with("  why:   it takes `State<T>`"));
        assert!(lines[2].starts_with("  to do: call `.state(value)`"));
    }

    #[test]
    fn a_fault_keeps_its_code_its_effect_and_its_advice() {
        let retry = Advice::Retry {
            after: std::time::Duration::ZERO,
        };
        let fault = Fault::new(FaultKind::Timeout, retry, "no answer").unknown_effect();
        let error = Error::from(fault);
        assert_eq!(error.code(), Code::ENGINE_FAILED);
        assert_eq!(error.effect(), Effect::Unknown);
        assert!(matches!(error.to_outcome(), HandlerError::Transient(_)));
    }
}
