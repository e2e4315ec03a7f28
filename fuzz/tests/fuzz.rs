//! Replays the corpus of every target, and with `POSTRIDER_FUZZ_SECONDS` goes on with mutations of it; `POSTRIDER_FUZZ_SEED` says which.
//! `POSTRIDER_FUZZ_CORPUS=write` writes what the encoders make into the corpus instead.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// A process of its own: it is limited in memory, and an abort or a hang ends it alone.
const PROGRAM: &str = env!("CARGO_BIN_EXE_fuzz-targets");

fn number(variable: &str) -> u64 {
    let value = std::env::var(variable).unwrap_or_else(|_| "0".to_owned());
    value.parse().unwrap()
}

#[test]
fn no_bytes_from_outside_panic_hang_or_take_memory_out_of_proportion() {
    let inputs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let _ = fs::remove_dir_all(&inputs);
    fs::create_dir_all(&inputs).unwrap();
    let mut program = Command::new(PROGRAM);
    if std::env::var("POSTRIDER_FUZZ_CORPUS").is_ok_and(|what| what == "write") {
        program.arg("corpus");
    } else {
        let numbers = ["POSTRIDER_FUZZ_SECONDS", "POSTRIDER_FUZZ_SEED"].map(number);
        program.arg("run").args(numbers.map(|n| n.to_string()));
        program.arg(&inputs);
    }
    let output = program.output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    if output.status.success() {
        return;
    }
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    keep(&inputs);
    panic!("a target failed: {}", output.status);
}

/// What was running goes into the corpus: every later run begins with it.
fn keep(inputs: &Path) {
    for entry in fs::read_dir(inputs).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let target = path.file_name().unwrap().to_string_lossy().into_owned();
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let kept = format!("corpus/{target}/found-{hash:016x}");
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(&kept), bytes).unwrap();
        eprintln!("the input is kept as fuzz/{kept}; to run it alone:");
        eprintln!("cargo run -p postrider-fuzz -- replay {target} fuzz/{kept}");
    }
}
