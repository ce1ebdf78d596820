//! Signatures of requests to an app, versions 1 to 3.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use std::fmt::Write;

/// `base64(HMAC-SHA256(secret, method + URI + body + timestamp))`, with the URI as it is called, and the timestamp in
/// milliseconds.
pub(crate) fn v3(secret: &str, method: &str, uri: &str, body: &[u8], timestamp_ms: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let timestamp = timestamp_ms.to_string();
    let text = [method.as_bytes(), decoded(uri).as_bytes(), body, timestamp.as_bytes()].concat();
    STANDARD.encode(hmac::sign(&key, &text))
}

/// `hex(sha256(secret + body))`
pub(crate) fn v1(secret: &str, body: &[u8]) -> String {
    let hash = digest(&SHA256, &[secret.as_bytes(), body].concat());
    hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The URI as it is signed: these escapes, and no others, are decoded.
fn decoded(uri: &str) -> String {
    const ESCAPES: [(&str, &str); 12] = [
        ("%3A", ":"),
        ("%2F", "/"),
        ("%3F", "?"),
        ("%40", "@"),
        ("%21", "!"),
        ("%24", "$"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2C", ","),
        ("%3B", ";"),
    ];
    ESCAPES
        .iter()
        .fold(uri.to_owned(), |uri, (escape, character)| uri.replace(escape, character).replace(&escape.to_lowercase(), character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_agree_with_computed_ones() {
        let (secret, body) = ("yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy", br#"{"example_field":"example_value"}"#);
        let v3 = v3(secret, "POST", "https://www.example.com/webhook_uri", body, 1_700_000_000_000);
        assert_eq!(v3, "rQEKkaNUiu+1qGF//O/pw4BCzstSqO1PyUnGICmf+7o=");
        assert_eq!(v1("s", b"b").len(), 64);
        assert_eq!(decoded("https://x/a%2fb%3A%20c"), "https://x/a/b:%20c");
    }
}
