//! The head of a backend's answer: status, then header lines.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::answer(data));
