//! What goes to standard output: one answer in one of four forms.

use std::io::{ErrorKind, Write as _};

use clap::ValueEnum;
use postrider::Code;
use serde_json::Value;

use crate::end::{Exit, Failure, Result, Stop};
use crate::text::plain;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Aligned columns for a person; times are relative
    Table,
    /// One JSON document, as the admin API gives it
    Json,
    /// One JSON object per line
    Jsonl,
    /// Only names, one per line, as the other commands take them
    Name,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// The form of the output
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORM", default_value_t = Form::Table)]
    pub(crate) form: Form,
}

/// A form of output that is made only when it is wanted.
pub(crate) struct Shown<'a> {
    /// The whole answer.
    pub(crate) json: &'a Value,
    /// Its parts, one per line.
    pub(crate) items: Vec<&'a Value>,
    /// The name of one part.
    pub(crate) name: fn(&Value) -> String,
    /// For a person.
    pub(crate) table: &'a dyn Fn() -> String,
}

impl<'a> Shown<'a> {
    /// A list, whose parts are its elements.
    pub(crate) fn list(
        json: &'a Value,
        name: fn(&Value) -> String,
        table: &'a dyn Fn() -> String,
    ) -> Self {
        Self {
            json,
            items: items(json).iter().collect(),
            name,
            table,
        }
    }

    /// One thing.
    pub(crate) fn one(
        json: &'a Value,
        name: fn(&Value) -> String,
        table: &'a dyn Fn() -> String,
    ) -> Self {
        Self {
            json,
            items: vec![json],
            name,
            table,
        }
    }
}

impl Output {
    /// Writes the answer.
    pub(crate) fn write(self, shown: &Shown<'_>) -> Result<()> {
        let text = match self.form {
            Form::Table => (shown.table)(),
            Form::Json => format!("{:#}\n", shown.json),
            Form::Jsonl => shown.items.iter().map(|item| format!("{item}\n")).collect(),
            Form::Name => names(shown),
        };
        print(&text)
    }
}

/// A name once, though several members have it.
fn names(shown: &Shown<'_>) -> String {
    let mut names: Vec<String> = Vec::new();
    for item in &shown.items {
        let name = plain(&(shown.name)(item));
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// Writes text to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Stop::PipeClosed,
        _ => Failure::new(
            Exit::Failed,
            Code::CLI_FAILED,
            "the output cannot be written",
        )
        .why(error.to_string())
        .into(),
    })
}

/// The elements of a list; none, where it is none.
pub(crate) fn items(json: &Value) -> &[Value] {
    json.as_array().map_or(&[], Vec::as_slice)
}

/// What stands at this path (`/depth/depth`) as text: `-` where there is nothing.
pub(crate) fn cell(json: &Value, path: &str) -> String {
    match json.pointer(path) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
        Some(Value::Array(all)) if all.is_empty() => "-".to_owned(),
        Some(Value::Array(all)) => {
            let all: Vec<String> = all.iter().map(|item| cell(item, "")).collect();
            all.join(", ")
        }
        Some(other) => other.to_string(),
    }
}

/// The number at this path.
pub(crate) fn number(json: &Value, path: &str) -> Option<u64> {
    json.pointer(path).and_then(Value::as_u64)
}

/// A table: a row of heads, then rows; columns are two spaces apart.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>) -> String {
    let heads = heads.map(str::to_owned);
    let rows: Vec<[String; N]> = std::iter::once(heads)
        .chain(rows)
        .map(|row| row.map(|cell| plain(&cell)))
        .collect();
    aligned(&rows)
}

/// Names and what they have, below each other.
pub(crate) fn sheet(rows: Vec<[String; 2]>) -> String {
    let rows: Vec<[String; 2]> = rows
        .into_iter()
        .map(|row| row.map(|cell| plain(&cell)))
        .collect();
    aligned(&rows)
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows = vec![
            ["inventory".to_owned(), "7".to_owned()],
            ["ü".to_owned(), "\u{1b}[2J".to_owned()],
        ];
        assert_eq!(
            table(["WHO", "N"], rows),
            "WHO        N\ninventory  7\nü          \\u{1b}[2J\n"
        );
    }

    #[test]
    fn a_cell_is_what_stands_there() {
        let json = serde_json::json!({"a": {"n": 18_446_744_073_709_551_615_u64, "l": ["x", 1]}, "b": null, "e": []});
        assert_eq!(cell(&json, "/a/n"), "18446744073709551615");
        assert_eq!(cell(&json, "/a/l"), "x, 1");
        for absent in ["/b", "/c", "/e"] {
            assert_eq!(cell(&json, absent), "-");
        }
    }
}
