//! Whose request it is, when proxies stand between.
//!
//! # Meaning
//! The address that a connection comes from is the client's, unless it is a trusted proxy's. Then the client is the last address in the proxy's
//! header that is no trusted proxy's: every proxy adds what it saw at the end, and what stands before the first untrusted address is
//! only that one's word.
//!
//! # Ties and edges
//! One header is believed, the one that the proxies are known to write: a proxy passes the other on as the client sent it. A part that is no
//! address (`unknown`, an obfuscated name) ends the search; the proxy that wrote it is as near as one gets. When all addresses are
//! trusted, the first is the client.

use crate::ClientHeader;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// Whom to believe about a client's address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    pub trusted: Vec<IpNet>,
    pub header: ClientHeader,
}

impl Proxies {
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Whether what `peer` says of its visitors, such as their country, is believed. Where nobody is named, whoever connects is.
    pub(crate) fn believes(&self, peer: IpAddr) -> bool {
        self.trusted.is_empty() || self.trusts(peer)
    }

    /// The client of a request from `peer` with these headers, in their order.
    pub(crate) fn client<'a>(&self, peer: IpAddr, headers: impl DoubleEndedIterator<Item = (&'a str, &'a [u8])>) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let name = match self.header {
            ClientHeader::XForwardedFor => "x-forwarded-for",
            ClientHeader::Forwarded => "forwarded",
        };
        let mut client = peer;
        for (_, value) in headers.filter(|(other, _)| other.eq_ignore_ascii_case(name)).rev() {
            let Ok(value) = std::str::from_utf8(value) else { return client };
            let known = match self.header {
                ClientHeader::XForwardedFor => self.follow(client, value.rsplit(',').map(address)),
                ClientHeader::Forwarded => self.follow(client, elements(value).into_iter().rev().map(forwarded_for)),
            };
            match known {
                Ok(next) => client = next,
                Err(last) => return last,
            }
        }
        client
    }

    /// Goes from proxy to proxy; `Err` is where it ends for good.
    fn follow(&self, mut client: IpAddr, before: impl Iterator<Item = Option<IpAddr>>) -> Result<IpAddr, IpAddr> {
        for address in before {
            if !self.trusts(client) {
                return Err(client);
            }
            client = address.ok_or(client)?;
        }
        Ok(client)
    }
}

/// An address, perhaps with a port, IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

/// The elements of a `Forwarded` header (RFC 7239): split at commas, but not at those in quotes, which may be the client's.
fn elements(value: &str) -> Vec<&str> {
    split(value, b',')
}

fn split(value: &str, at: u8) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte if byte == at && !quoted => {
                parts.push(&value[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&value[start..]);
    parts
}

/// The address in the `for` of an element.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let value = split(element, b';').into_iter().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    })?;
    let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    address(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ClientHeader) -> Proxies {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().expect("a network"));
        Proxies { trusted: trusted.into(), header }
    }

    fn client(header: ClientHeader, peer: &str, headers: &[(&str, &str)]) -> String {
        let peer = peer.parse().expect("an address");
        proxies(header).client(peer, headers.iter().map(|(name, value)| (*name, value.as_bytes()))).to_string()
    }

    #[test]
    fn the_last_untrusted_address_is_the_clients() {
        for (peer, value, expected) in [
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.1:4711 ,10.9.9.9", "198.51.100.1"),
            ("10.0.0.1", "[2001:db8::7]:4711, 2001:db8:1::1", "2001:db8::7"),
            ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "1.1.1.1, unknown", "10.0.0.1"),
            ("10.0.0.1", "1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "1.1.1.1\u{fffd}", "10.0.0.1"),
        ] {
            assert_eq!(client(ClientHeader::XForwardedFor, peer, &[("X-Forwarded-For", value)]), expected, "{peer}: {value}");
        }
        let twice = [("x-forwarded-for", "1.1.1.1"), ("Forwarded", "for=9.9.9.9"), ("X-Forwarded-For", "198.51.100.1, 10.0.0.2")];
        assert_eq!(client(ClientHeader::XForwardedFor, "10.0.0.1", &twice), "198.51.100.1", "later lines come later");
        assert_eq!(client(ClientHeader::XForwardedFor, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn who_is_believed() {
        let (near, far) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([203, 0, 113, 9]));
        let named = proxies(ClientHeader::XForwardedFor);
        assert!(named.believes(near) && !named.believes(far));
        assert!(Proxies::default().believes(far), "nobody is named");
    }

    #[test]
    fn the_same_in_forwarded() {
        for (value, expected) in [
            ("for=198.51.100.1", "198.51.100.1"),
            ("For=\"[2001:db8::7]:4711\";proto=https;by=10.0.0.1", "2001:db8::7"),
            ("for=1.1.1.1, host=x; for=198.51.100.1, for=10.0.0.2", "198.51.100.1"),
            ("for=198.51.100.1;host=\"x, for=9.9.9.9\"", "198.51.100.1"),
            ("for=198.51.100.1;host=\"a\\\", for=9.9.9.9\"", "198.51.100.1"),
            ("for=_hidden", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(client(ClientHeader::Forwarded, "10.0.0.1", &[("forwarded", value)]), expected, "{value}");
        }
        assert_eq!(client(ClientHeader::Forwarded, "10.0.0.1", &[("x-forwarded-for", "9.9.9.9")]), "10.0.0.1");
    }
}
