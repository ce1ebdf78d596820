//! What the fuzz targets call (`redirect/fuzz`), and tests with them. No part of the interface.

use crate::answer::{Desk, Shared};
use crate::http::proxy_protocol::{self, Preamble};
use crate::http::{MAX_HEAD, Parsed, Proxies, Reader};
use crate::links::{Checked, Layer};
use crate::visitor::{VisitorConfig, Visitors};
use crate::{ClientHeader, Clock, Config, Discard};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where the only link leads.
const DESTINATION: &str = "https://acme.example/pricing.pdf";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Reads any bytes as what a connection sends, and answers them.
///
/// # Panics
/// When the bytes' meaning depends on how they were split, or an answer is not exactly one HTTP answer that leads where the link does.
pub fn request(bytes: &[u8]) {
    preamble(bytes);
    for header in [ClientHeader::XForwardedFor, ClientHeader::Forwarded] {
        let trusted = vec!["127.0.0.0/8".parse().expect("a network")];
        let reader = Reader { country_header: Some("CF-IPCountry".to_owned()), proxies: Proxies { trusted, header } };
        answers(bytes, &reader);
    }
}

fn preamble(bytes: &[u8]) {
    let whole = proxy_protocol::read(bytes);
    for end in 0..bytes.len() {
        let part = proxy_protocol::read(&bytes[..end]);
        assert!(part == whole || part == Preamble::Partial, "{end} bytes are {part:?}, all are {whole:?}");
    }
    if let Preamble::Complete(_, length) = whole {
        assert!((1..=bytes.len()).contains(&length));
    }
}

fn answers(mut bytes: &[u8], reader: &Reader) {
    let mut desk = desk();
    loop {
        let whole = outcome(reader, bytes);
        let known = bytes.len().min(MAX_HEAD + 64);
        // The ends of lines are where a meaning is most often decided; all of a short text, some of a long one.
        let step = known / 512 + 1;
        for end in (0..known).step_by(step) {
            let part = outcome(reader, &bytes[..end]);
            assert!(part == whole || part == Outcome::Partial, "{end} bytes are {part:?}, all are {whole:?}");
        }
        let mut out = Vec::new();
        match reader.read(bytes, PEER) {
            Parsed::Partial => return,
            Parsed::Bad(status) => {
                desk.refuse(status, &mut out);
                assert_eq!(one_answer(&out), status);
                return;
            }
            Parsed::Complete(head, length) => {
                desk.answer(&head, None, head.keep_alive, &mut out);
                let status = one_answer(&out);
                assert!([200, 302, 404, 405].contains(&status), "{status}");
                if !head.keep_alive {
                    return;
                }
                bytes = &bytes[length..];
            }
        }
    }
}

/// A reading that can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Complete(String, IpAddr, usize),
    Partial,
    Bad(u16),
}

fn outcome(reader: &Reader, bytes: &[u8]) -> Outcome {
    match reader.read(bytes, PEER) {
        Parsed::Complete(head, length) => Outcome::Complete(format!("{head:?}"), head.client, length),
        Parsed::Partial => Outcome::Partial,
        Parsed::Bad(status) => Outcome::Bad(status),
    }
}

fn desk() -> Desk {
    let config = Config { workers: 1, default_domain: Some("d.example".to_owned()), clock: Clock::new(|| 1), ..Config::default() };
    let visitors = Visitors::new(VisitorConfig::default()).expect("no files");
    let shared = Shared::new(&config, Arc::new(visitors), Arc::new(Discard));
    let mut layer = Layer::default();
    let record = serde_json::json!({"domain": "d.example", "slug": "a", "workspace": "w", "destination": DESTINATION});
    layer.insert(&Checked::from_value(&record).expect("a link"), 1);
    shared.live.set_file(layer);
    shared.ready.store(true, Ordering::Release);
    Desk::new(Arc::new(shared), 0, None)
}

/// Reads an answer as a client would; its status.
fn one_answer(out: &[u8]) -> u16 {
    let text = std::str::from_utf8(out).expect("answers are text");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()).expect("a status");
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a header");
        assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?} holds a byte that a header cannot");
        match name {
            "Location" => {
                assert_eq!(status, 302);
                let rest = value.strip_prefix(DESTINATION).expect("the link's destination");
                assert!(rest.is_empty() || rest.starts_with('?'), "{value}");
            }
            "Content-Length" => length = value.parse().ok(),
            "Content-Type" | "Cache-Control" | "Date" | "Connection" | "Allow" | "Retry-After" | "X-Click-Id" => {}
            other => panic!("nobody wrote the header {other:?}"),
        }
    }
    assert!(body.is_empty() || length == Some(body.len()), "the body has another length than was said");
    status
}
