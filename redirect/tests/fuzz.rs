//! The fuzz targets' functions over their corpora, as they are and with random mutations, for a second each.
//!
//! `FUZZ_SECONDS` makes it longer; `cargo fuzz` in `redirect` is guided by coverage and finds more.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::time::{Duration, Instant};

/// Pieces that decide something in a request.
const REQUEST: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"\"",
    b"%",
    b"#",
    b"?",
    b"@",
    b"\\",
    b"/",
    b"\xff",
    b"\xc3\xa9",
    b"*",
    b"0x",
    b"Host: d\r\n",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"GET /a HTTP/1.1\r\n",
];

/// In a query.
const QUERY: &[&[u8]] = &[
    b"&",
    b"=",
    b"?",
    b"#",
    b"+",
    b";",
    b"%",
    b".",
    b"[]",
    b"%00",
    b"%26",
    b"%3D",
    b"%0d%0a",
    b"\r\n",
    b"\0",
    b"eid=",
    b"%65id=8",
    b"utm_source=",
    b"gclid=1&gclid=2",
    b"\xc3\xa9",
    b"\xff",
    b"\\",
    b"//",
];

/// In a segment of the spool: what a frame and a segment begin with.
const SPOOL: &[&[u8]] = &[b"\xffck\xfe", b"CLKSPOOL", b"\xff", b"\0\0\0\0"];

/// In the description of a spool's folder.
const RECOVERY: &[&[u8]] = &[
    b"s\0\0\0\0\0\x01\0\0",
    b"s\x03\0\0\0\0\x01\0\0",
    b"f\0\0\x04\0\x03",
    b"f\x02\0\0\0\x01",
    b"t\x04\xffck\xfe",
    b"x\x30\0\x01",
    b"c\x40\0",
    b"p\x02\0\0\0\0\x01\0\0",
    b"n",
    b"M",
];

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

fn mutate(bytes: &mut Vec<u8>, pieces: &[&[u8]], others: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    let end = random.random_range(at..=bytes.len().min(at + 16));
    match random.random_range(0..6) {
        0 if at < bytes.len() => bytes[at] = random.random(),
        5 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        1 => drop(bytes.drain(at..end)),
        2 => drop(bytes.splice(at..end, pieces[random.random_range(0..pieces.len())].iter().copied())),
        3 => {
            let again = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, again));
        }
        _ => {
            let other = &others[random.random_range(0..others.len())];
            let start = random.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[start..]);
        }
    }
}

fn run(target: &str, pieces: &[&[u8]], check: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let seeds = corpus(target);
    assert!(!seeds.is_empty());
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let try_one = |bytes: &[u8]| {
        if std::panic::catch_unwind(|| check(bytes)).is_err() {
            panic!("{target} fails for b\"{}\"", bytes.escape_ascii());
        }
    };
    seeds.iter().for_each(|seed| try_one(seed));
    let mut random = StdRng::seed_from_u64(7);
    while Instant::now() < end {
        let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
        for _ in 0..random.random_range(1..6) {
            mutate(&mut bytes, pieces, &seeds, &mut random);
        }
        try_one(&bytes);
    }
}

#[test]
fn request() {
    run("request", REQUEST, clickline_redirect::fuzzing::request);
}

#[test]
fn query() {
    run("query", QUERY, clickline_redirect::query_fuzzing::query);
}

#[test]
fn spool() {
    run("spool", SPOOL, clickline_redirect::fuzz_spool);
}

#[test]
fn recovery() {
    run("recovery", RECOVERY, clickline_redirect::fuzz_recovery);
}
