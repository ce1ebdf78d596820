//! Seals tokens at rest: AES-256-GCM, with keys from the environment that can be changed.
//!
//! # Meaning
//! A row's tokens are encrypted under the first of the keys; any of them opens. What is authenticated with them is the whole rest of the row:
//! environment, portal, `token_version` and facts. So a row that is copied to another portal or environment, whose version is set
//! back, or that is edited by hand does not open, and what does not open is never sent to HubSpot.
//!
//! # Not
//! A whole row that is put back as it once was does open: [`super::Witness`] knows better. Whoever can read the keys can read the
//! tokens: the seal protects copies of the database, not the machine.
//!
//! # Form
//! `1`, length of the key id, key id, 12 bytes of nonce, ciphertext with its 16-byte tag; or `0` and plain JSON, where sealing was
//! switched off. Nonces are random: a connection is written a few times an hour, and 2³² writes are far away.

use super::row::{Facts, Row, Secrets};
use super::store::Stored;
use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};

const CLEAR: u8 = 0;
const SEALED: u8 = 1;
/// Longest key id.
const ID_MAX: usize = 64;

/// How tokens are sealed.
#[derive(Debug)]
pub enum Seal {
    /// Under the first key; all open.
    Keys(Vec<Key>),
    /// Not at all, because the configuration says so.
    Off,
}

/// A key with its name.
#[derive(Debug)]
pub struct Key {
    id: String,
    key: LessSafeKey,
}

/// Why a row does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Its key is none of ours.
    #[error("it is sealed with the key `{0}`, which is not among the keys given: add that key, or log in again")]
    UnknownKey(String),
    /// Sealed, and we have no keys.
    #[error("it is sealed with the key `{0}`, and sealing is off: give the key, or log in again")]
    NoKeys(String),
    /// The seal is broken.
    #[error("its seal is broken: it was edited, or copied from another portal, environment or version; log in again")]
    Broken,
    /// Not even the form is right.
    #[error("it can't be read; log in again")]
    Malformed,
}

impl Key {
    /// A key of 32 bytes.
    fn new(id: &str, bytes: &[u8]) -> anyhow::Result<Key> {
        ensure!(!id.is_empty() && id.len() <= ID_MAX, "a key's id has 1 to {ID_MAX} characters");
        ensure!(bytes.len() == 32, "the key `{id}` has {} bytes instead of 32", bytes.len());
        let key = UnboundKey::new(&AES_256_GCM, bytes).ok().context("AES-256-GCM takes 32 bytes")?;
        Ok(Key { id: id.to_owned(), key: LessSafeKey::new(key) })
    }
}

/// A new key in the form that [`Seal::parse`] reads: `id:base64`.
pub fn new_key(id: &str) -> anyhow::Result<String> {
    Ok(format!("{id}:{}", STANDARD.encode(random::<32>()?)))
}

/// Random bytes from the system.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("the system gives no random bytes")?;
    Ok(bytes)
}

impl Seal {
    /// Reads `id:base64` keys, separated by commas or white space; the first one seals.
    ///
    /// # Errors
    /// What is wrong, without the keys themselves.
    pub fn parse(text: &str) -> anyhow::Result<Seal> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, part) in text.split([',', ' ', '\n', '\t', '\r']).filter(|part| !part.is_empty()).enumerate() {
            let number = number + 1;
            let Some((id, code)) = part.split_once(':') else {
                bail!("key {number} is not `id:base64`; `clickline hubspot key` makes one")
            };
            let bytes = STANDARD.decode(code).ok().with_context(|| format!("key {number} (`{id}`) is no base64"))?;
            ensure!(keys.iter().all(|key| key.id != id), "two keys have the id `{id}`");
            keys.push(Key::new(id, &bytes)?);
        }
        ensure!(!keys.is_empty(), "there is no key; `clickline hubspot key` makes one");
        Ok(Seal::Keys(keys))
    }

    /// Seals a row for its place.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn close(&self, environment: &str, row: &Row) -> anyhow::Result<Stored> {
        let Row { portal, token_version, facts, secrets } = row;
        let facts = serde_json::to_string(facts)?;
        let mut text = serde_json::to_vec(secrets)?;
        let mut stored = Stored {
            environment: environment.to_owned(),
            portal: portal.clone(),
            token_version: *token_version,
            facts,
            sealed: Vec::new(),
        };
        stored.sealed = match self {
            Seal::Off => [&[CLEAR], text.as_slice()].concat(),
            Seal::Keys(keys) => {
                let Key { id, key } = keys.first().context("there is no key")?;
                let nonce = random::<NONCE_LEN>()?;
                let place = Aad::from(place(&stored));
                key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), place, &mut text)
                    .ok()
                    .context("a row is too long to seal")?;
                let length = u8::try_from(id.len()).context("a key's id is too long")?;
                [&[SEALED, length], id.as_bytes(), &nonce, &text].concat()
            }
        };
        Ok(stored)
    }

    /// Opens a row.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(&self, stored: &Stored) -> Result<Row, SealError> {
        let text = match (stored.sealed.split_first(), self) {
            (Some((&CLEAR, text)), _) => text.to_vec(),
            (Some((&SEALED, _)), seal) => {
                let (id, nonce, text) = parts(&stored.sealed).ok_or(SealError::Malformed)?;
                let Seal::Keys(keys) = seal else { return Err(SealError::NoKeys(id.to_owned())) };
                let found = keys.iter().find(|key| key.id == id).ok_or_else(|| SealError::UnknownKey(id.to_owned()))?;
                let mut text = text.to_vec();
                let nonce = Nonce::assume_unique_for_key(nonce);
                found.key.open_in_place(nonce, Aad::from(place(stored)), &mut text).map_err(|_| SealError::Broken)?.to_vec()
            }
            _ => return Err(SealError::Malformed),
        };
        let secrets: Secrets = serde_json::from_slice(&text).map_err(|_| SealError::Malformed)?;
        let facts: Facts = serde_json::from_str(&stored.facts).map_err(|_| SealError::Malformed)?;
        Ok(Row { portal: stored.portal.clone(), token_version: stored.token_version, facts, secrets })
    }

    /// Whether a row is sealed as a new one would be; if not, it is written again at the next start, and an old key can go.
    pub fn current(&self, stored: &Stored) -> bool {
        match self {
            Seal::Off => stored.sealed.first() == Some(&CLEAR),
            Seal::Keys(keys) => parts(&stored.sealed).is_some_and(|(id, ..)| keys.first().is_some_and(|key| key.id == id)),
        }
    }
}

/// Key id, nonce and ciphertext of a sealed value.
fn parts(sealed: &[u8]) -> Option<(&str, [u8; NONCE_LEN], &[u8])> {
    let (&SEALED, rest) = sealed.split_first()? else { return None };
    let (&length, rest) = rest.split_first()?;
    let (id, rest) = rest.split_at_checked(usize::from(length))?;
    let (nonce, text) = rest.split_first_chunk()?;
    Some((std::str::from_utf8(id).ok()?, *nonce, text))
}

/// Where a row belongs and what it says, each part with its length before it: no two rows have the same.
fn place(stored: &Stored) -> Vec<u8> {
    let Stored { environment, portal, token_version, facts, sealed: _ } = stored;
    let mut place = Vec::new();
    for part in ["clickline connection 1", environment, portal, &token_version.to_string(), facts] {
        place.extend_from_slice(&(part.len() as u64).to_be_bytes());
        place.extend_from_slice(part.as_bytes());
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let secrets = Secrets { access_token: Some("canary-access".into()), refresh_token: "canary-refresh".into() };
        let facts = Facts { client_id: "app".into(), workspace: Some("acme".into()), expires_at: 5, ..Facts::default() };
        Row { portal: "4242".into(), token_version: 7, facts, secrets }
    }

    fn seal(ids: &[&str]) -> Seal {
        let keys: Vec<String> = ids.iter().map(|id| format!("{id}:{}", STANDARD.encode([id.len() as u8; 32]))).collect();
        Seal::parse(&keys.join(",")).expect("keys")
    }

    #[test]
    fn a_row_opens_where_it_belongs_and_nowhere_else() {
        let seal = seal(&["a"]);
        let stored = seal.close("production", &row()).expect("seals");
        assert_eq!(seal.open(&stored), Ok(row()));
        assert!(!String::from_utf8_lossy(&stored.sealed).contains("canary") && !stored.facts.contains("canary"));
        let broken = [
            Stored { environment: "staging".into(), ..stored.clone() },
            Stored { portal: "4243".into(), ..stored.clone() },
            Stored { token_version: 6, ..stored.clone() },
            Stored { facts: stored.facts.replace("acme", "beta"), ..stored.clone() },
            Stored { sealed: stored.sealed.iter().enumerate().map(|(n, b)| b ^ u8::from(n == 20)).collect(), ..stored.clone() },
        ];
        for stored in broken {
            assert_eq!(seal.open(&stored), Err(SealError::Broken), "{stored:?}");
        }
        for cut in 0..stored.sealed.len() {
            assert!(seal.open(&Stored { sealed: stored.sealed[..cut].to_vec(), ..stored.clone() }).is_err(), "{cut}");
        }
    }

    #[test]
    fn keys_are_changed_without_a_gap() {
        let stored = seal(&["old"]).close("e", &row()).expect("seals");
        let both = seal(&["newer", "old"]);
        assert_eq!(both.open(&stored), Ok(row()));
        assert!(!both.current(&stored));
        let again = both.close("e", &row()).expect("seals");
        assert!(both.current(&again));
        assert_eq!(seal(&["newer"]).open(&again), Ok(row()), "the old key may go");
        assert_eq!(seal(&["newer"]).open(&stored), Err(SealError::UnknownKey("old".into())));
        assert_eq!(Seal::Off.open(&again), Err(SealError::NoKeys("newer".into())));
    }

    #[test]
    fn without_a_seal_rows_are_readable_and_are_sealed_once_there_is_a_key() {
        let stored = Seal::Off.close("e", &row()).expect("writes");
        assert!(Seal::Off.current(&stored));
        let seal = seal(&["a"]);
        assert_eq!(seal.open(&stored), Ok(row()));
        assert!(!seal.current(&stored));
    }

    #[test]
    fn wrong_keys_are_told_without_showing_them() {
        for (text, said) in [
            ("", "no key"),
            ("canary", "id:base64"),
            ("a:canary!", "base64"),
            ("a:Y2FuYXJ5", "6 bytes"),
            (":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "id has"),
        ] {
            let error = format!("{:#}", Seal::parse(text).expect_err(text));
            assert!(error.contains(said) && !error.contains("canary"), "{error}");
        }
        let key = new_key("2026-11").expect("random");
        assert!(Seal::parse(&format!("{key}, {key}")).expect_err("twice").to_string().contains("two keys"));
        Seal::parse(&key).expect("its own form");
    }
}
