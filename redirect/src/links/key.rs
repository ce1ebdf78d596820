//! The key of a link, from its address as people write it.
//!
//! # Meaning
//! What the server looks an address up by: the domain in its plain form, the slug decoded. With or without a scheme, percent-encoded or not, with a slash
//! behind it or none: all ways to write one address have one key.
//!
//! # Ties and edges
//! A port is refused. The server doesn't look at it, so no key has one, but who writes it takes it for a part of the link. What no link can be is
//! refused, too: a key that is never looked up helps nobody.

use super::check::{check_slug, plain_domain};
use percent_encoding::percent_decode_str;

/// The key (`domain/slug`) of the link that an address such as `https://Bücher.example/h%C3%A4user` leads to.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn link_key(address: &str) -> Result<String, String> {
    let wrong = |what: &str| format!("{address:?} is no link: {what}; write domain/slug, e.g. s.example.com/abc123");
    let bare = without_scheme(address.trim());
    let (host, path) = bare.split_once('/').ok_or_else(|| wrong("there is no slash in it"))?;
    if path.contains(['?', '#']) {
        return Err(wrong("it has a query or a fragment"));
    }
    let domain = match host.rsplit_once(':') {
        Some((domain, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !domain.contains(':') => {
            return Err(wrong(&format!("it has a port, which links don't have; leave `:{port}` out and name the domain {domain:?} alone")));
        }
        _ => plain_domain(host).ok_or_else(|| wrong(&format!("{host:?} is not a host name")))?,
    };
    // As a request's path is read: the slash goes first, then what is encoded is decoded.
    let slug = path.strip_suffix('/').unwrap_or(path);
    let slug = percent_decode_str(slug).decode_utf8().map_err(|_| wrong("what is encoded in its slug is not UTF-8"))?;
    check_slug(&slug).map_err(|message| wrong(&message))?;
    Ok(format!("{domain}/{slug}"))
}

fn without_scheme(address: &str) -> &str {
    let scheme = ["https://", "http://"]
        .into_iter()
        .find(|scheme| address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    scheme.map_or(address, |scheme| &address[scheme.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_write_an_address_have_one_key() {
        for (address, key) in [
            ("S.Elido.me./Abc", "s.elido.me/Abc"),
            ("HTTPS://d.example/a/b/", "d.example/a/b"),
            ("Bücher.example/Häuser", "xn--bcher-kva.example/Häuser"),
            ("https://xn--bcher-kva.example/H%C3%A4user/", "xn--bcher-kva.example/Häuser"),
            (" http://例え.テスト/%61 ", "xn--r8jz45g.xn--zckzah/a"),
            ("192.0.2.1/a", "192.0.2.1/a"),
        ] {
            assert_eq!(link_key(address).as_deref(), Ok(key), "{address}");
        }
    }

    #[test]
    fn what_no_link_can_be_is_refused() {
        for (address, part) in [
            ("", "no slash"),
            ("d.example", "no slash"),
            ("d.example/", "`slug` is empty"),
            ("/a", "not a host name"),
            ("d.example/a?b", "query"),
            ("d.example/a#b", "query or a fragment"),
            ("d.example/a b", "holds a space"),
            ("d.example/a%20b", "holds a space"),
            ("d.example/a%2", "holds a space or one of"),
            ("d.example/%ff", "not UTF-8"),
            ("d.example/a//", "empty, `.` or `..` part"),
            ("d.example/a/%2e%2e/b", "empty, `.` or `..` part"),
            ("d.example/healthz", "choose another"),
            ("d.example:8080/a", "leave `:8080` out"),
            ("https://d.example:/a", "not a host name"),
            ("[::1]:80/a", "not a host name"),
            ("ada@d.example/a", "not a host name"),
            ("ftp://d.example/a", "not a host name"),
        ] {
            let message = link_key(address).expect_err(address);
            assert!(message.contains(part) && message.contains("write domain/slug"), "{address}: {message}");
        }
    }
}
