//! A directory that nobody runs: looked at without changing it, and changed as a service would. And its files: verify, dump, back up, restore.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{PAYMENT, PRICES, World, beside};

/// Every file in the directory with its bytes.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => {
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// Two failures (a parked key of one, and one of another), and an order that waits.
fn stopped() -> tempfile::TempDir {
    let world = World::start();
    world.fail(&["a", "b"]);
    world.pause();
    world.order("c", 3);
    world.stop()
}

#[test]
fn reads_show_what_is_there_and_change_no_byte() {
    let dir = stopped();
    let dir = dir.path();
    let before = files(dir);
    let topics = beside(dir, ["topic", "ls", "-o", "name"]).ok();
    assert_eq!(topics.out, "topic:shop.order\nqueue:prices\n");
    beside(dir, ["topic", "show", "shop.order"]).ok();
    let subs = beside(dir, ["sub", "ls"]).ok();
    assert!(
        subs.rows()
            .iter()
            .any(|row| row.starts_with(&[PAYMENT, "not running", "1"])),
        "{subs:?}"
    );
    let lag = beside(dir, ["sub", "lag", "--max", "0"]).fails_with_data(9, "PR-1606");
    assert!(lag.out.contains(PRICES), "{lag:?}");
    let show = beside(dir, ["sub", "show", PAYMENT, "-o", "jsonl"]).ok();
    assert_eq!(show.json()["phase"], "not_running");
    let tail = beside(dir, ["topic", "tail", "shop.order", "-o", "name"]).ok();
    assert_eq!(
        tail.out, "topic:shop.order@2\n",
        "it does not follow: {tail:?}"
    );
    assert!(tail.err.starts_with("nothing runs on "), "{tail:?}");
    let message = beside(dir, ["msg", "show", "shop.order@2", "-o", "jsonl"]).ok();
    assert_eq!(message.json()["subscriptions"][0]["state"], "waiting");
    let groups = beside(dir, ["dlq", "groups", "-o", "json"]).ok().json();
    assert_eq!(groups[0]["count"], 2);
    beside(dir, ["dlq", "ls"]).ok();
    let shown = beside(dir, ["dlq", "show", PAYMENT, "1", "-o", "json"])
        .ok()
        .json();
    let id = shown["envelope"]["id"].as_str().unwrap();
    let flow = beside(dir, ["flow", id]).ok();
    assert!(flow.out.contains("parked"), "{flow:?}");
    beside(dir, ["dlq", "redrive", PAYMENT, "--all", "--dry-run"]).ok();
    beside(dir, ["sub", "seek", PAYMENT, "--to", "latest", "--dry-run"]).ok();
    beside(dir, ["doctor", "--free-min", "0"]).fails_with_data(9, "PR-1606");
    assert!(before == files(dir), "nothing was changed");
}

#[test]
fn what_needs_a_process_says_that_none_runs() {
    let dir = stopped();
    for command in [
        &["status"][..],
        &["plan"],
        &["sub", "pause", PAYMENT],
        &["top", "--once"],
    ] {
        beside(dir.path(), command).fails(7, "PR-1601");
    }
    let nothing = tempfile::tempdir().unwrap();
    beside(nothing.path(), ["topic", "ls"]).fails(7, "PR-1601");
    assert!(files(nothing.path()).is_empty(), "nothing was made");
}

#[test]
fn a_redrive_is_marked_and_done_when_the_service_starts() {
    let dir = stopped();
    let sure = ["--yes", "--reason", "the bank is back"];
    let redrive = ["dlq", "redrive", PAYMENT, "1", "-o", "json"];
    let marked = beside(dir.path(), redrive.iter().chain(&sure)).ok();
    assert!(
        marked.err.contains("handled when their service starts"),
        "{marked:?}"
    );
    assert_eq!(marked.json()["redriving"], 1);
    let discard = ["dlq", "discard", PAYMENT, "2"];
    beside(dir.path(), discard.iter().chain(&sure)).ok();
    let publish = [
        "publish",
        "shop.order",
        "--type",
        "placed",
        "--key",
        "d",
        "{\"order_id\":\"d\",\"n\":4}",
    ];
    beside(dir.path(), publish).ok();
    let tail = beside(dir.path(), ["topic", "tail", "shop.order", "-o", "name"]).ok();
    assert_eq!(tail.out.lines().count(), 2);
    let world = World::on(dir);
    world.until("all is handled", || {
        let lag = world.cli(["sub", "lag", PAYMENT, "-o", "jsonl"]).json();
        world.failures() == 0 && lag["depth"]["depth"] == 0
    });
}

#[test]
fn files_are_verified_dumped_copied_and_brought_back() {
    let world = World::start();
    world.fail(&["a"]);
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let (live, copy, new) = (path("live"), path("copy"), path("new"));
    let to = |path: &Path| path.to_str().unwrap().to_owned();
    world.cli(["log", "verify"]).fails(5, "PR-1001");
    let backup = world.cli(["log", "backup", &to(&live), "-o", "json"]).ok();
    assert!(backup.json()["bytes"].as_u64().unwrap() > 0, "{backup:?}");
    world.cli(["log", "backup", &to(&live)]).fails(5, "PR-1609");
    let dir = world.stop();
    let table = beside(dir.path(), ["log", "verify"]).ok();
    assert!(table.rows().contains(&vec!["sound", "yes"]), "{table:?}");
    let json = beside(dir.path(), ["log", "verify", "-o", "json"])
        .ok()
        .json();
    assert_eq!(
        (&json["clean"], &json["damage"]),
        (&json!(true), &json!([]))
    );
    beside(dir.path(), ["log", "verify", "-o", "name"]).ok();

    let dump = beside(
        dir.path(),
        ["log", "dump", "--kind", "failure", "-o", "jsonl"],
    )
    .ok();
    assert_eq!(dump.json()["kind"], "failure");
    let some = beside(dir.path(), ["log", "dump", "-n", "3", "-o", "json"])
        .ok()
        .json();
    assert_eq!(some.as_array().unwrap().len(), 3);
    let from = some[2]["lsn"].as_u64().unwrap().to_string();
    let later = beside(
        dir.path(),
        ["log", "dump", "--from", &from, "-n", "1", "-o", "name"],
    )
    .ok();
    assert_eq!(later.out, format!("{from}\n"));
    assert!(
        beside(dir.path(), ["log", "dump"])
            .ok()
            .out
            .contains(" data ")
    );

    beside(dir.path(), ["log", "backup", &to(&copy)]).ok();
    for backup in [&live, &copy] {
        beside(backup, ["log", "verify"]).ok();
        let shown = beside(backup, ["dlq", "groups", "-o", "json"]).ok().json();
        assert_eq!(shown[0]["count"], 1);
    }
    let restored = beside(
        dir.path(),
        ["log", "restore", &to(&copy), &to(&new), "-o", "jsonl"],
    )
    .ok();
    assert_eq!(restored.json()["target"], to(&new));
    beside(dir.path(), ["log", "restore", &to(&copy), &to(&new)]).fails(5, "PR-1609");
    assert_eq!(
        beside(&new, ["dlq", "ls", "-o", "name"]).ok().out,
        format!("{PAYMENT} 1\n")
    );
    damage(&copy);
    let damaged = beside(&copy, ["log", "verify", "-o", "json"]).fails_with_data(9, "PR-1010");
    assert_eq!(damaged.json()["sound"], false);
    let nothing = tempfile::tempdir().unwrap();
    beside(nothing.path(), ["log", "verify"]).fails(4, "PR-1002");
}

/// Flips a bit of the first message.
fn damage(dir: &Path) {
    let report = beside(dir, ["log", "verify", "-o", "json"]).ok().json();
    let data = ["log", "dump", "--kind", "data", "-n", "1", "-o", "jsonl"];
    let data = beside(dir, data).ok().json();
    let segments = report["segments"].as_array().unwrap();
    let holds = |segment: &&Value| segment["segment"] == data["segment"];
    let file = segments.iter().find(holds).unwrap()["file"]
        .as_str()
        .unwrap();
    let path = dir.join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = usize::try_from(data["at"].as_u64().unwrap()).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn doctor_finds_nothing_or_says_what_it_found() {
    let world = World::start();
    let well = world.cli(["doctor", "--free-min", "0"]).ok();
    assert!(well.out.starts_with("all is well: "), "{well:?}");
    world.fail(&["a"]);
    world.pause();
    let sick = world
        .cli(["doctor", "--free-min", "0"])
        .fails_with_data(9, "PR-1606");
    assert_eq!(sick.rows()[0], ["SEVERITY", "CHECK", "WHAT"]);
    assert!(
        sick.out.contains("see:     docs/guide/doctor.md#failures"),
        "{sick:?}"
    );
    let json = world.cli(["doctor", "--free-min", "0", "-o", "json"]);
    let json = json.fails_with_data(9, "PR-1606").json();
    let checks: Vec<&Value> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["check"])
        .collect();
    assert_eq!(checks, [&json!("failures"), &json!("paused")]);
    for field in ["severity", "what", "evidence", "fix", "link"] {
        assert!(json["findings"][0][field].is_string(), "{json}");
    }
    let names = world.cli(["doctor", "--free-min", "0", "-o", "name"]);
    assert_eq!(
        names.fails_with_data(9, "PR-1606").out,
        "failures\npaused\n"
    );
    let lines = world.cli(["doctor", "--free-min", "0", "-o", "jsonl"]);
    assert_eq!(lines.fails_with_data(9, "PR-1606").out.lines().count(), 2);
}

#[test]
fn top_writes_one_look_as_text_and_needs_a_terminal_for_more() {
    let world = World::start();
    world.fail(&["a"]);
    let once = world.cli(["top", "--once", "--every", "100ms"]).ok();
    let line = once
        .out
        .lines()
        .find(|line| line.contains(PAYMENT))
        .unwrap();
    assert!(line.chars().count() <= 80, "{once:?}");
    assert!(once.out.contains("failures 1"), "{once:?}");
    assert!(!once.out.contains('\u{1b}'), "{once:?}");
    world.cli(["top"]).fails(2, "PR-1604");
}

#[test]
fn watch_writes_what_changed() {
    let world = World::start();
    let mut watch = world.follow(&["sub", "ls", "--watch=100ms"]);
    assert_eq!(
        (watch.json()["id"].clone(), watch.json()["id"].clone()),
        (json!(PAYMENT), json!(PRICES))
    );
    world.cli(["sub", "pause", PAYMENT]).ok();
    world.until("the pause is seen", || watch.json()["phase"] == "paused");
    assert_eq!(watch.interrupt(), (0, String::new()));
    for list in [
        &["topic", "ls"][..],
        &["sub", "lag"],
        &["dlq", "groups"],
        &["dlq", "ls"],
    ] {
        world.order("a", 1);
        let arguments: Vec<&str> = list.iter().copied().chain(["--watch=100ms"]).collect();
        world.bank(true);
        world.cli(["sub", "resume", PAYMENT]).ok();
        let mut watch = world.follow(&arguments);
        assert!(watch.json().is_object(), "{list:?}");
        assert_eq!(watch.interrupt().0, 0);
    }
}

#[test]
fn a_shell_is_offered_the_names_of_the_directory() {
    let world = World::start();
    world.order("a", 1);
    let offered = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command
            .env("COMPLETE", "fish")
            .env("POSTRIDER_DIR", world.path());
        let ended = support::ended(command.args(["--", "postrider"]).args(words)).ok();
        ended.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offered(&["topic", "show", "sh"]), ["shop.order"]);
    assert_eq!(offered(&["sub", "pause", "pa"]), [PAYMENT]);
    assert_eq!(offered(&["dlq", "ls", "pri"]), [PRICES]);
    assert!(offered(&["explain", "PR-16"]).len() > 5);
    assert!(
        offered(&["do"])
            .iter()
            .any(|word| word.starts_with("doctor"))
    );
}
