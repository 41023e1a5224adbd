//! A JWKS: a set of keys.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::key_set(data));
