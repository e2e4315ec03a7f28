//! `postrider msg`: one message, and where it stands.

use clap::Subcommand;
use serde_json::{Value, json};

use super::message::{destination, full, name, none_found, search};
use crate::client::{Place, of_topic};
use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Output, Shown, items};
use crate::report::note;

#[derive(Subcommand)]
#[command(before_help = "Examples:
  postrider msg show shop.order@17                              by its place
  postrider msg show 0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10       by its id", after_help = EXIT_CODES)]
pub(crate) enum Verb {
    /// A message with envelope, headers and payload, and where it stands in each subscription.
    Show(Show),
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider msg show shop.order@17
  postrider msg show queue:prices@3 -o json | jq '.messages[].subscriptions'
  postrider msg show 0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10 --scan 1000000", after_help = EXIT_CODES)]
pub(crate) struct Show {
    /// Its id, or where it is: TOPIC@POSITION
    #[arg(value_name = "ID|TOPIC@POSITION")]
    which: String,
    /// By its id: look at this many of the newest messages
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    scan: u64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(verb: Verb) -> Result {
    match verb {
        Verb::Show(arguments) => show(arguments).await,
    }
}

async fn show(arguments: Show) -> Result {
    let client = arguments.place.client()?;
    let which = &arguments.which;
    let found = match which.rsplit_once('@') {
        Some((topic, position)) => {
            let position: u64 = position.parse().map_err(|_| {
                let what = format!("`{which}` is neither a message id nor TOPIC@POSITION");
                Failure::usage(what)
            })?;
            let topic = destination(&client, topic).await?;
            let path = of_topic(&topic, &format!("/messages/{position}"));
            json!({ "messages": [client.get(&path).await?], "scanned": 1, "complete": true })
        }
        None => search(&client, "messages", which, arguments.scan).await?,
    };
    let messages = found.get("messages").unwrap_or(&Value::Null);
    if items(messages).is_empty() {
        return Err(none_found(format!("there is no message {which}"), &found).into());
    }
    if client.is_stopped().await {
        note(&format!("nothing runs on {}", client.dir().display()));
    }
    let text = || {
        let all: Vec<String> = items(messages).iter().map(full).collect();
        all.join("\n")
    };
    arguments.output.write(&Shown {
        json: &found,
        items: items(messages).iter().collect(),
        name,
        table: &text,
    })?;
    Ok(Exit::Ok)
}
