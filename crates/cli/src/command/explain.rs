//! `postrider explain`: what an error code means. It asks nobody.

use postrider::{Code, Explanation};
use serde_json::{Value, json};

use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Output, Shown, cell, items};

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider explain PR-1303            what the code means, why, and what to do
  postrider explain 1303 -o json       the same for a program
  postrider explain                    all codes", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The code, as an error shows it; without one, all codes
    #[arg(add = crate::complete::codes())]
    code: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result {
    let name = |one: &Value| cell(one, "/code");
    match &arguments.code {
        None => {
            let all: Value = postrider::codes().iter().map(page).collect();
            let text = || list(&all);
            arguments.output.write(&Shown::list(&all, name, &text))?;
        }
        Some(code) => {
            let found = Code::parse(code).and_then(Code::explain);
            let one = page(found.ok_or_else(|| unknown(code))?);
            let text = || full(&one);
            arguments.output.write(&Shown::one(&one, name, &text))?;
        }
    }
    Ok(Exit::Ok)
}

fn unknown(code: &str) -> Failure {
    Failure::new(
        Exit::NotFound,
        Code::ADMIN_NOT_FOUND,
        format!("there is no error code {code}"),
    )
    .why("codes are written PR-1303")
    .remedy("`postrider explain` lists all of them")
}

fn page(explanation: &Explanation) -> Value {
    json!({
        "code": explanation.code.to_string(),
        "what": explanation.what,
        "why": explanation.why,
        "remedy": explanation.remedy,
    })
}

fn list(all: &Value) -> String {
    let line = |one: &Value| format!("{}  {}\n", cell(one, "/code"), cell(one, "/what"));
    items(all).iter().map(line).collect()
}

fn full(one: &Value) -> String {
    format!(
        "{}: {}\n  why:   {}\n  to do: {}\n",
        cell(one, "/code"),
        cell(one, "/what"),
        cell(one, "/why"),
        cell(one, "/remedy")
    )
}
