//! Any bytes as what a connection sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clickline_redirect::fuzzing::request(bytes));
