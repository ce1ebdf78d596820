//! The click record, as the `clicks` topic holds it.
//!
//! # Bounds
//! Every record is one that the job takes: ids and values at most [`MAX_VALUE`] bytes, the link checked when it was loaded, the rest cut or
//! left out. `destination` is the link's own, as its owner wrote it: what the visitor's query adds is already in `utm`, `gclid` and `fbclid`, and
//! may hold what should not be kept.

use crate::agent::Agent;
use crate::bots::Reason;
use crate::json;
use crate::links::Link;
use crate::query::{self, MAX_VALUE, Marks, Utm};
use crate::tracking;
use crate::visitor::Known;
use rand::Rng;
use std::borrow::Cow;
use uuid::{Builder, Uuid};

/// Last millisecond of the year 9999: the job takes later times for a mistake in the unit.
const MAX_TS: u64 = 253_402_300_799_999;

/// What the request says about the visitor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visitor<'a> {
    /// `Referer`, as sent.
    pub referrer: Option<&'a [u8]>,
    /// `User-Agent`, as sent.
    pub user_agent: Option<&'a [u8]>,
    /// The configured country header, as sent by somebody who is believed.
    pub country: Option<&'a [u8]>,
    /// HEAD rather than GET.
    pub head: bool,
    /// A browser that loads ahead of its user.
    pub prefetch: bool,
}

/// Writes the record of a click as JSON; returns its event time. `marks` are the request's and the destination's, with the contact that counts in the
/// place of `eid`.
pub(crate) fn write(
    ts: u64,
    link: &Link<'_>,
    marks: &Marks<'_>,
    visitor: &Visitor<'_>,
    known: &Known<'_>,
    random: &mut impl Rng,
    out: &mut Vec<u8>,
) -> u64 {
    let ts = ts.min(MAX_TS);
    let Known { agent, country, client, bot } = known;
    let mut bytes = [0; 10];
    random.fill_bytes(&mut bytes);
    let mut id = Uuid::encode_buffer();
    let id = Builder::from_unix_timestamp_millis(ts, &bytes).into_uuid().hyphenated().encode_lower(&mut id);
    // One field after the other in the contract's order; the job reads exactly this form without a parser.
    out.extend_from_slice(BEFORE_ID);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b"\",\"ts\":");
    json::push_number(ts, out);
    let mut text = |name: &[u8], text: Option<&str>| {
        out.extend_from_slice(name);
        json::push_option(text, out);
    };
    text(b",\"workspace\":", Some(link.workspace));
    text(b",\"link\":", Some(link.key));
    text(b",\"title\":", link.title);
    text(b",\"destination\":", Some(link.destination()));
    let mut before: &[u8] = b",\"tags\":[";
    for tag in link.tags.iter() {
        text(before, Some(tag));
        before = b",";
    }
    let after = if before == b"," { &b"],\"deal_id\":"[..] } else { b",\"tags\":[],\"deal_id\":" };
    text(after, link.deal_id);
    text(b",\"contact_id\":", marks.eid.as_deref());
    text(b",\"fbclid\":", marks.fbclid.as_deref());
    text(b",\"gclid\":", marks.gclid.as_deref());
    let Utm { source, medium, campaign, term, content } = &marks.utm;
    text(b",\"utm\":{\"source\":", source.as_deref());
    text(b",\"medium\":", medium.as_deref());
    text(b",\"campaign\":", campaign.as_deref());
    text(b",\"term\":", term.as_deref());
    text(b",\"content\":", content.as_deref());
    text(b"},\"referrer\":", visitor.referrer.and_then(referrer).as_deref());
    out.extend_from_slice(agent);
    let mut text = |name: &[u8], text: Option<&str>| {
        out.extend_from_slice(name);
        json::push_option(text, out);
    };
    text(b",\"country\":", country.as_ref().and_then(|code| std::str::from_utf8(code).ok()));
    text(b",\"bot\":", bot.map(Reason::label));
    // Only where it is configured: the contract has no such field, and readers ignore it.
    if client.is_some() {
        text(b",\"client\":", client.as_deref());
    }
    out.push(b'}');
    ts
}

/// What a record says of a user agent: the fields that depend on nothing else, so that they are written once for many clicks.
pub(crate) fn agent_fields(user_agent: &[u8], agent: &Agent) -> Box<[u8]> {
    let mut out = Vec::new();
    let user_agent = cut(query::text(user_agent));
    let fields = [("user_agent", user_agent.as_deref()), ("device", agent.device), ("os", agent.os), ("browser", agent.browser)];
    for (name, text) in fields {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        json::push_option(text, &mut out);
    }
    out.into()
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
    let text = |bytes| tracking::without_personal(query::text(bytes));
    [whole, bare].into_iter().map(text).find(|text| !text.is_empty() && text.len() <= MAX_VALUE)
}

#[cfg(test)]
#[path = "click_tests.rs"]
mod tests;
