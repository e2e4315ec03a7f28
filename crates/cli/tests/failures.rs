//! `dlq`: the real binary beside a running directory whose payment service refuses orders while the bank is down.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Ended, PAYMENT, World, binary};

const DECLINED: &str = "permanent · placed · card # declined";
const SURE: [&str; 3] = ["--yes", "--reason", "the bank is back"];

fn redrive(world: &World, arguments: &[&str]) -> Ended {
    world.cli(
        ["dlq", "redrive", PAYMENT]
            .iter()
            .chain(arguments)
            .chain(&SURE),
    )
}

fn discard(world: &World, arguments: &[&str]) -> Ended {
    world.cli(
        ["dlq", "discard", PAYMENT]
            .iter()
            .chain(arguments)
            .chain(&SURE),
    )
}

fn ids(world: &World) -> Vec<u64> {
    let all = world.cli(["dlq", "ls", PAYMENT, "-o", "json"]).ok().json();
    all.as_array()
        .unwrap()
        .iter()
        .map(|record| record["id"].as_u64().unwrap())
        .collect()
}

fn numbers(summary: &Value) -> [u64; 5] {
    ["selected", "handled", "failed", "redriving", "untouched"]
        .map(|name| summary[name].as_u64().unwrap())
}

#[test]
fn groups_say_what_failed_in_every_form() {
    let world = World::start();
    assert_eq!(
        world.cli(["dlq", "groups", "-o", "json"]).ok().json(),
        json!([])
    );
    world.fail(&["a", "b", "b", "cursed"]);
    let table = world.cli(["dlq", "groups"]).ok();
    let rows = table.rows();
    assert_eq!(
        rows[0],
        ["COUNT", "SUBSCRIPTION", "FIRST", "LAST", "SAMPLE", "GROUP"]
    );
    let declined = rows
        .iter()
        .find(|row| row.last() == Some(&DECLINED))
        .unwrap();
    assert_eq!(declined[..2], ["2", PAYMENT], "{table:?}");
    assert!(declined[2].ends_with(" ago"), "{table:?}");
    assert!(
        !table.out.contains('\u{1b}'),
        "what failed cannot steer the terminal: {table:?}"
    );
    let json = world
        .cli(["dlq", "groups", PAYMENT, "-o", "json"])
        .ok()
        .json();
    assert_eq!(json[0]["group"], DECLINED);
    assert!(json[0]["first"].as_str().unwrap().ends_with('Z'));
    let lines = world.cli(["dlq", "groups", "-o", "jsonl"]).ok();
    assert_eq!(lines.out.lines().count(), json.as_array().unwrap().len());
    let names = world.cli(["dlq", "groups", "-o", "name"]).ok();
    assert_eq!(names.out.lines().next(), Some(DECLINED));
    world
        .cli(["dlq", "groups", "other@topic:nothing"])
        .fails(4, "PR-1603");
    world.cli(["dlq", "groups", "nonsense"]).fails(2, "PR-1604");
}

#[test]
fn ls_lists_filters_and_pages_in_every_form() {
    let world = World::start();
    world.fail(&["a", "b", "b"]);
    let ids = ids(&world);
    let table = world.cli(["dlq", "ls"]).ok();
    assert_eq!(
        table.rows()[0][..4],
        ["SUBSCRIPTION", "N", "STATE", "CAUSE"]
    );
    let first = &table.rows()[1];
    assert_eq!(
        first[2..6],
        ["waiting", "permanent", "placed", "a"],
        "{table:?}"
    );
    assert_eq!(first[8], "card 4711 declined");
    assert_eq!(table.out.lines().count(), 4);
    assert_eq!(table.err, "");
    let names = world.cli(["dlq", "ls", "-o", "name"]).ok();
    let expected: String = ids.iter().map(|n| format!("{PAYMENT} {n}\n")).collect();
    assert_eq!(names.out, expected);
    assert_eq!(
        world
            .cli(["dlq", "ls", PAYMENT, "-o", "jsonl"])
            .ok()
            .out
            .lines()
            .count(),
        3
    );

    let of_key = world
        .cli(["dlq", "ls", PAYMENT, "--key", "b", "-o", "json"])
        .ok()
        .json();
    assert_eq!(
        (of_key[0]["cause"].as_str(), of_key[1]["cause"].as_str()),
        (Some("permanent"), Some("follower"))
    );
    let of_group = world
        .cli(["dlq", "ls", PAYMENT, "--group", DECLINED, "-o", "name"])
        .ok();
    assert_eq!(of_group.out.lines().count(), 2);
    let page = world
        .cli(["dlq", "ls", PAYMENT, "--limit", "2", "-o", "name"])
        .ok();
    assert_eq!(page.out.lines().count(), 2);
    assert_eq!(
        page.err,
        format!(
            "{PAYMENT} has more: --after {}, or a larger --limit\n",
            ids[1]
        )
    );
    let after = ids[1].to_string();
    let page = world
        .cli([
            "dlq", "ls", PAYMENT, "--after", &after, "--limit", "1", "-o", "name",
        ])
        .ok();
    assert_eq!(
        (page.out, page.err.as_str()),
        (format!("{PAYMENT} {}\n", ids[2]), "")
    );
    world
        .cli(["dlq", "ls", "other@topic:nothing"])
        .fails(4, "PR-1603");
    world.cli(["dlq", "ls", "--limit", "0"]).fails(2, "PR-1604");
}

#[test]
fn show_has_errors_envelope_and_payload_in_every_form() {
    let world = World::start();
    world.fail(&["cursed"]);
    let id = ids(&world)[0].to_string();
    let table = world.cli(["dlq", "show", PAYMENT, &id]).ok();
    let rows = table.rows();
    assert!(
        rows.contains(&vec!["cause", "permanent (PR-1309)"]),
        "{table:?}"
    );
    assert!(
        rows.contains(&vec!["error", "\\u{1b}[31mcursed"]),
        "{table:?}"
    );
    assert!(rows.contains(&vec!["type", "placed"]), "{table:?}");
    assert!(
        table.out.ends_with("{\"order_id\":\"cursed\",\"n\":0}\n"),
        "{table:?}"
    );
    let json = world
        .cli(["dlq", "show", PAYMENT, &id, "-o", "json"])
        .ok()
        .json();
    assert_eq!(json["envelope"]["partitionkey"], "cursed");
    assert!(json["failed_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        world
            .cli(["dlq", "show", PAYMENT, &id, "-o", "jsonl"])
            .ok()
            .json(),
        json
    );
    let name = world.cli(["dlq", "show", PAYMENT, &id, "-o", "name"]).ok();
    assert_eq!(name.out, format!("{PAYMENT} {id}\n"));
    world
        .cli(["dlq", "show", PAYMENT, "999999"])
        .fails(4, "PR-1603");
    world
        .cli(["dlq", "show", PAYMENT, "one"])
        .fails(2, "PR-1604");
}

#[test]
fn what_changes_failures_needs_yes_and_a_reason_where_there_is_no_terminal() {
    let world = World::start();
    world.fail(&["a"]);
    for verb in ["redrive", "discard"] {
        for (sure, missing) in [
            (&[][..], "--yes and --reason missing"),
            (&["--yes"], "--reason missing"),
            (&["--reason", "r"], "--yes missing"),
        ] {
            let refused = world.cli(["dlq", verb, PAYMENT, "--all"].iter().chain(sure));
            let refused = refused.fails(2, "PR-1605");
            assert!(refused.err.contains(missing), "{refused:?}");
        }
        // Exactly one way to say which.
        let sure = ["dlq", verb, PAYMENT, "--yes", "--reason", "r"];
        world.cli(sure).fails(2, "PR-1604");
        world
            .cli(sure.iter().chain(&["--all", "--key", "a"]))
            .fails(2, "PR-1604");
        world
            .cli(sure.iter().chain(&["1", "--all"]))
            .fails(2, "PR-1604");
        let blank = ["dlq", verb, PAYMENT, "--all", "--yes", "--reason", " "];
        world.cli(blank).fails(1, "PR-1605");
    }
    assert_eq!(world.failures(), 1, "nothing was done");
}

#[test]
fn a_dry_run_counts_whole_keys_and_does_nothing() {
    let world = World::start();
    world.fail(&["a", "b", "b"]);
    let ids = ids(&world);
    // The group has the first of b alone; b is parked, and comes whole.
    let arguments = ["dlq", "redrive", PAYMENT, "--group", DECLINED, "--dry-run"];
    let dry = world.cli(arguments.iter().chain(&["-o", "json"])).ok();
    assert_eq!(
        dry.err,
        format!("would redrive 3 failures of {PAYMENT} (with 2 parked keys, whole)\n")
    );
    assert_eq!(
        (numbers(&dry.json()), &dry.json()["dry_run"]),
        ([3, 0, 0, 0, 3], &json!(true))
    );
    let named = world.cli(arguments.iter().chain(&["-o", "name"])).ok();
    assert_eq!(
        named.out,
        ids.iter()
            .map(|n| format!("{PAYMENT} {n}\n"))
            .collect::<String>()
    );
    // A discard takes what was said and no more.
    let arguments = ["dlq", "discard", PAYMENT, "--group", DECLINED, "--dry-run"];
    let dry = world.cli(arguments).ok();
    assert_eq!(dry.err, format!("would discard 2 failures of {PAYMENT}\n"));
    assert_eq!(
        dry.rows(),
        [
            vec!["SUBSCRIPTION", "SELECTED", "DISCARDED"],
            vec![PAYMENT, "2", "0"]
        ]
    );
    assert_eq!(world.failures(), 3, "nothing was done");
}

#[test]
fn redrive_tries_one_then_hands_back_the_rest_and_says_what_became_of_them() {
    let world = World::start();
    world.fail(&["a", "b", "b", "c"]);
    world.bank(false);
    let done = redrive(&world, &["--all", "-o", "json"]).ok();
    assert_eq!(numbers(&done.json()), [4, 4, 0, 0, 0]);
    let lines: Vec<&str> = done.err.lines().collect();
    assert!(lines[0].ends_with(" was handled"), "{done:?}");
    assert_eq!(
        lines[1],
        "of 4 failures: 4 handled, 0 failed again, 0 on their way, 0 not touched"
    );
    assert_eq!(world.failures(), 0);
    redrive(&world, &["--all"]).fails(4, "PR-1603");
}

#[test]
fn redrive_takes_numbers_a_group_or_a_key() {
    let world = World::start();
    world.fail(&["a", "b", "b", "c", "d"]);
    world.bank(false);
    let ids: Vec<String> = ids(&world).iter().map(u64::to_string).collect();
    let one = redrive(&world, &[&ids[0]]).ok();
    assert_eq!(one.rows()[1], [PAYMENT, "1", "1", "0", "0", "0"]);
    let key = redrive(&world, &["--key", "b", "-o", "jsonl"]).ok();
    assert_eq!(numbers(&key.json()), [2, 2, 0, 0, 0]);
    let absent = redrive(&world, &[&ids[3], &ids[0]]).fails(4, "PR-1603");
    assert!(absent.err.contains("nothing was done"), "{absent:?}");
    let group = redrive(&world, &["--group", DECLINED, "-o", "name"]).ok();
    assert_eq!(group.out, "", "none failed again");
    assert_eq!(world.failures(), 0);
}

#[test]
fn where_the_first_fails_again_the_others_stay_as_they_are() {
    let world = World::start();
    world.fail(&["cursed", "a", "b"]);
    world.bank(false);
    let first = ids(&world)[0];
    let failed = redrive(&world, &["--all", "-o", "json"]).fails_with_data(1, "PR-1607");
    assert!(
        failed.err.contains(&format!(
            "failure {first} failed again; 2 others left as they are"
        )),
        "{failed:?}"
    );
    assert!(
        failed.err.contains("why:   \\u{1b}[31mcursed"),
        "{failed:?}"
    );
    assert_eq!(numbers(&failed.json()), [3, 0, 1, 0, 2]);
    assert_eq!(failed.json()["failed_ids"], json!([first]));
    assert_eq!(world.failures(), 3);
    let record = world
        .cli(["dlq", "show", PAYMENT, &first.to_string(), "-o", "json"])
        .ok()
        .json();
    assert_eq!(
        (&record["state"], &record["redrives"]),
        (&json!("waiting"), &json!(1))
    );
}

#[test]
fn a_later_one_that_fails_again_makes_it_partial() {
    let world = World::start();
    world.fail(&["a", "cursed", "b"]);
    world.bank(false);
    let failed = redrive(&world, &["--all", "-o", "name"]).fails_with_data(3, "PR-1607");
    assert_eq!(failed.out, format!("{PAYMENT} {}\n", ids(&world)[0]));
    assert_eq!(world.failures(), 1);
}

#[test]
fn what_would_not_be_handled_is_a_conflict_unless_nobody_waits() {
    let world = World::start();
    world.fail(&["a"]);
    world.bank(false);
    world.pause();
    let paused = redrive(&world, &["--all"]).fails(5, "PR-1609");
    assert!(paused.err.contains("it is paused"), "{paused:?}");
    let handed = redrive(&world, &["--all", "--no-wait", "-o", "json"]).ok();
    assert_eq!(numbers(&handed.json()), [1, 0, 0, 1, 0]);
    // On its way: neither again, nor away.
    redrive(&world, &["--all", "--no-wait"]).fails(5, "PR-1609");
    discard(&world, &["--all"]).fails(5, "PR-1609");
    world.cli(["sub", "resume", PAYMENT]).ok();
    world.until("it is handled", || world.failures() == 0);
}

#[test]
fn an_outcome_that_does_not_come_is_a_timeout() {
    let world = World::start();
    world.fail(&["hangs", "a"]);
    world.bank(false);
    let arguments = ["--all", "--timeout", "200ms", "-o", "json"];
    let waited = redrive(&world, &arguments).fails_with_data(8, "PR-1608");
    assert_eq!(numbers(&waited.json()), [2, 0, 0, 1, 1]);
}

#[test]
fn an_interrupt_leaves_what_was_not_reached() {
    let world = World::start();
    world.fail(&["hangs", "a"]);
    world.bank(false);
    let mut command = binary(
        ["dlq", "redrive", PAYMENT, "--all", "-o", "json"]
            .iter()
            .chain(&SURE),
    );
    command
        .env("POSTRIDER_DIR", world.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    world.until("the first is on its way", || {
        let all = world.cli(["dlq", "ls", PAYMENT, "-o", "json"]).ok().json();
        all[0]["state"] == "redriving"
    });
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(numbers(&summary), [2, 0, 0, 1, 1]);
    let all = world.cli(["dlq", "ls", PAYMENT, "-o", "json"]).ok().json();
    assert_eq!(all[1]["state"], "waiting");
}

#[test]
fn discard_removes_what_was_counted_and_keeps_who_and_why() {
    let world = World::start();
    world.fail(&["a", "b", "b", "c", "d"]);
    let ids: Vec<String> = ids(&world).iter().map(u64::to_string).collect();
    let one = discard(&world, &[&ids[0]]).ok();
    assert_eq!(
        one.rows(),
        [
            vec!["SUBSCRIPTION", "SELECTED", "DISCARDED"],
            vec![PAYMENT, "1", "1"]
        ]
    );
    assert_eq!(one.err, format!("discarded 1 failure of {PAYMENT}\n"));
    let key = discard(&world, &["--key", "b", "-o", "json"]).ok().json();
    assert_eq!(
        key,
        json!({"subscription": PAYMENT, "selected": 2, "discarded": 2, "dry_run": false})
    );
    let group = discard(&world, &["--group", DECLINED, "-o", "name"]).ok();
    assert_eq!(
        group.out,
        format!("{PAYMENT} {}\n{PAYMENT} {}\n", ids[3], ids[4])
    );
    assert_eq!(world.failures(), 0);
    discard(&world, &["--all"]).fails(4, "PR-1603");
    let audit = world.audit();
    assert_eq!(audit.len(), 3);
    assert!(
        audit.iter().all(
            |(action, by, why)| (action.as_str(), by.as_str(), why.as_str())
                == ("discard", "ann", SURE[2])
        ),
        "{audit:?}"
    );
}
