//! Authorization, X-API-Key and query: flags, then lines beginning with A, X or ?.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::credential(data));
