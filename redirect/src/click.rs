//! The click record, as the `clicks` topic holds it.
//!
//! # Bounds
//! Every record is one that the job takes: ids and values at most [`MAX_VALUE`] bytes, the link checked when it was loaded, the rest cut or
//! left out. `destination` is the link's own, as its owner wrote it: what the visitor's query adds is already in `utm`, `gclid` and `fbclid`, and
//! may hold what should not be kept.

use crate::bots::Reason;
use crate::links::{Link, Tags};
use crate::query::{MAX_VALUE, Marks, Utm};
use crate::tracking;
use crate::visitor::Known;
use rand::Rng;
use serde::Serialize;
use std::borrow::Cow;
use uuid::{Builder, Uuid};

/// Last millisecond of the year 9999: the job takes later times for a mistake in the unit.
const MAX_TS: u64 = 253_402_300_799_999;

/// One redirect served.
#[derive(Serialize)]
struct Click<'a> {
    v: u32,
    id: &'a str,
    ts: u64,
    workspace: &'a str,
    link: &'a str,
    title: Option<&'a str>,
    destination: &'a str,
    tags: Tags<'a>,
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
    /// Only where it is configured: the contract has no such field, and readers ignore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
}

/// What the request says about the visitor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visitor<'a> {
    /// `Referer`, as sent.
    pub referrer: Option<&'a [u8]>,
    /// `User-Agent`, as sent.
    pub user_agent: Option<&'a [u8]>,
    /// The configured country header, as sent.
    pub country: Option<&'a [u8]>,
    /// HEAD rather than GET.
    pub head: bool,
    /// A browser that loads ahead of its user.
    pub prefetch: bool,
}

/// Writes the record of a click as JSON; returns its event time. `marks` are the request's, with the contact that counts in the place of `eid`.
pub(crate) fn write(
    ts: u64,
    link: &Link<'_>,
    marks: Marks<'_>,
    visitor: &Visitor<'_>,
    known: &Known,
    random: &mut impl Rng,
    out: &mut Vec<u8>,
) -> u64 {
    let ts = ts.min(MAX_TS);
    let marks = marks.or(link.target.marks());
    let words = visitor.user_agent.map(String::from_utf8_lossy).unwrap_or_default();
    let Known { agent, country, client, bot } = known;
    let mut bytes = [0; 10];
    random.fill_bytes(&mut bytes);
    let mut id = Uuid::encode_buffer();
    let click = Click {
        v: 1,
        id: Builder::from_unix_timestamp_millis(ts, &bytes).into_uuid().hyphenated().encode_lower(&mut id),
        ts,
        workspace: link.workspace,
        link: link.key,
        title: link.title,
        destination: link.destination(),
        tags: link.tags,
        deal_id: link.deal_id,
        contact_id: marks.eid.as_deref(),
        fbclid: marks.fbclid.as_deref(),
        gclid: marks.gclid.as_deref(),
        utm: &marks.utm,
        referrer: visitor.referrer.and_then(referrer),
        user_agent: cut(words),
        device: agent.device,
        os: agent.os,
        browser: agent.browser,
        country: country.as_ref().and_then(|code| std::str::from_utf8(code).ok()),
        bot: bot.map(Reason::label),
        client: client.as_deref(),
    };
    serde_json::to_writer(out, &click).expect("strings and numbers always serialise, and a Vec takes every byte");
    ts
}

/// What every record begins with, before its id.
const BEFORE_ID: &[u8] = b"{\"v\":1,\"id\":\"";

/// The id in a record that [`write`] made.
pub(crate) fn id_of(record: &[u8]) -> &[u8] {
    record.strip_prefix(BEFORE_ID).and_then(|rest| rest.get(..uuid::fmt::Hyphenated::LENGTH)).unwrap_or_default()
}

/// A user agent is recognised by its beginning: a longer one is cut.
fn cut(words: Cow<'_, str>) -> Option<Cow<'_, str>> {
    if words.trim().is_empty() {
        return None;
    }
    let end = words.floor_char_boundary(MAX_VALUE);
    Some(match words {
        Cow::Borrowed(words) => Cow::Borrowed(&words[..end]),
        Cow::Owned(mut words) => {
            words.truncate(end);
            Cow::Owned(words)
        }
    })
}

/// A referrer loses what follows one visitor. One that is still too long loses its query, then is left out: half a URL is worse than none.
fn referrer(value: &[u8]) -> Option<Cow<'_, str>> {
    let whole = value.trim_ascii();
    let bare = whole.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let text = |bytes| tracking::without_personal(String::from_utf8_lossy(bytes));
    [whole, bare].into_iter().map(text).find(|text| !text.is_empty() && text.len() <= MAX_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Checked;
    use crate::visitor::{Judge, VisitorConfig, Visitors};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use serde_json::{Value, json};
    use std::net::IpAddr;
    use std::sync::Arc;

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
        let mut marks = Marks::of(query);
        let known = judge.look(link.workspace, link.key, &mut marks, &visitor, IpAddr::from([192, 0, 2, 1]), ts);
        write(ts, &link, marks, &visitor, &known, &mut StdRng::seed_from_u64(1), &mut out);
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
}
