//! Rows of counters.db, then charges.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::counters(data));
