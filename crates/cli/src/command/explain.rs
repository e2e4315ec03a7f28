//! `postrider explain PR-1042`.

use std::process::ExitCode;

use postrider::Code;

use crate::report::report;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  postrider explain PR-1303\n  postrider explain 1303 --json\n  postrider explain          all codes"
)]
pub(crate) struct Arguments {
    /// The code, as an error shows it; without one, all codes.
    code: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// The command line's exit code for what does not exist.
const NOT_FOUND: u8 = 4;

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let found: Vec<_> = match &arguments.code {
        None => postrider::codes().iter().collect(),
        Some(text) => match Code::parse(text).and_then(Code::explain) {
            Some(explanation) => vec![explanation],
            None => {
                report(
                    1603,
                    &format!("there is no error code {text}"),
                    Some("codes are written PR-1303"),
                    Some("`postrider explain` lists all of them"),
                );
                return ExitCode::from(NOT_FOUND);
            }
        },
    };
    for explanation in found {
        if arguments.json {
            if let Ok(json) = serde_json::to_string(explanation) {
                println!("{json}");
            }
        } else if arguments.code.is_none() {
            println!("{}  {}", explanation.code, explanation.what);
        } else {
            println!("{}: {}", explanation.code, explanation.what);
            println!("  why:   {}", explanation.why);
            println!("  to do: {}", explanation.remedy);
        }
    }
    ExitCode::SUCCESS
}
