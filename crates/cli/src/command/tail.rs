//! `postrider topic tail`: messages of a topic as they come. Nothing is taken from anybody.

use postrider::Code;
use serde_json::Value;

use super::message::{line, name, topic};
use crate::client::{Client, Place, encoded, of_topic};
use crate::end::{EXIT_CODES, Exit, Failure, Result, Stop};
use crate::output::{Form, Output, cell, items, number, print};
use crate::report::note;
use crate::text::plain;

/// Messages that are shown of those that are there, where nothing else is said.
const LAST: u64 = 10;
/// Messages of one request.
const PAGE: u64 = 200;
/// How long the API waits for the next message, in ms.
const WAIT_MS: u64 = 5000;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider topic tail shop.order                                     the last ten, then as they come
  postrider topic tail shop.order --from earliest --no-follow         all that are kept
  postrider topic tail shop.order --from 2026-01-31T12:00:00Z -n 100  a hundred from then on
  postrider topic tail shop.order --type placed --key order-4711 -o jsonl | jq .payload.text", after_help = EXIT_CODES)]
pub(crate) struct Tail {
    /// The topic or queue
    #[arg(add = crate::complete::topics())]
    topic: String,
    /// Where to begin: earliest, latest, a time (RFC 3339) or a position [default: the last ten]
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// End after this many messages
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End where nothing more is there
    #[arg(long)]
    no_follow: bool,
    /// Only of this type
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,
    /// Only of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Tail) -> Result {
    let ends = arguments.no_follow || arguments.count.is_some();
    if arguments.output.form == Form::Json && !ends {
        let what = "-o json is one document: it takes -n or --no-follow";
        return Err(Failure::usage(what)
            .remedy("-o jsonl writes as they come")
            .into());
    }
    let client = arguments.place.client()?;
    let known = topic(&client, &arguments.topic).await?;
    let destination = cell(&known, "/destination");
    let stopped = client.is_stopped().await;
    if stopped && !arguments.no_follow {
        let dir = client.dir().display();
        note(&format!(
            "nothing runs on {dir}: what is there, and no more"
        ));
    }
    let walk = walk(&client, &arguments, &destination, &known, stopped);
    tokio::select! {
        ended = walk => ended,
        // That is how one ends it.
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    }
}

async fn walk(
    client: &Client,
    arguments: &Tail,
    destination: &str,
    known: &Value,
    stopped: bool,
) -> Result {
    let mut from = match &arguments.from {
        Some(from) => from.clone(),
        None => last(client, arguments, destination, known).await?,
    };
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut collected = Vec::new();
    let mut pause = false;
    // A place that somebody named must be there; where it goes on by itself, messages may be handled and gone before they are looked at.
    let mut strict = arguments.from.is_some();
    loop {
        let query = query(arguments, &from, left.min(PAGE), pause);
        let page = match client.get(&of_topic(destination, &query)).await {
            Err(Stop::Failed(failure)) if !strict && failure.code() == Code::LOG_TRIMMED => {
                note("messages were handled and gone before they could be shown");
                from = "earliest".to_owned();
                continue;
            }
            page => page?,
        };
        strict = false;
        let messages = items(page.get("messages").unwrap_or(&Value::Null));
        left -= messages.len() as u64;
        match arguments.output.form {
            Form::Json => collected.extend(messages.iter().cloned()),
            Form::Jsonl => print(&each(messages, |m| format!("{m}\n")))?,
            Form::Name => print(&each(messages, |m| format!("{}\n", plain(&name(m)))))?,
            Form::Table => print(&each(messages, line))?,
        }
        let (next, end) = (number(&page, "/next"), number(&page, "/end"));
        let at_end = next >= end;
        if left == 0 || (at_end && (arguments.no_follow || stopped)) {
            break;
        }
        pause = at_end;
        from = next.map(|next| next.to_string()).ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                Code::CLI_FAILED,
                "the page says not where the next begins",
            )
        })?;
    }
    if arguments.output.form == Form::Json {
        print(&format!("{:#}\n", Value::Array(collected)))?;
    }
    Ok(Exit::Ok)
}

fn each(messages: &[Value], show: impl Fn(&Value) -> String) -> String {
    messages.iter().map(show).collect()
}

fn query(arguments: &Tail, from: &str, limit: u64, wait: bool) -> String {
    let mut query = format!("/messages?from={}&limit={limit}", encoded(from));
    for (field, value) in [("type", &arguments.message_type), ("key", &arguments.key)] {
        if let Some(value) = value {
            query.push_str(&format!("&{field}={}", encoded(value)));
        }
    }
    if wait {
        query.push_str(&format!("&wait_ms={WAIT_MS}"));
    }
    query
}

/// Where the last few messages begin. Positions have holes, so it looks further back until there are enough.
async fn last(
    client: &Client,
    arguments: &Tail,
    destination: &str,
    known: &Value,
) -> Result<String> {
    let end = number(known, "/next_position").unwrap_or(0);
    let wanted = arguments.count.unwrap_or(LAST).min(PAGE);
    let mut back = wanted;
    loop {
        let first = "/messages?from=earliest&limit=1";
        let first = number(&client.get(&of_topic(destination, first)).await?, "/first");
        let from = end.saturating_sub(back).max(first.unwrap_or(0));
        let asked = query(arguments, &from.to_string(), 1000, false);
        let page = match client.get(&of_topic(destination, &asked)).await {
            // They are handled and gone since.
            Err(Stop::Failed(failure)) if failure.code() == Code::LOG_TRIMMED => {
                return Ok("earliest".to_owned());
            }
            page => page?,
        };
        let messages = items(page.get("messages").unwrap_or(&Value::Null));
        let positions = messages.iter().filter_map(|m| number(m, "/position"));
        let positions: Vec<u64> = positions.collect();
        let enough = positions.len() as u64 >= wanted;
        if enough {
            let at = positions.len() - usize::try_from(wanted).unwrap_or(usize::MAX);
            return Ok(positions[at].to_string());
        }
        if Some(from) <= first || back >= 1000 {
            return Ok(from.to_string());
        }
        back = (back * 4).min(1000);
    }
}
