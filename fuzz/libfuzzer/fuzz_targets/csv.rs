//! From the project's root: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer csv fuzz/corpus/csv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::target::csv::run(input));
