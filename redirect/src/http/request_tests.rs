use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn read(text: &str) -> Result<(Method, String, String, String, bool), u16> {
    let reader = Reader { country_header: Some("CF-IPCountry".to_owned()), ..Reader::default() };
    match reader.read(text.as_bytes(), PEER) {
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
    assert_eq!(read(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD))), Err(414));
    assert_eq!(read(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(MAX_HEAD))), Err(431));
    assert_eq!(read(&format!("GET / HTTP/1.1\r\nHost: d\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS))), Err(431));
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    for head in [
        "GET / HTTP/1.1\nHost: d\n\n",
        "GET / HTTP/1.1\r\nHost: d\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nA: b\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : d\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\0\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET /\tHTTP/1.1\r\nHost: d\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: d\r\n\r\n",
        "CONNECT d:443 HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET http:///a HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET http://u@d/a HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET ftp://d/a HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d, e\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length: 1, 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length: +1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length: 0x1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: identity\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding:\r\n\r\n",
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(read(head), Err(400), "{head:?}");
    }
    assert!(read("\r\nGET / HTTP/1.1\r\nHost: d\r\n\r\n").is_ok(), "RFC 9112, 2.2: an empty line before a request is let pass");
}

#[test]
fn prefetches_are_seen() {
    let reader = Reader::default();
    for header in ["Purpose: prefetch", "Sec-Purpose: prefetch;prerender", "X-Moz: Prefetch", "X-Purpose: preview"] {
        let text = format!("GET / HTTP/1.1\r\nHost: d\r\n{header}\r\n\r\n");
        assert!(matches!(reader.read(text.as_bytes(), PEER), Parsed::Complete(head, _) if head.visitor.prefetch), "{header}");
    }
}
