//! Every benchmark runs, and its rows have the form that programs read.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

fn postrider(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(args).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The part of a row's name that names its benchmark.
fn bench_of(row: &str) -> &str {
    row.split('.').next().unwrap_or(row)
}

#[test]
fn every_benchmark_gives_rows_of_one_form_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let dir_text = dir.path().to_str().unwrap();
    let output = postrider(&[
        "bench", "all", "--size", "small", "--json", "--dir", dir_text,
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let mut measured = BTreeSet::new();
    for line in lines(&output) {
        let row: Value = serde_json::from_str(&line).unwrap();
        let text = |field: &str| {
            row[field]
                .as_str()
                .unwrap_or_else(|| panic!("{field}: {line}"))
        };
        for field in ["ours", "theirs", "ratio"] {
            let number = row[field]
                .as_f64()
                .unwrap_or_else(|| panic!("{field}: {line}"));
            assert!(number.is_finite() && number >= 0.0, "{field}: {line}");
        }
        for field in ["unit", "dir", "fsync", "machine"] {
            assert!(!text(field).is_empty(), "{line}");
        }
        assert_eq!(text("size"), "small");
        assert!(row["ours"].as_f64() > Some(0.0), "{line}");
        measured.insert(bench_of(text("name")).to_owned());
    }
    let list = lines(&postrider(&["bench", "--list"]));
    let named = list
        .iter()
        .filter_map(|line| line.split_whitespace().next());
    assert_eq!(measured, named.map(str::to_owned).collect());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_table_names_its_directory_its_disk_and_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    let dir_text = dir.path().to_str().unwrap();
    let output = postrider(&["bench", "ordered", "--size", "small", "--dir", dir_text]);
    assert!(output.status.success());
    let text = lines(&output).join("\n");
    for word in [
        "directory  ",
        "fsync      ",
        "machine    ",
        "ratio unit",
        "\nordered ",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_name_that_is_none_is_a_wrong_usage() {
    let output = postrider(&["bench", "speed"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("there is no benchmark `speed`") && errors.contains("durable, handle"),
        "{errors}"
    );
    assert_eq!(postrider(&["bench"]).status.code(), Some(2));
}
