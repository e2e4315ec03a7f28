//! `postrider doctor`: looks for what could go wrong. Each finding has how bad it is, what it was seen by, what to do, and where to read on.

mod checks;

use serde_json::{Value, json};

use crate::client::{Client, Place};
use crate::end::{EXIT_CODES, Exit, Failure, Result, Stop};
use crate::output::{Output, Shown, cell, items, table};
use crate::report::note;
use crate::text::{count, duration, millis, plain};

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider doctor                          exit code 9 where something was found
  postrider doctor --lag-max 30s -o json    for a monitor
  postrider doctor -o name                  only which checks found something", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The least part of the disk that should be free, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    free_min: u64,
    /// The longest that a message should wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    lag_max: std::time::Duration,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// Something is lost, stuck or about to be.
    Error,
    /// It works, and should be looked at.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Something that was found.
#[derive(Debug)]
struct Finding {
    severity: Severity,
    /// Which check: a word of [`checks::ALL`], and the heading in the doctor's page.
    check: &'static str,
    what: String,
    evidence: String,
    fix: String,
}

/// Where each check is explained.
const PAGE: &str = "docs/guide/doctor.md";

impl Finding {
    fn json(&self) -> Value {
        json!({
            "severity": self.severity.word(),
            "check": self.check,
            "what": self.what,
            "evidence": self.evidence,
            "fix": self.fix,
            "link": format!("{PAGE}#{}", self.check),
        })
    }
}

/// What the checks look at.
struct Seen {
    /// Whether a process runs on the directory.
    is_running: bool,
    /// `/v1/snapshot`.
    snapshot: Value,
    /// `/v1/status`; null where nothing runs.
    status: Value,
    /// `/v1/failures`.
    groups: Value,
    /// Per topic that keeps something: its name and when its newest message was stored.
    newest: Vec<(String, String)>,
    /// Bytes of the directory's file system: free for this user, and in all.
    disk: Option<(u64, u64)>,
    now: postrider::Timestamp,
}

pub(crate) async fn run(arguments: Arguments) -> Result {
    let client = arguments.place.client()?;
    let seen = look(&client).await?;
    let limits = checks::Limits {
        free_min_percent: arguments.free_min,
        lag_max_ms: millis(arguments.lag_max),
    };
    let mut findings = checks::all(&seen, limits);
    findings.sort_by_key(|finding| finding.severity);
    let json = json!({
        "running": seen.is_running,
        "checked": checks::ALL,
        "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
    });
    let list = json.get("findings").unwrap_or(&Value::Null);
    let text = || text(list, seen.is_running);
    arguments.output.write(&Shown {
        json: &json,
        items: items(list).iter().collect(),
        name: |finding| cell(finding, "/check"),
        table: &text,
    })?;
    if findings.is_empty() {
        return Ok(Exit::Ok);
    }
    let what = format!(
        "{} on {}",
        count(findings.len(), "finding"),
        client.dir().display()
    );
    Err(
        Failure::new(Exit::CheckFailed, postrider::Code::CLI_CHECK_FAILED, what)
            .why("each finding says what it was seen by")
            .remedy("each finding says what to do, and where to read on")
            .into(),
    )
}

async fn look(client: &Client) -> Result<Seen> {
    let snapshot = client.get("/v1/snapshot").await?;
    let is_running = !client.is_stopped().await;
    let status = match is_running {
        true => client.get("/v1/status").await?,
        false => Value::Null,
    };
    if !is_running {
        let dir = client.dir().display();
        note(&format!(
            "nothing runs on {dir}: what only a running process knows is not checked"
        ));
    }
    let mut newest = Vec::new();
    for topic in items(snapshot.get("topics").unwrap_or(&Value::Null)) {
        let name = cell(topic, "/destination");
        let next = crate::output::number(topic, "/next_position").unwrap_or(0);
        let path = format!("/messages/{}", next.saturating_sub(1));
        match client.get(&crate::client::of_topic(&name, &path)).await {
            Ok(message) => newest.push((name, cell(&message, "/stored_at"))),
            // It is handled and gone.
            Err(Stop::Failed(failure)) if failure.is_not_found() => {}
            Err(stop) => return Err(stop),
        }
    }
    Ok(Seen {
        is_running,
        status,
        groups: client.get("/v1/failures").await?,
        snapshot,
        newest,
        disk: disk(client.dir()),
        now: crate::text::now(),
    })
}

/// Bytes that are free for this user, and all.
fn disk(dir: &std::path::Path) -> Option<(u64, u64)> {
    let of = rustix::fs::statvfs(dir).ok()?;
    Some((
        of.f_bavail.saturating_mul(of.f_frsize),
        of.f_blocks.saturating_mul(of.f_frsize),
    ))
}

fn text(findings: &Value, is_running: bool) -> String {
    let findings = items(findings);
    if findings.is_empty() {
        let many = checks::ALL.len();
        let checked = if is_running {
            "all is well"
        } else {
            "nothing found"
        };
        return format!("{checked}: {many} checks\n");
    }
    let row = |finding: &Value| ["/severity", "/check", "/what"].map(|path| cell(finding, path));
    let mut out = table(
        ["SEVERITY", "CHECK", "WHAT"],
        findings.iter().map(row).collect(),
    );
    for finding in findings {
        let field = |name: &str| plain(&cell(finding, name));
        out.push_str(&format!(
            "\n{}: {}\n  seen by: {}\n  to do:   {}\n  see:     {}\n",
            field("/check"),
            field("/what"),
            field("/evidence"),
            field("/fix"),
            field("/link")
        ));
    }
    out
}
