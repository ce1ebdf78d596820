//! What may be written down of a request: tokens, codes and secrets leave only a fingerprint.
//!
//! A fingerprint is the start of a SHA-256: the same secret has the same one everywhere in the log, so a test can tell which
//! token a call carried without the log holding it. E-mail addresses and the like stay: they are what the sandbox is for.

use ring::digest::{SHA256, digest};
use serde_json::Value;
use std::fmt::Write;
use url::form_urlencoded;

/// Fields of forms, query strings and token answers that hold a secret.
const SECRETS: &[&str] = &[
    "access_token",
    "client_assertion",
    "client_secret",
    "code",
    "code_verifier",
    "hapikey",
    "id_token",
    "refresh_token",
    "signature",
    "token",
];

/// `sha256:` and 16 hexadecimal digits.
pub(crate) fn fingerprint(secret: &str) -> String {
    let hash = digest(&SHA256, secret.as_bytes());
    let mut text = "sha256:".to_owned();
    for byte in &hash.as_ref()[..8] {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A path without the token that two old calls carry in it.
pub(super) fn path(path: &str) -> String {
    for prefix in ["/oauth/v1/access-tokens/", "/oauth/v1/refresh-tokens/"] {
        if path.starts_with(prefix) {
            return format!("{prefix}…");
        }
    }
    path.to_owned()
}

/// A query string or a form body.
pub(super) fn form(text: &str) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        if SECRETS.contains(&name.as_ref()) {
            out.append_pair(&name, &fingerprint(&value));
        } else {
            out.append_pair(&name, &value);
        }
    }
    out.finish()
}

/// A body as it goes into the log. Only the OAuth calls carry secrets in their bodies; all others are kept as they are.
pub(super) fn body(path: &str, content_type: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !path.starts_with("/oauth/") {
        return text.into_owned();
    }
    if content_type.starts_with("application/x-www-form-urlencoded") {
        return form(&text);
    }
    match serde_json::from_slice(bytes) {
        Ok(mut value) => {
            json(&mut value);
            value.to_string()
        }
        Err(_) => text.into_owned(),
    }
}

fn json(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if SECRETS.contains(&name.as_str()) => *text = fingerprint(text),
                    other => json(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(json),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_the_same_fingerprint_wherever_they_stand() {
        let print = fingerprint("na1-x");
        assert_eq!(print.len(), 23);
        assert_eq!(
            form("grant_type=refresh_token&refresh_token=na1-x"),
            format!("grant_type=refresh_token&refresh_token={}", print.replace(':', "%3A"))
        );
        let answer = body("/oauth/v3/token", "application/json", br#"{"refresh_token":"na1-x","expires_in":1800}"#);
        assert_eq!(answer, format!(r#"{{"expires_in":1800,"refresh_token":"{print}"}}"#));
        assert_eq!(body("/crm/v3/objects/contacts", "application/json", b"{\"code\":\"x\"}"), "{\"code\":\"x\"}");
        assert_eq!(path("/oauth/v1/access-tokens/CPz1"), "/oauth/v1/access-tokens/…");
    }
}
