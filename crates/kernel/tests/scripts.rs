//! Runs the golden scripts in `scripts/`: each a story of inputs (`> …`) and the outputs that the kernel gives to each.
//!
//! `UPDATE_SCRIPTS=1` writes the outputs that came into the files; read the difference before you keep it. The words of the inputs:
//!
//! ```text
//! lease [KEY=VALUE …] | log [KEY=VALUE …]      the first line: shape and policy (see `script::setup`)
//! opened [parked=KEY,…]
//! records NAME… [deliveries=N|none] [parked] [unreadable] [skip] [size=N] [retry=N] [again]
//! log records: NAME@POSITION… [shard=N] [epoch=N]
//! redriven NAME… [parked]        finish NAME OUTCOME      advance 200ms       settled NAME…
//! lost NAME…   settle-lost NAME…   not-parked NAME…   extended NAME…   key-free KEY   available DEP
//! assigned SHARD EPOCH WATERMARK [FIRST+COUNT…]   revoking SHARD EPOCH 5s   shard-lost SHARD EPOCH   committed SHARD EPOCH [fenced]
//! answer NAME go|hold 1s|condemned   gone-noted N
//! pause   resume   drain 5s   describe BOUND
//! ```
//!
//! A message is called by its key and a number: `a1` is the first of key `a`; `-1` has no key.

#![allow(clippy::unwrap_used)]

mod script;

use std::path::Path;

#[test]
fn every_script_ends_as_it_is_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(files.len() >= 30, "only {} scripts", files.len());
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let mut wrong = Vec::new();
    for file in files {
        let expected = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let came = script::run(&name, &expected);
        if came == expected && !came.contains("!!") {
            continue;
        }
        if update {
            std::fs::write(&file, &came).unwrap();
        } else {
            wrong.push(format!("{name}:\n{}", difference(&expected, &came)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} scripts differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn difference(expected: &str, came: &str) -> String {
    let (e, c): (Vec<_>, Vec<_>) = (expected.lines().collect(), came.lines().collect());
    let at = (0..e.len().max(c.len()))
        .find(|i| e.get(*i) != c.get(*i))
        .unwrap_or(0);
    let from = at.saturating_sub(4);
    let show = |lines: &[&str]| {
        lines
            .iter()
            .skip(from)
            .take(12)
            .map(|l| format!("    {l}\n"))
            .collect::<String>()
    };
    format!(
        "  line {}, expected:\n{}  came:\n{}",
        at + 1,
        show(&e),
        show(&c)
    )
}
