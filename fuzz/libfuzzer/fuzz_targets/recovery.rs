//! From the project's root: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer recovery fuzz/corpus/recovery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::target::recovery::run(input));
