//! From the request's query and the link's destination to the `Location`, and to what the click says.
//!
//! # Meaning
//! - `eid` of the request is taken away: it names the visitor's contact and is nobody else's business.
//! - The destination's own parameters stay, in their place; where one is a tracking parameter that the request has, too, the request's values
//!   stand there instead ([`Passing`]).
//! - Every other parameter of the request follows behind them in its order, byte for byte. The destination's fragment stays at the end.
//! - Click ids and UTM values are the request's, else the destination's, each by itself.
//!
//! # Ties and edges
//! Names compare decoded (`utm%5Fsource` is `utm_source`). Of a repeated parameter the first value that can be used is recorded. A value is recorded trimmed; one that is empty, longer than [`MAX_VALUE`], not UTF-8 or with control
//! characters is left out of the record and still goes on to the destination. Bytes that a URL cannot hold are percent-encoded, so nothing
//! that a visitor sends can end the header.

pub(crate) use crate::pairs::{MAX_VALUE, Pairs, pairs};
use crate::passing::Passing;
use memchr::memchr;
use std::borrow::Cow;

/// Campaign values of a click.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Utm<'a> {
    pub source: Option<Cow<'a, str>>,
    pub medium: Option<Cow<'a, str>>,
    pub campaign: Option<Cow<'a, str>>,
    pub term: Option<Cow<'a, str>>,
    pub content: Option<Cow<'a, str>>,
}

/// What a query says about a click.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks<'a> {
    pub eid: Option<Cow<'a, str>>,
    pub fbclid: Option<Cow<'a, str>>,
    pub gclid: Option<Cow<'a, str>>,
    pub utm: Utm<'a>,
}

impl<'a> Marks<'a> {
    /// Reads the parameters of a query.
    pub(crate) fn of(pairs: &Pairs<'a>) -> Marks<'a> {
        let mut marks = Marks::default();
        for pair in pairs {
            let slot = match &*pair.name() {
                "eid" => &mut marks.eid,
                "fbclid" => &mut marks.fbclid,
                "gclid" => &mut marks.gclid,
                "utm_source" => &mut marks.utm.source,
                "utm_medium" => &mut marks.utm.medium,
                "utm_campaign" => &mut marks.utm.campaign,
                "utm_term" => &mut marks.utm.term,
                "utm_content" => &mut marks.utm.content,
                _ => continue,
            };
            if slot.is_none() {
                *slot = pair.value();
            }
        }
        marks
    }

    /// These, and where one is absent the destination's. The destination's `eid` is its own affair.
    pub(crate) fn or(self, destination: Marks<'a>) -> Marks<'a> {
        let Marks { eid, fbclid, gclid, utm } = self;
        let theirs = destination.utm;
        Marks {
            eid,
            fbclid: fbclid.or(destination.fbclid),
            gclid: gclid.or(destination.gclid),
            utm: Utm {
                source: utm.source.or(theirs.source),
                medium: utm.medium.or(theirs.medium),
                campaign: utm.campaign.or(theirs.campaign),
                term: utm.term.or(theirs.term),
                content: utm.content.or(theirs.content),
            },
        }
    }
}

/// The destination in the parts that a `Location` is put together from. All of it is ASCII without control characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    url: &'a str,
    /// Scheme, host and path.
    base: &'a str,
    /// The destination's own query with its `?`, or empty.
    own_query: &'a str,
    /// With its `#`, or empty.
    fragment: &'a str,
}

impl<'a> Target<'a> {
    /// Takes a checked destination apart, as the URL standard writes it.
    pub(crate) fn of(url: &'a str) -> Target<'a> {
        let (whole, fragment) = url.split_at(memchr(b'#', url.as_bytes()).unwrap_or(url.len()));
        let (base, own_query) = whole.split_at(memchr(b'?', whole.as_bytes()).unwrap_or(whole.len()));
        Target { url, base, own_query, fragment }
    }

    /// The whole destination.
    pub(crate) fn url(&self) -> &'a str {
        self.url
    }

    /// The destination's own parameters.
    pub(crate) fn own(&self) -> Pairs<'a> {
        pairs(self.own_query.strip_prefix('?').unwrap_or("")).collect()
    }

    /// The `Location` for a request with this query.
    pub(crate) fn location(&self, query: &str) -> String {
        let mut out = Vec::new();
        self.write_location(&self.own(), &pairs(query).collect(), &mut out);
        String::from_utf8(out).expect("a Location is ASCII")
    }

    /// Writes the `Location` for a request with these parameters; `own` are the destination's.
    pub(crate) fn write_location(&self, own: &Pairs<'_>, sent: &Pairs<'_>, out: &mut Vec<u8>) {
        let Target { url: _, base, own_query, fragment } = *self;
        out.extend_from_slice(base.as_bytes());
        let passing = Passing::of(own, sent);
        if passing.is_empty() {
            out.extend_from_slice(own_query.as_bytes());
        } else {
            let mut separator = b'?';
            passing.merge(own, |pair| {
                out.push(separator);
                separator = b'&';
                pair.push(out);
            });
        }
        out.extend_from_slice(fragment.as_bytes());
    }
}

/// The text of bytes, with U+FFFD for what is none. Nearly always all of it is: then it is looked through once, and quickly.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
