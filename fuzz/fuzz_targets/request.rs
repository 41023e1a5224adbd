//! A whole request head: flags, method and target, header lines; $ is a good key.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::request(data));
