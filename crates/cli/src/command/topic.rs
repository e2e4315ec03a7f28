//! `postrider topic`: what topics and queues hold, and who is subscribed.

use clap::Subcommand;
use postrider::Code;
use serde_json::{Value, json};

use super::sub::{age_of, members_table};
use crate::client::{Client, Place};
use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Output, Shown, cell, items, sheet, table};

#[derive(Subcommand)]
#[command(before_help = "Examples:
  postrider topic ls                    all topics and queues
  postrider topic show shop.order       one topic and its subscriptions", after_help = EXIT_CODES)]
pub(crate) enum Verb {
    /// All topics and queues.
    Ls(Ls),
    /// One topic or queue, and its subscriptions.
    Show(Show),
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider topic ls
  postrider topic ls -o name            only the names", after_help = EXIT_CODES)]
pub(crate) struct Ls {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider topic show shop.order
  postrider topic show queue:prices -o json", after_help = EXIT_CODES)]
pub(crate) struct Show {
    /// Its name; where a topic and a queue have the same, topic:NAME or queue:NAME
    name: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(verb: Verb) -> Result {
    match verb {
        Verb::Ls(arguments) => ls(arguments).await,
        Verb::Show(arguments) => show(arguments).await,
    }
}

fn name(topic: &Value) -> String {
    cell(topic, "/destination")
}

async fn ls(arguments: Ls) -> Result {
    let topics = arguments.place.client()?.get("/v1/topics").await?;
    let row = |topic: &Value| {
        [
            name(topic),
            cell(topic, "/messages"),
            cell(topic, "/next_position"),
            items(topic.get("subscriptions").unwrap_or(&Value::Null))
                .len()
                .to_string(),
        ]
    };
    let heads = ["DESTINATION", "MESSAGES", "NEXT", "SUBSCRIPTIONS"];
    let text = || table(heads, items(&topics).iter().map(row).collect());
    arguments.output.write(&Shown::list(&topics, name, &text))?;
    Ok(Exit::Ok)
}

async fn show(arguments: Show) -> Result {
    let client = arguments.place.client()?;
    let mut topic = find(&client, &arguments.name).await?;
    // What runs in this process, beside the names of all that are subscribed.
    let all = client.get("/v1/subscriptions").await?;
    let of_it = |member: &&Value| cell(member, "/destination") == name(&topic);
    let running: Vec<Value> = items(&all).iter().filter(of_it).cloned().collect();
    if let Some(fields) = topic.as_object_mut() {
        fields.insert("running".to_owned(), json!(running));
    }
    let text = || text(&topic);
    arguments.output.write(&Shown::one(&topic, name, &text))?;
    Ok(Exit::Ok)
}

/// A bare name is a topic, or a queue where there is no such topic.
async fn find(client: &Client, wanted: &str) -> Result<Value> {
    let topics = client.get("/v1/topics").await?;
    let with = |full: &str| items(&topics).iter().find(|topic| name(topic) == full);
    let found = match wanted.contains(':') {
        true => with(wanted),
        false => with(&format!("topic:{wanted}")).or_else(|| with(&format!("queue:{wanted}"))),
    };
    found.cloned().ok_or_else(|| {
        let what = format!("there is no topic or queue `{wanted}`");
        Failure::new(Exit::NotFound, Code::ADMIN_NOT_FOUND, what)
            .remedy("`postrider topic ls` lists all of them")
            .into()
    })
}

fn text(topic: &Value) -> String {
    let running = topic.get("running").unwrap_or(&Value::Null);
    let idle = items(topic.get("subscriptions").unwrap_or(&Value::Null))
        .iter()
        .map(|id| cell(id, ""))
        .filter(|id| {
            !items(running)
                .iter()
                .any(|member| cell(member, "/id") == *id)
        });
    let mut rows = vec![
        ["destination".to_owned(), name(topic)],
        ["messages kept".to_owned(), cell(topic, "/messages")],
        ["next position".to_owned(), cell(topic, "/next_position")],
        ["oldest unhandled".to_owned(), oldest(running)],
    ];
    rows.extend(idle.map(|id| ["not running".to_owned(), id]));
    let mut out = sheet(rows);
    if !items(running).is_empty() {
        out.push('\n');
        out.push_str(&members_table(running));
    }
    out
}

fn oldest(running: &Value) -> String {
    let oldest = items(running).iter().filter_map(|member| {
        let age = crate::output::number(member, "/depth/oldest_age_ms")?;
        Some((age, member))
    });
    oldest
        .max_by_key(|(age, _)| *age)
        .map_or_else(|| "-".to_owned(), |(_, member)| age_of(member))
}
