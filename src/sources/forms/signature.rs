//! The signature on a form post. Pure.
//!
//! # Meaning
//! `X-Clickline-Signature` is HMAC-SHA256, in hexadecimal, over timestamp, a full stop, and the body as it is sent; the key is the one
//! that `X-Clickline-Key` names. `X-Clickline-Timestamp` is in milliseconds since the epoch and lies within five minutes of our
//! clock. A post that is sent again within that time has the same id, so that it counts once.

use crate::model::time::Ms;
use crate::sources::SIGNED_WITHIN;
use ring::hmac;

/// Why a post is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// A header is missing or no such thing.
    #[error("X-Clickline-Key, X-Clickline-Timestamp or X-Clickline-Signature is missing or malformed")]
    Headers,
    /// More than five minutes from our clock.
    #[error("X-Clickline-Timestamp is more than five minutes from the server's clock")]
    Time,
    /// No such key for this workspace, another secret, or another body.
    #[error("the key is not known for this workspace, or the signature does not fit")]
    Signature,
}

/// The signature of a body that is sent at `timestamp`, in hexadecimal.
pub fn sign(secret: &[u8], timestamp: Ms, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &text(&timestamp.to_string(), body));
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(timestamp: &str, body: &[u8]) -> Vec<u8> {
    [timestamp.as_bytes(), b".", body].concat()
}

/// Checks a post at `now`, in a time that does not depend on where the signature differs; gives back its timestamp.
///
/// # Errors
/// See [`Forged`].
pub fn check(secret: Option<&[u8]>, timestamp: Option<&str>, signature: Option<&str>, body: &[u8], now: Ms) -> Result<Ms, Forged> {
    let (timestamp, signature) = timestamp.zip(signature).ok_or(Forged::Headers)?;
    let at: Ms = timestamp.parse().map_err(|_| Forged::Headers)?;
    let signature = unhex(signature).ok_or(Forged::Headers)?;
    if now.abs_diff(at) > SIGNED_WITHIN {
        return Err(Forged::Time);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.ok_or(Forged::Signature)?);
    hmac::verify(&key, &text(timestamp, body), &signature).map_err(|_| Forged::Signature)?;
    Ok(at)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().iter().map(|digit| char::from(*digit).to_digit(16)).collect::<Option<Vec<u32>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| u8::try_from(high * 16 + low).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef";

    #[test]
    fn a_signature_is_what_openssl_says() {
        // printf '1700000000000.email=ada%%40example.com' | openssl dgst -sha256 -hmac 0123456789abcdef
        let signature = sign(SECRET, 1_700_000_000_000, b"email=ada%40example.com");
        assert_eq!(signature, "3642cc756dfa02b43813dd026c5cf6fd20039c20e75620289e6cd413e6dcc91d");
    }

    #[test]
    fn a_post_is_believed_for_exactly_five_minutes_and_with_its_own_body_alone() {
        let at: Ms = 1_700_000_000_000;
        let (signature, stamp) = (sign(SECRET, at, b"body"), at.to_string());
        let check = |secret: &'static [u8], stamp: &str, signature: &str, body: &[u8], now| {
            check(Some(secret), Some(stamp), Some(signature), body, now)
        };
        for now in [at, at + SIGNED_WITHIN, at - SIGNED_WITHIN] {
            assert_eq!(check(SECRET, &stamp, &signature, b"body", now), Ok(at));
        }
        for now in [at + SIGNED_WITHIN + 1, at - SIGNED_WITHIN - 1] {
            assert_eq!(check(SECRET, &stamp, &signature, b"body", now), Err(Forged::Time));
        }
        assert_eq!(check(SECRET, &stamp, &signature.to_uppercase(), b"body", at), Ok(at));
        assert_eq!(check(SECRET, &stamp, &signature, b"bodY", at), Err(Forged::Signature));
        assert_eq!(check(b"another", &stamp, &signature, b"body", at), Err(Forged::Signature));
        assert_eq!(check(SECRET, "1700000000001", &signature, b"body", at), Err(Forged::Signature));
        for odd in ["", "x", "0", "zz", "ä"] {
            assert!(check(SECRET, &stamp, odd, b"body", at).is_err(), "{odd}");
        }
        assert_eq!(super::check(None, Some(&stamp), Some(&signature), b"body", at), Err(Forged::Signature));
        assert_eq!(super::check(Some(SECRET), None, Some(&signature), b"body", at), Err(Forged::Headers));
    }
}
