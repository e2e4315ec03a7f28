//! Before something is changed for good: the count, the question, the reason.

use std::io::{IsTerminal as _, Write as _};

use postrider::Code;

use crate::end::{Exit, Failure, Result};
use crate::text::plain;

/// How sure the caller is. What it does not say is asked on a terminal.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Sure {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why; it is kept. Without it, it is asked
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who; it is kept [default: the user's name]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Sure {
    /// Fails where something would have to be asked and nobody is there to answer. To be called before anything else.
    pub(crate) fn check(&self) -> Result<()> {
        if self.dry_run || is_terminal() || (self.yes && self.reason.is_some()) {
            return Ok(());
        }
        let missing = match (self.yes, &self.reason) {
            (false, None) => "--yes and --reason",
            (false, Some(_)) => "--yes",
            (true, _) => "--reason",
        };
        let what =
            format!("nothing was done: {missing} missing, and there is no terminal to ask on");
        Err(Failure::new(Exit::Usage, Code::CLI_NOT_CONFIRMED, what).into())
    }

    /// Why: what was given, or what is answered.
    pub(crate) async fn reason(&self) -> Result<String> {
        let reason = match &self.reason {
            Some(reason) => reason.clone(),
            None => line("reason (it is kept): ").await?,
        };
        match reason.trim() {
            "" => Err(not_confirmed("no reason was given")),
            reason => Ok(reason.to_owned()),
        }
    }

    /// Who asks for it.
    pub(crate) fn by(&self) -> String {
        let from = |name| {
            std::env::var(name)
                .ok()
                .filter(|user| !user.trim().is_empty())
        };
        self.by
            .clone()
            .or_else(|| from("USER"))
            .or_else(|| from("LOGNAME"))
            .unwrap_or_else(|| "unknown".to_owned())
    }

    /// Goes on only where the answer is yes.
    pub(crate) async fn confirm(&self, question: &str) -> Result<()> {
        if self.yes || is_yes(&line(&format!("{question} [y/N] ")).await?) {
            return Ok(());
        }
        Err(not_confirmed("the answer was not yes"))
    }
}

fn not_confirmed(why: &str) -> crate::end::Stop {
    let what = "nothing more was done: it was not confirmed";
    let failure = Failure::new(Exit::Failed, Code::CLI_NOT_CONFIRMED, what);
    failure.why(why).into()
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Whether somebody is there to answer. The question goes to standard error.
fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, and gives what is answered. Read on a thread of its own, so that an interrupt is noticed.
async fn line(question: &str) -> Result<String> {
    let mut err = std::io::stderr();
    let _ = write!(err, "{}", plain(question)).and_then(|()| err.flush());
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    match read.await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(not_confirmed(&error.to_string())),
        Err(error) => Err(not_confirmed(&error.to_string())),
    }
}

/// A line on standard error that is written over on a terminal; elsewhere only its last form appears, as a line.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    width: usize,
}

impl Progress {
    /// Shows how far it is.
    pub(crate) fn show(&mut self, text: &str) {
        if std::io::stderr().is_terminal() {
            let text = plain(text);
            let width = text.chars().count();
            let _ = write!(std::io::stderr(), "\r{text:pad$}", pad = self.width);
            self.width = width;
        }
    }

    /// Ends the line with this.
    pub(crate) fn end(&mut self, text: &str) {
        self.show(text);
        let text = plain(text);
        let line = if std::io::stderr().is_terminal() {
            ""
        } else {
            text.as_str()
        };
        let _ = writeln!(std::io::stderr(), "{line}");
        self.width = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y", " yes ", "YES\r\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n", "yep", "ye"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
