//! `postrider dlq redrive`: failures back to their subscription, in key order. One first; where it is handled, the rest, batch by batch, so that
//! an interrupt leaves what has not been reached as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use postrider::{Code, SubscriptionId};
use serde_json::{Value, json};

use super::records::{Kept, Pages, Record, Which, act, how_many, names};
use crate::ask::{Progress, Sure};
use crate::client::{Client, Place, of_subscription, subscription};
use crate::end::{EXIT_CODES, Exit, Failure, Result, Stop};
use crate::output::{Form, Output, Shown, cell, items, number, print, table};
use crate::report::note;
use crate::text::{count, duration, millis, span};

/// Records that are on their way at once, unless one key has more.
const BATCH: usize = 200;
/// How soon an outcome is looked for, at first and at last.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
#[command(override_usage = "postrider dlq redrive [OPTIONS] <ID> <N... | --group TEXT | --key KEY | --all>", before_help = "Examples:
  postrider dlq redrive payment@topic:shop.order 17                    one, with its whole key where it is parked
  postrider dlq redrive payment@topic:shop.order --key order-4711      all of one key, in order
  postrider dlq redrive payment@topic:shop.order --group 'permanent · placed · card # declined' --dry-run
  postrider dlq redrive payment@topic:shop.order --all --yes --reason \"the bank is back\"", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The subscription: SERVICE@topic:NAME or SERVICE@queue:NAME
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: SubscriptionId,
    #[command(flatten)]
    which: Which,
    /// Hand all back at once: neither try one first nor wait for what becomes of them
    #[arg(long)]
    no_wait: bool,
    /// Give up where none of them has ended for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

/// What is redriven together: one record, or all of a parked key in order.
type Unit = Vec<Record>;

pub(super) async fn run(arguments: Arguments) -> Result {
    arguments.sure.check()?;
    let client = arguments.place.client()?;
    let id = &arguments.id;
    let units = units(arguments.which.find(&client, id).await?);
    let selected = units.iter().map(Vec::len).sum();
    let keys = units.iter().filter(|unit| unit[0].parked_key.is_some());
    let many = match keys.count() {
        0 => how_many(selected, id),
        keys => format!(
            "{} (with {}, whole)",
            how_many(selected, id),
            count(keys, "parked key")
        ),
    };
    let mut tally = Tally::new(selected);
    let mut progress = Progress::default();
    if arguments.sure.dry_run {
        progress.end(&format!("would redrive {many}"));
        let ids: Vec<u64> = units.iter().flatten().map(|record| record.id).collect();
        tally.write(&arguments, &ids)?;
        return Ok(Exit::Ok);
    }
    let stopped = client.is_stopped().await;
    if stopped && !arguments.no_wait {
        let dir = client.dir().display();
        note(&format!(
            "nothing runs on {dir}: they are marked, and handled when their service starts"
        ));
    }
    let waits = !arguments.no_wait && !stopped;
    if waits {
        takes(&client, id).await?;
    }
    arguments.sure.confirm(&format!("redrive {many}?")).await?;
    let kept = Kept {
        reason: arguments.sure.reason().await?,
        by: arguments.sure.by(),
    };
    let ended = {
        let mut work = Work {
            client: &client,
            arguments: &arguments,
            waits,
            kept,
            tally: &mut tally,
            progress: &mut progress,
        };
        tokio::select! {
            ended = work.all(&units) => ended,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        }
    };
    progress.end(&tally.text());
    tally.write(&arguments, &tally.failed)?;
    ended
}

/// The waiting records that are meant; one of a parked key brings its whole key.
fn units(records: Vec<Record>) -> Vec<Unit> {
    let mut of_key: BTreeMap<String, Unit> = BTreeMap::new();
    let waiting = || records.iter().filter(|record| record.is_waiting);
    for record in waiting() {
        if let Some(key) = &record.parked_key {
            of_key.entry(key.clone()).or_default().push(record.clone());
        }
    }
    let meant = waiting().filter(|record| record.is_meant);
    let unit = |record: &Record| match &record.parked_key {
        // The first of a key that is met takes all of it.
        Some(key) => of_key.remove(key),
        None => Some(vec![record.clone()]),
    };
    meant.filter_map(unit).collect()
}

/// Whether the subscription would handle what is handed back.
async fn takes(client: &Client, id: &SubscriptionId) -> Result<()> {
    let all = client.get("/v1/subscriptions").await?;
    let mut members = items(&all)
        .iter()
        .filter(|m| cell(m, "/id") == id.to_string())
        .peekable();
    let conflict = |why: &str, remedy: &str| {
        let what = format!("nothing was done: {id} would not handle what is handed back");
        Failure::new(Exit::Conflict, Code::CLI_CONFLICT, what)
            .why(why)
            .remedy(remedy)
    };
    if members.peek().is_none() {
        let remedy = "start its service on this directory, or redrive with --no-wait: it is handled once it runs";
        return Err(conflict("it does not run in this process", remedy).into());
    }
    if members.all(|member| cell(member, "/phase") != "running") {
        let remedy = format!("`postrider sub resume {id}`, or redrive with --no-wait");
        return Err(conflict("it is paused", &remedy).into());
    }
    Ok(())
}

/// What became of the records so far.
#[derive(Debug)]
struct Tally {
    selected: usize,
    handled: usize,
    /// Failed again, or wait behind one of their key that did.
    failed: Vec<u64>,
    /// On their way to the handler.
    redriving: usize,
    /// Meant, and not handed back: not reached, or no longer there to be handed back.
    untouched: usize,
}

impl Tally {
    fn new(selected: usize) -> Self {
        Self {
            selected,
            handled: 0,
            failed: Vec::new(),
            redriving: 0,
            untouched: selected,
        }
    }

    fn text(&self) -> String {
        format!(
            "of {}: {} handled, {} failed again, {} on their way, {} not touched",
            count(self.selected, "failure"),
            self.handled,
            self.failed.len(),
            self.redriving,
            self.untouched
        )
    }

    fn write(&self, arguments: &Arguments, named: &[u64]) -> Result<()> {
        if arguments.output.form == Form::Name {
            return print(&names(&arguments.id, named));
        }
        let json = json!({
            "subscription": arguments.id.to_string(),
            "selected": self.selected,
            "handled": self.handled,
            "failed": self.failed.len(),
            "redriving": self.redriving,
            "untouched": self.untouched,
            "failed_ids": self.failed,
            "dry_run": arguments.sure.dry_run,
        });
        let text = || {
            let row = [
                "subscription",
                "selected",
                "handled",
                "failed",
                "redriving",
                "untouched",
            ];
            let heads = row.map(|name| name.to_uppercase());
            table(
                heads.each_ref().map(String::as_str),
                vec![row.map(|name| cell(&json, &format!("/{name}")))],
            )
        };
        let name = |done: &Value| cell(done, "/subscription");
        arguments.output.write(&Shown::one(&json, name, &text))
    }
}

struct Work<'a> {
    client: &'a Client,
    arguments: &'a Arguments,
    /// Whether one is tried first, and their outcomes are waited for.
    waits: bool,
    kept: Kept,
    tally: &'a mut Tally,
    progress: &'a mut Progress,
}

impl Work<'_> {
    async fn all(&mut self, units: &[Unit]) -> Result {
        let Some((first, rest)) = units.split_first().filter(|_| self.waits) else {
            return self.hand_back_all(units).await;
        };
        self.try_one(first, rest).await?;
        let mut rest = rest;
        while !rest.is_empty() {
            let (batch, others) = rest.split_at(batch_of(rest));
            rest = others;
            let handled = self.tally.handled;
            self.batch(batch).await?;
            if self.tally.handled == handled {
                break;
            }
        }
        match (self.tally.failed.len(), self.tally.untouched) {
            (0, 0) => Ok(Exit::Ok),
            (0, untouched) => {
                let what = format!("{} could not be handed back", count(untouched, "failure"));
                let failure = Failure::new(Exit::Partial, Code::CLI_CONFLICT, what);
                Err(failure.why("somebody else works on them").into())
            }
            (failed, _) => {
                let what = format!("{} failed again", count(failed, "redriven failure"));
                Err(Failure::new(Exit::Partial, Code::CLI_REDRIVE_FAILED, what).into())
            }
        }
    }

    /// The first one tells whether the cause is mended. Asked on a terminal, the rest follows only then.
    async fn try_one(&mut self, first: &Unit, rest: &[Unit]) -> Result<()> {
        self.progress
            .show(&format!("tries failure {} first", first[0].id));
        self.batch(std::slice::from_ref(first)).await?;
        let others: usize = rest.iter().map(Vec::len).sum();
        if let Some(failed) = self.tally.failed.first() {
            let what = match others {
                0 => format!("failure {failed} failed again"),
                others => format!(
                    "failure {failed} failed again; {} left as they are",
                    count(others, "other")
                ),
            };
            let failure = Failure::new(Exit::Failed, Code::CLI_REDRIVE_FAILED, what);
            return Err(match self.error_of(*failed).await {
                Some(error) => failure.why(error).into(),
                None => Stop::from(failure),
            });
        }
        if others > 0 {
            self.progress
                .end(&format!("failure {} was handled", first[0].id));
            let question = format!("redrive the {}?", count(others, "other"));
            self.arguments.sure.confirm(&question).await?;
        }
        Ok(())
    }

    /// Why it failed, as it was recorded.
    async fn error_of(&self, failed: u64) -> Option<String> {
        let path = of_subscription(&self.arguments.id, &format!("/failures/{failed}"));
        let record = self.client.get(&path).await.ok()?;
        record.pointer("/errors/0")?.as_str().map(str::to_owned)
    }

    async fn hand_back_all(&mut self, units: &[Unit]) -> Result {
        let mut rest = units;
        while !rest.is_empty() {
            let (batch, others) = rest.split_at(batch_of(rest));
            rest = others;
            let marked = self.hand_back(batch).await?;
            self.tally.redriving += marked;
            self.tally.untouched = self.tally.untouched.saturating_sub(marked);
        }
        Ok(Exit::Ok)
    }

    async fn hand_back(&self, batch: &[Unit]) -> Result<usize> {
        // One of a parked key brings the whole key.
        let ids: Vec<u64> = batch.iter().map(|unit| unit[0].id).collect();
        act(self.client, &self.arguments.id, "redrive", &ids, &self.kept).await
    }

    /// Hands a batch back and waits until all of it has ended.
    async fn batch(&mut self, batch: &[Unit]) -> Result<()> {
        self.hand_back(batch).await?;
        let mut open: BTreeMap<u64, u64> = batch
            .iter()
            .flatten()
            .map(|record| (record.id, record.redrives))
            .collect();
        self.tally.untouched -= open.len();
        self.tally.redriving = open.len();
        let (mut look, mut progressed) = (LOOK_FIRST, Instant::now());
        loop {
            let before = open.len();
            self.look(&mut open).await?;
            self.tally.redriving = open.len();
            self.progress.show(&self.tally.text());
            if open.is_empty() {
                return Ok(());
            }
            if open.len() < before {
                (look, progressed) = (LOOK_FIRST, Instant::now());
            } else if progressed.elapsed() > self.arguments.timeout {
                return Err(self.timed_out());
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK_LAST);
        }
    }

    /// Sorts out those that have ended.
    async fn look(&mut self, open: &mut BTreeMap<u64, u64>) -> Result<()> {
        let (Some(first), Some(last)) = (open.keys().next(), open.keys().next_back()) else {
            return Ok(());
        };
        let (client, id, last) = (self.client, &self.arguments.id, *last);
        let mut pages = Pages::new(client, id, None, first.saturating_sub(1), 1000);
        let mut listed = BTreeSet::new();
        while let Some(page) = pages.next().await? {
            for record in &page {
                self.sort_out(record, open, &mut listed);
            }
            if page
                .last()
                .and_then(|r| number(r, "/id"))
                .is_some_and(|id| id >= last)
            {
                break;
            }
        }
        // A record that ended while the page was read is not listed, and may come back: asked for by its number.
        let absent: Vec<u64> = open
            .keys()
            .filter(|id| !listed.contains(*id))
            .copied()
            .collect();
        for number in absent {
            let path = of_subscription(id, &format!("/failures/{number}"));
            match client.get(&path).await {
                Ok(record) => self.sort_out(&record, open, &mut listed),
                Err(Stop::Failed(failure)) if failure.is_not_found() => {
                    open.remove(&number);
                    self.tally.handled += 1;
                }
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    fn sort_out(
        &mut self,
        json: &Value,
        open: &mut BTreeMap<u64, u64>,
        listed: &mut BTreeSet<u64>,
    ) {
        let Some(record) = Record::read(json, None) else {
            return;
        };
        listed.insert(record.id);
        let Some(before) = open.get(&record.id).copied() else {
            return;
        };
        if record.is_waiting {
            open.remove(&record.id);
            if record.redrives > before {
                self.tally.failed.push(record.id);
            } else {
                self.tally.untouched += 1;
            }
        }
    }

    fn timed_out(&self) -> Stop {
        let what = format!(
            "{} on their way back for more than {} without an outcome",
            count(self.tally.redriving, "failure"),
            span(millis(self.arguments.timeout))
        );
        let failure = Failure::new(Exit::Timeout, Code::CLI_TIMEOUT, what);
        failure
            .why("they wait for a retry, or the handler takes long; they stay on their way")
            .into()
    }
}

/// How many units make a batch: one at least.
fn batch_of(units: &[Unit]) -> usize {
    let mut records = 0;
    let fits = |unit: &&Unit| {
        records += unit.len();
        records <= BATCH
    };
    units.iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, parked_key: Option<&str>, is_waiting: bool, is_meant: bool) -> Record {
        Record {
            id,
            parked_key: parked_key.map(str::to_owned),
            is_waiting,
            redrives: 0,
            is_meant,
        }
    }

    #[test]
    fn one_of_a_parked_key_brings_the_key_once_and_order_is_kept() {
        let units = units(vec![
            record(1, None, true, false),
            record(2, Some("a"), true, false),
            record(3, Some("b"), true, true),
            record(4, Some("a"), true, true),
            record(5, Some("a"), false, true),
            record(6, None, true, true),
            record(7, Some("a"), true, true),
        ]);
        let ids: Vec<Vec<u64>> = units
            .iter()
            .map(|unit| unit.iter().map(|r| r.id).collect())
            .collect();
        assert_eq!(ids, [vec![3], vec![2, 4, 7], vec![6]]);
    }

    #[test]
    fn a_batch_has_one_unit_at_least() {
        let key: Unit = (0..500)
            .map(|id| record(id, Some("a"), true, true))
            .collect();
        let one = |id| vec![record(id, None, true, true)];
        assert_eq!(batch_of(&[key, one(1)]), 1);
        let many: Vec<Unit> = (0..500).map(one).collect();
        assert_eq!(batch_of(&many), BATCH);
    }
}
