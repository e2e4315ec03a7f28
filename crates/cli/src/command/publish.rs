//! `postrider publish`: messages from arguments, or from the lines of standard input.

use std::io::BufRead as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use postrider::Code;
use serde_json::{Map, Value, json};

use super::message::destination;
use crate::client::{Client, Place, of_topic};
use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Form, Output, Shown, cell, items, print, table};
use crate::report::note;
use crate::text::{count, duration, millis, plain};

/// Messages of one request, and bytes of their payloads, about.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// How long one request may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Errors that are shown one by one.
const ERRORS_SHOWN: usize = 10;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider publish shop.order --type placed --key order-1 '{\"order_id\":\"order-1\",\"cents\":995}'
  postrider publish shop.order --type placed --key-field order_id < orders.jsonl     one message per line
  postrider publish queue:prices --type ask --delay 5m '{\"sku\":\"A-17\"}'             delivered in five minutes
  postrider publish shop.order --type placed --header origin=import -o name < orders.jsonl", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The topic or queue
    #[arg(add = crate::complete::topics())]
    topic: String,
    /// The payloads, one message each; without any, each line of standard input is one
    #[arg(value_name = "PAYLOAD")]
    payloads: Vec<String>,
    /// The type of the messages
    #[arg(long = "type", value_name = "TYPE")]
    message_type: String,
    /// The key of all of them
    #[arg(long, value_name = "KEY", conflicts_with = "key_field")]
    key: Option<String>,
    /// The field of the JSON payload that is the key
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// A header
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Not delivered before this has passed
    #[arg(long, value_name = "TIME", value_parser = duration)]
    delay: Option<Duration>,
    /// The id, for one message: the same id published again is stored once
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// The conversation that they belong to
    #[arg(long, value_name = "TEXT")]
    correlation: Option<String>,
    /// The content type of the payloads
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: String,
    /// Make the topic or queue where it does not exist
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

fn header(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(arguments: Arguments) -> Result {
    let client = arguments.place.client()?;
    let topic = match destination(&client, &arguments.topic).await {
        Ok(topic) => topic,
        Err(stop) if !arguments.create => return Err(stop),
        Err(_) if arguments.topic.contains(':') => arguments.topic.clone(),
        Err(_) => format!("topic:{}", arguments.topic),
    };
    let mut work = Work {
        client: &client,
        arguments: &arguments,
        path: of_topic(&topic, "/messages"),
        bar: bar(),
        results: Vec::new(),
        published: 0,
        failed: 0,
    };
    let ended = tokio::select! {
        ended = work.all() => ended,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    };
    work.bar.finish_and_clear();
    work.end(&topic)?;
    ended
}

/// How far it is, on a terminal.
fn bar() -> ProgressBar {
    // The template is a constant that is well formed.
    let style = ProgressStyle::with_template("{spinner} {pos} published, {per_sec}, {elapsed}");
    let bar = ProgressBar::new_spinner();
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

struct Work<'a> {
    client: &'a Client,
    arguments: &'a Arguments,
    path: String,
    bar: ProgressBar,
    /// What became of each, where it is written at the end.
    results: Vec<Value>,
    published: usize,
    failed: usize,
}

impl Work<'_> {
    async fn all(&mut self) -> Result {
        let mut batch = Batch::default();
        if self.arguments.payloads.is_empty() {
            let (send, mut lines) = tokio::sync::mpsc::channel(2 * BATCH);
            // On a thread of its own, so that an interrupt is noticed while nothing comes.
            std::thread::spawn(move || {
                for line in std::io::stdin().lock().lines() {
                    if send.blocking_send(line).is_err() {
                        return;
                    }
                }
            });
            while let Some(line) = lines.recv().await {
                let line = line.map_err(|error| {
                    let what = "standard input cannot be read";
                    Failure::new(Exit::Failed, Code::CLI_FAILED, what).why(error.to_string())
                })?;
                if line.trim().is_empty() {
                    continue;
                }
                batch.add(self.message(&line)?, line.len());
                // What waits goes when there is much of it, or when nothing more is there yet.
                if batch.is_full() || lines.is_empty() {
                    self.send(&mut batch).await?;
                }
            }
        }
        for payload in &self.arguments.payloads {
            batch.add(self.message(payload)?, payload.len());
            if batch.is_full() {
                self.send(&mut batch).await?;
            }
        }
        self.send(&mut batch).await?;
        match (self.published, self.failed) {
            (_, 0) => Ok(Exit::Ok),
            (published, failed) => {
                let exit = if published == 0 {
                    Exit::Failed
                } else {
                    Exit::Partial
                };
                let what = format!("{} were not published", count(failed, "message"));
                Err(Failure::new(exit, Code::CLI_FAILED, what)
                    .why("each says its own reason above")
                    .remedy("mend what they name, then publish those again with the same --id, or the same lines")
                    .into())
            }
        }
    }

    /// A message as the API takes it.
    fn message(&self, payload: &str) -> Result<Value> {
        let a = self.arguments;
        let mut message = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                message.insert(name.to_owned(), value);
            }
        };
        let key = match &a.key_field {
            Some(field) => Some(key_of(payload, field)?),
            None => a.key.clone(),
        };
        put("type", json!(a.message_type));
        put("payload", json!(payload));
        put("content_type", json!(a.content_type));
        put("key", json!(key));
        put("id", json!(a.id));
        put("source", json!("postrider-cli"));
        put("correlation_id", json!(a.correlation));
        put("delay_ms", json!(a.delay.map(millis)));
        let headers: Map<String, Value> = a
            .header
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        put("headers", Value::Object(headers));
        Ok(Value::Object(message))
    }

    async fn send(&mut self, batch: &mut Batch) -> Result<()> {
        if batch.messages.is_empty() {
            return Ok(());
        }
        let messages = std::mem::take(batch).messages;
        if self.arguments.id.is_some() && messages.len() + self.results.len() > 1 {
            let what = "--id is for one message: more were given";
            return Err(Failure::usage(what).into());
        }
        let body = json!({ "messages": messages, "create": self.arguments.create });
        let answer = self.client.post_within(&self.path, &body, WITHIN).await?;
        let results = items(answer.get("results").unwrap_or(&Value::Null));
        for result in results {
            match result.get("error") {
                None => self.published += 1,
                Some(error) => {
                    self.failed += 1;
                    if self.failed <= ERRORS_SHOWN {
                        let (id, what) = (cell(result, "/id"), cell(error, "/what"));
                        note(&format!("{}: {id}: {what}", cell(error, "/code")));
                    }
                }
            }
        }
        self.bar.set_position(self.published as u64);
        let done = || {
            results
                .iter()
                .filter(|result| result.get("error").is_none())
        };
        match self.arguments.output.form {
            Form::Name => print(
                &done()
                    .map(|r| format!("{}\n", cell(r, "/id")))
                    .collect::<String>(),
            )?,
            Form::Jsonl => print(&results.iter().map(|r| format!("{r}\n")).collect::<String>())?,
            Form::Json | Form::Table => self.results.extend(results.iter().cloned()),
        }
        Ok(())
    }

    /// Writes what is not written yet.
    fn end(&self, topic: &str) -> Result<()> {
        if matches!(self.arguments.output.form, Form::Json | Form::Table) {
            let all = Value::Array(self.results.clone());
            let row = |result: &Value| {
                [
                    cell(result, "/id"),
                    cell(result, "/position"),
                    cell(result, "/duplicate"),
                    cell(result, "/subscriptions"),
                    cell(result, "/error/code"),
                ]
            };
            let heads = ["ID", "POSITION", "DUPLICATE", "SUBSCRIPTIONS", "ERROR"];
            let text = || table(heads, items(&all).iter().map(row).collect());
            let name = |result: &Value| cell(result, "/id");
            self.arguments
                .output
                .write(&Shown::list(&all, name, &text))?;
        }
        let many = count(self.published, "message");
        note(&format!("published {many} to {}", plain(topic)));
        Ok(())
    }
}

#[derive(Default)]
struct Batch {
    messages: Vec<Value>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, message: Value, bytes: usize) {
        self.messages.push(message);
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH || self.bytes >= BATCH_BYTES
    }
}

/// The key that stands in a field of the payload: a text, or a number as it is written.
fn key_of(payload: &str, field: &str) -> Result<String> {
    let json: Option<Value> = serde_json::from_str(payload).ok();
    match json.as_ref().and_then(|json| json.get(field)) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => {
            let begin: String = payload.chars().take(60).collect();
            let what = format!("no text or number `{field}` is in the payload {begin}");
            Err(Failure::usage(what)
                .remedy("give each line that field, or one --key for all; what came before it is published")
                .into())
        }
    }
}
