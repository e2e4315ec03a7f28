//! The failures of a subscription, page by page, and which of them are meant.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::{Code, SubscriptionId};
use serde_json::{Value, json};

use crate::client::{Client, encoded, of_subscription};
use crate::end::{Exit, Failure, Result};
use crate::output::{cell, items, number};
use crate::text::count;

/// Records of one page: the most that the admin API gives.
const PAGE: u64 = 1000;

/// Which failures are meant.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "which", required = true, multiple = false)]
pub(super) struct Which {
    /// These failures, by number
    #[arg(value_name = "N", num_args = 1..=1000)]
    ids: Vec<u64>,
    /// All of this group, as `dlq groups` writes it
    #[arg(long, value_name = "TEXT", add = crate::complete::groups())]
    group: Option<String>,
    /// All of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// All of the subscription
    #[arg(long)]
    all: bool,
}

/// What is kept of a failure while it is worked on: few bytes, since there may be many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: u64,
    /// Its key in base64, where it is parked with it.
    pub(super) parked_key: Option<String>,
    /// It waits for a person; otherwise it is on its way back to the handler.
    pub(super) is_waiting: bool,
    pub(super) redrives: u64,
    /// It is one of those that are meant.
    pub(super) is_meant: bool,
}

impl Record {
    pub(super) fn read(json: &Value, which: Option<&Which>) -> Option<Self> {
        let id = number(json, "/id")?;
        let parked = json.get("parked").and_then(Value::as_bool).unwrap_or(false);
        Some(Self {
            id,
            parked_key: parked.then(|| cell(json, "/key_base64")),
            is_waiting: cell(json, "/state") == "waiting",
            redrives: number(json, "/redrives").unwrap_or(0),
            is_meant: which.is_some_and(|which| which.means(id, json)),
        })
    }
}

impl Which {
    fn means(&self, id: u64, json: &Value) -> bool {
        let of_group = |group: &str| json.get("group").and_then(Value::as_str) == Some(group);
        self.all
            || self.ids.contains(&id)
            || self.group.as_deref().is_some_and(of_group)
            || self.key.as_deref().is_some_and(|key| has_key(json, key))
    }

    /// All records of the subscription, in order; those that are meant are marked.
    ///
    /// # Errors
    /// None is meant, a number is not there, or all that are meant are on their way already.
    pub(super) async fn find(&self, client: &Client, id: &SubscriptionId) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut pages = Pages::new(client, id, None, 0, PAGE);
        while let Some(page) = pages.next().await? {
            records.extend(page.iter().filter_map(|r| Record::read(r, Some(self))));
        }
        let not_found = |what: String| {
            Failure::new(Exit::NotFound, Code::ADMIN_NOT_FOUND, what)
                .remedy("`postrider dlq ls` lists what there is")
        };
        let is_there = |id: &u64| records.iter().any(|record| record.id == *id);
        if let Some(absent) = self.ids.iter().find(|id| !is_there(id)) {
            let what = format!("{id} has no failure {absent}; nothing was done");
            return Err(not_found(what).into());
        }
        let mut meant = records.iter().filter(|r| r.is_meant).peekable();
        if meant.peek().is_none() {
            return Err(not_found(format!("no failure of {id} is meant; nothing was done")).into());
        }
        if !meant.any(|r| r.is_waiting) {
            let what = "all of them are on their way back to the handler already";
            return Err(Failure::new(Exit::Conflict, Code::CLI_CONFLICT, what)
                .why("a redrive was asked for before")
                .remedy("look at them again with `postrider dlq ls`")
                .into());
        }
        Ok(records)
    }
}

/// Whether it has this key. What is shown as its key may be cut, so the exact form is compared.
pub(super) fn has_key(record: &Value, key: &str) -> bool {
    let exact = record.get("key_base64").and_then(Value::as_str);
    exact == Some(STANDARD.encode(key).as_str())
}

/// Walks over the failures of one subscription.
pub(super) struct Pages<'a> {
    client: &'a Client,
    id: &'a SubscriptionId,
    group: Option<&'a str>,
    after: u64,
    limit: u64,
}

impl<'a> Pages<'a> {
    pub(super) fn new(
        client: &'a Client,
        id: &'a SubscriptionId,
        group: Option<&'a str>,
        after: u64,
        limit: u64,
    ) -> Self {
        Self {
            client,
            id,
            group,
            after,
            limit: limit.clamp(1, PAGE),
        }
    }

    /// The next page; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        let mut query = format!("/failures?after={}&limit={}", self.after, self.limit);
        if let Some(group) = self.group {
            query.push_str(&format!("&group={}", encoded(group)));
        }
        let answer = self.client.get(&of_subscription(self.id, &query)).await?;
        let page = items(answer.get("records").unwrap_or(&Value::Null)).to_vec();
        // A page may be short where records ended while it was read: only an empty one is the last.
        let last = page.last().and_then(|record| number(record, "/id"));
        Ok(last.map(|last| {
            self.after = last;
            page
        }))
    }
}

/// Asks for something to be done to these records. Gives to how many it was done.
pub(super) async fn act(
    client: &Client,
    id: &SubscriptionId,
    verb: &str,
    ids: &[u64],
    kept: &Kept,
) -> Result<usize> {
    let body = json!({ "ids": ids, "reason": kept.reason, "by": kept.by });
    let path = of_subscription(id, &format!("/{verb}"));
    let done = number(&client.post(&path, &body).await?, "/count").unwrap_or(0);
    Ok(usize::try_from(done).unwrap_or(usize::MAX))
}

/// What is kept of who did it, and why.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) reason: String,
    pub(super) by: String,
}

/// `12 failures of payment@topic:shop.order`.
pub(super) fn how_many(n: usize, id: &SubscriptionId) -> String {
    format!("{} of {id}", count(n, "failure"))
}

/// The name of a failure: what `dlq show` takes.
pub(super) fn name(record: &Value) -> String {
    format!("{} {}", cell(record, "/subscription"), cell(record, "/id"))
}

/// Names of failures by number, one per line.
pub(super) fn names(id: &SubscriptionId, ids: &[u64]) -> String {
    ids.iter().map(|n| format!("{id} {n}\n")).collect()
}
