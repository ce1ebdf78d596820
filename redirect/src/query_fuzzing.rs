//! What the fuzz target `query` calls (`redirect/fuzz`), and a test with it. No part of the interface.

use crate::query::{MAX_VALUE, Marks, Target};
use std::borrow::Cow;
use url::{Url, form_urlencoded};

/// Rewrites a destination's query. The first line of the text is the destination's part behind the host, the rest is what a visitor sends.
///
/// # Panics
/// When the `Location` leads elsewhere than the destination, can't stand in a header, keeps an `eid`, loses or changes a parameter, or what is recorded
/// is out of its bounds.
pub fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (own, sent) = text.split_once('\n').unwrap_or(("", &text));
    let Ok(destination) = Url::parse(&format!("https://x.example/{own}")) else { return };
    let location = Target::of(destination.as_str()).location(sent);
    assert!(location.bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{location:?}");
    let got = Url::parse(&location).expect("a Location is a URL");
    let place = |url: &Url| {
        (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port(), url.path().to_owned(), url.fragment().map(str::to_owned))
    };
    assert_eq!(place(&got), place(&destination), "{location}");

    // Every parameter that was sent is there, in its order, and of the destination's those of other names.
    let named = |query: &str| -> Vec<(String, String)> { form_urlencoded::parse(query.as_bytes()).into_owned().collect() };
    let sent_pairs: Vec<_> = named(sent).into_iter().filter(|(name, _)| name != "eid").collect();
    let result = named(got.query().unwrap_or_default());
    let own_pairs = named(destination.query().unwrap_or_default());
    for (name, _) in sent_pairs.iter().chain(&own_pairs) {
        let of = |pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().filter(|(other, _)| other == name).map(|(_, value)| value.clone()).collect()
        };
        let expected = if sent_pairs.iter().any(|(other, _)| other == name) { of(&sent_pairs) } else { of(&own_pairs) };
        assert_eq!(of(&result), expected, "{name:?} in {location}");
    }
    assert!(result.iter().all(|(name, _)| sent_pairs.iter().chain(&own_pairs).any(|(other, _)| other == name)), "{location}");

    let marks = Marks::of(&crate::query::pairs(sent).collect());
    let recorded = [
        &marks.eid,
        &marks.gclid,
        &marks.fbclid,
        &marks.utm.source,
        &marks.utm.medium,
        &marks.utm.campaign,
        &marks.utm.term,
        &marks.utm.content,
    ];
    for value in recorded.into_iter().flatten() {
        assert!(!value.trim().is_empty() && value.len() <= MAX_VALUE && !value.chars().any(char::is_control), "{value:?}");
    }
    // A referrer loses parameters and nothing else.
    let kept = crate::tracking::without_personal(Cow::Borrowed(sent));
    assert!(kept.len() <= sent.len());
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// Pieces that decide something in a query.
    const PIECES: [&[u8]; 20] = [
        b"&",
        b"=",
        b"?",
        b"#",
        b"+",
        b";",
        b"%",
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

    /// The corpus as it is, then mutated for a second (`FUZZ_SECONDS`).
    #[test]
    fn the_corpus_and_what_is_near_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/query");
        let mut paths: Vec<_> = std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect();
        assert!(seeds.len() >= 8);
        let try_one = |bytes: &[u8]| {
            if std::panic::catch_unwind(|| super::query(bytes)).is_err() {
                panic!("fails for b\"{}\"", bytes.escape_ascii());
            }
        };
        seeds.iter().for_each(|seed| try_one(seed));
        let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut random = StdRng::seed_from_u64(11);
        let mut tried = 0;
        while Instant::now() < end || tried < 500 {
            let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..=bytes.len());
                let until = random.random_range(at..=bytes.len().min(at + 8));
                match random.random_range(0..3) {
                    0 => drop(bytes.splice(at..until, PIECES[random.random_range(0..PIECES.len())].iter().copied())),
                    1 if at < bytes.len() => bytes[at] = random.random(),
                    _ => drop(bytes.drain(at..until)),
                }
            }
            try_one(&bytes);
            tried += 1;
        }
    }
}
