//! The spool's fuzz target over its corpus, as it is and with random mutations, for a second. `FUZZ_SECONDS` makes it longer.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn spool() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/spool");
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| clickline_redirect::fuzz_spool(seed));
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = StdRng::seed_from_u64(11);
    while Instant::now() < end {
        let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
        for _ in 0..random.random_range(1..5) {
            let at = random.random_range(0..=bytes.len());
            match random.random_range(0..4) {
                0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
                1 => bytes.truncate(at),
                2 => bytes.extend_from_slice(&seeds[random.random_range(0..seeds.len())]),
                _ => drop(bytes.splice(at..at, [0xff, b'c', b'k', 0xfe])),
            }
        }
        let shown = bytes.clone();
        if std::panic::catch_unwind(|| clickline_redirect::fuzz_spool(&bytes)).is_err() {
            panic!("fails for b\"{}\"", shown.escape_ascii());
        }
    }
}
