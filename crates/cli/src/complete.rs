//! Completions that ask: a shell whose completion script calls this command gets the names of topics, subscriptions, failures' groups and codes of
//! the directory that is meant on its line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use serde_json::Value;

use crate::client::Place;
use crate::output::{cell, items};

/// How long a shell may wait for names.
const WITHIN: Duration = Duration::from_millis(800);

/// Answers a shell that asks (`COMPLETE=bash postrider …`) and ends; does nothing otherwise.
pub(crate) fn answer(command: impl Fn() -> clap::Command) {
    clap_complete::CompleteEnv::with_factory(command).complete();
}

/// Names of topics and queues.
pub(crate) fn topics() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let name = |topic: &Value| {
            let full = cell(topic, "/destination");
            let bare = full.strip_prefix("topic:").map(str::to_owned);
            bare.unwrap_or(full)
        };
        candidates(typed, "/v1/topics", name)
    })
}

/// Names of subscriptions.
pub(crate) fn subscriptions() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        candidates(typed, "/v1/subscriptions?all=true", |s| cell(s, "/id"))
    })
}

/// Texts of groups of failures.
pub(crate) fn groups() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        candidates(typed, "/v1/failures", |group| cell(group, "/group"))
    })
}

/// Error codes: nobody is asked.
pub(crate) fn codes() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let codes = postrider::codes().iter().map(|page| {
            CompletionCandidate::new(page.code.to_string()).help(Some(page.what.into()))
        });
        let typed = typed.to_string_lossy().to_uppercase();
        let begins = |c: &CompletionCandidate| c.get_value().to_string_lossy().starts_with(&typed);
        codes.filter(begins).collect()
    })
}

/// What begins as was typed. Nothing where nobody answers: a shell shows no errors. A directory that nobody runs is not opened for it.
fn candidates(
    typed: &OsStr,
    path: &'static str,
    name: fn(&Value) -> String,
) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    let place = Place::at(directory_of_the_line());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (Ok(runtime), Ok(client)) = (runtime, place.running()) else {
        return Vec::new();
    };
    let answer = runtime.block_on(async { tokio::time::timeout(WITHIN, client.get(path)).await });
    let Ok(Ok(answer)) = answer else {
        return Vec::new();
    };
    let mut names: Vec<String> = items(&answer).iter().map(name).collect();
    names.sort();
    names.dedup();
    let names = names.into_iter().filter(|name| name.starts_with(&typed));
    names.map(CompletionCandidate::new).collect()
}

/// `--dir` of the line that is completed; `POSTRIDER_DIR` where it has none. The words stand behind `--`.
fn directory_of_the_line() -> Option<PathBuf> {
    let words: Vec<_> = std::env::args_os().collect();
    let given = words.iter().enumerate().find_map(|(at, word)| {
        let text = word.to_string_lossy();
        match text.strip_prefix("--dir=") {
            Some(dir) => Some(PathBuf::from(dir)),
            None if text == "--dir" => words.get(at + 1).map(PathBuf::from),
            None => None,
        }
    });
    given.or_else(|| std::env::var_os("POSTRIDER_DIR").map(PathBuf::from))
}
