//! A contact id that is signed: what stands in a link's `eid`.
//!
//! # Form
//! ```text
//! s1.2026a.l1767225600.801.3q2-7wABAgMEBQYHCAkKCw
//! │  │     ││          │   └ first 16 bytes of HMAC-SHA256, Base64 for URLs
//! │  │     ││          └ contact id: letters, digits, - and _
//! │  │     │└ seconds since the epoch from which on it no longer holds; empty: it always does
//! │  │     └ l: one link, w: every link of the workspace
//! │  └ key id
//! └ version
//! ```
//! All of it may stand in a query as it is.
//!
//! # Meaning
//! The signature covers the text before it, the workspace, and for `l` the link (`domain/slug`). So a token moved to another link, workspace,
//! contact or time is wrong. The workspace and link are not written in the token: they are those of the link that was asked for. Each part of
//! what is signed ends where no other can begin: neither workspaces nor links hold line breaks.
//!
//! # Ties and edges
//! There is one spelling: the signature is compared as text, in constant time. Sixteen bytes are half the hash, the least that RFC 2104 allows;
//! guessing one takes 2¹²⁷ clicks. A token that a single byte was changed in still [`resembles`] one, so it never passes for a plain id. What a
//! token can't stop: that it is used by whom it was forwarded to; an expiry bounds that.

use super::keys::{Key, Keys, is_plain};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq;

/// Start of every token.
const VERSION: &str = "s1.";
/// Length of the signature in Base64: 16 bytes.
const MAC: usize = 22;
/// Longest contact id in a token, in bytes; HubSpot's have some twelve digits.
const MAX_CONTACT: usize = 64;

/// Where a token holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// On one link, by its key (see [`link_key`](crate::link_key)): `domain/slug`, the domain in its plain form, the slug decoded.
    Link(&'a str),
    /// On every link of the workspace.
    Workspace,
}

/// What a token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// It holds; this is the contact.
    Holds(&'a str),
    /// Another link's, another workspace's, changed, or not a token at all.
    Wrong,
    /// It held until it expired.
    Expired,
    /// No key of this id holds for the workspace.
    UnknownKey,
}

/// Signs a contact id. `expires` is in seconds since the epoch.
///
/// # Errors
/// The contact id is not 1 to 64 letters, digits, `-` and `_`.
pub fn sign(key: &Key, workspace: &str, scope: Scope<'_>, contact: &str, expires: Option<u64>) -> Result<String, String> {
    if contact.is_empty() || contact.len() > MAX_CONTACT || !contact.bytes().all(is_plain) {
        return Err(format!("contact id {contact:?} is not 1 to {MAX_CONTACT} letters, digits, `-` and `_`"));
    }
    let letter = match scope {
        Scope::Link(_) => 'l',
        Scope::Workspace => 'w',
    };
    let until = expires.map(|at| at.to_string()).unwrap_or_default();
    let text = format!("{VERSION}{}.{letter}{until}.{contact}", key.id());
    let mac = mac(key, workspace, scope, &text);
    Ok(format!("{text}.{mac}"))
}

fn mac(key: &Key, workspace: &str, scope: Scope<'_>, text: &str) -> String {
    let link = match scope {
        Scope::Link(link) => link,
        Scope::Workspace => "",
    };
    let mut context = hmac::Context::with_key(key.secret());
    for part in ["clickline eid", "\n", workspace, "\n", link, "\n", text] {
        context.update(part.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(&context.sign().as_ref()[..16])
}

/// Whether a value is a token, or was one before some byte of it was changed: it begins as one or ends as one.
pub(crate) fn resembles(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = bytes.len() > MAC && bytes[bytes.len() - MAC - 1] == b'.' && bytes[bytes.len() - MAC..].iter().all(|byte| is_plain(*byte));
    value.starts_with(VERSION) || ends
}

/// Judges a token on a link of a workspace. `now` is in milliseconds since the epoch.
pub(crate) fn verify<'a>(keys: &Keys, workspace: &str, link: &str, token: &'a str, now: u64) -> Verdict<'a> {
    let Some((text, sent)) = token.rsplit_once('.') else { return Verdict::Wrong };
    let Some(rest) = text.strip_prefix(VERSION) else { return Verdict::Wrong };
    let mut parts = rest.split('.');
    let (Some(id), Some(term), Some(contact), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Verdict::Wrong;
    };
    let (scope, until) = match (term.strip_prefix('l'), term.strip_prefix('w')) {
        (Some(until), _) => (Scope::Link(link), until),
        (_, Some(until)) => (Scope::Workspace, until),
        _ => return Verdict::Wrong,
    };
    let Some(key) = keys.named(id, workspace) else { return Verdict::UnknownKey };
    if !bool::from(mac(key, workspace, scope, text).as_bytes().ct_eq(sent.as_bytes())) {
        return Verdict::Wrong;
    }
    // From here on it is what we signed; the checks below can't fail unless a key was used by something else.
    if contact.is_empty() || contact.len() > MAX_CONTACT || !contact.bytes().all(is_plain) {
        return Verdict::Wrong;
    }
    if until.is_empty() {
        return Verdict::Holds(contact);
    }
    match until.parse::<u64>() {
        Ok(until) if now < until.saturating_mul(1_000) => Verdict::Holds(contact),
        Ok(_) => Verdict::Expired,
        Err(_) => Verdict::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const OTHER: &str = "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    /// Milliseconds.
    const NOW: u64 = 1_763_800_000_123;

    fn keys() -> Keys {
        Keys::parse(&format!("new {SECRET}; old {OTHER}; acmes {SECRET} acme")).expect("keys")
    }

    fn token(scope: Scope<'_>, expires: Option<u64>) -> String {
        sign(keys().signing("acme").expect("a key"), "acme", scope, "801", expires).expect("a token")
    }

    #[test]
    fn one_that_everybody_can_check() {
        // python3: hmac.new(bytes(range(32)), b"clickline eid\nacme\ns.elido.me/abc123\ns1.new.l1767225600.801", "sha256").digest()[:16]
        let token = token(Scope::Link("s.elido.me/abc123"), Some(1_767_225_600));
        assert_eq!(token, "s1.new.l1767225600.801.7RW7RavSj3ZaxqhF3wnNvQ");
        assert_eq!(verify(&keys(), "acme", "s.elido.me/abc123", &token, NOW), Verdict::Holds("801"));
    }

    #[test]
    fn where_and_how_long_it_holds() {
        let one = token(Scope::Link("s.elido.me/abc123"), None);
        let all = token(Scope::Workspace, Some(NOW / 1_000 + 1));
        let keys = keys();
        assert_eq!(verify(&keys, "acme", "s.elido.me/abc123", &one, u64::MAX), Verdict::Holds("801"));
        assert_eq!(verify(&keys, "acme", "s.elido.me/abc124", &one, NOW), Verdict::Wrong);
        assert_eq!(verify(&keys, "other", "s.elido.me/abc123", &one, NOW), Verdict::Wrong);
        assert_eq!(verify(&keys, "acme", "any/link", &all, NOW), Verdict::Holds("801"));
        assert_eq!(verify(&keys, "other", "any/link", &all, NOW), Verdict::Wrong);
        assert_eq!(verify(&keys, "acme", "any/link", &all, (NOW / 1_000 + 1) * 1_000), Verdict::Expired);
        assert_eq!(verify(&Keys::parse(&format!("older {SECRET}")).expect("keys"), "acme", "any/link", &all, NOW), Verdict::UnknownKey);
        // A key of one workspace is none in another, whoever signed with it.
        let narrow = keys.named("acmes", "acme").expect("a key");
        let stolen = sign(narrow, "other", Scope::Workspace, "801", None).expect("a token");
        assert_eq!(verify(&keys, "other", "any/link", &stolen, NOW), Verdict::UnknownKey);
    }

    #[test]
    fn keys_change_without_a_break() {
        let before = sign(&keys().named("old", "acme").cloned().expect("a key"), "acme", Scope::Workspace, "7", None).expect("a token");
        assert_eq!(verify(&keys(), "acme", "l", &before, NOW), Verdict::Holds("7"));
        let after = Keys::parse(&format!("new {SECRET}")).expect("keys");
        assert_eq!(verify(&after, "acme", "l", &before, NOW), Verdict::UnknownKey);
    }

    #[test]
    fn contact_ids_that_would_not_fit() {
        let keys = keys();
        let key = keys.signing("acme").expect("a key");
        for contact in ["", "a.b", "a b", "é", &"7".repeat(65)] {
            assert!(sign(key, "acme", Scope::Workspace, contact, None).is_err(), "{contact}");
        }
    }

    /// Every change of one byte, every byte left out, every byte put in, every cut.
    #[test]
    fn no_single_change_holds() {
        for token in [token(Scope::Link("d/s"), Some(NOW / 1_000 + 60)), token(Scope::Workspace, None)] {
            let keys = keys();
            let mut tried = 0;
            let mut refused = |bytes: &[u8]| {
                let Ok(text) = std::str::from_utf8(bytes) else { return };
                if text == token {
                    return;
                }
                tried += 1;
                assert!(!matches!(verify(&keys, "acme", "d/s", text, NOW), Verdict::Holds(_)), "{text}");
            };
            let bytes = token.as_bytes();
            for at in 0..bytes.len() {
                for byte in 0..=127 {
                    let mut changed = bytes.to_vec();
                    changed[at] = byte;
                    assert!(resembles(std::str::from_utf8(&changed).expect("ASCII")));
                    refused(&changed);
                    let mut longer = bytes.to_vec();
                    longer.insert(at, byte);
                    refused(&longer);
                }
                let mut shorter = bytes.to_vec();
                shorter.remove(at);
                assert!(resembles(std::str::from_utf8(&shorter).expect("ASCII")));
                refused(&shorter);
                refused(&bytes[..at]);
                refused(&bytes[at..]);
            }
            assert!(tried > 200 * bytes.len());
        }
    }

    proptest! {
        #[test]
        fn a_token_holds_where_it_was_made_for_and_nowhere_else(
            workspace in "[a-c/.]{1,3}", link in "[a-c/.]{1,3}", other_workspace in "[a-c/.]{1,3}", other_link in "[a-c/.]{1,3}",
            contact in "[0-9a-zA-Z_-]{1,64}", whole in any::<bool>(), until in prop::option::of(0_u64..4_000_000_000), now in 0_u64..4_000_000_000_000,
        ) {
            let keys = keys();
            let scope = if whole { Scope::Workspace } else { Scope::Link(&link) };
            let token = sign(keys.signing(&workspace).expect("a key"), &workspace, scope, &contact, until).expect("a token");
            prop_assert!(resembles(&token));
            // As it is in a query: nothing in it needs encoding.
            prop_assert_eq!(url::form_urlencoded::byte_serialize(token.as_bytes()).collect::<String>(), token.clone());
            let in_time = until.is_none_or(|until| now < until * 1_000);
            let expected = if in_time { Verdict::Holds(&contact) } else { Verdict::Expired };
            prop_assert_eq!(verify(&keys, &workspace, &link, &token, now), expected);
            let elsewhere = verify(&keys, &other_workspace, &other_link, &token, now);
            let fits = other_workspace == workspace && (whole || other_link == link);
            prop_assert_eq!(elsewhere, if fits { expected } else { Verdict::Wrong });
        }

        #[test]
        fn whatever_is_sent_is_judged(token in "(s1[.])?[a-z0-9.]{0,60}|\\PC{0,60}") {
            prop_assert!(!matches!(verify(&keys(), "acme", "d/s", &token, NOW), Verdict::Holds(_)));
        }
    }
}
