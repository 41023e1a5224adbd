//! A request on the admin socket, JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::admin_request(data));
