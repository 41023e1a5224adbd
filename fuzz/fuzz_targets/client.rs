//! A byte that cuts, then what a client sends over HTTP/1.1: we read what hyper's server reads, or nothing.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::client(data));
