//! `postrider status`: what runs on an engine directory.

use serde_json::Value;

use crate::client::Place;
use crate::end::{EXIT_CODES, Exit, Result};
use crate::output::{Output, Shown, cell, items, sheet, table};
use crate::text::{age, now};

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider status                             what runs on ./data
  postrider status --dir /var/lib/shop -o json the same for a program", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(arguments: Arguments) -> Result {
    let status = arguments.place.running()?.get("/v1/status").await?;
    let text = || text(&status);
    arguments
        .output
        .write(&Shown::one(&status, |s| cell(s, "/instance"), &text))?;
    Ok(Exit::Ok)
}

fn text(status: &Value) -> String {
    let now = now();
    let engine = format!(
        "{} {} on {}",
        cell(status, "/engine/product"),
        cell(status, "/engine/version"),
        cell(status, "/engine/location")
    );
    let rows = [
        ("engine", engine),
        ("durability", cell(status, "/engine/durability")),
        ("process", cell(status, "/pid")),
        ("version", cell(status, "/version")),
        ("instance", cell(status, "/instance")),
        ("started", age(&cell(status, "/started_at"), now)),
        ("services", cell(status, "/services")),
        ("subscriptions", cell(status, "/subscriptions")),
    ];
    let mut out = sheet(rows.map(|(name, what)| [name.to_owned(), what]).to_vec());
    let relays = items(status.get("relays").unwrap_or(&Value::Null));
    if !relays.is_empty() {
        out.push('\n');
        out.push_str(&relays_text(relays));
    }
    out
}

fn relays_text(relays: &[Value]) -> String {
    let row = |relay: &Value| {
        [
            cell(relay, "/service"),
            cell(relay, "/depth"),
            cell(relay, "/blocked_keys"),
            cell(relay, "/stuck_keys"),
            cell(relay, "/published"),
            cell(relay, "/last_fault"),
        ]
    };
    let heads = [
        "RELAY OF",
        "OUTBOX",
        "BLOCKED KEYS",
        "STUCK KEYS",
        "PUBLISHED",
        "LAST FAULT",
    ];
    table(heads, relays.iter().map(row).collect())
}
