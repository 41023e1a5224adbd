//! A flag byte, then what a backend sends over HTTP/1.1: we read what hyper's client reads, or nothing.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::backend(data));
