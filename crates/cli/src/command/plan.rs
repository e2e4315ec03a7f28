//! `postrider plan`: what the engine gives each subscription for each of its needs.

use serde_json::Value;

use crate::client::Place;
use crate::end::{EXIT_CODES, Exit, Result};
use crate::output::{Output, Shown, cell, items, number, table};
use crate::text::span;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider plan                    what ./data gives each subscription
  postrider plan -o jsonl           one subscription per line, for a program", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(arguments: Arguments) -> Result {
    let plan = arguments.place.running()?.get("/v1/plan").await?;
    let subscriptions = plan.get("subscriptions").unwrap_or(&Value::Null);
    let text = || text(subscriptions);
    arguments.output.write(&Shown {
        json: &plan,
        items: items(subscriptions).iter().collect(),
        name,
        table: &text,
    })?;
    Ok(Exit::Ok)
}

fn name(plan: &Value) -> String {
    cell(plan, "/subscription")
}

fn text(subscriptions: &Value) -> String {
    let mut rows = Vec::new();
    for plan in items(subscriptions) {
        for row in items(plan.get("rows").unwrap_or(&Value::Null)) {
            rows.push([name(plan), cell(row, "/verdict"), need(row), how(row)]);
        }
    }
    table(["SUBSCRIPTION", "VERDICT", "NEED", "HOW"], rows)
}

/// What is needed, with its measure.
fn need(row: &Value) -> String {
    let words = |path: &str| cell(row, path).replace('_', " ");
    let time = |name: &str| {
        let ms = number(row, &format!("/{name}/secs"))
            .unwrap_or(0)
            .saturating_mul(1000)
            + number(row, &format!("/{name}/nanos")).unwrap_or(0) / 1_000_000;
        format!("{} {}", words("/need"), span(ms))
    };
    match cell(row, "/need").as_str() {
        "ability" => words("/capability"),
        "durability" => format!("confirmed messages survive: {}", words("/at_least")),
        "hold_up_to" => time("hold"),
        "delay_up_to" => time("delay"),
        "size_up_to" => format!("messages up to {} bytes", cell(row, "/bytes")),
        "failure_home" => "failures kept".to_owned(),
        _ => words("/need"),
    }
}

fn how(row: &Value) -> String {
    match (row.get("how"), row.get("why")) {
        (Some(_), _) => format!("{}; {}", cell(row, "/how"), cell(row, "/cost")),
        (_, Some(_)) => cell(row, "/why"),
        _ => String::new(),
    }
}
