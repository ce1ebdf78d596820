#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| clickline_redirect::query_fuzzing::query(bytes));
