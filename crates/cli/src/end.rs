//! How a command ends: the exit codes, and the error behind each.

use std::process::ExitCode;

use postrider::Code;

use crate::report::report;

/// The exit codes, as the help of every command shows them. Their page is `docs/guide/cli.md`.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 partial, 4 not found, 5 conflict, 7 unreachable, 8 timeout, 9 check failed, 130 interrupted";

/// What a command's exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Partial = 3,
    NotFound = 4,
    Conflict = 5,
    Unreachable = 7,
    Timeout = 8,
    CheckFailed = 9,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What ended a command before its time.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nobody reads the output any more: no error.
    PipeClosed,
    /// An error to be shown.
    Failed(Box<Failure>),
}

/// An error as a person sees it: what, why, what to do. What it does not say itself, its code says.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    code: Code,
    what: String,
    why: Option<String>,
    remedy: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: Code, what: impl Into<String>) -> Self {
        Self {
            exit,
            code,
            what: what.into(),
            why: None,
            remedy: None,
        }
    }

    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// What was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.exit == Exit::NotFound
    }

    /// The code of what happened.
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// What happened.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, Code::CLI_USAGE, what)
    }

    /// Shows it on standard error.
    pub(crate) fn show(&self) -> Exit {
        report(
            self.code.0,
            &self.what,
            self.why.as_deref(),
            self.remedy.as_deref(),
        );
        self.exit
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// What a command gives.
pub(crate) type Result<T = Exit> = std::result::Result<T, Stop>;

/// Runs a command that asks the admin API, and shows how it ended.
pub(crate) fn run(command: impl Future<Output = Result>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(command);
            // A question on the terminal may wait for an answer that never comes.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::new(
            Exit::Failed,
            Code::CLI_FAILED,
            "the command could not be started",
        )
        .why(error.to_string())
        .into()),
    };
    exit_of(ended).into()
}

/// The exit code of what a command gave; an error is shown.
pub(crate) fn exit_of(ended: Result) -> Exit {
    match ended {
        Ok(exit) => exit,
        Err(Stop::PipeClosed) => Exit::Ok,
        Err(Stop::Failed(failure)) => failure.show(),
    }
}
