//! From the project's root: `cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer record_batch fuzz/corpus/record_batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::target::record_batch::run(input));
