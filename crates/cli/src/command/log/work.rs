//! Long work on a thread of its own, with a bar on a terminal.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use postrider::Code;
use postrider_log::Error;

use crate::end::{Exit, Failure, Result, Stop};

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// A bar on standard error, where that is a terminal.
fn bar(what: &'static str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {eta}",
        None => "{spinner} {msg} {elapsed}",
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    // The templates are constants that are well formed.
    let bar = match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    bar.enable_steady_tick(TURN);
    bar.with_message(what)
}

/// Runs this where it may block. It hears of bytes that are done by the function that it gets.
///
/// Ctrl-C ends the command; what is half written then is no backup.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    total: Option<u64>,
    work: impl FnOnce(&mut dyn FnMut(u64)) -> T + Send + 'static,
) -> Result<T> {
    let bar = bar(what, total);
    let shown = bar.clone();
    let task = tokio::task::spawn_blocking(move || work(&mut |bytes| shown.inc(bytes)));
    let done = tokio::select! {
        done = task => done,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            let what = format!("{what} was interrupted");
            return Err(Failure::new(Exit::Interrupted, Code::CLI_FAILED, what)
                .why("somebody asked for it")
                .remedy("remove what it wrote, then run it again")
                .into());
        }
    };
    bar.finish_and_clear();
    done.map_err(|error| {
        let what = format!("{what} ended before its time");
        let failure = Failure::new(Exit::Failed, Code::CLI_FAILED, what);
        failure.why(error.to_string()).into()
    })
}

/// Waits for an answer, turning a spinner.
pub(super) async fn while_asked<T>(
    what: &'static str,
    asked: impl Future<Output = Result<T>>,
) -> Result<T> {
    let bar = bar(what, None);
    let answer = asked.await;
    bar.finish_and_clear();
    answer
}

/// Bytes of the files in a directory and in those in it: for a bar, no more.
pub(super) fn bytes_of(dir: &Path) -> Option<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        bytes += match meta.is_dir() {
            true => bytes_of(&entry.path()).unwrap_or(0),
            false => meta.len(),
        };
    }
    Some(bytes)
}

/// What the log said no to.
pub(super) fn refused(dir: &Path, error: &Error) -> Stop {
    let (exit, code) = match error {
        Error::Locked { .. } => (Exit::Conflict, Code::DIR_LOCKED),
        Error::NotOurs { .. } => (Exit::NotFound, Code::DIR_NOT_OURS),
        Error::NotADirectory { .. } => (Exit::NotFound, Code::DIR_IS_A_FILE),
        Error::Refused { .. } => (Exit::Conflict, Code::CLI_CONFLICT),
        Error::NewerVersion { .. } | Error::Unsupported { .. } => (Exit::Failed, Code::DIR_NEWER),
        Error::Io { .. } => (Exit::Failed, Code::LOG_IO),
        _ => (Exit::CheckFailed, Code::LOG_CORRUPT),
    };
    let what = format!("{}: {error}", dir.display());
    let failure = Failure::new(exit, code, what);
    match error {
        Error::Locked { .. } => failure
            .remedy("back it up while it runs (`postrider log backup`) and look at the copy")
            .into(),
        Error::Refused { .. } => failure.why("nothing was written over").into(),
        _ => failure.into(),
    }
}
