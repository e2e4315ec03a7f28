//! `postrider sub seek`: moves a subscription. What it skips and what comes again is counted first.

use std::time::Duration;

use postrider::SubscriptionId;
use serde_json::{Value, json};

use crate::ask::Sure;
use crate::client::{Place, of_subscription, subscription};
use crate::end::{EXIT_CODES, Exit, Result};
use crate::output::{Output, Shown, cell, number, table};
use crate::report::note;
use crate::text::{count, duration, millis};

#[derive(clap::Args)]
#[command(override_usage = "postrider sub seek [OPTIONS] <ID> --to <PLACE>", before_help = "Examples:
  postrider sub seek inventory@topic:shop.order --to latest --dry-run     how many it would skip
  postrider sub seek inventory@topic:shop.order --to 4711 --reason \"skips the broken batch\"
  postrider sub seek prices@topic:shop.order --to 2026-01-31T12:00:00Z    again from then on, as far as it is kept", after_help = EXIT_CODES)]
pub(crate) struct Seek {
    /// The subscription: SERVICE@topic:NAME or SERVICE@queue:NAME
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: SubscriptionId,
    /// earliest, latest, a time (RFC 3339) or a position
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// How long to wait for handlers that run
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Seek) -> Result {
    let Seek { id, to, sure, .. } = &arguments;
    sure.check()?;
    let client = arguments.place.client()?;
    let path = of_subscription(id, "/seek");
    let counted = client
        .count(&path, &json!({ "to": to, "dry_run": true }))
        .await?;
    let what = said(&counted);
    if sure.dry_run {
        note(&format!(
            "would move {id} to {}: {what}",
            cell(&counted, "/to")
        ));
        return write(&arguments, &counted);
    }
    let question = format!("move {id} to {}: {what}?", cell(&counted, "/to"));
    sure.confirm(&question).await?;
    let body = json!({
        "to": to,
        "reason": sure.reason().await?,
        "by": sure.by(),
        "wait_ms": millis(arguments.timeout),
    });
    let within = arguments.timeout + Duration::from_secs(10);
    let moved = client.post_within(&path, &body, within).await?;
    note(&format!(
        "moved {id} to {}: {}",
        cell(&moved, "/to"),
        said(&moved)
    ));
    write(&arguments, &moved)
}

/// What it does, in words.
fn said(sought: &Value) -> String {
    let messages = |path| {
        let n = number(sought, path).unwrap_or(0);
        count(usize::try_from(n).unwrap_or(usize::MAX), "message")
    };
    format!(
        "{} skipped unhandled, {} delivered again",
        messages("/skipped"),
        messages("/again")
    )
}

fn write(arguments: &Seek, sought: &Value) -> Result {
    let row = ["/id", "/to", "/skipped", "/again"].map(|path| cell(sought, path));
    let heads = ["SUBSCRIPTION", "TO", "SKIPPED", "AGAIN"];
    let text = || table(heads, vec![row.clone()]);
    let name = |sought: &Value| cell(sought, "/id");
    arguments.output.write(&Shown::one(sought, name, &text))?;
    Ok(Exit::Ok)
}
