//! `postrider flow`: all messages and outcomes of one conversation, as a tree of what was sent because of what.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::message::{name, none_found, search, state};
use crate::client::Place;
use crate::end::{EXIT_CODES, Exit, Result};
use crate::output::{Output, Shown, cell, items};
use crate::report::note;
use crate::text::{age, count, now, plain};

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider flow 0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10       by the correlation id, or the id of the message that began it
  postrider flow 0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10 -o json", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The correlation id of the conversation, or the id of the message that began it
    id: String,
    /// Look at this many of the newest messages
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    scan: u64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(arguments: Arguments) -> Result {
    let client = arguments.place.client()?;
    let found = search(&client, "flows", &arguments.id, arguments.scan).await?;
    let messages = items(found.get("messages").unwrap_or(&Value::Null));
    if messages.is_empty() {
        let what = format!("no message of the conversation {} is kept", arguments.id);
        return Err(none_found(what, &found).into());
    }
    if found.get("complete").and_then(Value::as_bool) != Some(true) {
        note(&format!(
            "only the newest {} messages were looked at: --scan looks further",
            cell(&found, "/scanned")
        ));
    }
    let text = || text(messages);
    arguments.output.write(&Shown {
        json: &found,
        items: messages.iter().collect(),
        name,
        table: &text,
    })?;
    Ok(Exit::Ok)
}

fn id(message: &Value) -> String {
    cell(message, "/envelope/id")
}

/// The messages as a tree. What was sent because of a message that is not kept stands at the top.
fn text(messages: &[Value]) -> String {
    let there: BTreeSet<String> = messages.iter().map(id).collect();
    let mut of_parent: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for message in messages {
        let parent = cell(message, "/envelope/causationid");
        let parent = Some(parent).filter(|parent| there.contains(parent) && *parent != id(message));
        of_parent
            .entry(parent.unwrap_or_default())
            .or_default()
            .push(message);
    }
    let mut tree = Tree {
        of_parent,
        shown: BTreeSet::new(),
        out: String::new(),
    };
    for root in tree.of_parent.get("").cloned().unwrap_or_default() {
        tree.message(root, "", "");
    }
    // A circle, which only a foreign sender can make, has no top: it is cut where it is met.
    for message in messages {
        if !tree.shown.contains(&name(message)) {
            tree.message(message, "", "");
        }
    }
    tree.out
        .push_str(&format!("{} kept\n", count(messages.len(), "message")));
    tree.out
}

struct Tree<'a> {
    of_parent: BTreeMap<String, Vec<&'a Value>>,
    shown: BTreeSet<String>,
    out: String,
}

impl Tree<'_> {
    /// A message, what became of it, and what was sent because of it.
    fn message(&mut self, message: &Value, branch: &str, indent: &str) {
        if !self.shown.insert(name(message)) {
            return;
        }
        let line = format!(
            "{branch}{}  {}  {}  {}",
            plain(&cell(message, "/type")),
            name(message),
            plain(&cell(message, "/key")),
            age(&cell(message, "/envelope/time"), now())
        );
        self.out.push_str(line.trim_end());
        self.out.push('\n');
        let children = self
            .of_parent
            .get(&id(message))
            .cloned()
            .unwrap_or_default();
        let outcomes = items(message.get("subscriptions").unwrap_or(&Value::Null));
        for (nth, outcome) in outcomes.iter().enumerate() {
            let last = children.is_empty() && nth + 1 == outcomes.len();
            let branch = if last { "└─ " } else { "├─ " };
            self.out.push_str(&format!(
                "{indent}{branch}{}\n",
                plain(&outcome_text(outcome))
            ));
        }
        for (nth, child) in children.iter().enumerate() {
            let (branch, below) = match nth + 1 == children.len() {
                true => ("└─ ", "   "),
                false => ("├─ ", "│  "),
            };
            self.message(
                child,
                &format!("{indent}{branch}"),
                &format!("{indent}{below}"),
            );
        }
    }
}

/// What became of a message in one subscription.
fn outcome_text(outcome: &Value) -> String {
    let mut text = format!("{}: {}", cell(outcome, "/id"), state(outcome));
    match cell(outcome, "/attempts").as_str() {
        "-" | "0" => {}
        "1" => text.push_str(", 1 attempt"),
        n => text.push_str(&format!(", {n} attempts")),
    }
    if let Some(error) = outcome.get("error").and_then(Value::as_str) {
        text.push_str(&format!(", {error}"));
    }
    if let Some(number) = outcome.get("failure").and_then(Value::as_u64) {
        text.push_str(&format!(" (dlq show {} {number})", cell(outcome, "/id")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(id: &str, cause: Option<&str>, at: u64) -> Value {
        json!({"destination": "topic:t", "position": at, "type": id, "envelope": {"id": id, "causationid": cause},
            "subscriptions": [{"id": "s@topic:t", "state": "settled", "attempts": 0}]})
    }

    #[test]
    fn what_was_sent_because_of_a_message_hangs_below_it() {
        let messages = [
            message("a", None, 0),
            message("b", Some("a"), 1),
            message("c", Some("b"), 2),
            message("d", Some("a"), 3),
            message("e", Some("gone"), 4),
        ];
        let text = text(&messages);
        let expected = "a  topic:t@0  -  -
├─ s@topic:t: settled
├─ b  topic:t@1  -  -
│  ├─ s@topic:t: settled
│  └─ c  topic:t@2  -  -
│     └─ s@topic:t: settled
└─ d  topic:t@3  -  -
   └─ s@topic:t: settled
e  topic:t@4  -  -
└─ s@topic:t: settled
5 messages kept
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_circle_is_cut() {
        let circle = [message("a", Some("b"), 0), message("b", Some("a"), 1)];
        assert_eq!(text(&circle).matches("topic:t@").count(), 2);
    }
}
