//! Reads request heads (HTTP/1.0 and 1.1) with httparse, and stricter than it.
//!
//! # Meaning
//! A head is complete, partial or bad. A bad one is answered with its status and the connection is closed, because where the next
//! request starts is no longer certain. Bodies are never read: a request with one is answered and the connection closed, so nothing in a
//! body can be taken for a request.
//!
//! # Ties and edges
//! What two readers could read differently is bad (RFC 9112): lines that end without CR, folded lines, a space before a colon, more than one
//! `Content-Length`, `Transfer-Encoding` beside it or other than `chunked`, a `Host` that is missing, doubled or no host. The answer does not
//! depend on how the bytes were split when they arrived.
//!
//! # Limits
//! [`MAX_HEAD`] bytes and [`MAX_HEADERS`] headers; more is answered 431, or 414 when the first line alone is longer.

use super::{Proxies, host};
use crate::click::Visitor;
use memchr::memchr;
use std::mem::MaybeUninit;
use std::net::IpAddr;

/// Largest head, in bytes: twice what common servers allow by default, since click links carry long queries.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// Most headers of a request; browsers behind two proxies send about forty.
const MAX_HEADERS: usize = 100;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    /// Anything else, which is answered 405.
    Other,
}

/// A complete head.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub method: Method,
    /// Path of the target, still encoded, with its `/`; empty for `*`.
    pub path: &'a str,
    /// Query of the target without its `?`, or empty.
    pub query: &'a str,
    /// Host that was asked for, perhaps with a port, as sent; empty when HTTP/1.0 names none.
    pub host: &'a str,
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
    /// Whose request it is: the connection's address, or what trusted proxies say. Never stored or logged.
    pub client: IpAddr,
    /// What the request says about the visitor.
    pub visitor: Visitor<'a>,
}

/// What the bytes so far are.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    /// A head, and how many bytes it took.
    Complete(Head<'a>, usize),
    /// Not all of it is here yet.
    Partial,
    /// Not HTTP as we take it: 400, 414 or 431.
    Bad(u16),
}

/// Reads heads, and knows which headers name the country and the client, and from whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reader {
    pub country_header: Option<String>,
    pub proxies: Proxies,
}

impl Reader {
    /// Reads one head from the start of `bytes`, sent by `peer`.
    pub(crate) fn read<'a>(&self, bytes: &'a [u8], peer: IpAddr) -> Parsed<'a> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        // What lies beyond the largest head must not matter, whether it is here already or not.
        let window = &bytes[..bytes.len().min(MAX_HEAD)];
        let length = match request.parse_with_uninit_headers(window, &mut headers) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Parsed::Partial,
            Ok(httparse::Status::Partial) if !window.trim_ascii_start().contains(&b'\n') => return Parsed::Bad(414),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Parsed::Bad(431),
            Err(_) => return Parsed::Bad(400),
        };
        // httparse takes a lone LF for the end of a line.
        match self.head(&request, peer).filter(|_| lines_end_well(&window[..length])) {
            Some(head) => Parsed::Complete(head, length),
            None => Parsed::Bad(400),
        }
    }

    fn head<'a>(&self, request: &httparse::Request<'_, 'a>, peer: IpAddr) -> Option<Head<'a>> {
        let name = request.method?;
        let method = match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            _ => Method::Other,
        };
        let modern = request.version? == 1;
        let (authority, path, query) = split_target(request.path?)?;
        // RFC 9112, 3.2.4: `*` is the whole server, which only OPTIONS asks about.
        if path.is_empty() && authority.is_none() && name != "OPTIONS" {
            return None;
        }
        let mut head = Head {
            method,
            path,
            query,
            host: "",
            keep_alive: modern,
            client: self.proxies.client(peer, request.headers.iter().map(|header| (header.name, header.value))),
            visitor: Visitor { head: method == Method::Head, ..Visitor::default() },
        };
        let mut hosts = 0;
        let mut framing = Framing::default();
        for header in request.headers.iter() {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("host") {
                hosts += 1;
                head.host = std::str::from_utf8(value).ok()?;
            } else if name.eq_ignore_ascii_case("connection") {
                if has_token(value, "close") {
                    head.keep_alive = false;
                } else if has_token(value, "keep-alive") {
                    head.keep_alive = true;
                }
            } else if name.eq_ignore_ascii_case("content-length") {
                framing.length(value)?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing.encoding(value)?;
            } else if name.eq_ignore_ascii_case("user-agent") {
                head.visitor.user_agent = Some(value);
            } else if name.eq_ignore_ascii_case("referer") {
                head.visitor.referrer = Some(value);
            } else if ["purpose", "sec-purpose", "x-moz", "x-purpose"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
                // `Sec-Purpose: prefetch;prerender` and `Purpose: preview` (Safari) say the same: nobody has clicked yet.
                head.visitor.prefetch |= has_token(value, "prefetch") || has_token(value, "preview");
            } else if self.country_header.as_deref().is_some_and(|other| name.eq_ignore_ascii_case(other)) && self.proxies.believes(peer) {
                head.visitor.country = Some(value);
            }
        }
        // RFC 9112, 3.2: exactly one Host in HTTP/1.1, and a valid one; the authority of an absolute target goes before it.
        if hosts > 1 || (modern && hosts == 0) || !host::valid(head.host) {
            return None;
        }
        if let Some(authority) = authority {
            if authority.is_empty() || !host::valid(authority) {
                return None;
            }
            head.host = authority;
        }
        head.keep_alive &= !framing.body(modern)?;
        Some(head)
    }
}

/// What the head says about a body (RFC 9112, 6).
#[derive(Default)]
struct Framing {
    length: Option<bool>,
    encoded: bool,
}

impl Framing {
    /// A `Content-Length`; none if there must not be one like this.
    fn length(&mut self, value: &[u8]) -> Option<()> {
        let number = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
        // Two that agree are still two: who added the second?
        (number && self.length.is_none()).then(|| self.length = Some(value.iter().any(|digit| *digit != b'0')))
    }

    /// A `Transfer-Encoding`; none if there must not be one like this.
    fn encoding(&mut self, value: &[u8]) -> Option<()> {
        let first = !std::mem::replace(&mut self.encoded, true);
        (first && value.eq_ignore_ascii_case(b"chunked")).then_some(())
    }

    /// Whether a body follows; none if readers could disagree.
    fn body(&self, modern: bool) -> Option<bool> {
        match (self.encoded, self.length) {
            (true, None) => modern.then_some(true),
            (true, Some(_)) => None,
            (false, length) => Some(length.unwrap_or(false)),
        }
    }
}

/// Whether each LF has its CR before it. Without a branch for each byte, so that many are looked at in one step.
fn lines_end_well(head: &[u8]) -> bool {
    let after = head.get(1..).unwrap_or_default();
    head.first() != Some(&b'\n') && head.iter().zip(after).fold(true, |well, (before, byte)| well & ((*byte != b'\n') | (*before == b'\r')))
}

/// Authority, path and query of a request target; a fragment, which does not belong there, is dropped.
fn split_target(target: &str) -> Option<(Option<&str>, &str, &str)> {
    let target = &target[..memchr(b'#', target.as_bytes()).unwrap_or(target.len())];
    let (authority, rest) = match target
        .get(..7)
        .filter(|start| start.eq_ignore_ascii_case("http://"))
        .or(target.get(..8).filter(|start| start.eq_ignore_ascii_case("https://")))
    {
        Some(scheme) => {
            let rest = &target[scheme.len()..];
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(authority), rest)
        }
        None => (None, target),
    };
    let (path, query) = memchr(b'?', rest.as_bytes()).map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
    let fits = path.starts_with('/') || path.is_empty() && authority.is_some() || path == "*";
    fits.then_some((authority, if path == "*" { "" } else { path }, query))
}

/// Whether a comma- or semicolon-separated header value holds a token, without case.
fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|byte| matches!(byte, b',' | b';')).any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
