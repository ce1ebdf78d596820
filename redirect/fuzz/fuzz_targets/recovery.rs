//! Any bytes as a description of a spool's folder: a start, a reading, another start.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clickline_redirect::fuzz_recovery(bytes));
