//! Whose click a link says it is: what becomes of `eid`.
//!
//! # Meaning
//! `eid` names a contact, plainly or in a signed token ([`token`]). Anybody can write a plain one, so each workspace says what counts:
//!
//! | policy | plain | token that holds | any other token |
//! | --- | --- | --- | --- |
//! | `off` | the contact | nobody | nobody |
//! | `prefer` | the contact | the contact | nobody |
//! | `require` | nobody | the contact | nobody |
//!
//! Nobody means that the record's `contact_id` is null and `eid` leaves no trace in it; the click may still be matched by its click id.
//!
//! # Ties and edges
//! Of a repeated `eid` the first that could be recorded is judged, and no other. What resembles a token and isn't one that holds is never taken for a
//! plain id.

mod keys;
mod token;

pub use keys::{Key, Keys};
pub use token::{Scope, sign};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use token::Verdict;

/// Which `eid` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EidPolicy {
    /// Only signed ones.
    Require,
    /// Signed ones, and plain ones.
    Prefer,
    /// Only plain ones: nobody signs here.
    #[default]
    Off,
}

impl FromStr for EidPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "require" => Ok(EidPolicy::Require),
            "prefer" => Ok(EidPolicy::Prefer),
            "off" => Ok(EidPolicy::Off),
            _ => Err(format!("{text:?} is no policy for `eid`; write require, prefer or off")),
        }
    }
}

/// Where the keys are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In a file that is read again when it changes.
    File(PathBuf),
    /// Given once.
    Given(Keys),
}

/// How `eid` is judged.
#[derive(Clone, Debug, Default)]
pub struct EidConfig {
    /// Keys that signatures are checked with.
    pub keys: Option<KeySource>,
    /// For workspaces that `workspaces` doesn't name.
    pub default: EidPolicy,
    /// By workspace.
    pub workspaces: BTreeMap<String, EidPolicy>,
}

impl EidConfig {
    /// The policy of a workspace.
    pub(crate) fn policy(&self, workspace: &str) -> EidPolicy {
        self.workspaces.get(workspace).copied().unwrap_or(self.default)
    }

    /// Whether any workspace reads tokens.
    pub(crate) fn reads_tokens(&self) -> bool {
        std::iter::once(&self.default).chain(self.workspaces.values()).any(|policy| *policy != EidPolicy::Off)
    }
}

/// What became of an `eid`: the label of `redirect_eid_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Signed,
    Plain,
    /// A plain one where only signed ones count.
    Unsigned,
    Wrong,
    Expired,
    UnknownKey,
}

impl Outcome {
    pub(crate) const LABELS: [&str; 6] = ["signed", "plain", "unsigned", "wrong", "expired", "unknown-key"];
}

/// The contact that an `eid` speaks for on a link, if it counts. `now` is in milliseconds since the epoch.
pub(crate) fn judge<'a>(policy: EidPolicy, keys: &Keys, workspace: &str, link: &str, eid: &'a str, now: u64) -> (Option<&'a str>, Outcome) {
    match (policy, token::resembles(eid)) {
        (EidPolicy::Require, false) => (None, Outcome::Unsigned),
        (EidPolicy::Prefer | EidPolicy::Off, false) => (Some(eid), Outcome::Plain),
        (EidPolicy::Off, true) => (None, Outcome::Wrong),
        (EidPolicy::Require | EidPolicy::Prefer, true) => match token::verify(keys, workspace, link, eid, now) {
            Verdict::Holds(contact) => (Some(contact), Outcome::Signed),
            Verdict::Wrong => (None, Outcome::Wrong),
            Verdict::Expired => (None, Outcome::Expired),
            Verdict::UnknownKey => (None, Outcome::UnknownKey),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_763_800_000_123;

    #[test]
    fn the_table_of_policies() {
        let keys = Keys::parse("k AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8").expect("keys");
        let make = |until| sign(keys.signing("w").expect("a key"), "w", Scope::Link("d/s"), "801", until).expect("a token");
        let (good, late) = (make(None), make(Some(1)));
        let moved = sign(keys.signing("w").expect("a key"), "w", Scope::Link("d/t"), "801", None).expect("a token");
        let strange = good.replace(".k.", ".x.");
        for (policy, eid, contact, outcome) in [
            (EidPolicy::Off, "801", Some("801"), Outcome::Plain),
            (EidPolicy::Off, &good, None, Outcome::Wrong),
            (EidPolicy::Prefer, "801", Some("801"), Outcome::Plain),
            (EidPolicy::Prefer, &good, Some("801"), Outcome::Signed),
            (EidPolicy::Prefer, &late, None, Outcome::Expired),
            (EidPolicy::Prefer, &moved, None, Outcome::Wrong),
            (EidPolicy::Prefer, &strange, None, Outcome::UnknownKey),
            (EidPolicy::Require, "801", None, Outcome::Unsigned),
            (EidPolicy::Require, &good, Some("801"), Outcome::Signed),
            (EidPolicy::Require, &late, None, Outcome::Expired),
            (EidPolicy::Require, &moved, None, Outcome::Wrong),
            (EidPolicy::Require, &strange, None, Outcome::UnknownKey),
        ] {
            assert_eq!(judge(policy, &keys, "w", "d/s", eid, NOW), (contact, outcome), "{policy:?} {eid}");
        }
    }

    #[test]
    fn workspaces_have_their_own() {
        let config = EidConfig { workspaces: [("a".to_owned(), EidPolicy::Require)].into(), ..EidConfig::default() };
        assert_eq!((config.policy("a"), config.policy("b")), (EidPolicy::Require, EidPolicy::Off));
        assert!(config.reads_tokens() && !EidConfig::default().reads_tokens());
        assert!("maybe".parse::<EidPolicy>().expect_err("no policy").contains("require, prefer or off"));
    }
}
