//! Reads request heads (HTTP/1.0 and 1.1) with httparse.
//!
//! # Meaning
//! A head is complete, partial or bad. A bad one is answered with its status and the connection is closed, because where the next
//! request starts is no longer certain. Bodies are never read: a request with one is answered and the connection closed.
//!
//! # Limits
//! [`MAX_HEAD`] bytes and [`MAX_HEADERS`] headers; more is answered 431.

use crate::click::Visitor;
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
    /// Whose request it is.
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
    /// Not HTTP as we take it: 400 or 431.
    Bad(u16),
}

/// Reads heads, and knows which header names the country.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub country_header: Option<String>,
}

impl Reader {
    /// Reads one head from the start of `bytes`, which `peer` has sent.
    pub(crate) fn read<'a>(&self, bytes: &'a [u8], peer: IpAddr) -> Parsed<'a> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Parsed::Partial,
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Parsed::Bad(431),
            Err(_) => return Parsed::Bad(400),
        };
        match self.head(&request, peer) {
            Some(head) => Parsed::Complete(head, length),
            None => Parsed::Bad(400),
        }
    }

    fn head<'a>(&self, request: &httparse::Request<'_, 'a>, peer: IpAddr) -> Option<Head<'a>> {
        let method = match request.method? {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            _ => Method::Other,
        };
        let modern = request.version? == 1;
        let (authority, path, query) = split_target(request.path?)?;
        let mut head = Head {
            method,
            path,
            query,
            host: "",
            keep_alive: modern,
            client: peer,
            visitor: Visitor { head: method == Method::Head, ..Visitor::default() },
        };
        let mut hosts = 0;
        let mut body = false;
        for header in request.headers.iter() {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("host") {
                hosts += 1;
                head.host = std::str::from_utf8(value).ok()?.trim();
            } else if name.eq_ignore_ascii_case("connection") {
                if has_token(value, "close") {
                    head.keep_alive = false;
                } else if has_token(value, "keep-alive") {
                    head.keep_alive = true;
                }
            } else if name.eq_ignore_ascii_case("content-length") {
                body |= value.trim_ascii() != b"0";
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                body = true;
            } else if name.eq_ignore_ascii_case("user-agent") {
                head.visitor.user_agent = Some(value);
            } else if name.eq_ignore_ascii_case("referer") {
                head.visitor.referrer = Some(value);
            } else if ["purpose", "sec-purpose", "x-moz", "x-purpose"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
                // `Sec-Purpose: prefetch;prerender` and `Purpose: preview` (Safari) say the same: nobody has clicked yet.
                head.visitor.prefetch |= has_token(value, "prefetch") || has_token(value, "preview");
            } else if self.country_header.as_deref().is_some_and(|other| name.eq_ignore_ascii_case(other)) {
                head.visitor.country = Some(value);
            }
        }
        // RFC 9112, 3.2: exactly one Host in HTTP/1.1; the authority of an absolute target goes before it.
        if hosts > 1 || (modern && hosts == 0) {
            return None;
        }
        if let Some(authority) = authority {
            head.host = authority;
        }
        head.keep_alive &= !body;
        Some(head)
    }
}

/// Authority, path and query of a request target; a fragment, which does not belong there, is dropped.
fn split_target(target: &str) -> Option<(Option<&str>, &str, &str)> {
    let target = target.split('#').next().unwrap_or_default();
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
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let fits = path.starts_with('/') || path.is_empty() && authority.is_some() || path == "*";
    fits.then_some((authority, if path == "*" { "" } else { path }, query))
}

/// Whether a comma- or semicolon-separated header value holds a token, without case.
fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|byte| matches!(byte, b',' | b';')).any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Method, String, String, String, bool), u16> {
        let reader = Reader { country_header: Some("CF-IPCountry".to_owned()) };
        match reader.read(text.as_bytes(), IpAddr::from([192, 0, 2, 1])) {
            Parsed::Complete(head, length) => {
                assert_eq!(length, text.len());
                Ok((head.method, head.host.to_owned(), head.path.to_owned(), head.query.to_owned(), head.keep_alive))
            }
            Parsed::Partial => Err(0),
            Parsed::Bad(status) => Err(status),
        }
    }

    fn full(method: Method, host: &str, path: &str, query: &str, keep_alive: bool) -> Result<(Method, String, String, String, bool), u16> {
        Ok((method, host.to_owned(), path.to_owned(), query.to_owned(), keep_alive))
    }

    #[test]
    fn targets_and_hosts() {
        assert_eq!(read("GET /a?x=1?y HTTP/1.1\r\nHost: d.example:80\r\n\r\n"), full(Method::Get, "d.example:80", "/a", "x=1?y", true));
        assert_eq!(read("HEAD http://D.example?q HTTP/1.1\r\nHost: other\r\n\r\n"), full(Method::Head, "D.example", "", "q", true));
        assert_eq!(read("GET /a#frag?x HTTP/1.1\r\nHost: d\r\nConnection: Close\r\n\r\n"), full(Method::Get, "d", "/a", "", false));
        assert_eq!(read("GET / HTTP/1.0\r\n\r\n"), full(Method::Get, "", "/", "", false));
        assert_eq!(read("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), full(Method::Get, "", "/", "", true));
        assert_eq!(read("OPTIONS * HTTP/1.1\r\nHost: d\r\n\r\n"), full(Method::Other, "d", "", "", true));
    }

    #[test]
    fn a_body_ends_the_connection() {
        assert_eq!(read("POST /a HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\n"), full(Method::Other, "d", "/a", "", false));
        assert_eq!(read("GET /a HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"), full(Method::Get, "d", "/a", "", true));
        assert_eq!(read("GET /a HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"), full(Method::Get, "d", "/a", "", false));
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(read("GET / HTTP/1.1\r\nHo"), Err(0));
        assert_eq!(read("GET / HTTP/1.1\r\n\r\n"), Err(400));
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Err(400));
        assert_eq!(read("GET a HTTP/1.1\r\nHost: a\r\n\r\n"), Err(400));
        assert_eq!(read("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(400));
        assert_eq!(read("\x16\x03\x01 hello"), Err(400));
        assert_eq!(read(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD))), Err(431));
        assert_eq!(read(&format!("GET / HTTP/1.1\r\nHost: d\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS))), Err(431));
    }

    #[test]
    fn prefetches_are_seen() {
        let reader = Reader { country_header: None };
        for header in ["Purpose: prefetch", "Sec-Purpose: prefetch;prerender", "X-Moz: Prefetch", "X-Purpose: preview"] {
            let text = format!("GET / HTTP/1.1\r\nHost: d\r\n{header}\r\n\r\n");
            assert!(
                matches!(reader.read(text.as_bytes(), IpAddr::from([192, 0, 2, 1])), Parsed::Complete(head, _) if head.visitor.prefetch),
                "{header}"
            );
        }
    }
}
