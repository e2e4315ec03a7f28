//! Fuzz targets: each a function over bytes that must not panic, hang, or take memory out of proportion, whatever the bytes are.
//!
//! `cargo xtask fuzz` runs them on any Rust, over the corpus and seeded mutations of it; the tests of this crate replay the corpus. libFuzzer runs the
//! same functions on nightly: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer TARGET fuzz/corpus/TARGET`.

pub mod mutate;
pub mod target;

/// A target: its name, what it does, and the inputs that its corpus begins with.
pub struct Target {
    /// The name of its folder in `corpus/`.
    pub name: &'static str,
    /// What it reads, for the report.
    pub what: &'static str,
    /// One input.
    pub run: fn(&[u8]),
    /// Valid inputs, made by the real encoders, with a name each.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// All targets.
pub fn targets() -> Vec<Target> {
    use target::*;
    macro_rules! targets {
        ($($name:ident $what:literal),* $(,)?) => {
            vec![$(Target { name: stringify!($name), what: $what, run: $name::run, seeds: $name::seeds }),*]
        };
    }
    targets![
        recovery "opening a log directory whose files were changed",
        frame "headers and entries of the log",
        record_batch "record batches of the log",
        envelope "envelopes in all three forms",
        csv "order files of the shop",
        admin "requests to the admin API",
        text "texts from elsewhere on a terminal",
    ]
}
