//! The PROXY protocol, versions 1 and 2: a balancer says at the start of a connection for whom it connects.
//!
//! # Ties and edges
//! `UNKNOWN`, `LOCAL` and families other than IP name no client: the connection's own address counts. Additions of version 2 (TLVs) are
//! skipped; their checksum is not looked at, since TCP has one.

use memchr::memchr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest line of version 1, with its CRLF.
const MAX_LINE: usize = 107;
/// Longest header of version 2 that is taken: addresses, and some kilobytes of certificate names and the like.
const MAX_BINARY: usize = 4_096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preamble {
    /// A header of this length, and the client if it names one.
    Complete(Option<IpAddr>, usize),
    /// Not all of it is here yet.
    Partial,
    /// No such header.
    Bad,
}

/// Reads the header at the start of a connection.
pub(crate) fn read(bytes: &[u8]) -> Preamble {
    let start = bytes.len().min(SIGNATURE.len());
    if bytes[..start] == SIGNATURE[..start] {
        return binary(bytes);
    }
    let start = bytes.len().min(6);
    if bytes[..start] == b"PROXY "[..start] { line(bytes) } else { Preamble::Bad }
}

fn line(bytes: &[u8]) -> Preamble {
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = memchr(b'\n', window) else {
        return if bytes.len() < MAX_LINE { Preamble::Partial } else { Preamble::Bad };
    };
    let Some(text) = window[..end].strip_suffix(b"\r").and_then(|text| std::str::from_utf8(text).ok()) else { return Preamble::Bad };
    let mut parts = text.split(' ').skip(1);
    let family = parts.next();
    if family == Some("UNKNOWN") {
        return Preamble::Complete(None, end + 1);
    }
    let (Some(source), Some(target), Some(from), Some(to), None) = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Preamble::Bad;
    };
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let source = match family {
        Some("TCP4") => source.parse().ok().filter(|_| target.parse::<Ipv4Addr>().is_ok()).map(IpAddr::V4),
        Some("TCP6") => source.parse().ok().filter(|_| target.parse::<Ipv6Addr>().is_ok()).map(IpAddr::V6),
        _ => None,
    };
    match source {
        Some(source) if port(from) && port(to) => Preamble::Complete(Some(source.to_canonical()), end + 1),
        _ => Preamble::Bad,
    }
}

fn binary(bytes: &[u8]) -> Preamble {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else { return Preamble::Partial };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let (command, family) = (fixed[12], fixed[13]);
    if FIXED + length > MAX_BINARY || !matches!(command, 0x20 | 0x21) {
        return Preamble::Bad;
    }
    let Some(body) = rest.get(..length) else { return Preamble::Partial };
    let client = match (command, family) {
        // LOCAL: the balancer's own, such as a health check.
        (0x20, _) => None,
        (_, 0x11) => match body.first_chunk::<4>() {
            Some(source) if length >= 12 => Some(IpAddr::V4(Ipv4Addr::from(*source))),
            _ => return Preamble::Bad,
        },
        (_, 0x21) => match body.first_chunk::<16>() {
            Some(source) if length >= 36 => Some(IpAddr::V6(Ipv6Addr::from(*source))),
            _ => return Preamble::Bad,
        },
        // Unspecified, UDP, Unix sockets.
        _ => None,
    };
    Preamble::Complete(client.map(|client| client.to_canonical()), FIXED + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short");
        [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), body].concat()
    }

    fn v4_body() -> Vec<u8> {
        vec![198, 51, 100, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80]
    }

    #[test]
    fn every_prefix_is_partial_and_the_whole_names_the_client() {
        let v6 = [[0x20, 1, 0xd, 0xb8].as_slice(), &[0; 11], &[7], &[0; 16], &[0; 4]].concat();
        let with_tlv = [v4_body(), vec![3, 0, 4, 1, 2, 3, 4]].concat();
        for (header, client) in [
            (b"PROXY TCP4 198.51.100.1 10.0.0.1 4660 80\r\n".to_vec(), Some("198.51.100.1")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4660 80\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4_body()), Some("198.51.100.1")),
            (v2(0x21, 0x11, &with_tlv), Some("198.51.100.1")),
            (v2(0x21, 0x21, &v6), Some("2001:db8::7")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let client = client.map(|client| client.parse().expect("an address"));
            assert_eq!(read(&[&header[..], b"GET /"].concat()), Preamble::Complete(client, header.len()));
            for end in 0..header.len() {
                assert_eq!(read(&header[..end]), Preamble::Partial, "{:?}", &header[..end]);
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.1 10.0.0.1 4660 80\n".to_vec(),
            b"PROXY TCP4 198.51.100.1 10.0.0.1 4660\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.1 10.0.0.1 4660 80 1\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 10.0.0.1 4660 80\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.1 10.0.0.1 +1 80\r\n".to_vec(),
            b"PROXY TCP4 198.51.100.1 10.0.0.1 99999 80\r\n".to_vec(),
            b"PROXY TCP5 198.51.100.1 10.0.0.1 4660 80\r\n".to_vec(),
            [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
            v2(0x11, 0x11, &v4_body()),
            v2(0x22, 0x11, &v4_body()),
            v2(0x21, 0x11, &v4_body()[..8]),
            v2(0x21, 0x21, &v4_body()),
            v2(0x21, 0x11, &[0; MAX_BINARY]),
        ] {
            assert_eq!(read(&bytes), Preamble::Bad, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
