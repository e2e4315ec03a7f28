//! From the project's root: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer admin fuzz/corpus/admin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::target::admin::run(input));
