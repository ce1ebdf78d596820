//! What the fuzz target `query` calls (`redirect/fuzz`, `tests/fuzz.rs`). No part of the interface.

use crate::query::{MAX_VALUE, Marks, Target};
use crate::tracking;
use std::borrow::Cow;
use url::{Url, form_urlencoded};

/// Rewrites a destination's query. The first line of the text is the destination's part behind the host, the rest is what a visitor sends.
///
/// # Panics
/// When the `Location` leads elsewhere than the destination, can't stand in a header, keeps an `eid`, loses or changes a parameter, lets a visitor
/// replace one of the owner's that is no tracking parameter, or what is recorded is out of its bounds.
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

    // Of each name there is what was sent, where that may go on, else what the destination has; of what nobody sent, nothing.
    let named = |query: &str| -> Vec<(String, String)> { form_urlencoded::parse(query.as_bytes()).into_owned().collect() };
    let result = named(got.query().unwrap_or_default());
    let own_pairs = named(destination.query().unwrap_or_default());
    let is_own = |name: &str| own_pairs.iter().any(|(other, _)| [plain(name), opened(name)].contains(&plain(other)));
    let goes_on = |name: &str| name != "eid" && (tracking::known(name) || !is_own(name));
    let sent_pairs: Vec<_> = named(sent).into_iter().filter(|(name, _)| goes_on(name)).collect();
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
    let kept = tracking::without_personal(Cow::Borrowed(sent));
    assert!(kept.len() <= sent.len());
}

/// What is left of a name where blanks before it, a part in brackets or behind NUL, case, dots and spaces count for nothing.
fn plain(name: &str) -> String {
    let name = name.trim_start_matches(' ').split(['\0', '[']).next().unwrap_or_default();
    name.replace(['.', ' '], "_").to_ascii_lowercase()
}

/// The same for whom a bracket that is not closed is one more letter.
fn opened(name: &str) -> String {
    let name = name.trim_start_matches(' ').split('\0').next().unwrap_or_default();
    name.replace(['.', ' ', '['], "_").to_ascii_lowercase()
}
