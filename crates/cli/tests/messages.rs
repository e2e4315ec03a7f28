//! Messages: tail, show, publish, flow, seek, edit. The real binary beside a running directory.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Ended, PAYMENT, World, binary, ended};

const SURE: [&str; 5] = ["--yes", "--reason", "a test", "--by", "ann"];

/// Three orders that wait: a, b, a.
fn waiting() -> World {
    let world = World::start();
    world.pause();
    for (key, n) in [("a", 1), ("b", 2), ("a", 3)] {
        world.order(key, n);
    }
    world
}

fn tail(world: &World, arguments: &[&str]) -> Ended {
    world.cli(["topic", "tail", "shop.order"].iter().chain(arguments))
}

fn ids(world: &World) -> Vec<String> {
    let all = tail(world, &["--no-follow", "-o", "json"]).ok().json();
    let all = all.as_array().unwrap().iter();
    all.map(|m| m["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn tail_shows_what_is_there_in_every_form_and_takes_nothing() {
    let world = waiting();
    let table = tail(&world, &["--no-follow"]).ok();
    let rows = table.rows();
    assert_eq!(rows.len(), 3, "{table:?}");
    assert_eq!(rows[0][1..4], ["0", "placed", "a"], "{table:?}");
    assert_eq!(rows[0][4], "{\"order_id\":\"a\",\"n\":1}");
    let names = tail(&world, &["--no-follow", "-o", "name"]).ok();
    assert_eq!(
        names.out,
        "topic:shop.order@0\ntopic:shop.order@1\ntopic:shop.order@2\n"
    );
    let lines = tail(&world, &["--from", "1", "--no-follow", "-o", "jsonl"]).ok();
    assert_eq!(lines.out.lines().count(), 2);
    let first = tail(&world, &["--from", "earliest", "-n", "1", "-o", "json"]).ok();
    assert_eq!(first.json()[0]["envelope"]["partitionkey"], "a");
    assert_eq!(
        first.json()[0]["payload"]["text"],
        "{\"order_id\":\"a\",\"n\":1}"
    );
    let last = tail(&world, &["-n", "2", "-o", "name"]).ok();
    assert_eq!(last.out, "topic:shop.order@1\ntopic:shop.order@2\n");
    let stored = first.json()[0]["stored_at"].as_str().unwrap().to_owned();
    let of_time = tail(&world, &["--from", &stored, "--no-follow", "-o", "name"]).ok();
    assert_eq!(of_time.out.lines().count(), 3);
    let of_key = tail(&world, &["--key", "a", "--no-follow", "-o", "name"]).ok();
    assert_eq!(of_key.out, "topic:shop.order@0\ntopic:shop.order@2\n");
    let of_type = tail(&world, &["--type", "cancelled", "--no-follow"]).ok();
    assert_eq!((of_type.out, of_type.err), (String::new(), String::new()));
    let depth = world.cli(["sub", "lag", PAYMENT, "-o", "json"]).ok().json();
    assert_eq!(depth[0]["depth"]["depth"], 3, "nothing was taken");
    tail(&world, &["-o", "json"]).fails(2, "PR-1604");
    tail(&world, &["--from", "noon", "--no-follow"]).fails(2, "PR-1602");
    world.cli(["topic", "tail", "nothing"]).fails(4, "PR-1603");
}

#[test]
fn tail_follows_until_it_is_interrupted_or_nobody_reads() {
    let world = waiting();
    let mut follow = world.follow(&["topic", "tail", "shop.order", "-o", "jsonl"]);
    let seen: Vec<u64> = (0..3)
        .map(|_| follow.json()["position"].as_u64().unwrap())
        .collect();
    assert_eq!(seen, [0, 1, 2]);
    world.order("c", 4);
    assert_eq!(follow.json()["key"], "c");
    assert_eq!(follow.interrupt(), (0, String::new()));
    let mut follow = world.follow(&["topic", "tail", "shop.order", "--from", "3"]);
    assert!(follow.line().ends_with("{\"order_id\":\"c\",\"n\":4}"));
    let left = std::thread::spawn(|| follow.leave());
    world.until("it ends with its reader", || {
        world.order("d", 8);
        left.is_finished()
    });
    assert_eq!(left.join().unwrap(), 0);
}

#[test]
fn what_is_no_longer_kept_is_said_not_skipped() {
    let world = World::start();
    world.order("a", 1);
    world.until("it is handled", || {
        world.cli(["sub", "lag", PAYMENT, "-o", "jsonl"]).json()["depth"]["depth"] == 0
    });
    tail(&world, &["--from", "0", "--no-follow"]).fails(5, "PR-1022");
    assert_eq!(
        tail(&world, &["--from", "earliest", "--no-follow"])
            .ok()
            .out,
        ""
    );
    world
        .cli(["sub", "seek", PAYMENT, "--to", "0", "--dry-run"])
        .fails(5, "PR-1022");
}

#[test]
fn a_message_is_shown_with_where_it_stands() {
    let world = waiting();
    let by_place = world.cli(["msg", "show", "shop.order@1"]).ok();
    assert!(
        by_place
            .rows()
            .contains(&vec![PAYMENT, "waiting", "0", "-", "-", "-"]),
        "{by_place:?}"
    );
    assert!(
        by_place.out.contains("\n{\"order_id\":\"b\",\"n\":2}\n"),
        "{by_place:?}"
    );
    let id = &ids(&world)[1];
    let by_id = world.cli(["msg", "show", id, "-o", "json"]).ok().json();
    let message = &by_id["messages"][0];
    assert_eq!(
        (&message["position"], &message["kept"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(message["subscriptions"][0]["state"], "waiting");
    let name = world.cli(["msg", "show", id, "-o", "name"]).ok();
    assert_eq!(name.out, "topic:shop.order@1\n");
    let line = world.cli(["msg", "show", id, "-o", "jsonl"]).ok();
    assert_eq!(line.json()["id"], id.as_str());
    // It fails for good, and its key is parked: the record says so.
    world.bank(true);
    world.cli(["sub", "resume", PAYMENT]).ok();
    world.until("all have failed", || world.failures() == 3);
    let parked = world.cli(["msg", "show", id, "-o", "json"]).ok().json();
    let stands = &parked["messages"][0]["subscriptions"][0];
    assert_eq!(stands["state"], "parked", "{parked}");
    assert_eq!(stands["error"], "card 4711 declined");
    assert!(stands["failure"].is_u64());
    let none = world.cli(["msg", "show", "0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10"]);
    none.fails(4, "PR-1603");
    world
        .cli(["msg", "show", "shop.order@99"])
        .fails(4, "PR-1603");
    world.cli(["msg", "show", "nonsense"]).fails(2, "PR-1602");
    world
        .cli(["msg", "show", "shop.order@x"])
        .fails(2, "PR-1604");
}

#[test]
fn publish_takes_arguments_or_lines_and_gives_ids() {
    let world = World::start();
    world.pause();
    let publish = |arguments: &[&str]| {
        let all = ["publish", "shop.order", "--type", "placed"];
        world.cli(all.iter().chain(arguments))
    };
    let one = publish(&[
        "--key",
        "a",
        "--header",
        "origin=import",
        "{\"order_id\":\"a\",\"n\":1}",
    ]);
    let one = one.ok();
    assert_eq!(
        one.rows()[0],
        ["ID", "POSITION", "DUPLICATE", "SUBSCRIPTIONS", "ERROR"]
    );
    assert_eq!(one.rows()[1][1..], ["0", "no", "1", "-"], "{one:?}");
    assert_eq!(one.err, "published 1 message to topic:shop.order\n");
    let shown = world
        .cli(["msg", "show", "shop.order@0", "-o", "jsonl"])
        .ok()
        .json();
    assert_eq!(shown["id"], one.rows()[1][0]);
    assert_eq!(
        (&shown["key"], &shown["envelope"]["source"]),
        (&json!("a"), &json!("postrider-cli"))
    );
    let header = json!(["origin", "import"]);
    assert!(
        shown["headers"].as_array().unwrap().contains(&header),
        "{shown}"
    );

    let id = "0198c7a2-5b6e-7c31-9c55-3f6d2f1a9b10";
    let twice = |n: &str| publish(&["--id", id, "-o", "jsonl", n]).ok().json();
    assert_eq!(twice("{}")["duplicate"], false);
    assert_eq!(twice("{}")["duplicate"], true);
    publish(&["--id", id, "{}", "{}"]).fails_with_data(2, "PR-1604");

    let line = [
        "publish",
        "shop.order",
        "--type",
        "placed",
        "--key-field",
        "order_id",
        "-o",
        "name",
    ];
    let lines = world.cli_with(
        "{\"order_id\":\"x\",\"n\":18446744073709551615}\n\n{\"order_id\":7}\n",
        &line,
    );
    assert_eq!(lines.clone().ok().out.lines().count(), 2, "{lines:?}");
    let kept = tail(&world, &["--key", "x", "--no-follow", "-o", "jsonl"])
        .ok()
        .json();
    let payload = "{\"order_id\":\"x\",\"n\":18446744073709551615}";
    assert_eq!(kept["payload"]["text"], payload, "byte for byte");
    let long = "k".repeat(5000);
    let input = format!("{{\"order_id\":\"y\"}}\n{{\"order_id\":\"{long}\"}}\n");
    let partly = world.cli_with(&input, &line).fails_with_data(3, "PR-1611");
    assert_eq!(partly.out.lines().count(), 1);
    assert!(partly.err.starts_with("PR-1205: "), "{partly:?}");
    world.cli_with("{\"n\":1}\n", &line).fails(2, "PR-1604");

    world
        .cli(["publish", "shop.odrer", "--type", "placed", "{}"])
        .fails(4, "PR-1603");
    world
        .cli(["publish", "new", "--create", "--type", "made", "{}"])
        .ok();
    world.cli(["topic", "show", "new"]).ok();
    let late = publish(&["--delay", "1h", "--key", "late", "{}"]).ok();
    let late = world
        .cli(["msg", "show", late.rows()[1][0], "-o", "jsonl"])
        .ok()
        .json();
    assert_eq!(late["subscriptions"][0]["state"], "delayed", "{late}");
}

#[test]
fn a_flow_is_a_tree_of_messages_and_outcomes() {
    let world = World::start();
    world.pause();
    let all = [
        "publish",
        "shop.order",
        "--type",
        "placed",
        "--correlation",
        "order-7",
    ];
    world
        .cli(
            all.iter()
                .chain(&["--key", "a", "{\"order_id\":\"cursed\",\"n\":1}"]),
        )
        .ok();
    world
        .cli(
            all.iter()
                .chain(&["--key", "b", "{\"order_id\":\"b\",\"n\":2}"]),
        )
        .ok();
    world.order("c", 3);
    let flow = world.cli(["flow", "order-7"]).ok();
    let lines: Vec<&str> = flow.out.lines().collect();
    assert!(
        lines[0].starts_with("placed  topic:shop.order@0  a  "),
        "{flow:?}"
    );
    assert_eq!(lines[1], format!("└─ {PAYMENT}: waiting"));
    assert_eq!(lines[4], "2 messages kept", "{flow:?}");
    let json = world.cli(["flow", "order-7", "-o", "json"]).ok().json();
    assert_eq!(
        (&json["complete"], &json["scanned"]),
        (&json!(true), &json!(3))
    );
    let names = world.cli(["flow", "order-7", "-o", "name"]).ok();
    assert_eq!(names.out, "topic:shop.order@0\ntopic:shop.order@1\n");
    assert_eq!(
        world
            .cli(["flow", "order-7", "-o", "jsonl"])
            .ok()
            .out
            .lines()
            .count(),
        2
    );
    // What is not kept any more but failed is there by its record.
    world.cli(["sub", "resume", PAYMENT]).ok();
    world.until("one has failed, the others are handled", || {
        let depth = world.cli(["sub", "lag", PAYMENT, "-o", "jsonl"]).json();
        world.failures() == 1 && depth["depth"]["depth"] == 0
    });
    let flow = world.cli(["flow", "order-7"]).ok();
    let record = format!("(dlq show {PAYMENT} 1)");
    assert!(flow.out.contains(&record), "{flow:?}");
    let none = world.cli(["flow", "order-8"]).fails(4, "PR-1603");
    assert!(
        none.err.contains("no message of the conversation order-8"),
        "{none:?}"
    );
}

#[test]
fn seek_counts_asks_moves_and_keeps_why() {
    let world = waiting();
    let seek = |arguments: &[&str]| world.cli(["sub", "seek", PAYMENT].iter().chain(arguments));
    seek(&["--to", "latest"]).fails(2, "PR-1605");
    let dry = seek(&["--to", "2", "--dry-run"]).ok();
    assert_eq!(
        dry.err,
        format!(
            "would move {PAYMENT} to 2: 2 messages skipped unhandled, 0 messages delivered again\n"
        )
    );
    assert_eq!(dry.rows()[1], [PAYMENT, "2", "2", "0"]);
    let moved = seek(&[
        "--to",
        "2",
        "--yes",
        "--reason",
        "the others are broken",
        "-o",
        "json",
    ])
    .ok();
    let json = moved.json();
    assert_eq!(
        (&json["skipped"], &json["dry_run"]),
        (&json!(2), &json!(false))
    );
    let lag = world.cli(["sub", "lag", PAYMENT, "-o", "jsonl"]).json();
    assert_eq!(lag["depth"]["depth"], 1);
    assert_eq!(
        world.audit()[0],
        (
            "seek".to_owned(),
            "ann".to_owned(),
            "the others are broken".to_owned()
        )
    );
    // It was paused before, and is so still; then it goes on with what is left.
    let phase = world.cli(["sub", "show", PAYMENT, "-o", "jsonl"]).json();
    assert_eq!(phase["phase"], "paused");
    world.cli(["sub", "resume", PAYMENT]).ok();
    world.until("the last is handled", || {
        world.cli(["sub", "lag", PAYMENT, "-o", "jsonl"]).json()["depth"]["depth"] == 0
    });
    seek(&["--to", "noon", "--dry-run"]).fails(2, "PR-1602");
    let other = [
        "sub",
        "seek",
        "other@topic:shop.order",
        "--to",
        "latest",
        "--dry-run",
    ];
    world.cli(other).fails(4, "PR-1603");
}

#[test]
fn seek_waits_for_handlers_and_leaves_things_as_they_were_where_they_do_not_end() {
    let world = World::start();
    world.order("hangs", 1);
    world.order("a", 2);
    world.until("one is handled, one hangs", || {
        let lag = world.cli(["sub", "lag", PAYMENT, "-o", "jsonl"]).json();
        lag["depth"]["depth"] == 1 && lag["depth"]["in_flight"] == 1
    });
    let arguments = [
        "sub",
        "seek",
        PAYMENT,
        "--to",
        "latest",
        "--timeout",
        "100ms",
    ];
    let refused = world.cli(arguments.iter().chain(&SURE)).fails(5, "PR-1609");
    assert!(
        refused.err.contains("members hold 1 messages"),
        "{refused:?}"
    );
    // It goes on: it was not paused before.
    world.until("it runs again", || {
        world.cli(["sub", "show", PAYMENT, "-o", "jsonl"]).json()["phase"] == "running"
    });
    assert_eq!(world.audit(), []);
}

#[test]
fn an_edited_failure_is_handled_as_edited_and_its_original_is_kept() {
    let world = World::start();
    world.fail(&["cursed"]);
    world.bank(false);
    let edit = ["dlq", "edit", PAYMENT, "1"];
    world
        .cli(edit.iter().chain(&["--payload", "-"]))
        .fails(2, "PR-1605");
    let file = world.path().join("../mended.json");
    std::fs::write(&file, "{\"order_id\":\"cursed\",\"n\":5}").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let payload = ["--payload", &file];
    let edited = world.cli(edit.iter().chain(&payload).chain(&SURE)).ok();
    assert!(
        edited
            .err
            .starts_with(&format!("edited failure 1 of {PAYMENT}")),
        "{edited:?}"
    );
    std::fs::remove_file(&file).unwrap();
    let show = || {
        world
            .cli(["dlq", "show", PAYMENT, "1", "-o", "json"])
            .ok()
            .json()
    };
    let before = "{\"order_id\":\"cursed\",\"n\":0}";
    assert_eq!(
        show()["payload"]["text"],
        "{\"order_id\":\"cursed\",\"n\":5}"
    );
    assert_eq!(show()["edited"]["payload"]["text"], before);
    assert_eq!(
        (&show()["edited"]["by"], &show()["edited"]["reason"]),
        (&json!("ann"), &json!("a test"))
    );
    // It fails again, as what it is now; then an editor mends it.
    let sure = ["--yes", "--reason", "again"];
    let redrive = ["dlq", "redrive", PAYMENT, "--all"];
    world
        .cli(redrive.iter().chain(&sure))
        .fails_with_data(1, "PR-1607");
    assert_eq!(
        show()["payload"]["text"],
        "{\"order_id\":\"cursed\",\"n\":5}"
    );
    assert_eq!(show()["edited"]["payload"]["text"], before);
    let mut command = binary(edit.iter().chain(&SURE));
    command.env("POSTRIDER_DIR", world.path());
    ended(command.env("EDITOR", "sed -i s/cursed/mended/")).ok();
    let text = world.cli(["dlq", "show", PAYMENT, "1"]).ok();
    assert!(text.out.contains("\nedited by ann, "), "{text:?}");
    assert!(text.out.ends_with(&format!("{before}\n")), "{text:?}");
    let key = ["--header", "ce_partitionkey=x"];
    world
        .cli(edit.iter().chain(&key).chain(&SURE))
        .fails(2, "PR-1602");
    world.cli(redrive.iter().chain(&sure)).ok();
    assert_eq!(world.failures(), 0);
    let actions: Vec<String> = world
        .audit()
        .into_iter()
        .map(|(action, ..)| action)
        .collect();
    assert_eq!(actions, ["redrive", "edit", "redrive", "edit"]);
    let gone: Value = json!(world.cli(edit.iter().chain(&SURE)).fails(4, "PR-1603").code);
    assert_eq!(gone, 4);
}
