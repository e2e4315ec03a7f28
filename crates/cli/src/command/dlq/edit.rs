//! `postrider dlq edit`: another payload or other headers for a failure, before it is redriven. What it was is kept with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::{Code, SubscriptionId};
use serde_json::{Map, Value, json};

use super::records::name;
use crate::ask::Sure;
use crate::client::{Place, of_subscription, subscription};
use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Output, Shown, cell};
use crate::report::note;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider dlq edit payment@topic:shop.order 17                              its payload in $EDITOR
  postrider dlq edit payment@topic:shop.order 17 --payload mended.json --yes --reason \"amount in cents\"
  postrider dlq edit payment@topic:shop.order 17 --header ce_type=placed2 --remove-header x-old", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The subscription: SERVICE@topic:NAME or SERVICE@queue:NAME
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: SubscriptionId,
    /// The failure's number
    #[arg(value_name = "N")]
    number: u64,
    /// Take the payload from this file; - is standard input. Without it, and without headers, $EDITOR is opened
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// Set a header, as it is stored
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// Take a header away
    #[arg(long, value_name = "NAME")]
    remove_header: Vec<String>,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> Result {
    let sure = &arguments.sure;
    sure.check()?;
    let headers: Result<Map<String, Value>> = arguments.header.iter().map(|h| header(h)).collect();
    let mut body = Map::new();
    body.insert("set_headers".into(), Value::Object(headers?));
    body.insert("remove_headers".into(), json!(arguments.remove_header));
    let client = arguments.place.client()?;
    let path = of_subscription(&arguments.id, &format!("/failures/{}", arguments.number));
    let failure = client.get(&path).await?;
    let before = bytes(&failure)?;
    let asks_editor = arguments.header.is_empty() && arguments.remove_header.is_empty();
    let after = match &arguments.payload {
        Some(file) => Some(read(file)?),
        None if asks_editor => Some(in_editor(&before).await?),
        None => None,
    };
    let changes_headers = !asks_editor;
    let payload_differs = after.as_ref().is_some_and(|after| *after != before);
    if !payload_differs && !changes_headers {
        note("nothing was changed");
        return write(&arguments, &failure);
    }
    if let Some(after) = after.filter(|_| payload_differs) {
        check(&failure, &after);
        match String::from_utf8(after) {
            Ok(text) => body.insert("payload".into(), json!(text)),
            Err(raw) => {
                let encoded = STANDARD.encode(raw.into_bytes());
                body.insert("payload_base64".into(), json!(encoded))
            }
        };
    }
    let what = format!("failure {} of {}", arguments.number, arguments.id);
    if sure.dry_run {
        note(&format!("would edit {what}"));
        return write(&arguments, &failure);
    }
    sure.confirm(&format!("edit {what}?")).await?;
    body.insert("reason".into(), json!(sure.reason().await?));
    body.insert("by".into(), json!(sure.by()));
    client
        .post(&format!("{path}/edit"), &Value::Object(body))
        .await?;
    note(&format!(
        "edited {what}; `postrider dlq redrive {} {}` hands it back",
        arguments.id, arguments.number
    ));
    write(&arguments, &client.get(&path).await?)
}

fn write(arguments: &Arguments, failure: &Value) -> Result {
    let text = || super::look::text(failure);
    arguments.output.write(&Shown::one(failure, name, &text))?;
    Ok(Exit::Ok)
}

fn header(text: &str) -> Result<(String, Value)> {
    match text.split_once('=').filter(|(name, _)| !name.is_empty()) {
        Some((name, value)) => Ok((name.to_owned(), json!(value))),
        None => Err(Failure::usage(format!("`{text}` is not NAME=VALUE")).into()),
    }
}

/// The payload as it is now.
fn bytes(failure: &Value) -> Result<Vec<u8>> {
    let payload = failure.get("payload").unwrap_or(&Value::Null);
    if payload.get("truncated").and_then(Value::as_bool) == Some(true) {
        let what = "the payload is larger than is shown, so it cannot be edited";
        return Err(Failure::new(Exit::Conflict, Code::CLI_CONFLICT, what)
            .remedy("publish a mended message, and discard the failure")
            .into());
    }
    if let Some(text) = payload.get("text").and_then(Value::as_str) {
        return Ok(text.as_bytes().to_vec());
    }
    STANDARD
        .decode(cell(payload, "/base64"))
        .map_err(|error| broken("the answer cannot be read", &error.to_string()))
}

fn broken(what: &str, why: &str) -> crate::end::Stop {
    let failure = Failure::new(Exit::Failed, Code::CLI_FAILED, what);
    failure.why(why).into()
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let read = match file.as_os_str() == "-" {
        true => {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut all).map(|_| all)
        }
        false => std::fs::read(file),
    };
    let what = format!("{} cannot be read", file.display());
    read.map_err(|error| broken(&what, &error.to_string()))
}

/// What a person makes of it.
async fn in_editor(before: &[u8]) -> Result<Vec<u8>> {
    let named = |name| {
        std::env::var(name)
            .ok()
            .filter(|e: &String| !e.trim().is_empty())
    };
    let editor = named("VISUAL")
        .or_else(|| named("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned());
    let said = |error: std::io::Error| broken("the payload cannot be edited", &error.to_string());
    // A directory of its own, closed to others: a payload may hold what is not for them.
    let dir = Scratch::new().map_err(said)?;
    let file = dir.0.join("payload.json");
    std::fs::write(&file, before).map_err(said)?;
    let shown = file.clone();
    let run = move || {
        // As git does it: the editor's name may hold arguments.
        let script = format!("{editor} \"$1\"");
        Command::new("sh")
            .args(["-c", &script, "editor"])
            .arg(shown)
            .status()
    };
    let ended = tokio::task::spawn_blocking(run).await;
    match ended {
        Ok(Ok(status)) if status.success() => std::fs::read(&file).map_err(said),
        Ok(Ok(status)) => Err(broken(
            "nothing was done: the editor failed",
            &status.to_string(),
        )),
        Ok(Err(error)) => Err(said(error)),
        Err(error) => Err(broken("the editor was not run", &error.to_string())),
    }
}

/// A directory that is gone with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let name = format!("postrider-edit-{}-{nanos}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in a directory that only this user can open.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Says so where JSON was edited into what is none: it may be meant.
fn check(failure: &Value, after: &[u8]) {
    let content_type = cell(failure, "/envelope/datacontenttype");
    if content_type == "application/json"
        && let Err(error) = serde_json::from_slice::<Value>(after)
    {
        note(&format!(
            "careful: the payload is no JSON any more: {error}"
        ));
    }
}
