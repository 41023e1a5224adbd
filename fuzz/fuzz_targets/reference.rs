//! The references of a JSON body, held to what another decoder reads.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::fuzzing::reference(data));
