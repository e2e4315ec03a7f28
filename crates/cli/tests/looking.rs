//! Commands that only look, and pause and resume: the real binary beside a running directory.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read as _;
use std::process::Stdio;

use serde_json::json;
use support::{PAYMENT, PRICES, World, binary, ended};

#[test]
fn status_says_what_runs_in_every_form() {
    let world = World::start();
    let table = world.cli(["status"]).ok();
    assert_eq!(table.err, "");
    let rows = table.rows();
    assert!(rows.contains(&vec!["durability", "flushed"]), "{table:?}");
    assert!(
        rows.contains(&vec!["services", "payment, prices"]),
        "{table:?}"
    );
    assert!(rows.contains(&vec!["subscriptions", "2"]), "{table:?}");
    let started = rows.iter().find(|row| row[0] == "started").unwrap();
    assert!(started[1].ends_with(" ago"), "{table:?}");
    let json = world.cli(["status", "-o", "json"]).ok().json();
    assert_eq!(json["pid"], std::process::id());
    assert!(json["started_at"].as_str().unwrap().ends_with('Z'));
    let line = world.cli(["status", "-o", "jsonl"]).ok();
    assert_eq!(line.out.lines().count(), 1);
    assert_eq!(line.json()["instance"], json["instance"]);
    let name = world.cli(["status", "-o", "name"]).ok();
    assert_eq!(json!(name.out.trim_end()), json["instance"]);
}

#[test]
fn plan_says_what_the_engine_gives_in_every_form() {
    let world = World::start();
    let table = world.cli(["plan"]).ok();
    let rows = table.rows();
    assert_eq!(rows[0], ["SUBSCRIPTION", "VERDICT", "NEED", "HOW"]);
    assert!(
        rows.contains(&vec![PAYMENT, "native", "key order"]),
        "{table:?}"
    );
    let once = rows.iter().find(|row| row[2] == "effects once").unwrap();
    assert_eq!(once[1], "emulated");
    assert!(once[3].contains("at least once"), "{table:?}");
    let json = world.cli(["plan", "-o", "json"]).ok().json();
    assert_eq!(json["subscriptions"].as_array().unwrap().len(), 2);
    let lines = world.cli(["plan", "-o", "jsonl"]).ok();
    assert_eq!(lines.out.lines().count(), 2);
    let mut names: Vec<_> = world
        .cli(["plan", "-o", "name"])
        .ok()
        .out
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, [PAYMENT, PRICES]);
}

#[test]
fn topic_ls_and_show_in_every_form() {
    let world = World::start();
    world.order("a", 1);
    let table = world.cli(["topic", "ls"]).ok();
    let rows = table.rows();
    assert_eq!(
        rows[0],
        ["DESTINATION", "MESSAGES", "NEXT", "SUBSCRIPTIONS"]
    );
    let topic = rows
        .iter()
        .find(|row| row[0] == "topic:shop.order")
        .unwrap();
    assert_eq!((topic[2], topic[3]), ("1", "1"), "{table:?}");
    let name = world.cli(["topic", "ls", "-o", "name"]).ok();
    assert_eq!(name.out, "topic:shop.order\nqueue:prices\n");
    let json = world.cli(["topic", "ls", "-o", "json"]).ok().json();
    assert_eq!(json[0]["next_position"], 1);
    assert_eq!(
        world
            .cli(["topic", "ls", "-o", "jsonl"])
            .ok()
            .out
            .lines()
            .count(),
        2
    );

    let shown = world.cli(["topic", "show", "shop.order"]).ok();
    assert!(
        shown
            .rows()
            .contains(&vec!["destination", "topic:shop.order"]),
        "{shown:?}"
    );
    assert!(
        shown
            .rows()
            .iter()
            .any(|row| row.starts_with(&[PAYMENT, "running"])),
        "{shown:?}"
    );
    // A bare name is a queue where there is no such topic.
    let queue = world
        .cli(["topic", "show", "prices", "-o", "json"])
        .ok()
        .json();
    assert_eq!(queue["destination"], "queue:prices");
    assert_eq!(queue["running"][0]["id"], PRICES);
    let name = world
        .cli(["topic", "show", "queue:prices", "-o", "name"])
        .ok();
    assert_eq!(name.out, "queue:prices\n");
    let line = world.cli(["topic", "show", "prices", "-o", "jsonl"]).ok();
    assert_eq!(line.json(), queue);
    world.cli(["topic", "show", "nothing"]).fails(4, "PR-1603");
    world
        .cli(["topic", "show", "topic:prices"])
        .fails(4, "PR-1603");
}

#[test]
fn sub_ls_and_show_in_every_form() {
    let world = World::start();
    let table = world.cli(["sub", "ls"]).ok();
    let rows = table.rows();
    assert_eq!(rows[0][..3], ["SUBSCRIPTION", "PHASE", "DEPTH"]);
    assert!(
        rows.iter().any(|row| row[..3] == [PAYMENT, "running", "0"]),
        "{table:?}"
    );
    let mut names: Vec<_> = world
        .cli(["sub", "ls", "-o", "name"])
        .ok()
        .out
        .lines()
        .map(str::to_owned)
        .collect();
    names.sort();
    assert_eq!(names, [PAYMENT, PRICES]);
    assert_eq!(
        world
            .cli(["sub", "ls", "-o", "json"])
            .ok()
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        world
            .cli(["sub", "ls", "-o", "jsonl"])
            .ok()
            .out
            .lines()
            .count(),
        2
    );

    let shown = world.cli(["sub", "show", PAYMENT]).ok();
    assert!(shown.rows().contains(&vec!["types", "placed"]), "{shown:?}");
    assert!(
        shown.rows().contains(&vec!["policy ordered", "yes"]),
        "{shown:?}"
    );
    assert!(
        shown
            .rows()
            .contains(&vec!["policy limits concurrency", "64"]),
        "{shown:?}"
    );
    let json = world
        .cli(["sub", "show", PAYMENT, "-o", "json"])
        .ok()
        .json();
    assert_eq!(json[0]["id"], PAYMENT);
    let line = world
        .cli(["sub", "show", PAYMENT, "-o", "jsonl"])
        .ok()
        .json();
    assert_eq!(line["policy"], json[0]["policy"]);
    assert_eq!(
        world.cli(["sub", "show", PAYMENT, "-o", "name"]).ok().out,
        format!("{PAYMENT}\n")
    );
    world
        .cli(["sub", "show", "other@topic:shop.order"])
        .fails(4, "PR-1603");
    world.cli(["sub", "show", "nonsense"]).fails(2, "PR-1604");
}

#[test]
fn a_paused_subscription_lags_until_it_is_resumed() {
    let world = World::start();
    world.pause();
    (0..3).for_each(|n| world.order("a", n));
    let table = world.cli(["sub", "lag"]).ok();
    assert_eq!(
        table.rows()[0],
        ["SUBSCRIPTION", "DEPTH", "IN FLIGHT", "DELAYED", "OLDEST"]
    );
    assert!(
        table.rows().iter().any(|row| row[..2] == [PAYMENT, "3"]),
        "{table:?}"
    );
    let lags = world.cli(["sub", "lag", PAYMENT, "-o", "json"]).ok().json();
    assert_eq!(lags[0]["depth"]["depth"], 3);
    let line = world
        .cli(["sub", "lag", PAYMENT, "-o", "jsonl"])
        .ok()
        .json();
    assert_eq!(line["id"], PAYMENT);
    assert_eq!(
        world.cli(["sub", "lag", PAYMENT, "-o", "name"]).ok().out,
        format!("{PAYMENT}\n")
    );

    world.cli(["sub", "lag", "--max", "3"]).ok();
    world.cli(["sub", "lag", "--max", "1h"]).ok();
    let over = world
        .cli(["sub", "lag", "--max", "2"])
        .fails_with_data(9, "PR-1606");
    assert!(
        over.err
            .contains("3 messages wait for payment@topic:shop.order, more than 2"),
        "{over:?}"
    );
    assert!(
        over.out.contains(PAYMENT),
        "the data come all the same: {over:?}"
    );
    world.until("the oldest message ages", || {
        let over = world.cli(["sub", "lag", PAYMENT, "--max", "0ms"]);
        over.code == 9 && over.err.contains("longer than 0ms")
    });
    world
        .cli(["sub", "lag", "--max", "soon"])
        .fails(2, "PR-1604");
    world
        .cli(["sub", "lag", "other@topic:shop.order"])
        .fails(4, "PR-1603");

    let told = world.cli(["sub", "resume", PAYMENT]).ok();
    assert_eq!(
        (told.out.as_str(), told.err.as_str()),
        ("", "resumed payment@topic:shop.order (1 member)\n")
    );
    world.until("it catches up", || {
        world.cli(["sub", "lag", PAYMENT, "--max", "0"]).code == 0
    });
    world
        .cli(["sub", "pause", "other@topic:shop.order"])
        .fails(4, "PR-1603");
    world.cli(["sub", "resume", "nonsense"]).fails(2, "PR-1604");
}

#[test]
fn nobody_there_is_7_and_no_directory_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for command in [
        &["status"][..],
        &["plan"],
        &["topic", "ls"],
        &["topic", "show", "a"],
        &["sub", "ls"],
        &["sub", "show", PAYMENT],
        &["sub", "pause", PAYMENT],
        &["sub", "resume", PAYMENT],
        &["sub", "lag"],
        &["dlq", "groups"],
        &["dlq", "ls"],
        &["dlq", "show", PAYMENT, "1"],
        &["dlq", "redrive", PAYMENT, "1", "--yes", "--reason", "r"],
        &["dlq", "discard", PAYMENT, "--all", "--dry-run"],
    ] {
        let at = ["--dir", path];
        let arguments = command.iter().chain(&at);
        let away = ended(&mut binary(arguments)).fails(7, "PR-1601");
        assert!(away.err.contains(path), "{away:?}");
        let nowhere = ended(binary(command).current_dir(path));
        nowhere.fails(2, "PR-1610");
    }
}

#[test]
fn the_directory_is_named_by_flag_by_environment_or_is_data() {
    let world = World::start();
    let path = world.path();
    let elsewhere = tempfile::tempdir().unwrap();
    ended(binary(["status", "--dir"]).arg(path)).ok();
    ended(binary(["status"]).env("POSTRIDER_DIR", path)).ok();
    // The flag wins.
    ended(
        binary(["status", "--dir"])
            .arg(path)
            .env("POSTRIDER_DIR", elsewhere.path()),
    )
    .ok();
    std::os::unix::fs::symlink(path, elsewhere.path().join("data")).unwrap();
    ended(binary(["status"]).current_dir(elsewhere.path())).ok();
    // The directory of the demo has its engine one level deeper.
    std::os::unix::fs::symlink(path, elsewhere.path().join("log")).unwrap();
    ended(binary(["status", "--dir"]).arg(elsewhere.path())).ok();
    // Longer than a socket's path may be.
    let deep = elsewhere.path().join("d".repeat(120));
    std::os::unix::fs::symlink(path, &deep).unwrap();
    ended(binary(["status", "--dir"]).arg(&deep)).ok();
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let world = World::start();
    let mut command = binary(["sub", "ls", "-o", "json"]);
    command.env("POSTRIDER_DIR", world.path());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert_eq!((status.code(), err.as_str()), (Some(0), ""));
}

#[test]
fn wrong_usage_is_2_in_three_lines() {
    for arguments in [
        &["status", "--colour"][..],
        &["sub", "show"],
        &["frobnicate"],
        &["sub", "ls", "-o", "xml"],
    ] {
        ended(&mut binary(arguments)).fails(2, "PR-1604");
    }
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ended(&mut binary(["completions", shell, "--static"])).ok();
        for word in ["postrider", "resume", "lag"] {
            assert!(script.out.contains(word), "{shell} lacks {word}");
        }
        assert!(
            !script.out.contains("demo-child"),
            "{shell} offers what is hidden"
        );
        assert_eq!(script.err, "");
        let asking = ended(&mut binary(["completions", shell])).ok();
        assert!(asking.out.contains("COMPLETE"), "{asking:?}");
    }
    ended(&mut binary(["completions", "tcsh"])).fails(2, "PR-1604");
}

#[test]
fn every_help_begins_with_examples_and_names_the_exit_codes() {
    for command in [
        &[][..],
        &["status"],
        &["plan"],
        &["topic"],
        &["topic", "ls"],
        &["topic", "show"],
        &["sub"],
        &["sub", "ls"],
        &["sub", "show"],
        &["sub", "pause"],
        &["sub", "resume"],
        &["sub", "lag"],
        &["dlq"],
        &["dlq", "groups"],
        &["dlq", "ls"],
        &["dlq", "show"],
        &["dlq", "redrive"],
        &["dlq", "discard"],
        &["completions"],
    ] {
        let help = ended(&mut binary(command.iter().chain(&["--help"]))).ok();
        assert!(help.out.starts_with("Examples:\n  postrider "), "{help:?}");
        assert!(
            help.out.contains("Exit codes: 0 ok, 1 failed, 2 usage"),
            "{help:?}"
        );
        assert!(
            !help.out.contains('\u{1b}'),
            "no colour off a terminal: {help:?}"
        );
    }
}
