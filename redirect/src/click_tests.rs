use super::*;
use crate::links::Checked;
use crate::query::pairs;
use crate::visitor::{Judge, VisitorConfig, Visitors};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// The record as a serialiser writes it.
#[derive(Serialize)]
struct Click<'a> {
    v: u32,
    id: &'a str,
    ts: u64,
    workspace: &'a str,
    link: &'a str,
    title: Option<&'a str>,
    destination: &'a str,
    tags: Vec<&'a str>,
    deal_id: Option<&'a str>,
    contact_id: Option<&'a str>,
    fbclid: Option<&'a str>,
    gclid: Option<&'a str>,
    utm: &'a Utm<'a>,
    referrer: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    device: Option<&'static str>,
    os: Option<&'static str>,
    browser: Option<&'static str>,
    country: Option<&'a str>,
    bot: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
}

fn link() -> Checked {
    Checked::from_value(&json!({
        "domain": "s.elido.me", "slug": "abc123", "workspace": "acme", "title": "Q2 pricing PDF", "tags": ["sales-collateral"],
        "destination": "https://acme.example/pricing.pdf?utm_source=site&utm_medium=email"
    }))
    .expect("a link")
}

fn click(ts: u64, query: &str, visitor: Visitor<'_>) -> Value {
    let mut out = Vec::new();
    let link = link();
    let link = link.view();
    let mut judge = Judge::new(Arc::new(Visitors::new(VisitorConfig::default()).expect("no files")));
    let mut marks = Marks::of(&pairs(query).collect());
    let known = judge.look(link.workspace, link.key, &mut marks, &visitor, IpAddr::from([192, 0, 2, 1]), ts);
    let marks = marks.or(Marks::of(&link.target.own()));
    write(ts, &link, &marks, &visitor, &known, &mut StdRng::seed_from_u64(1), &mut out);
    serde_json::from_slice(&out).expect("JSON")
}

#[test]
fn the_record_has_exactly_the_contracts_fields() {
    let visitor = Visitor {
        user_agent: Some(b"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.1 Safari/605.1.15"),
        country: Some(b"fr"),
        ..Visitor::default()
    };
    let mut click = click(1_763_800_000_123, "eid=801&utm_source=webinar&utm_campaign=q2-pricing", visitor);
    let id: Uuid = click["id"].as_str().and_then(|id| id.parse().ok()).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    assert!(id.to_string().starts_with("019aaaa"), "the id begins with the event time: {id}");
    click["id"] = Value::Null;
    assert_eq!(
        click,
        json!({
            "v": 1, "id": null, "ts": 1_763_800_000_123_u64, "workspace": "acme", "link": "s.elido.me/abc123", "title": "Q2 pricing PDF",
            "destination": "https://acme.example/pricing.pdf?utm_source=site&utm_medium=email", "tags": ["sales-collateral"], "deal_id": null,
            "contact_id": "801", "fbclid": null, "gclid": null,
            "utm": {"source": "webinar", "medium": "email", "campaign": "q2-pricing", "term": null, "content": null},
            "referrer": null, "user_agent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.1 Safari/605.1.15",
            "device": "desktop", "os": "macOS", "browser": "Safari", "country": "FR", "bot": null
        })
    );
}

#[test]
fn the_reason_for_a_bot() {
    let human = Visitor { user_agent: Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Firefox/133.0"), ..Visitor::default() };
    assert_eq!(click(1, "", human)["bot"], Value::Null);
    assert_eq!(click(1, "", Visitor { prefetch: true, ..human })["bot"], "prefetch");
    assert_eq!(click(1, "", Visitor { prefetch: true, head: true, ..human })["bot"], "head");
    assert_eq!(click(1, "", Visitor { user_agent: Some(b"curl/8"), ..human })["bot"], "user-agent");
    assert_eq!(click(1, "", Visitor::default())["bot"], "user-agent");
}

#[test]
fn long_and_odd_values_stay_within_the_bounds() {
    let long = "x".repeat(5_000);
    let odd = format!("https://r.example/?q={long}");
    let click = click(
        u64::MAX,
        &format!("eid={long}&gclid=a%00b&fbclid=%ff&utm_term=+ok+"),
        Visitor {
            user_agent: Some("é".repeat(400).as_bytes()),
            referrer: Some(odd.as_bytes()),
            country: Some(b"XX"),
            ..Visitor::default()
        },
    );
    for field in ["contact_id", "gclid", "fbclid", "country"] {
        assert_eq!(click[field], Value::Null, "{field}");
    }
    assert_eq!(click["utm"]["term"], "ok");
    assert_eq!(click["referrer"], "https://r.example/");
    assert_eq!(click["user_agent"].as_str().map(str::len), Some(512));
    assert_eq!(click["ts"], MAX_TS);
}

proptest! {
    /// Byte for byte what a serialiser makes of the same values.
    #[test]
    fn as_the_serialiser_writes_it(
        texts in prop::collection::vec("[ -~é\u{0}-\u{1f}]{0,40}", 9),
        tags in prop::collection::vec("[a-z\"]{1,8}", 0..4),
        some in prop::collection::vec(any::<bool>(), 9),
        bot in any::<bool>(),
        ts in 0..=MAX_TS,
    ) {
        let optional = |at: usize| Some(texts[at].as_str()).filter(|text| some[at] && !text.trim().is_empty());
        let record = json!({"domain": "s.elido.me", "slug": "abc123", "workspace": "a\"b", "title": "q", "tags": tags, "deal_id": "9",
            "destination": "https://acme.example/pricing.pdf"});
        let checked = Checked::from_value(&record).expect("a link");
        let link = checked.view();
        let cow = |at| optional(at).map(Cow::Borrowed);
        let utm = Utm { source: cow(0), medium: cow(1), campaign: cow(2), term: cow(3), content: cow(4) };
        let marks = Marks { eid: cow(5), fbclid: cow(6), gclid: cow(7), utm: utm.clone() };
        let visitor = Visitor { user_agent: optional(8).map(str::as_bytes), ..Visitor::default() };
        let agent = Agent { device: Some("desktop"), os: Some("an \"os\""), browser: None };
        let agent_fields = agent_fields(visitor.user_agent.unwrap_or_default(), &agent);
        let known = Known { agent: &agent_fields, bot: bot.then_some(Reason::Burst), client: cow(1).map(Cow::into_owned), country: Some(*b"FR") };
        let mut out = Vec::new();
        write(ts, &link, &marks, &visitor, &known, &mut StdRng::seed_from_u64(1), &mut out);
        let expected = Click {
            v: 1, id: std::str::from_utf8(id_of(&out)).expect("an id"), ts, workspace: link.workspace, link: link.key, title: link.title,
            destination: link.destination(), tags: link.tags.iter().collect(), deal_id: link.deal_id, contact_id: optional(5), fbclid: optional(6),
            gclid: optional(7), utm: &utm, referrer: None, user_agent: optional(8).map(Cow::Borrowed), device: agent.device, os: agent.os,
            browser: agent.browser, country: Some("FR"), bot: known.bot.map(Reason::label), client: known.client.as_deref(),
        };
        prop_assert_eq!(std::str::from_utf8(&out), Ok(&*serde_json::to_string(&expected).expect("JSON")));
    }

    #[test]
    fn whatever_a_visitor_sends_the_job_takes_the_record(
        query in "((eid|gclid|fbclid|utm_source|x)=([ -~]|%[0-9a-f]{2}|é){0,700}&?){0,3}",
        user_agent in prop::option::of(prop::collection::vec(any::<u8>(), 0..900)),
        referrer in prop::option::of(prop::collection::vec(any::<u8>(), 0..900)),
        country in prop::option::of(prop::collection::vec(any::<u8>(), 0..4)),
        ts in any::<u64>(),
    ) {
        let visitor = Visitor {
            user_agent: user_agent.as_deref(), referrer: referrer.as_deref(), country: country.as_deref(), ..Visitor::default()
        };
        let click = click(ts, &query, visitor);
        // The job's bounds: ids of 1 to 1,024 bytes that are not blank, times before the year 10000.
        prop_assert!(click["ts"].as_u64().is_some_and(|ts| ts <= MAX_TS));
        for field in ["contact_id", "gclid", "fbclid", "referrer", "user_agent", "country"] {
            let value = &click[field];
            let fits = value.is_null() || value.as_str().is_some_and(|text| !text.trim().is_empty() && text.len() <= 3 * MAX_VALUE);
            prop_assert!(fits, "{}: {}", field, value);
        }
        for field in ["contact_id", "gclid", "fbclid"] {
            prop_assert!(click[field].as_str().is_none_or(|text| text.len() <= MAX_VALUE));
        }
    }
}

/// No click is too large for a broker that was not told to take less: they take 1,048,588 bytes, librdkafka a million.
#[test]
fn the_largest_record_fits_into_a_message() {
    // What JSON writes with twice as many bytes.
    let longest = |number: usize| format!("{number:03}{}", "\"".repeat(MAX_VALUE - 3));
    let link = Checked::from_value(&json!({
        "domain": "s.elido.me", "slug": "\"".repeat(MAX_VALUE), "workspace": longest(1), "title": longest(2), "deal_id": longest(3),
        "tags": (0..256).map(longest).collect::<Vec<_>>(), "destination": format!("https://acme.example/{}", "\"".repeat(4_000)),
    }))
    .expect("a link");
    let (link, value) = (link.view(), "%22".repeat(MAX_VALUE));
    let names = ["utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "gclid", "fbclid", "eid"];
    let query = names.map(|name| format!("{name}={value}")).join("&");
    let visitor = Visitor { user_agent: Some(&[b'"'; 16_384]), referrer: Some(&[b'"'; 512]), ..Visitor::default() };
    let mut judge = Judge::new(Arc::new(Visitors::new(VisitorConfig::default()).expect("no files")));
    let mut marks = Marks::of(&pairs(&query).collect());
    let known = judge.look(link.workspace, link.key, &mut marks, &visitor, IpAddr::from([192, 0, 2, 1]), 1);
    let mut out = Vec::new();
    write(1, &link, &marks, &visitor, &known, &mut StdRng::seed_from_u64(1), &mut out);
    assert!((270_000..300_000).contains(&out.len()), "{} bytes", out.len());
}
