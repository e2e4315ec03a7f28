//! `postrider topic`: what topics and queues hold, who is subscribed, and their messages.

use clap::Subcommand;
use serde_json::{Value, json};

use super::message::topic;
use super::sub::{age_of, members_table};
use crate::client::Place;
use crate::end::{EXIT_CODES, Exit, Result};
use crate::output::{Output, Shown, cell, items, sheet, table};
use crate::watch::Watch;

#[derive(Subcommand)]
#[command(before_help = "Examples:
  postrider topic ls                    all topics and queues
  postrider topic show shop.order       one topic and its subscriptions
  postrider topic tail shop.order       its messages as they come", after_help = EXIT_CODES)]
pub(crate) enum Verb {
    /// All topics and queues.
    Ls(Ls),
    /// One topic or queue, and its subscriptions.
    Show(Show),
    /// Messages as they come, or those that are kept. Nothing is taken from anybody.
    Tail(super::tail::Tail),
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider topic ls
  postrider topic ls -o name            only the names
  postrider topic ls --watch            again and again", after_help = EXIT_CODES)]
pub(crate) struct Ls {
    #[command(flatten)]
    watch: Watch,
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
    #[arg(add = crate::complete::topics())]
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
        Verb::Tail(arguments) => super::tail::run(arguments).await,
    }
}

fn name(topic: &Value) -> String {
    cell(topic, "/destination")
}

async fn ls(arguments: Ls) -> Result {
    let client = arguments.place.client()?;
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
    let text = |topics: &Value| table(heads, items(topics).iter().map(row).collect());
    let fetch = async || client.get("/v1/topics").await;
    let watch = arguments.watch;
    watch.show(arguments.output, name, fetch, text).await
}

async fn show(arguments: Show) -> Result {
    let client = arguments.place.client()?;
    let mut topic = topic(&client, &arguments.name).await?;
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
