//! The model of the disk against the real one: the system calls that a real log makes on a real directory are recorded (with `strace`),
//! held against what the model believes each call of the disk to be, and played into the model, which is then cut anywhere.
//!
//! Without `strace`, or where it may not trace, this says so and proves nothing; `.ci/run` installs it.
#![allow(clippy::unwrap_used)]

#[path = "real_disk/child.rs"]
mod child;
#[path = "real_disk/replay.rs"]
mod replay;
#[path = "real_disk/trace.rs"]
mod trace;

use std::process::Command;

use trace::Event;

/// The directory in which a traced child works; set in the child alone.
const DIRECTORY: &str = "POSTRIDER_TRACED_DIRECTORY";
const TEST: &str = "what_the_model_of_the_disk_believes_is_what_the_real_one_does";

#[test]
fn what_the_model_of_the_disk_believes_is_what_the_real_one_does() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return child::run(std::path::Path::new(&directory));
    }
    let tries = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output();
    if !tries.is_ok_and(|tries| tries.status.success()) {
        println!(
            "\nNOT RUN: strace is missing, or may not trace here: the model of the disk was not held against the real one\n"
        );
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let mut model = replay::Replay::new();
    // The second process recovers what the first one left without closing it, the third what the second closed.
    for process in 0..3 {
        let file = root.join(format!("trace-{process}"));
        let data = root.join("data");
        let status = Command::new("strace")
            .args(["-f", "-xx", "-s", "4000000", "-o"])
            .arg(&file)
            .args(["-e", trace::CALLS])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture", "--test-threads", "1"])
            .env(DIRECTORY, &data)
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
        let events = trace::read(&std::fs::read_to_string(&file).unwrap(), &data);
        let calls = events
            .iter()
            .filter(|event| matches!(event, Event::Mark(_)));
        assert!(calls.count() > 20, "process {process} does something");
        model.play(&events);
        model.compare(&data);
    }
    let counts = model.counts();
    assert!(counts.calls > 300 && counts.cuts > 1_000, "{counts:?}");
    println!(
        r#"proof: {{"name":"real_disk","what":"system calls of the real log, each the one the model believes, played into the model and cut","calls":{},"system_calls":{},"cuts":{},"confirmed":{},"lost":0}}"#,
        counts.calls, counts.system_calls, counts.cuts, counts.confirmed
    );
}
