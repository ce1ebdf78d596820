//! Keys that sign contact ids: read from a file or the environment, several at a time so that they can be changed.
//!
//! # Format
//! One key a line, `#` begins a comment: `ID SECRET [WORKSPACE…]`. The id goes into every token and is no secret. The secret is Base64 (either
//! alphabet) of at least 32 bytes, e.g. from `openssl rand -base64 32`. With workspaces behind it a key signs for these alone; without, for all.
//!
//! # Rotation
//! Put a new key first: it signs from now on, the others still hold. Take an old key's line away when its links are spent; what it signed is
//! refused from then on.
//!
//! # Secrets
//! A secret is in no error, no log line and no `Debug`.

use crate::Error;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// Shortest secret, in bytes: the length of the hash, as RFC 2104 advises.
const MIN_SECRET: usize = 32;
/// Longest key id, in bytes: it is part of every link.
const MAX_ID: usize = 32;

/// One key.
#[derive(Clone)]
pub struct Key {
    id: String,
    secret: hmac::Key,
    /// None: all workspaces.
    workspaces: Option<BTreeSet<String>>,
}

impl Key {
    /// What tokens name it by.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn secret(&self) -> &hmac::Key {
        &self.secret
    }

    pub(super) fn holds_for(&self, workspace: &str) -> bool {
        self.workspaces.as_ref().is_none_or(|workspaces| workspaces.contains(workspace))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("workspaces", &self.workspaces).finish_non_exhaustive()
    }
}

/// All keys that hold, the one that signs first.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads keys from a file.
    ///
    /// # Errors
    /// The file can't be read, or a line is no key; the error names the line and not what it holds.
    pub fn read(path: &Path) -> Result<Keys, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::Config(format!("cannot read the keys in {} ({error}); check the path and its permissions", path.display()))
        })?;
        Keys::parse(&text).map_err(|message| Error::Config(format!("{}, {message}", path.display())))
    }

    /// Reads keys from text of the file's format; a `;` ends a line as well, for the environment.
    ///
    /// # Errors
    /// What is wrong with which line, and what to do.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(text.split(['\n', ';'])) {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(id) = words.next() else { continue };
            let wrong = |what: &str| Err(format!("line {number}: {what}"));
            if id.len() > MAX_ID || !id.bytes().all(is_plain) {
                return wrong("the key's id is not 1 to 32 letters, digits, `-` and `_`; each line is `ID SECRET [WORKSPACE…]`");
            }
            let Some(secret) = words.next() else {
                return wrong("there is no secret behind the id; each line is `ID SECRET [WORKSPACE…]`");
            };
            let secret = secret.trim_end_matches('=').replace('+', "-").replace('/', "_");
            let Ok(secret) = URL_SAFE_NO_PAD.decode(secret) else {
                return wrong("the secret is not Base64; make one with `openssl rand -base64 32`");
            };
            if secret.len() < MIN_SECRET {
                return wrong("the secret is shorter than 32 bytes; make one with `openssl rand -base64 32`");
            }
            if keys.iter().any(|key| key.id == id) {
                return wrong("the key's id was used before; give each key its own");
            }
            let workspaces: BTreeSet<String> = words.map(str::to_owned).collect();
            keys.push(Key {
                id: id.to_owned(),
                secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
                workspaces: (!workspaces.is_empty()).then_some(workspaces),
            });
        }
        if keys.is_empty() { Err("no key in it; each line is `ID SECRET [WORKSPACE…]`".to_owned()) } else { Ok(Keys(keys)) }
    }

    /// The key that signs for a workspace: the first that holds for it.
    pub fn signing(&self, workspace: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.holds_for(workspace))
    }

    /// The key of this id, if it holds for the workspace.
    pub(super) fn named(&self, id: &str, workspace: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id && key.holds_for(workspace))
    }
}

/// Bytes of key ids and contact ids in a token: they need no encoding in a URL and are no separator.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn lines_and_workspaces() {
        let keys = Keys::parse(&format!("# ours\n\nnew {SECRET}  # from June on\nold {SECRET} acme other\n")).expect("keys");
        assert_eq!(keys.signing("acme").map(Key::id), Some("new"));
        assert!(keys.named("old", "acme").is_some() && keys.named("old", "third").is_none() && keys.named("none", "acme").is_none());
        let keys = Keys::parse(&format!("a {SECRET} acme; b {SECRET} other")).expect("keys");
        assert_eq!(keys.signing("other").map(Key::id), Some("b"));
        assert!(keys.signing("third").is_none());
    }

    #[test]
    fn what_is_refused_names_no_secret() {
        for (text, part) in [
            ("", "no key"),
            ("# nothing", "no key"),
            ("k", "line 1: there is no secret"),
            ("\nk hunter2hunter2!", "line 2: the secret is not Base64"),
            ("k aHVudGVyMg", "shorter than 32"),
            ("k.1 aHVudGVyMg", "letters, digits"),
            ("k AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8;k AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "used before"),
        ] {
            let error = Keys::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("hunter2") && !error.contains("aHVudGVy") && !error.contains("AAEC"), "{error}");
        }
        let shown = format!("{:?}", Keys::parse(&format!("k {SECRET} acme")).expect("keys"));
        assert!(shown.contains("acme") && !shown.contains("AAEC") && !shown.contains("0, 1, 2"), "{shown}");
    }
}
