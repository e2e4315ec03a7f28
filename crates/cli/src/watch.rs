//! `--watch`: a list that is looked at again and again. On a terminal it is drawn anew in its place; elsewhere what changed is written, one JSON
//! object a line.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::end::{Exit, Result};
use crate::output::{Output, Shown, items, print};
use crate::text::duration;

#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Look again this often, until Ctrl-C: drawn anew on a terminal, elsewhere one JSON line per change [default: 2s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "2s", value_parser = duration)]
    watch: Option<Duration>,
}

/// The shortest pause between two looks.
const EVERY_MIN: Duration = Duration::from_millis(100);

impl Watch {
    /// Fetches a list and shows it: once, or again and again.
    pub(crate) async fn show(
        self,
        output: Output,
        name: fn(&Value) -> String,
        fetch: impl AsyncFn() -> Result<Value>,
        text: impl Fn(&Value) -> String,
    ) -> Result {
        let Some(every) = self.watch else {
            let list = fetch().await?;
            output.write(&Shown::list(&list, name, &|| text(&list)))?;
            return Ok(Exit::Ok);
        };
        let looks = async {
            let mut seen = BTreeMap::new();
            loop {
                let list = fetch().await?;
                match std::io::stdout().is_terminal() {
                    true => print(&redrawn(&text(&list)))?,
                    false => print(&changes(&mut seen, &list, name))?,
                }
                tokio::time::sleep(every.max(EVERY_MIN)).await;
            }
        };
        tokio::select! {
            ended = looks => ended,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        }
    }
}

/// The text at the top of the terminal, over what was there; each line is cleared behind its end.
fn redrawn(text: &str) -> String {
    let lines = text.lines().map(|line| format!("{line}\u{1b}[K\r\n"));
    format!("\u{1b}[H{}\u{1b}[J", lines.collect::<String>())
}

/// One line per element that is new or not as it was, and per name that is gone.
fn changes(
    seen: &mut BTreeMap<(String, usize), Value>,
    list: &Value,
    name: fn(&Value) -> String,
) -> String {
    let mut now: BTreeMap<(String, usize), Value> = BTreeMap::new();
    let mut out = String::new();
    for item in items(list) {
        let name = name(item);
        // Members of one subscription have one name.
        let nth = now.range((name.clone(), 0)..=(name.clone(), usize::MAX));
        let key = (name, nth.count());
        if seen.get(&key) != Some(item) {
            out.push_str(&format!("{item}\n"));
        }
        now.insert(key, item.clone());
    }
    for gone in seen.keys().filter(|key| !now.contains_key(*key)) {
        out.push_str(&format!("{}\n", json!({ "gone": gone.0 })));
    }
    *seen = now;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(item: &Value) -> String {
        crate::output::cell(item, "/id")
    }

    #[test]
    fn only_what_changed_is_written_and_what_is_gone() {
        let mut seen = BTreeMap::new();
        let both = json!([{"id": "a", "n": 1}, {"id": "b", "n": 1}, {"id": "b", "n": 2}]);
        assert_eq!(changes(&mut seen, &both, name).lines().count(), 3);
        assert_eq!(changes(&mut seen, &both, name), "");
        let later = json!([{"id": "b", "n": 1}, {"id": "b", "n": 3}]);
        assert_eq!(
            changes(&mut seen, &later, name),
            "{\"id\":\"b\",\"n\":3}\n{\"gone\":\"a\"}\n"
        );
    }

    #[test]
    fn a_screen_is_drawn_over_the_one_before() {
        assert_eq!(
            redrawn("a\nb\n"),
            "\u{1b}[Ha\u{1b}[K\r\nb\u{1b}[K\r\n\u{1b}[J"
        );
    }
}
