//! Records of a CSV text, apart by 0x1e, their fields by 0x1f.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::csv_records(data));
