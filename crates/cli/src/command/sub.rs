//! `postrider sub`: subscriptions, how far behind they are; pause, resume, seek.

use clap::Subcommand;
use postrider::{Code, SubscriptionId};
use serde_json::{Value, json};

use crate::client::{Client, Place, of_subscription, subscription};
use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Output, Shown, cell, items, number, sheet, table};
use crate::report::note;
use crate::text::{count, duration, millis, span};
use crate::watch::Watch;

#[derive(Subcommand)]
#[command(before_help = "Examples:
  postrider sub ls                                      all that run
  postrider sub lag --max 30s                           exit code 9 where one is further behind
  postrider sub pause inventory@topic:shop.order        takes nothing new
  postrider sub seek inventory@topic:shop.order --to latest --dry-run", after_help = EXIT_CODES)]
pub(crate) enum Verb {
    /// Subscriptions that run, one line per member.
    Ls(Ls),
    /// One subscription with its policy and limits.
    Show(Show),
    /// Take nothing new; handlers that run go on. Until it is resumed or the process ends.
    Pause(Tell),
    /// Go on after a pause.
    Resume(Tell),
    /// Move it: skip messages, or have those that are kept delivered again.
    Seek(super::seek::Seek),
    /// How far behind: messages that wait and the age of the oldest.
    Lag(Lag),
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider sub ls
  postrider sub ls --all                also those that do not run
  postrider sub ls -o name              only their names
  postrider sub ls --watch=5s           again every five seconds", after_help = EXIT_CODES)]
pub(crate) struct Ls {
    /// Also those that no member of the process serves
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider sub show inventory@topic:shop.order
  postrider sub show prices@queue:prices -o json", after_help = EXIT_CODES)]
pub(crate) struct Show {
    /// The subscription: SERVICE@topic:NAME or SERVICE@queue:NAME
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: SubscriptionId,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider sub pause inventory@topic:shop.order
  postrider sub resume inventory@topic:shop.order", after_help = EXIT_CODES)]
pub(crate) struct Tell {
    /// The subscription: SERVICE@topic:NAME or SERVICE@queue:NAME
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: SubscriptionId,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider sub lag                                          all that run
  postrider sub lag --max 30s                                exit code 9 where the oldest message waits longer
  postrider sub lag inventory@topic:shop.order --max 1000    exit code 9 where more messages wait", after_help = EXIT_CODES)]
pub(crate) struct Lag {
    /// Only this subscription
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: Option<SubscriptionId>,
    /// Fail with exit code 9 where the oldest message is older (30s, 5m) or more messages wait (1000)
    #[arg(long, value_name = "DURATION|N", value_parser = max, conflicts_with = "watch")]
    max: Option<Max>,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(verb: Verb) -> Result {
    match verb {
        Verb::Ls(arguments) => ls(arguments).await,
        Verb::Show(arguments) => show(arguments).await,
        Verb::Pause(arguments) => tell(arguments, "pause").await,
        Verb::Resume(arguments) => tell(arguments, "resume").await,
        Verb::Seek(arguments) => super::seek::run(arguments).await,
        Verb::Lag(arguments) => lag(arguments).await,
    }
}

fn name(member: &Value) -> String {
    cell(member, "/id")
}

async fn ls(arguments: Ls) -> Result {
    let client = arguments.place.client()?;
    let fetch = async || members(&client, None, arguments.all).await;
    let watch = arguments.watch;
    watch
        .show(arguments.output, name, fetch, members_table)
        .await
}

/// Members that run; with `all`, or where nothing runs, the subscriptions that no member serves too.
async fn members(client: &Client, of: Option<&SubscriptionId>, all: bool) -> Result<Value> {
    let mut list = client.get("/v1/subscriptions").await?;
    let stopped = client.is_stopped().await;
    if all || stopped || of.is_some() {
        list = client.get("/v1/subscriptions?all=true").await?;
    }
    if let (Some(id), Some(list)) = (of, list.as_array_mut()) {
        list.retain(|member| name(member) == id.to_string());
        if list.is_empty() {
            let what = format!("there is no subscription {id}");
            return Err(Failure::new(Exit::NotFound, Code::ADMIN_NOT_FOUND, what)
                .remedy("`postrider sub ls --all` lists all of them")
                .into());
        }
    }
    Ok(list)
}

async fn show(arguments: Show) -> Result {
    let client = arguments.place.client()?;
    let members = members(&client, Some(&arguments.id), true).await?;
    let text = || {
        let members: Vec<String> = items(&members).iter().map(member_text).collect();
        members.join("\n")
    };
    arguments
        .output
        .write(&Shown::list(&members, name, &text))?;
    Ok(Exit::Ok)
}

async fn tell(arguments: Tell, what: &str) -> Result {
    let path = of_subscription(&arguments.id, &format!("/{what}"));
    let told = arguments.place.running()?.post(&path, &json!({})).await?;
    let members = number(&told, "/members").unwrap_or(0);
    let members = count(usize::try_from(members).unwrap_or(usize::MAX), "member");
    note(&format!("{what}d {} ({members})", arguments.id));
    Ok(Exit::Ok)
}

/// Members as a table.
pub(super) fn members_table(members: &Value) -> String {
    let row = |member: &Value| {
        [
            name(member),
            phase(member),
            cell(member, "/depth/depth"),
            age_of(member),
            cell(member, "/running"),
            cell(member, "/blocked_keys"),
            cell(member, "/parked_keys"),
        ]
    };
    let heads = [
        "SUBSCRIPTION",
        "PHASE",
        "DEPTH",
        "OLDEST",
        "RUNNING",
        "BLOCKED KEYS",
        "PARKED KEYS",
    ];
    table(heads, items(members).iter().map(row).collect())
}

/// What it does, and what it waits for.
fn phase(member: &Value) -> String {
    let phase = cell(member, "/phase").replace('_', " ");
    match member.get("waits_for").and_then(Value::as_str) {
        Some(dependency) => format!("{phase}, waits for {dependency}"),
        None => phase,
    }
}

/// The age of its oldest message that is not handled.
pub(super) fn age_of(member: &Value) -> String {
    number(member, "/depth/oldest_age_ms").map_or_else(|| "-".to_owned(), span)
}

fn member_text(member: &Value) -> String {
    let mut rows: Vec<[String; 2]> = [
        ("subscription", name(member)),
        ("member", cell(member, "/member")),
        ("phase", phase(member)),
        ("types", cell(member, "/types")),
        ("depth", cell(member, "/depth/depth")),
        ("in flight", cell(member, "/depth/in_flight")),
        ("delayed", cell(member, "/depth/delayed")),
        ("oldest", age_of(member)),
        ("held", cell(member, "/held")),
        ("running", cell(member, "/running")),
        ("publishing", cell(member, "/publishing")),
        ("blocked keys", cell(member, "/blocked_keys")),
        ("parked keys", cell(member, "/parked_keys")),
        ("source fault", cell(member, "/source_fault")),
    ]
    .map(|(name, what)| [name.to_owned(), what])
    .to_vec();
    if let Some(policy) = member.get("policy") {
        policy_rows("policy", policy, &mut rows);
    }
    sheet(rows)
}

/// A policy's fields, one per row, durations as a person reads them.
fn policy_rows(path: &str, value: &Value, rows: &mut Vec<[String; 2]>) {
    let time = |fields: &serde_json::Map<String, Value>| {
        let (secs, nanos) = (
            fields.get("secs")?.as_u64()?,
            fields.get("nanos")?.as_u64()?,
        );
        (fields.len() == 2)
            .then(|| span(secs.saturating_mul(1000).saturating_add(nanos / 1_000_000)))
    };
    match value {
        Value::Object(fields) => match time(fields) {
            Some(time) => rows.push([path.to_owned(), time]),
            None => fields
                .iter()
                .for_each(|(name, value)| policy_rows(&joined(path, name), value, rows)),
        },
        Value::Array(all) if all.iter().any(Value::is_object) => all
            .iter()
            .enumerate()
            .for_each(|(at, value)| policy_rows(&joined(path, &at.to_string()), value, rows)),
        other => rows.push([path.to_owned(), cell(other, "")]),
    }
}

fn joined(path: &str, name: &str) -> String {
    format!("{path} {}", name.replace('_', " "))
}

/// How far behind a subscription may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Max {
    AgeMs(u64),
    Depth(u64),
}

fn max(text: &str) -> std::result::Result<Max, String> {
    if let Ok(depth) = text.parse() {
        return Ok(Max::Depth(depth));
    }
    let wrong = |_| format!("`{text}` is neither a number of messages nor a time like 30s or 5m");
    duration(text)
        .map(|time| Max::AgeMs(millis(time)))
        .map_err(wrong)
}

async fn lag(arguments: Lag) -> Result {
    let client = arguments.place.client()?;
    let row = |lag: &Value| {
        [
            name(lag),
            cell(lag, "/depth/depth"),
            cell(lag, "/depth/in_flight"),
            cell(lag, "/depth/delayed"),
            age_of(lag),
        ]
    };
    let heads = ["SUBSCRIPTION", "DEPTH", "IN FLIGHT", "DELAYED", "OLDEST"];
    let text = |lags: &Value| table(heads, items(lags).iter().map(row).collect());
    let fetch = async || {
        let of = arguments.id.as_ref();
        Ok(lags(&members(&client, of, false).await?))
    };
    if arguments.max.is_none() {
        let watch = arguments.watch;
        return watch.show(arguments.output, name, fetch, text).await;
    }
    let lags = fetch().await?;
    let shown = || text(&lags);
    arguments.output.write(&Shown::list(&lags, name, &shown))?;
    let Some(max) = arguments.max else {
        return Ok(Exit::Ok);
    };
    let over: Vec<String> = items(&lags)
        .iter()
        .filter_map(|lag| over(lag, max))
        .collect();
    match over.is_empty() {
        true => Ok(Exit::Ok),
        false => Err(Failure::new(Exit::CheckFailed, Code::CLI_CHECK_FAILED, over.join("; "))
            .remedy("`postrider sub show` says what it does; `postrider dlq groups` says what failed")
            .into()),
    }
}

/// Each subscription once: all members share its depth.
fn lags(members: &Value) -> Value {
    let mut lags: Vec<Value> = Vec::new();
    for member in items(members) {
        if !lags.iter().any(|lag| name(lag) == name(member)) {
            lags.push(json!({ "id": member.get("id"), "depth": member.get("depth") }));
        }
    }
    Value::Array(lags)
}

/// What is wrong with it, where it is further behind. What the engine does not say has not passed.
fn over(lag: &Value, max: Max) -> Option<String> {
    let id = name(lag);
    let Some(depth) = number(lag, "/depth/depth") else {
        return Some(format!("how far behind {id} is, the engine does not say"));
    };
    match max {
        Max::Depth(most) if depth > most => Some(format!(
            "{} wait for {id}, more than {most}",
            count(usize::try_from(depth).unwrap_or(usize::MAX), "message")
        )),
        Max::AgeMs(most) => {
            let age = number(lag, "/depth/oldest_age_ms")?;
            let text = || {
                format!(
                    "the oldest message of {id} waits for {}, longer than {}",
                    span(age),
                    span(most)
                )
            };
            (age > most).then(text)
        }
        Max::Depth(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_count_or_an_age() {
        assert_eq!(max("1000"), Ok(Max::Depth(1000)));
        assert_eq!(max("30s"), Ok(Max::AgeMs(30_000)));
        assert!(max("many").is_err());
    }

    #[test]
    fn what_the_engine_does_not_say_has_not_passed() {
        let unknown = json!({"id": "a@topic:b", "depth": null});
        assert!(over(&unknown, Max::Depth(10)).is_some());
        let known = json!({"id": "a@topic:b", "depth": {"depth": 10, "oldest_age_ms": 1500}});
        assert_eq!(over(&known, Max::Depth(10)), None);
        assert!(over(&known, Max::Depth(9)).is_some());
        assert_eq!(over(&known, Max::AgeMs(1500)), None);
        assert!(over(&known, Max::AgeMs(1499)).is_some());
        let empty = json!({"id": "a@topic:b", "depth": {"depth": 0, "oldest_age_ms": null}});
        assert_eq!(over(&empty, Max::AgeMs(0)), None);
    }
}
