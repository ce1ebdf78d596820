//! HubSpot's signature on a webhook, version 3. Pure.
//!
//! # Meaning
//! Base 64 of HMAC-SHA256, keyed with the app's secret, over method, URI, body as it came, and timestamp. The URI is the public one,
//! with scheme, host and query, as HubSpot called it; of its escapes only those in [`DECODED`] are resolved. A request that is
//! more than five minutes from our clock, either way, is refused; exactly five minutes is taken.

use crate::model::time::Ms;
use crate::sources::SIGNED_WITHIN;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// The escapes that HubSpot resolves before it signs, in either case of their letters.
const DECODED: [(&str, char); 12] = [
    ("%3A", ':'),
    ("%2F", '/'),
    ("%3F", '?'),
    ("%40", '@'),
    ("%21", '!'),
    ("%24", '$'),
    ("%27", '\''),
    ("%28", '('),
    ("%29", ')'),
    ("%2A", '*'),
    ("%2C", ','),
    ("%3B", ';'),
];

/// Why a request is not believed. None of them says more to the caller than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// A header is missing or no such thing.
    #[error("X-HubSpot-Signature-v3 or X-HubSpot-Request-Timestamp is missing or malformed")]
    Headers,
    /// More than five minutes from our clock.
    #[error("the request's timestamp is more than five minutes from this machine's clock")]
    Time,
    /// Not signed with our secret, or not for this address, or changed on its way.
    #[error("the signature does not fit: is http.public_url the address that HubSpot calls, and the app's secret the right one?")]
    Signature,
}

/// A request as it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// `POST`
    pub method: &'a str,
    /// Scheme, host, path and query as HubSpot called them.
    pub uri: &'a str,
    /// The bytes of the body.
    pub body: &'a [u8],
    /// `X-HubSpot-Signature-v3`
    pub signature: Option<&'a str>,
    /// `X-HubSpot-Request-Timestamp`, ms since the epoch.
    pub timestamp: Option<&'a str>,
}

impl Signed<'_> {
    /// Checks it at `now`, in a time that does not depend on where the signature differs.
    ///
    /// # Errors
    /// See [`Forged`].
    pub fn check(&self, secret: &[u8], now: Ms) -> Result<(), Forged> {
        let (signature, timestamp) = self.signature.zip(self.timestamp).ok_or(Forged::Headers)?;
        let at: Ms = timestamp.parse().map_err(|_| Forged::Headers)?;
        let signature = STANDARD.decode(signature).map_err(|_| Forged::Headers)?;
        if now.abs_diff(at) > SIGNED_WITHIN {
            return Err(Forged::Time);
        }
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), &self.text(timestamp), &signature).map_err(|_| Forged::Signature)
    }

    fn text(&self, timestamp: &str) -> Vec<u8> {
        let mut text = self.method.as_bytes().to_vec();
        text.extend_from_slice(decoded(self.uri).as_bytes());
        text.extend_from_slice(self.body);
        text.extend_from_slice(timestamp.as_bytes());
        text
    }
}

/// The URI with those escapes resolved; one pass, so that what an escape stands for is not resolved again.
fn decoded(uri: &str) -> String {
    let mut text = String::with_capacity(uri.len());
    let mut rest = uri;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let escape = DECODED.iter().find(|(escape, _)| rest.get(..3).is_some_and(|three| three.eq_ignore_ascii_case(escape)));
        let length = match escape {
            Some((escape, stands_for)) => {
                text.push(*stands_for);
                escape.len()
            }
            None => {
                text.push('%');
                1
            }
        };
        rest = &rest[length..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &[u8] = b"yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy";
    const AT: Ms = 1_700_000_000_000;

    fn signed<'a>(signature: &'a str, timestamp: &'a str) -> Signed<'a> {
        let (uri, body) = ("https://www.example.com/webhook_uri", br#"{"example_field":"example_value"}"#);
        Signed { method: "POST", uri, body, signature: Some(signature), timestamp: Some(timestamp) }
    }

    /// HubSpot's example of a request for its versions 1 and 2; for version 3 it publishes the formula alone.
    const EXAMPLE: &str = "rQEKkaNUiu+1qGF//O/pw4BCzstSqO1PyUnGICmf+7o=";

    #[test]
    fn the_example_is_believed_for_exactly_five_minutes() {
        let example = signed(EXAMPLE, "1700000000000");
        for now in [AT, AT + SIGNED_WITHIN, AT - SIGNED_WITHIN] {
            assert_eq!(example.check(SECRET, now), Ok(()), "{now}");
        }
        for now in [AT + SIGNED_WITHIN + 1, AT - SIGNED_WITHIN - 1, 0, Ms::MAX] {
            assert_eq!(example.check(SECRET, now), Err(Forged::Time), "{now}");
        }
    }

    #[test]
    fn nothing_but_the_example_is_believed() {
        assert_eq!(signed(EXAMPLE, "1700000000001").check(SECRET, AT), Err(Forged::Signature));
        assert_eq!(signed(EXAMPLE, "1700000000000").check(b"other", AT), Err(Forged::Signature));
        assert_eq!(Signed { method: "GET", ..signed(EXAMPLE, "1700000000000") }.check(SECRET, AT), Err(Forged::Signature));
        assert_eq!(
            Signed { uri: "https://www.example.com/", ..signed(EXAMPLE, "1700000000000") }.check(SECRET, AT),
            Err(Forged::Signature)
        );
        assert_eq!(Signed { body: b"{}", ..signed(EXAMPLE, "1700000000000") }.check(SECRET, AT), Err(Forged::Signature));
        for (signature, timestamp) in
            [(None, Some("1700000000000")), (Some(EXAMPLE), None), (Some("="), Some("1700000000000")), (Some(EXAMPLE), Some("-1"))]
        {
            assert_eq!(Signed { signature, timestamp, ..signed("", "") }.check(SECRET, AT), Err(Forged::Headers));
        }
        // Version 2 of the same request is no signature of version 3.
        let older = "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900";
        assert!(signed(older, "1700000000000").check(SECRET, AT).is_err());
    }

    #[test]
    fn of_the_escapes_of_an_address_only_twelve_are_resolved() {
        let escaped = "https://x.com/a%3ab%2Fc%3F%40%21%24%27%28%29%2A%2C%3B?d=%20%25%2B%3D%26%C3%A9%253A%";
        assert_eq!(decoded(escaped), "https://x.com/a:b/c?@!$'()*,;?d=%20%25%2B%3D%26%C3%A9%253A%");
    }

    proptest! {
        /// What we sign ourselves is believed, and any text is borne.
        #[test]
        fn a_signature_fits_its_request_alone(uri in "\\PC{0,40}", body in prop::collection::vec(any::<u8>(), 0..40), other in "\\PC{0,40}") {
            let timestamp = AT.to_string();
            let request = Signed { method: "POST", uri: &uri, body: &body, signature: None, timestamp: Some(&timestamp) };
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), &request.text(&timestamp));
            let signature = STANDARD.encode(tag);
            let request = Signed { signature: Some(&signature), ..request };
            prop_assert_eq!(request.check(SECRET, AT), Ok(()));
            let same = decoded(&other) == decoded(&uri);
            prop_assert_eq!(Signed { uri: &other, ..request }.check(SECRET, AT).is_ok(), same);
        }
    }
}
