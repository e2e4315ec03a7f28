//! What a person is asked on a terminal, and what becomes of the answers.
#![allow(clippy::unwrap_used)]

mod support;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::{PAYMENT, World, binary};

/// How a command ended on a terminal: exit code, what was on the screen, and standard output.
struct Ended {
    code: i32,
    screen: String,
    out: String,
}

/// Runs the binary with questions and progress on a terminal, where these answers are typed.
fn on_terminal(world: &World, arguments: &[&str], answers: &str) -> Ended {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let path = OsStr::from_bytes(name.as_bytes());
    let theirs = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut ours = File::from(ours);
    ours.write_all(answers.as_bytes()).unwrap();
    let mut command = binary(arguments);
    command
        .env("POSTRIDER_DIR", world.path())
        .stdin(theirs.try_clone().unwrap())
        .stderr(theirs)
        .stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    // The terminal ends with the last who has it open: the child.
    drop(command);
    let mut screen = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(n @ 1..) = ours.read(&mut piece) {
        screen.extend_from_slice(&piece[..n]);
    }
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        screen: String::from_utf8(screen).unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
    }
}

#[test]
fn redrive_counts_asks_for_a_reason_tries_one_and_asks_again() {
    let world = World::start();
    world.fail(&["a", "b", "b"]);
    world.bank(false);
    let arguments = ["dlq", "redrive", PAYMENT, "--all", "-o", "jsonl"];
    let ended = on_terminal(&world, &arguments, "y\nthe bank is back\ny\n");
    for question in [
        format!("redrive 3 failures of {PAYMENT} (with 2 parked keys, whole)? [y/N] "),
        "reason (it is kept): ".to_owned(),
        "failure 1 was handled".to_owned(),
        "redrive the 2 others? [y/N] ".to_owned(),
        "of 3 failures: 3 handled".to_owned(),
    ] {
        assert!(
            ended.screen.contains(&question),
            "{question}: {}",
            ended.screen
        );
    }
    assert_eq!(ended.code, 0, "{}", ended.screen);
    let summary: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(summary["handled"], 3, "only data on standard output");
    assert!(!ended.screen.contains('\u{1b}'), "{:?}", ended.screen);
    assert_eq!(world.failures(), 0);
    assert!(
        world
            .audit()
            .iter()
            .all(|(_, by, why)| (by.as_str(), why.as_str()) == ("ann", "the bank is back"))
    );
}

#[test]
fn what_is_not_answered_with_yes_is_not_done() {
    let world = World::start();
    world.fail(&["a", "b"]);
    world.bank(false);
    for verb in ["redrive", "discard"] {
        // No, nothing, the end of the input, yes without a reason.
        for answers in ["n\n", "\n", "\u{4}", "y\n\n"] {
            let ended = on_terminal(&world, &["dlq", verb, PAYMENT, "--all"], answers);
            assert_eq!(ended.code, 1, "{verb} {answers:?}: {}", ended.screen);
            assert!(ended.screen.contains("PR-1605: "), "{}", ended.screen);
            assert_eq!(ended.out, "");
        }
    }
    assert_eq!(world.failures(), 2);
    // The first was handled; the rest is not wanted any more.
    let arguments = [
        "dlq", "redrive", PAYMENT, "--all", "-o", "jsonl", "--reason", "r",
    ];
    let ended = on_terminal(&world, &arguments, "y\nn\n");
    let summary: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(
        (ended.code, &summary["handled"], &summary["untouched"]),
        (1, &1.into(), &1.into())
    );
    assert_eq!(world.failures(), 1);
}

#[test]
fn discard_counts_and_asks() {
    let world = World::start();
    world.fail(&["a", "b", "b"]);
    let ended = on_terminal(
        &world,
        &["dlq", "discard", PAYMENT, "--key", "b"],
        "yes\ntest orders\n",
    );
    let question = format!("discard 2 failures of {PAYMENT} for good? [y/N] ");
    assert!(ended.screen.contains(&question), "{}", ended.screen);
    assert_eq!(ended.code, 0, "{}", ended.screen);
    assert_eq!(world.failures(), 1);
}
