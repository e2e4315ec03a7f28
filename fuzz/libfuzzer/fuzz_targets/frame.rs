//! From the project's root: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer frame fuzz/corpus/frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::target::frame::run(input));
