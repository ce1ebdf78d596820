//! From the request's query and the link's destination to the `Location`, and to what the click says.
//!
//! # Meaning
//! - `eid` of the request is taken away: it names the visitor's contact and is nobody else's business.
//! - Every other parameter of the request goes on to the destination, byte for byte.
//! - The destination's own parameters keep their place. Where the request has a parameter of the same name, the request's values
//!   stand in that place instead: who sends a link out knows more about this click than who made the link.
//! - Parameters that only the request has follow in its order. The destination's fragment stays at the end.
//! - Click ids and UTM values are the request's, else the destination's, each by itself.
//!
//! # Ties and edges
//! Names compare decoded (`utm%5Fsource` is `utm_source`). Of a repeated parameter all values go on, and the first that can be
//! used is recorded. A value is recorded trimmed; one that is empty, longer than [`MAX_VALUE`], not UTF-8 or with control
//! characters is left out of the record and still goes on to the destination. Bytes that a URL cannot hold are percent-encoded, so nothing
//! that a visitor sends can end the header.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Longest value that is recorded, in bytes: half of what the job takes, and more than any click id in use.
pub(crate) const MAX_VALUE: usize = 512;

/// Bytes that a query cannot hold as they are (RFC 3986 and the URL standard's query set).
const UNSAFE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

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
    /// Reads a query (without its `?`).
    pub(crate) fn of(query: &'a str) -> Marks<'a> {
        let mut marks = Marks::default();
        for (name, raw) in pairs(query) {
            let slot = match &*name {
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
                *slot = raw.split_once('=').and_then(|(_, value)| recordable(value));
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
        let (whole, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
        let (base, own_query) = whole.split_at(whole.find('?').unwrap_or(whole.len()));
        Target { url, base, own_query, fragment }
    }

    /// The whole destination.
    pub(crate) fn url(&self) -> &'a str {
        self.url
    }

    /// What the destination's own query says.
    pub(crate) fn marks(&self) -> Marks<'a> {
        Marks::of(self.own_query.strip_prefix('?').unwrap_or(""))
    }

    /// The `Location` for a request with this query.
    pub(crate) fn location(&self, query: &str) -> String {
        let mut out = Vec::new();
        self.write_location(query, &mut out);
        String::from_utf8(out).expect("a Location is ASCII")
    }

    /// Writes the `Location` for a request with this query.
    pub(crate) fn write_location(&self, query: &str, out: &mut Vec<u8>) {
        let Target { url: _, base, own_query, fragment } = *self;
        out.extend_from_slice(base.as_bytes());
        let mut passed: SmallVec<[(Cow<'_, str>, &str, bool); 8]> =
            pairs(query).filter(|(name, _)| name != "eid").map(|(name, raw)| (name, raw, false)).collect();
        if passed.is_empty() {
            out.extend_from_slice(own_query.as_bytes());
        } else {
            let mut separator = b'?';
            let mut put = |raw: &str| {
                out.push(separator);
                separator = b'&';
                push_encoded(raw, out);
            };
            for (name, own) in pairs(own_query.strip_prefix('?').unwrap_or("")) {
                let mut overridden = false;
                for (_, raw, done) in passed.iter_mut().filter(|(other, _, _)| *other == name) {
                    overridden = true;
                    if !std::mem::replace(done, true) {
                        put(raw);
                    }
                }
                if !overridden {
                    put(own);
                }
            }
            passed.iter().filter(|(_, _, done)| !done).for_each(|(_, raw, _)| put(raw));
        }
        out.extend_from_slice(fragment.as_bytes());
    }
}

/// Whether a byte stays as it is: what [`UNSAFE`] says, as a table.
static SAFE: LazyLock<[bool; 256]> = LazyLock::new(|| {
    let byte = |byte: usize| u8::try_from(byte).expect("a byte");
    std::array::from_fn(|at| percent_encode(&[byte(at)], UNSAFE).next().is_some_and(|piece| piece.len() == 1))
});

/// Appends what a visitor sent, without the bytes that a URL cannot hold; mostly there are none.
fn push_encoded(raw: &str, out: &mut Vec<u8>) {
    let safe = &*SAFE;
    if raw.bytes().all(|byte| safe[usize::from(byte)]) {
        out.extend_from_slice(raw.as_bytes());
        return;
    }
    for piece in percent_encode(raw.as_bytes(), UNSAFE) {
        out.extend_from_slice(piece.as_bytes());
    }
}

/// The parameters of a query: decoded name, and the whole `name=value` as it was written.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        // A name that is not UTF-8 is compared with U+FFFD in it; it equals none that matters here.
        (decode(name, |bytes| Some(lossy(bytes))).unwrap_or_default(), pair)
    })
}

fn lossy(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Form decoding: `+` is a space, `%XX` a byte.
fn decode<'a>(text: &'a str, read: impl Fn(Cow<'a, [u8]>) -> Option<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let bytes: Vec<u8> = percent_decode(spaced.as_bytes()).collect();
        read(Cow::Owned(bytes))
    } else {
        read(percent_decode(text.as_bytes()).into())
    }
}

/// The decoded value as it may be recorded.
fn recordable(raw: &str) -> Option<Cow<'_, str>> {
    // Decoding makes nothing longer than three bytes per byte kept.
    if raw.len() > 3 * MAX_VALUE {
        return None;
    }
    let value = decode(raw, |bytes| match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    })?;
    let value = match value {
        Cow::Borrowed(value) => Cow::Borrowed(value.trim()),
        Cow::Owned(value) if value.trim().len() == value.len() => Cow::Owned(value),
        Cow::Owned(value) => Cow::Owned(value.trim().to_owned()),
    };
    (!value.is_empty() && value.len() <= MAX_VALUE && !value.chars().any(char::is_control)).then_some(value)
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
