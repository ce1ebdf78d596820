//! Hosts as requests name them.

use crate::links::plain_domain;

/// Longest host with its port, in bytes: a name has at most 253, and may be written in a longer alphabet.
const MAX_HOST: usize = 1_024;

/// Whether a `Host` (RFC 9110, 7.2) is one that a link can have, or an address. Nothing but letters, digits, `-`, `.`, `_`, a port, an IPv6
/// address in brackets, or an international name.
pub(crate) fn valid(host: &str) -> bool {
    if host.len() > MAX_HOST {
        return false;
    }
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            return address.parse::<std::net::Ipv6Addr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(valid_port));
        }
        None => match host.split_once(':') {
            Some((_, port)) if !valid_port(port) => return false,
            Some((name, _)) => name,
            None => host,
        },
    };
    if name.is_ascii() {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    } else {
        plain_domain(name).is_some()
    }
}

/// RFC 3986 allows an empty port.
fn valid_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// Appends a valid host as links write it: no port, no final dot, lower case, ASCII.
pub(crate) fn push_plain(host: &str, out: &mut String) {
    let name = match host.rsplit_once(':') {
        // The colons of `[::1]` are no port's.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if !name.is_ascii() {
        // Browsers send international names in ASCII; this is for the few programs that don't.
        out.push_str(&plain_domain(name).unwrap_or_default());
        return;
    }
    let start = out.len();
    out.push_str(name.strip_suffix('.').unwrap_or(name));
    out[start..].make_ascii_lowercase();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_compare_without_port_case_and_dot() {
        for (host, plain) in [
            ("S.Elido.me", "s.elido.me"),
            ("s.elido.me:8080", "s.elido.me"),
            ("s.elido.me.:80", "s.elido.me"),
            ("s.elido.me:", "s.elido.me"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("Bücher.example:80", "xn--bcher-kva.example"),
            ("", ""),
        ] {
            assert!(valid(host), "{host}");
            let mut out = String::new();
            push_plain(host, &mut out);
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn bad_hosts() {
        for host in [
            "a b",
            "a,b",
            "a@b",
            "user:pw@b",
            "a/b",
            "a\\b",
            "a%2eb",
            "a?b",
            "a#b",
            "a:b",
            "a:80:80",
            "a:99999",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[evil.example]",
            "a\"b",
            "<a>",
            "a;b",
            "a\u{0}b",
            "a\tb",
            "::1",
            "ü b",
            "xn--\u{fffd}",
        ] {
            assert!(!valid(host), "{host}");
        }
        assert!(!valid(&"a".repeat(MAX_HOST + 1)));
    }
}
