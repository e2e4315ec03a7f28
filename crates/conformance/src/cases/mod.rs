//! The cases. Numbers are those of the table of semantics: C settling, D order.

mod c11_lease_lost_cancels;
mod c2_no_ack_redelivers;
mod c9_redrive_reaches_only_its_subscription;
mod d1_order_no_fault;
mod d2_order_under_retry;
mod d3_other_keys_flow;
mod d4_order_across_crash;
mod d5_order_across_rebalance;

use std::time::{Duration, Instant};

use crate::history::{Anomaly, Event, Repeats, handled, in_order, nothing_lost};
use crate::member::{Member, Stage, Told};
use crate::subject::Subject;
use crate::verdict::{Findings, Verdict};

/// How long a case waits for what must come.
const SOON: Duration = Duration::from_secs(60);
/// How often a case looks at what nobody tells it.
const LOOK: Duration = Duration::from_millis(20);
/// How long a case may take in all.
const CASE_MAX: Duration = Duration::from_secs(150);

/// One case.
pub struct Case {
    /// Its name: a number and the promise.
    pub name: &'static str,
    /// What is set up, done and expected.
    pub promise: &'static str,
    run: for<'a> fn(&'a dyn Subject) -> Told<'a>,
}

/// All cases, in the order of the table.
pub const CASES: [Case; 8] = [
    Case {
        name: "c2_no_ack_redelivers",
        promise: "a member dies in a handler: the message comes again, and nothing of its key passes it",
        run: |subject| Box::pin(c2_no_ack_redelivers::run(subject)),
    },
    Case {
        name: "c9_redrive_reaches_only_its_subscription",
        promise: "a redriven key is handled once more by its own subscription, in order, and by no other",
        run: |subject| Box::pin(c9_redrive_reaches_only_its_subscription::run(subject)),
    },
    Case {
        name: "c11_lease_lost_cancels",
        promise: "a member that stands still too long loses its messages: another handles them, and its own handler is cancelled",
        run: |subject| Box::pin(c11_lease_lost_cancels::run(subject)),
    },
    Case {
        name: "d1_order_no_fault",
        promise: "100 keys of 100 messages on 4 members: each handled once, per key in order",
        run: |subject| Box::pin(d1_order_no_fault::run(subject)),
    },
    Case {
        name: "d2_order_under_retry",
        promise: "each tenth message fails twice: per key in order, and each succeeds once",
        run: |subject| Box::pin(d2_order_under_retry::run(subject)),
    },
    Case {
        name: "d3_other_keys_flow",
        promise: "one key fails and fails: all others are handled meanwhile, then it is too, in order",
        run: |subject| Box::pin(d3_other_keys_flow::run(subject)),
    },
    Case {
        name: "d4_order_across_crash",
        promise: "members die under load: per key no skip, and only a suffix comes again",
        run: |subject| Box::pin(d4_order_across_crash::run(subject)),
    },
    Case {
        name: "d5_order_across_rebalance",
        promise: "members come and go under load: per key no skip, and only a suffix comes again",
        run: |subject| Box::pin(d5_order_across_rebalance::run(subject)),
    },
];

/// The case of that name.
#[must_use]
pub fn case(name: &str) -> Option<&'static Case> {
    static LIST: [Case; 8] = CASES;
    LIST.iter().find(|case| case.name == name)
}

/// Runs a case on a fresh subject and clears the subject's namespace. Needs a tokio runtime of several threads.
pub async fn run(case: &Case, subject: &dyn Subject) -> Verdict {
    if let Some(reason) = subject.skip(case) {
        return Verdict::Skipped { reason };
    }
    let began = Instant::now();
    let told = tokio::time::timeout(CASE_MAX, (case.run)(subject)).await;
    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let cleared = subject.clear().await;
    let findings = match told {
        Ok(Ok(findings)) => findings,
        Ok(Err(anomaly)) => return failed(anomaly.to_string()),
        Err(_elapsed) => return failed(format!("it had not ended after {CASE_MAX:?}")),
    };
    match cleared {
        Ok(()) => Verdict::Passed {
            findings: findings.with("took_ms", took),
        },
        Err(error) => failed(format!("its namespace could not be cleared: {error}")),
    }
}

fn failed(what: String) -> Verdict {
    Verdict::Failed { what }
}

/// Waits until `per_key` messages of each of these keys are handled and stops the members. Nothing was lost, and the order of each key was kept.
async fn ended(
    stage: &Stage,
    members: impl IntoIterator<Item = Member>,
    keys: Vec<String>,
    per_key: u32,
    repeats: Repeats,
) -> Result<Vec<Event>, Anomaly> {
    let all = keys.len() * per_key as usize;
    let history = &stage.history;
    history
        .until("the last message", SOON, |e| handled(e) == all)
        .await?;
    for member in members {
        member.stop().await;
    }
    let events = history.events();
    let published: Vec<_> = keys.into_iter().map(|key| (key, per_key)).collect();
    nothing_lost(&events, &published)?;
    in_order(&events, repeats)?;
    Ok(events)
}

/// What every case of order counts.
fn counted(events: &[Event]) -> Findings {
    Findings::default()
        .with("handled", handled(events) as u64)
        .with("duplicates", crate::history::duplicates(events))
}
