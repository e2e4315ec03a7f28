//! What can go wrong in the demo, each with its stable code.

use std::fmt;
use std::io;
use std::path::Path;

/// An error of the demo: a stable code, and one line that says what happened here. Why and what to do stand behind the code
/// (`postrider explain PR-1701`); [`Error::why`] and [`Error::remedy`] hold what is special to this case.
#[derive(Debug)]
pub struct Error {
    /// The number of the code: 1701 is `PR-1701`.
    pub code: u16,
    /// One line: what happened.
    pub what: String,
    /// One line: why, where it is known better than the code's own text.
    pub why: Option<String>,
    /// One line: what to do, where it is known better than the code's own text.
    pub remedy: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result of the demo.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The directory holds something else.
pub const DIR_NOT_OURS: u16 = 1002;
/// The path of the directory is a file.
pub const DIR_IS_A_FILE: u16 = 1003;
/// The directory cannot be written.
pub const DIR_NOT_WRITABLE: u16 = 1004;
/// Another process holds the directory.
pub const DIR_LOCKED: u16 = 1001;
/// Two settings exclude each other.
pub const CONFIG_CONTRADICTS: u16 = 1103;
/// A database failed.
pub const STORE_FAILED: u16 = 1502;
/// The admin socket does not answer.
pub const ADMIN_NOT_RUNNING: u16 = 1601;
/// The order file lacks a column.
pub const CSV_COLUMN: u16 = 1701;
/// The order file cannot be read.
pub const CSV_UNREADABLE: u16 = 1702;
/// Orders did not end in time.
pub const STUCK: u16 = 1703;
/// The ledger does not balance.
pub const UNBALANCED: u16 = 1704;
/// The directory belongs to a run with other settings.
pub const OTHER_INPUT: u16 = 1705;
/// A file of the demo itself is damaged.
pub const OWN_FILE: u16 = 1706;
/// The services cannot be kept running.
pub const SERVICES_DOWN: u16 = 1707;

impl Error {
    /// An error with its code's own reasons.
    pub fn new(code: u16, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            why: None,
            remedy: None,
            source: None,
        }
    }

    /// The same error with a better reason than the code's own.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// The same error with a better remedy than the code's own.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same error with what lies underneath, which also becomes its reason.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source = source.into();
        if self.why.is_none() {
            self.why = Some(source.to_string());
        }
        self.source = Some(source);
        self
    }

    /// A file of the run directory that could not be written or read.
    pub fn io(doing: &str, path: &Path, error: io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => DIR_NOT_WRITABLE,
            io::ErrorKind::NotADirectory => DIR_IS_A_FILE,
            _ => OWN_FILE,
        };
        Self::new(code, format!("cannot {doing} {}", path.display())).because(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PR-{:04}: {}", self.code, self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}
