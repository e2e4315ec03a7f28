//! Messages as the API gives them, for a person.

use serde_json::Value;

use crate::client::{Client, encoded};
use crate::end::{Exit, Failure, Result};
use crate::output::{cell, items, sheet, table};
use crate::text::{age, now, plain, plain_lines};

/// The full name of a topic or queue: a bare one is a topic, or a queue where there is no such topic.
pub(super) async fn destination(client: &Client, wanted: &str) -> Result<String> {
    Ok(cell(&topic(client, wanted).await?, "/destination"))
}

/// The topic or queue of this name, as the API lists it.
pub(super) async fn topic(client: &Client, wanted: &str) -> Result<Value> {
    let topics = client.get("/v1/topics").await?;
    let with = |full: &str| {
        let mut all = items(&topics).iter();
        all.find(|topic| cell(topic, "/destination") == full)
    };
    let found = match wanted.contains(':') {
        true => with(wanted),
        false => with(&format!("topic:{wanted}")).or_else(|| with(&format!("queue:{wanted}"))),
    };
    found.cloned().ok_or_else(|| {
        let what = format!("there is no topic or queue `{wanted}`");
        Failure::new(Exit::NotFound, postrider::Code::ADMIN_NOT_FOUND, what)
            .remedy("`postrider topic ls` lists all of them")
            .into()
    })
}

/// What `msg show` takes.
pub(super) fn name(message: &Value) -> String {
    format!(
        "{}@{}",
        cell(message, "/destination"),
        cell(message, "/position")
    )
}

/// One message in one line: time, position, type, key, payload.
pub(super) fn line(message: &Value) -> String {
    let time = cell(message, "/stored_at");
    // The time of the day, as an RFC 3339 time has it.
    let time = time.get(11..23).unwrap_or(&time).trim_end_matches('Z');
    let line = format!(
        "{time:<12}  {:>8}  {:<16}  {:<20}  {}",
        cell(message, "/position"),
        plain(&cell(message, "/type")),
        plain(&cell(message, "/key")),
        plain(&body(message.get("payload").unwrap_or(&Value::Null)))
    );
    format!("{}\n", line.trim_end())
}

fn body(payload: &Value) -> String {
    let text = payload.get("text").and_then(Value::as_str);
    text.map_or_else(|| cell(payload, "/base64"), str::to_owned)
}

/// Payload with its size, for a person.
pub(super) fn payload(payload: &Value) -> String {
    let cut = match payload.get("truncated").and_then(Value::as_bool) {
        Some(true) => ", the beginning",
        _ => "",
    };
    let (kind, body) = match payload.get("text").and_then(Value::as_str) {
        Some(text) => ("", plain_lines(text)),
        None => (", base64", plain(&cell(payload, "/base64"))),
    };
    format!(
        "\npayload ({} bytes{kind}{cut})\n{body}\n",
        cell(payload, "/bytes")
    )
}

/// Envelope and headers, each below its title; nothing where there is none.
pub(super) fn envelope_and_headers(message: &Value) -> String {
    let mut out = String::new();
    if let Some(Value::Object(envelope)) = message.get("envelope") {
        let fields = envelope
            .iter()
            .map(|(name, value)| [name.clone(), cell(value, "")]);
        out.push_str(&format!("\nenvelope\n{}", sheet(fields.collect())));
    }
    let headers = items(message.get("headers").unwrap_or(&Value::Null));
    if !headers.is_empty() {
        let fields = headers
            .iter()
            .map(|header| [cell(header, "/0"), cell(header, "/1")]);
        out.push_str(&format!("\nheaders\n{}", sheet(fields.collect())));
    }
    out
}

/// A message in full, with where it stands.
pub(super) fn full(message: &Value) -> String {
    let now = now();
    let mut rows = vec![
        ["message".to_owned(), name(message)],
        ["stored".to_owned(), age(&cell(message, "/stored_at"), now)],
    ];
    if message.get("kept").and_then(Value::as_bool) == Some(false) {
        let where_it_is = "only in a failure record: the topic has let go of it";
        rows.push(["kept".to_owned(), where_it_is.to_owned()]);
    }
    if let Some(why) = message.get("unreadable").and_then(Value::as_str) {
        rows.push(["unreadable".to_owned(), why.to_owned()]);
    }
    let mut out = sheet(rows);
    let standings = items(message.get("subscriptions").unwrap_or(&Value::Null));
    if !standings.is_empty() {
        let row = |standing: &Value| {
            [
                cell(standing, "/id"),
                state(standing),
                cell(standing, "/attempts"),
                cell(standing, "/failure"),
                match standing.get("until").and_then(Value::as_str) {
                    Some(until) => age(until, now),
                    None => "-".to_owned(),
                },
                cell(standing, "/error"),
            ]
        };
        let heads = [
            "SUBSCRIPTION",
            "STATE",
            "ATTEMPTS",
            "FAILURE",
            "DUE",
            "ERROR",
        ];
        let rows = standings.iter().map(row).collect();
        out.push_str(&format!("\n{}", table(heads, rows)));
    }
    out.push_str(&envelope_and_headers(message));
    out.push_str(&payload(message.get("payload").unwrap_or(&Value::Null)));
    out
}

/// Where it stands, in words.
pub(super) fn state(standing: &Value) -> String {
    cell(standing, "/state").replace('_', " ")
}

/// Searches for messages, and says where the search ended before its time.
pub(super) async fn search(client: &Client, kind: &str, id: &str, scan: u64) -> Result<Value> {
    let path = format!("/v1/{kind}/{}?scan={scan}", encoded(id));
    client.get(&path).await
}

/// Nothing was found: what was looked at.
pub(super) fn none_found(what: String, found: &Value) -> Failure {
    let looked = cell(found, "/scanned");
    let why = match found.get("complete").and_then(Value::as_bool) {
        Some(true) => format!(
            "of the {looked} messages that are kept, and of all failures, it is none: a topic keeps what is not handled by all of its subscriptions"
        ),
        _ => format!("only the newest {looked} messages were looked at"),
    };
    let failure = Failure::new(Exit::NotFound, postrider::Code::ADMIN_NOT_FOUND, what).why(why);
    match found.get("complete").and_then(Value::as_bool) {
        Some(true) => failure.remedy("`postrider topic tail` shows what is kept"),
        _ => failure.remedy("look further with --scan"),
    }
}
