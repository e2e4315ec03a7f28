//! `postrider dlq groups|ls|show`.

use std::collections::BTreeSet;

use postrider::SubscriptionId;
use serde_json::Value;

use super::records::{Pages, has_key, name};
use crate::client::{Client, Place, encoded, of_subscription, subscription};
use crate::command::message::{envelope_and_headers, payload};
use crate::end::{EXIT_CODES, Exit, Result};
use crate::output::{Output, Shown, cell, items, sheet, table};
use crate::report::note;
use crate::text::{age, now, plain};
use crate::watch::Watch;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider dlq groups                                of all subscriptions
  postrider dlq groups payment@topic:shop.order -o json", after_help = EXIT_CODES)]
pub(crate) struct Groups {
    /// Only of this subscription
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: Option<SubscriptionId>,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider dlq ls                                               the first 100 of each subscription
  postrider dlq ls payment@topic:shop.order --limit 1000         more of one
  postrider dlq ls payment@topic:shop.order --after 117          the next ones
  postrider dlq ls -o name | xargs -n 2 postrider dlq show       all in full", after_help = EXIT_CODES)]
pub(crate) struct Ls {
    /// Only of this subscription
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: Option<SubscriptionId>,
    /// Only of this group, as `dlq groups` writes it
    #[arg(long, value_name = "TEXT", add = crate::complete::groups())]
    group: Option<String>,
    /// Only of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only those behind this number
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    /// At most this many of a subscription
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider dlq show payment@topic:shop.order 17
  postrider dlq show payment@topic:shop.order 17 -o json | jq .payload", after_help = EXIT_CODES)]
pub(crate) struct Show {
    /// The subscription: SERVICE@topic:NAME or SERVICE@queue:NAME
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: SubscriptionId,
    /// The failure's number
    #[arg(value_name = "N")]
    number: u64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn groups(arguments: Groups) -> Result {
    let client = arguments.place.client()?;
    let path = match &arguments.id {
        Some(id) => format!("/v1/failures?subscription={}", encoded(&id.to_string())),
        None => "/v1/failures".to_owned(),
    };
    let fetch = async || {
        let groups = client.get(&path).await?;
        if let (Some(id), []) = (&arguments.id, items(&groups)) {
            // No failures, or no such subscription: the list tells them apart.
            client
                .get(&of_subscription(id, "/failures?limit=1"))
                .await?;
        }
        Ok(groups)
    };
    let row = |group: &Value| {
        [
            cell(group, "/count"),
            cell(group, "/subscription"),
            age(&cell(group, "/first"), now()),
            age(&cell(group, "/last"), now()),
            cell(group, "/sample"),
            cell(group, "/group"),
        ]
    };
    let heads = ["COUNT", "SUBSCRIPTION", "FIRST", "LAST", "SAMPLE", "GROUP"];
    let text = |groups: &Value| table(heads, items(groups).iter().map(row).collect());
    let name = |group: &Value| cell(group, "/group");
    let watch = arguments.watch;
    watch.show(arguments.output, name, fetch, text).await
}

pub(super) async fn ls(arguments: Ls) -> Result {
    let client = arguments.place.client()?;
    let fetch = async || {
        let mut all = Vec::new();
        for id in wanted(&client, &arguments.id).await? {
            all.extend(of_one(&client, &id, &arguments).await?);
        }
        Ok(Value::Array(all))
    };
    let row = |record: &Value| {
        [
            cell(record, "/subscription"),
            cell(record, "/id"),
            cell(record, "/state"),
            cell(record, "/cause"),
            cell(record, "/message_type"),
            cell(record, "/key"),
            cell(record, "/attempts"),
            age(&cell(record, "/failed_at"), now()),
            cell(record, "/errors/0"),
        ]
    };
    let heads = [
        "SUBSCRIPTION",
        "N",
        "STATE",
        "CAUSE",
        "TYPE",
        "KEY",
        "ATTEMPTS",
        "FAILED",
        "ERROR",
    ];
    let text = |all: &Value| table(heads, items(all).iter().map(row).collect());
    let watch = arguments.watch;
    watch.show(arguments.output, name, fetch, text).await
}

/// The one that was named, or all that have failures.
async fn wanted(client: &Client, named: &Option<SubscriptionId>) -> Result<Vec<SubscriptionId>> {
    if let Some(id) = named {
        return Ok(vec![id.clone()]);
    }
    let groups = client.get("/v1/failures").await?;
    let ids = items(&groups)
        .iter()
        .filter_map(|group| SubscriptionId::parse(&cell(group, "/subscription")).ok());
    Ok(ids.collect::<BTreeSet<_>>().into_iter().collect())
}

async fn of_one(client: &Client, id: &SubscriptionId, arguments: &Ls) -> Result<Vec<Value>> {
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let is_wanted = |record: &Value| {
        let key = arguments.key.as_deref();
        key.is_none_or(|key| has_key(record, key))
    };
    let mut records: Vec<Value> = Vec::new();
    // One more than is shown says whether there are more.
    let per_page = arguments.limit.saturating_add(1);
    let group = arguments.group.as_deref();
    let mut pages = Pages::new(client, id, group, arguments.after, per_page);
    while records.len() <= limit {
        let Some(page) = pages.next().await? else {
            return Ok(records);
        };
        records.extend(page.into_iter().filter(is_wanted));
    }
    records.truncate(limit);
    let last = records
        .last()
        .map_or_else(String::new, |last| cell(last, "/id"));
    note(&format!(
        "{id} has more: --after {last}, or a larger --limit"
    ));
    Ok(records)
}

pub(super) async fn show(arguments: Show) -> Result {
    let path = of_subscription(&arguments.id, &format!("/failures/{}", arguments.number));
    let failure = arguments.place.client()?.get(&path).await?;
    let text = || text(&failure);
    arguments.output.write(&Shown::one(&failure, name, &text))?;
    Ok(Exit::Ok)
}

pub(super) fn text(failure: &Value) -> String {
    let now = now();
    let rows = [
        ("subscription", cell(failure, "/subscription")),
        ("failure", cell(failure, "/id")),
        ("state", cell(failure, "/state")),
        (
            "cause",
            format!("{} ({})", cell(failure, "/cause"), cell(failure, "/code")),
        ),
        ("group", cell(failure, "/group")),
        ("key", cell(failure, "/key")),
        ("key is parked", cell(failure, "/parked")),
        ("attempts", cell(failure, "/attempts")),
        ("redrives", cell(failure, "/redrives")),
        ("first seen", age(&cell(failure, "/first_seen"), now)),
        ("failed", age(&cell(failure, "/failed_at"), now)),
        ("position", cell(failure, "/position")),
    ];
    let mut rows: Vec<[String; 2]> = rows.map(|(name, what)| [name.to_owned(), what]).to_vec();
    for error in items(failure.get("errors").unwrap_or(&Value::Null)) {
        rows.push(["error".to_owned(), cell(error, "")]);
    }
    let mut out = sheet(rows);
    out.push_str(&envelope_and_headers(failure));
    out.push_str(&payload(failure.get("payload").unwrap_or(&Value::Null)));
    if let Some(edited) = failure.get("edited").filter(|edited| !edited.is_null()) {
        out.push_str(&format!(
            "\nedited by {}, {}: {}; before that\n",
            plain(&cell(edited, "/by")),
            age(&cell(edited, "/at"), now),
            plain(&cell(edited, "/reason"))
        ));
        out.push_str(&envelope_and_headers(edited));
        out.push_str(&payload(edited.get("payload").unwrap_or(&Value::Null)));
    }
    out
}
