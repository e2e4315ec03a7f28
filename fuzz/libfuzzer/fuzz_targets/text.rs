//! From the project's root: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer text fuzz/corpus/text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::target::text::run(input));
