//! One word of gateway.toml: duration, size, date, digest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::config_words(data));
