//! HTTP/2 bytes as the edge watches them; the first byte says how they are cut.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::frames(data));
