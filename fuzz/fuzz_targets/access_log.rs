//! An access-log entry, its texts apart by 0x1e.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::access_log(data));
