//! What a person sees while the demo runs: the screen, or plain lines.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::options::Options;
use crate::screen::{Key, Screen, View};
use crate::sheet::grouped;

/// How often a plain line is written at most.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// The screen, or plain lines.
pub(super) enum Show {
    Screen(Box<Screen>),
    Lines {
        to_stdout: bool,
        last: String,
        at: Option<Instant>,
    },
}

impl Show {
    /// The screen at a terminal, else lines. Keys come only from the screen.
    pub(super) fn open(options: &Options) -> (Self, mpsc::Receiver<Key>) {
        let is_plain = options.ci || options.json || !std::io::stdout().is_terminal();
        if !is_plain && let Ok((screen, keys)) = Screen::open() {
            return (Self::Screen(Box::new(screen)), keys);
        }
        let (_, no_keys) = mpsc::channel(1);
        let lines = Self::Lines {
            to_stdout: !options.ci && !options.json,
            last: String::new(),
            at: None,
        };
        (lines, no_keys)
    }

    pub(super) const fn is_screen(&self) -> bool {
        matches!(self, Self::Screen(_))
    }

    /// Shows how it stands. A terminal that is gone is not an error of the run.
    pub(super) fn update(&mut self, view: &View, now: Instant) {
        match self {
            Self::Screen(screen) => {
                let _ = screen.draw(view);
            }
            Self::Lines { last, at, .. } => {
                let line = line(view);
                if *last != line && at.is_none_or(|at| now - at >= LINE_EVERY) {
                    last.clone_from(&line);
                    *at = Some(now);
                    self.say(&line);
                }
            }
        }
    }

    /// Says one line where lines are written.
    pub(super) fn say(&self, line: &str) {
        if let Self::Lines { to_stdout, .. } = self {
            let _ = if *to_stdout {
                writeln!(std::io::stdout(), "{line}")
            } else {
                writeln!(std::io::stderr(), "{line}")
            };
        }
    }
}

fn line(view: &View) -> String {
    let p = &view.progress;
    let n = grouped;
    format!(
        "{} · {} placed, {} shipped, {} refunded, {} cancelled, {} in flight · {} orders/s · {} retries, {} failures, {} kills",
        view.status,
        n(p.placed),
        n(p.shipped),
        n(p.refunded),
        n(p.cancelled),
        n(p.placed.saturating_sub(p.ended())),
        n(view.orders_per_s),
        n(view.retries),
        n(p.failures),
        n(view.kills),
    )
}
