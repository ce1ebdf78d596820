//! Payloads against redirects and HTTP parsers: none leads anywhere but where a link does, none makes a header, none is answered twice.

mod common;

use clickline_redirect::Server;
use common::*;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::Shutdown;

const PAYLOADS: &str = include_str!("payloads/open-redirect.txt");
const STREAMS: &str = include_str!("payloads/smuggling.txt");

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with("# "))
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (kind, after) = rest.split_first().expect("something after the backslash");
        rest = after;
        bytes.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'x' => {
                let (digits, after) = rest.split_at(2);
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).expect("ASCII"), 16).expect("two hexadecimal digits")
            }
            other => *other,
        });
    }
    bytes
}

/// Sends bytes, ends, and reads what comes until the server closes.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server.address());
    stream.write_all(bytes).expect("sent");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answers, then the end");
    String::from_utf8(answer).expect("answers are text")
}

/// Scheme, host and port as RFC 3986 has them (appendix B's expression by hand), for whoever reads most generously: a backslash
/// is a slash and blanks are nothing, as in browsers. Not the parser that the server uses.
fn origin(location: &str) -> (String, String) {
    let plain: String = location.chars().filter(|c| !c.is_ascii_control() && *c != ' ').map(|c| if c == '\\' { '/' } else { c }).collect();
    let (scheme, rest) = plain.split_once(':').expect("a scheme");
    let rest = rest.trim_start_matches('/');
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Whatever stands before the last `@` is a user name.
    let host = authority.rsplit('@').next().unwrap_or_default();
    (scheme.to_ascii_lowercase(), host.to_ascii_lowercase())
}

#[test]
fn the_other_parser_is_not_fooled() {
    for (location, host) in [
        ("https://acme.example/x", "acme.example"),
        ("https://acme.example@evil.example/", "evil.example"),
        ("https:/\\evil.example", "evil.example"),
        ("https://acme.example\\@evil.example", "acme.example"),
        ("https://acme.example:444/", "acme.example:444"),
    ] {
        assert_eq!(origin(location), ("https".to_owned(), host.to_owned()));
    }
}

#[test]
fn no_payload_leads_anywhere_else() {
    let Running { server, memory, folder: _folder } = start();
    let payloads: HashSet<&str> = lines(PAYLOADS).collect();
    assert!(payloads.len() >= 150, "{}", payloads.len());
    let known = ["HTTP/1.1 302 Found", "HTTP/1.1 404 Not Found", "HTTP/1.1 400 Bad Request"];
    let names = HashSet::from(["Location", "Cache-Control", "Content-Length", "Content-Type", "Date", "Connection", "X-Click-Id"]);
    let mut redirects = 0;
    for payload in payloads {
        for host in ["s.elido.me", "evil.example", "go.other.example"] {
            let request = format!("GET {payload} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n");
            let answer = exchange(&server, request.as_bytes());
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            let mut headers = head.split("\r\n");
            let status = headers.next().unwrap_or_default();
            assert!(known.contains(&status), "{payload}: {answer}");
            let headers: Vec<(&str, &str)> = headers.map(|line| line.split_once(": ").expect("a header")).collect();
            let unique: HashSet<&str> = headers.iter().map(|(name, _)| *name).collect();
            assert!(unique.len() == headers.len() && unique.is_subset(&names), "{payload}: {head}");
            assert!(headers.iter().all(|(_, value)| value.bytes().all(|byte| (b' '..=b'~').contains(&byte))), "{payload}: {head}");
            match header(head, "Location") {
                Some(location) => {
                    redirects += 1;
                    assert_eq!(origin(location), ("https".to_owned(), "acme.example".to_owned()), "{payload}: {location}");
                    assert!(location.starts_with("https://acme.example/pricing.pdf"), "{payload}: {location}");
                    assert_eq!((status, body), (known[0], ""), "{payload}");
                }
                None => assert!(status != known[0] && !body.contains("evil"), "{payload}: {answer}"),
            }
        }
    }
    assert!(redirects >= 120, "only {redirects} payloads reached a link");
    memory.wait(redirects);
}

/// A destination that is told by its query where to go on stays told by its owner: whatever payload is sent under whatever name that some framework takes
/// for the owner's, and behind each payload that leads to the link by its path.
#[test]
fn no_payload_takes_the_place_of_the_owners_parameter() {
    let own = "url=https%3A%2F%2Facme.example%2Fok&my_next=1";
    let links = format!("{LINKS}- {{domain: s.elido.me, slug: go, workspace: acme, destination: \"https://acme.example/go?{own}#top\"}}\n");
    let Running { server, memory, folder: _folder } = start_with(|config| {
        let path = config.links_file.as_ref().expect("a links file");
        std::fs::write(path, links).expect("the links file");
    });
    let names = ["url", "URL", "%75rl", "u%72l", "+url", "%20url", "url[]", "url%5B0%5D", "url%00", "my.next", "my+next", "My_Next[x]"];
    let mut payloads: Vec<&str> = lines(PAYLOADS).filter(|payload| !payload.contains([' ', '#'])).collect();
    payloads.sort_unstable();
    let (mut redirects, mut sent) = (0, Vec::new());
    for (payload, name) in payloads.iter().zip(names.iter().cycle()) {
        let value = payload.replace(['&', '?'], "/");
        sent.push(format!("/go?{name}={value}&url=https://evil.example/&utm_source=mail"));
        if let Some(rest) = payload.strip_prefix("/abc123?") {
            sent.push(format!("/go?{rest}&{name}=https://evil.example/"));
        }
    }
    for target in sent {
        let request = format!("GET {target} HTTP/1.1\r\nHost: s.elido.me\r\nConnection: close\r\n\r\n");
        let answer = exchange(&server, request.as_bytes());
        let Some(location) = header(&answer, "Location") else { continue };
        redirects += 1;
        let query = location.strip_prefix("https://acme.example/go?").and_then(|rest| rest.strip_suffix("#top")).expect("the link's");
        let mut parameters = query.split('&');
        assert_eq!(
            (parameters.next(), parameters.next()),
            own.split_once('&').map(|(a, b)| (Some(a), Some(b))).expect("two"),
            "{location}"
        );
        // As a reader of PHP's kind has the names of the others.
        for other in parameters {
            let name = other.split('=').next().unwrap_or_default().to_lowercase().replace("%20", " ").replace('+', " ");
            let name = name.replace("%75", "u").replace("%72", "r").replace("%5b", "[").replace("%00", "[").replace(['.', ' '], "_");
            let name = name.trim_start_matches('_').split('[').next().unwrap_or_default();
            assert!(!["url", "my_next"].contains(&name), "{target}: {location}");
        }
    }
    assert!(redirects >= 150, "only {redirects} payloads reached the link");
    memory.wait(redirects);
}

#[test]
fn no_stream_is_read_in_two_ways() {
    let links =
        format!("{LINKS}- {{domain: s.elido.me, slug: smuggled, workspace: acme, destination: \"https://acme.example/smuggled\"}}\n");
    let Running { server, memory, folder: _folder } = start_with(|config| {
        let path = config.links_file.as_ref().expect("a links file");
        std::fs::write(path, links).expect("the links file");
    });
    let mut redirects = 0;
    for line in lines(STREAMS) {
        let (expected, stream) = line.split_once(" | ").expect("statuses and bytes");
        let answers = exchange(&server, &unescape(stream));
        let statuses: Vec<&str> = answers.match_indices("HTTP/1.1 ").map(|(at, start)| &answers[at + start.len()..][..3]).collect();
        assert_eq!(statuses.join(" "), expected, "{stream}\n{answers}");
        assert_eq!(answers.contains("Location: https://acme.example/smuggled"), expected.ends_with(" 302"), "{stream}");
        assert_eq!(answers.matches("Connection: close").count(), 1, "{stream}");
        redirects += statuses.iter().filter(|status| **status == "302").count();
    }
    memory.wait(redirects);
}
