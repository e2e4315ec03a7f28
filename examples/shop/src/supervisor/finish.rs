//! The end of a run: the sheet, what is wrong with it, and what to try next.

use std::io::Write;

use super::Outcome;
use super::run::{Ending, Run};
use crate::error::{Error, OWN_FILE, Result, STUCK, UNBALANCED};
use crate::sheet::{Audit, Given, RunFacts, audit, render};

impl Run {
    pub(super) async fn finish(self, ending: Ending) -> Result<Outcome> {
        let given = self.given();
        let dir = self.prepared.dir.path.clone();
        let at = dir.clone();
        let found = tokio::task::spawn_blocking(move || audit(&at, &given))
            .await
            .map_err(|e| Error::new(OWN_FILE, "the sheet could not be computed").because(e))??;
        let problem = self.problem(ending, &found);
        let (options, is_temporary) = (self.options.clone(), self.prepared.dir.is_temporary);
        // The terminal first: the sheet belongs into the scrollback.
        drop(self);
        let text = if options.json {
            let json = serde_json::to_string(&found.sheet)
                .map_err(|e| Error::new(OWN_FILE, "the sheet cannot be written").because(e))?;
            format!("{json}\n")
        } else {
            let next = if options.ci {
                String::new()
            } else {
                next(&dir, is_temporary)
            };
            format!("{}{next}", render(&found.sheet))
        };
        // A reader that went away has seen what it wanted.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(Outcome {
            sheet: found.sheet,
            problem,
            dir,
            interrupted: ending == Ending::Signal,
        })
    }

    fn given(&self) -> Given {
        let scan = self.prepared.scan.as_ref();
        let progress = &self.tally.progress;
        Given {
            rows: scan.map(|s| s.rows),
            accepted: scan.map(|s| s.accepted),
            rejected: scan.map_or(0, |s| s.rejected),
            repeated: scan.map_or(0, |s| s.repeated),
            intake_done: progress.intake_done,
            waiting: progress.waiting,
            set_aside: progress.set_aside.iter().cloned().collect(),
            run: RunFacts {
                retries: self.tally.retries(),
                dead_letters: progress.failures,
                redriven: self.tally.redriven(),
                duplicates_suppressed: self.tally.duplicates(),
                kills: self.kills,
                recovery_ms: self.recovery_ms.clone(),
                orders_per_s: self.tally.orders_per_s(self.started),
                engine: self.engine.clone(),
                durability: self.durability.clone(),
            },
        }
    }

    fn problem(&self, ending: Ending, found: &Audit) -> Option<Error> {
        if !found.sheet.balanced {
            let what = format!(
                "the ledger does not balance: {}",
                found.sheet.faults().join("; ")
            );
            return Some(Error::new(UNBALANCED, what));
        }
        if ending != Ending::Deadline {
            return None;
        }
        let what = format!(
            "{} orders did not end, and none has ended for {} s",
            found.sheet.in_flight,
            self.options.deadline.as_secs()
        );
        Some(Error::new(STUCK, what).why(self.stuck(found)))
    }

    /// What is stuck, by name.
    fn stuck(&self, found: &Audit) -> String {
        let progress = &self.tally.progress;
        let mut parts = Vec::new();
        let orders: Vec<_> = found
            .unfinished
            .iter()
            .map(|(id, state)| format!("{id} ({state})"))
            .collect();
        if !orders.is_empty() {
            parts.push(format!("orders {}", orders.join(", ")));
        }
        for (subscription, depth) in &progress.waiting_at {
            parts.push(format!("{depth} messages wait at {subscription}"));
        }
        for (subscription, group, count) in progress.failure_groups.iter().take(5) {
            parts.push(format!("{count} failures of {subscription}: {group}"));
        }
        if parts.is_empty() {
            parts.push("no message waits anywhere".to_owned());
        }
        parts.join("; ").replace('\n', " ")
    }
}

fn next(dir: &std::path::Path, is_temporary: bool) -> String {
    let kept = if is_temporary {
        " (it may be deleted)"
    } else {
        ""
    };
    format!(
        "\nThe run is in {}{kept}. Try next:\n  \
         postrider demo --faults heavy --kills 5 --ci   a minute of everything going wrong\n  \
         postrider demo --orders orders.csv --ci        your own orders\n  \
         postrider explain PR-1303                      what a failure's code means\n",
        dir.display()
    )
}
