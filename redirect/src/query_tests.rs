//! Tests of the query rules: by hand, and with random input against a plain reading of the rules.

use super::*;
use proptest::prelude::*;
use url::Url;

fn target(url: &str) -> Target<'static> {
    Target::of(String::from(Url::parse(url).expect("a URL")).leak())
}

#[test]
fn by_hand() {
    for (destination, query, location) in [
        ("https://x.example/p", "", "https://x.example/p"),
        ("https://x.example/p", "eid=801", "https://x.example/p"),
        ("https://x.example/p?a=1#top", "eid=801", "https://x.example/p?a=1#top"),
        ("https://x.example/p?a=1#top", "b=2", "https://x.example/p?a=1&b=2#top"),
        ("https://x.example/p?a=1&gclid=2&c=3", "gclid=9&d=4", "https://x.example/p?a=1&gclid=9&c=3&d=4"),
        ("https://x.example/p?gclid=1&a=1&gclid=2", "gclid=8&gclid=9", "https://x.example/p?gclid=8&gclid=9&a=1"),
        ("https://x.example/go?url=ok&a=1#top", "url=evil", "https://x.example/go?url=ok&a=1#top"),
        ("https://x.example/go?url=ok", "url=evil&URL=evil&%75rl[]=evil&b=2", "https://x.example/go?url=ok&b=2"),
        ("https://x.example/p?utm_source=site", "utm%5Fsource=mail&eid=1", "https://x.example/p?utm%5Fsource=mail"),
        ("https://x.example/p?utm_a+b=1", "utm_a%20b=2", "https://x.example/p?utm_a%20b=2"),
        ("https://x.example/p?a+b=1", "a%20b=2", "https://x.example/p?a+b=1"),
        ("https://x.example/p", "q=%0d%0aSet-Cookie:x&flag", "https://x.example/p?q=%0d%0aSet-Cookie:x&flag"),
        ("https://x.example/p", "q=\"<é>", "https://x.example/p?q=%22%3C%C3%A9%3E"),
        ("https://x.example/p?", "&&a=1&", "https://x.example/p?a=1"),
        ("https://x.example/p", "%65id=7&EID=8", "https://x.example/p?EID=8"),
    ] {
        assert_eq!(target(destination).location(query), location, "{destination} + {query}");
    }
}

/// A destination's international host, path and fragment stay as the URL standard writes them; `;` separates nothing.
#[test]
fn international_domains_fragments_and_semicolons() {
    for (destination, query, location) in [
        ("https://bücher.example/ü#ß", "a=ö", "https://xn--bcher-kva.example/%C3%BC?a=%C3%B6#%C3%9F"),
        ("https://例え.テスト/?utm_id=ö", "utm_id=1;b=2", "https://xn--r8jz45g.xn--zckzah/?utm_id=1;b=2"),
        ("https://x.example/#/app?x=1", "x=2", "https://x.example/?x=2#/app?x=1"),
        ("https://x.example/p?utm_a;b=1", "b=2&utm_a%3Bb=3", "https://x.example/p?utm_a%3Bb=3&b=2"),
        ("https://x.example/p?utm_a=1&utm_a=2", "utm_a=&utm_a", "https://x.example/p?utm_a=&utm_a"),
    ] {
        assert_eq!(target(destination).location(query), location, "{destination} + {query}");
    }
    assert_eq!(Marks::of(&pairs("x=1;eid=801").collect()).eid, None);
    assert_eq!(Marks::of(&pairs("eid=801;x=1").collect()).eid.as_deref(), Some("801;x=1"));
}

#[test]
fn marks_are_the_requests_else_the_destinations() {
    let target = target("https://x.example/?utm_source=site&utm_medium=web&gclid=G0&eid=5");
    let marks =
        Marks::of(&pairs("utm_source=mail&utm_medium=&fbclid=F1&utm_campaign=spring+sale%21").collect()).or(Marks::of(&target.own()));
    assert_eq!(marks.utm.source.as_deref(), Some("mail"));
    assert_eq!(marks.utm.medium.as_deref(), Some("web"));
    assert_eq!(marks.utm.campaign.as_deref(), Some("spring sale!"));
    assert_eq!((marks.gclid.as_deref(), marks.fbclid.as_deref()), (Some("G0"), Some("F1")));
    assert_eq!(marks.eid, None, "an eid in the destination names nobody's click");
}

#[test]
fn the_first_usable_value_is_recorded() {
    let marks = Marks::of(&pairs("eid=&eid=a%00&eid=%ff&eid=801&eid=802").collect());
    assert_eq!(marks.eid.as_deref(), Some("801"));
    let exact = "x".repeat(MAX_VALUE);
    assert_eq!(Marks::of(&pairs(&format!("gclid={exact}")).collect()).gclid.as_deref(), Some(&*exact));
    assert_eq!(Marks::of(&pairs(&format!("gclid={exact}x")).collect()).gclid, None);
}

/// Parameter names that collide often, plain and encoded.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a".to_owned()),
        Just("%61".to_owned()),
        Just("b".to_owned()),
        Just("eid".to_owned()),
        Just("e%69d".to_owned()),
        Just("gclid".to_owned()),
        Just("utm_%61".to_owned()),
        Just("utm_a".to_owned()),
        "[a-c+A\\[]{0,3}",
    ]
}

fn query() -> impl Strategy<Value = String> {
    prop::collection::vec((name(), prop::option::of("[ -\"$-%'-~é]{0,6}")), 0..8).prop_map(|pairs| {
        let pairs: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| match value {
                Some(value) => format!("{name}={}", value.replace('&', "")),
                None => name,
            })
            .collect();
        pairs.join("&")
    })
}

/// The rules as the URL standard's own parser sees them.
fn expected(destination: &Url, query: &str) -> Vec<(String, String)> {
    let own: Vec<(String, String)> = destination.query_pairs().into_owned().collect();
    let plain = |name: &str| name.trim_start().split('[').next().unwrap_or_default().replace(['.', ' '], "_").to_lowercase();
    let tracking = |name: &str| name == "gclid" || name.starts_with("utm_");
    let theirs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .filter(|(name, _)| name != "eid" && (tracking(name) || !own.iter().any(|(other, _)| plain(other) == plain(name))))
        .collect();
    let mut out: Vec<(String, String)> = Vec::new();
    for (name, value) in &own {
        if !theirs.iter().any(|(other, _)| other == name) {
            out.push((name.clone(), value.clone()));
        } else if !out.iter().any(|(other, _)| other == name) {
            out.extend(theirs.iter().filter(|(other, _)| other == name).cloned());
        }
    }
    out.extend(theirs.iter().filter(|(name, _)| !own.iter().any(|(other, _)| other == name)).cloned());
    out
}

proptest! {
    #[test]
    fn the_location_is_what_the_rules_say(own in query(), sent in query(), fragment in prop::option::of("[a-z]{1,4}")) {
        let mut text = format!("https://x.example/p?{own}");
        if let Some(fragment) = &fragment {
            text = format!("{text}#{fragment}");
        }
        let url = Url::parse(&text).expect("a URL");
        let location = target(&text).location(&sent);
        let got = Url::parse(&location).expect("a Location is a URL");
        let pairs: Vec<(String, String)> = got.query_pairs().into_owned().collect();
        prop_assert_eq!(pairs, expected(&url, &sent), "{} + {} = {}", text, sent, location);
        prop_assert_eq!(got.fragment(), fragment.as_deref());
        prop_assert_eq!(got.path(), "/p");
    }

    #[test]
    fn nothing_sent_leaves_the_header(sent in "\\PC{0,60}|[\\x00-\\xff]{0,60}") {
        let location = target("https://x.example/p?a=1#f").location(&sent);
        prop_assert!(location.bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{location:?}");
        prop_assert!(location.starts_with("https://x.example/p"));
        prop_assert!(location.ends_with("#f"));
    }

    /// `url::form_urlencoded` as a second reading of names and values. It puts U+FFFD for what is not UTF-8; nothing here sends that character.
    #[test]
    fn marks_are_what_the_url_standards_parser_reads(
        pairs in prop::collection::vec(("eid|%65id|gclid|gcl%69d|fbclid|utm_source|%75tm_source|utm%5Fmedium|utm_term|utm+term|UTM_SOURCE|x", "([a-z0-9;+ ]|%[0-9a-fA-F]{2}|%|=|é|%C3%A9){0,8}"), 0..8),
        separator in "&{1,2}",
    ) {
        let sent = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(&separator);
        let read: Vec<(String, String)> = url::form_urlencoded::parse(sent.as_bytes()).into_owned().collect();
        let first = |name: &str| {
            let mut values = read.iter().filter(|(other, _)| other == name).map(|(_, value)| value.trim());
            values.find(|value| !value.is_empty() && !value.contains('\u{fffd}') && !value.chars().any(char::is_control)).map(str::to_owned)
        };
        let marks = Marks::of(&super::pairs(&sent).collect());
        for (name, value) in [
            ("eid", &marks.eid), ("gclid", &marks.gclid), ("fbclid", &marks.fbclid),
            ("utm_source", &marks.utm.source), ("utm_medium", &marks.utm.medium), ("utm_term", &marks.utm.term),
        ] {
            prop_assert_eq!(value.as_deref().map(str::to_owned), first(name), "{} of {}", name, sent);
        }
    }

    #[test]
    fn what_is_recorded_keeps_the_bounds(sent in "(eid|gclid|utm_term)=[\\x00-\\xff%0-9a-f]{0,900}") {
        let marks = Marks::of(&pairs(&sent).collect());
        for value in [marks.eid, marks.gclid, marks.utm.term].into_iter().flatten() {
            prop_assert!(!value.trim().is_empty() && value.len() <= MAX_VALUE && !value.chars().any(char::is_control));
        }
    }
}
