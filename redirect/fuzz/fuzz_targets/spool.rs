//! Any bytes as a segment of the spool.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clickline_redirect::fuzz_spool(bytes));
