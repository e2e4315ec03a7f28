//! From the project's root: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer envelope fuzz/corpus/envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::target::envelope::run(input));
