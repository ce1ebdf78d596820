//! The format of a fault script, and which request a rule hits.
//!
//! ```json
//! {"seed": 7, "rules": [
//!   {"name": "busy", "match": {"path": "/crm/*/contacts/batch/update", "nth": [2, 3]},
//!    "fault": {"kind": "reply", "status": 429, "policy": "TEN_SECONDLY_ROLLING", "retry_after": 3}},
//!   {"match": {"method": "POST", "path": "*/events*", "probability": 0.1}, "fault": {"kind": "close", "apply": true}}
//! ]}
//! ```
//!
//! A rule counts the requests that its `match` fits by method, path, portal and body, whether or not another rule hits them;
//! `nth`, `skip`, `every`, `times` and `probability` choose among those. Where several rules would hit, the first one does.

use crate::crm::Kind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A whole script.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Script {
    /// Where the probabilities and shuffles of all rules come from.
    #[serde(default)]
    pub seed: u64,
    pub rules: Vec<RuleSpec>,
}

/// One rule as it is written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSpec {
    /// What the log calls it; `rule 3` when there is none.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, rename = "match")]
    pub matches: Match,
    pub fault: Fault,
}

/// Which requests a rule hits; what is left out fits all.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Match {
    pub method: Option<String>,
    /// The whole path; `*` stands for any text.
    pub path: Option<String>,
    pub portal: Option<String>,
    /// Text that the request's body contains.
    pub body: Option<String>,
    /// Only these, counted from 1.
    pub nth: Option<Vec<u64>>,
    /// Not the first ones, this many.
    pub skip: u64,
    /// Then only every nth.
    pub every: Option<u64>,
    /// Then each with this probability, from 0 to 1.
    pub probability: Option<f64>,
    /// No more than this many in all.
    pub times: Option<u64>,
}

/// What goes wrong.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Fault {
    /// Another answer than HubSpot's.
    Reply(Reply),
    /// The connection is closed, and no byte is sent.
    Close {
        #[serde(default)]
        apply: bool,
    },
    /// Nothing is sent for so long; then the connection is closed.
    Hold {
        ms: u64,
        #[serde(default)]
        apply: bool,
    },
    /// The answer comes so much later.
    Delay { ms: u64 },
    /// The body comes in pieces of so many bytes, with a pause before each.
    Dribble { bytes: usize, every_ms: u64 },
    /// The body ends after so many bytes, though `Content-Length` promises all of it.
    Truncate { bytes: usize },
    /// The body never ends.
    Endless,
    /// The body is gzip that unpacks to so many bytes.
    Bomb { bytes: u64 },
    /// The `results` of a batch come in another order.
    Reorder,
    /// Some inputs of a batch take no effect; the rest does, and the answer lists them in `errors`.
    Partial {
        /// Which ones, counted from 0.
        #[serde(default)]
        inputs: Vec<usize>,
        /// Or each with this probability.
        #[serde(default)]
        share: Option<f64>,
        #[serde(default = "multi_status")]
        status: u16,
        #[serde(default = "internal_error")]
        category: String,
        #[serde(default = "internal_message")]
        message: String,
        /// The `results` come in another order besides.
        #[serde(default)]
        reorder: bool,
    },
    /// The access token of this request has expired, from now on.
    ExpireToken,
    /// Every refresh token of this request's portal is dead, from now on; the request itself goes on.
    RevokeGrant,
    /// A person changes a record of this request's portal just before the request is looked at.
    Edit {
        /// `contacts` or `deals`.
        object: String,
        id: String,
        properties: BTreeMap<String, String>,
    },
}

/// An answer that a script writes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reply {
    pub status: u16,
    /// Text, or JSON. Without it the body is what `page` says.
    #[serde(default)]
    pub body: Option<Value>,
    #[serde(default)]
    pub page: Page,
    /// Of a 429: `TEN_SECONDLY_ROLLING`, `SECONDLY` or `DAILY`.
    #[serde(default)]
    pub policy: Option<String>,
    /// `Retry-After`, in seconds.
    #[serde(default)]
    pub retry_after: Option<u64>,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The request takes effect all the same.
    #[serde(default)]
    pub apply: bool,
}

/// The body of a reply that names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Page {
    /// HubSpot's JSON for this status.
    #[default]
    Error,
    /// A page of the kind that a proxy in front of HubSpot shows.
    Html,
    Empty,
}

fn multi_status() -> u16 {
    207
}

fn internal_error() -> String {
    "INTERNAL_ERROR".into()
}

fn internal_message() -> String {
    "There was a problem with this record.".into()
}

/// A request, as far as rules look at it.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub portal: Option<&'a str>,
    pub body: &'a [u8],
}

/// A rule at work.
#[derive(Debug)]
pub(crate) struct Rule {
    pub spec: RuleSpec,
    /// Requests that fitted.
    pub seen: u64,
    /// Requests that were hit.
    pub hit: u64,
    pub rng: StdRng,
}

/// `*` stands for any text, also none.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(before) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| fits(rest, &text[at..]))
}

fn contains(body: &[u8], text: &str) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text.as_bytes())
}

impl Rule {
    /// Checks a rule. `index` tells it from the others of its script.
    pub fn new(spec: RuleSpec, seed: u64, index: usize) -> Result<Self, String> {
        let share = if let Fault::Partial { share, .. } = &spec.fault { *share } else { None };
        if [spec.matches.probability, share].into_iter().flatten().any(|p| !(0.0..=1.0).contains(&p)) {
            return Err("a probability or share is between 0 and 1".into());
        }
        if spec.matches.every == Some(0) {
            return Err("every must be 1 or more".into());
        }
        match &spec.fault {
            Fault::Reply(Reply { status, .. }) | Fault::Partial { status, .. } if !(200..600).contains(status) => {
                return Err(format!("{status} is not a status that an answer can have: 200 to 599"));
            }
            Fault::Edit { object, .. } if Kind::parse(object).is_err() => return Err("an edit is of contacts or deals".into()),
            Fault::Dribble { bytes: 0, .. } => return Err("a dribble needs pieces of 1 byte or more".into()),
            _ => {}
        }
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64));
        Ok(Self { spec, seen: 0, hit: 0, rng })
    }

    /// Whether the rule hits this request; counts it.
    pub fn hits(&mut self, asked: Asked<'_>) -> bool {
        let Match { method, path, portal, body, nth, skip, every, probability, times } = &self.spec.matches;
        let fitting = method.as_deref().is_none_or(|m| m.eq_ignore_ascii_case(asked.method))
            && path.as_deref().is_none_or(|p| fits(p, asked.path))
            && portal.as_deref().is_none_or(|p| asked.portal == Some(p))
            && body.as_deref().is_none_or(|b| contains(asked.body, b));
        if !fitting {
            return false;
        }
        self.seen += 1;
        // Drawn for every request that fits, so that the other conditions do not shift what a seed means.
        let drawn = probability.is_none_or(|p| self.rng.random_bool(p));
        let chosen = nth.as_ref().is_none_or(|n| n.contains(&self.seen))
            && self.seen > *skip
            && every.is_none_or(|n| (self.seen - skip).is_multiple_of(n))
            && times.is_none_or(|n| self.hit < n)
            && drawn;
        self.hit += u64::from(chosen);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(matches: impl Into<Value>) -> Rule {
        let matches = matches.into();
        let spec = serde_json::from_value(json!({ "match": matches, "fault": { "kind": "endless" } })).expect("a rule");
        Rule::new(spec, 7, 0).expect("a valid rule")
    }

    fn hits(rule: &mut Rule, count: usize) -> Vec<usize> {
        let asked = Asked { method: "POST", path: "/crm/v3/objects/contacts/batch/update", portal: Some("1"), body: b"{\"id\":\"7\"}" };
        (1..=count).filter(|_| rule.hits(asked)).collect()
    }

    #[test]
    fn rules_choose_by_count() {
        assert_eq!(hits(&mut rule(json!({ "nth": [2, 4] })), 5), [2, 4]);
        assert_eq!(hits(&mut rule(json!({ "skip": 1, "every": 2, "times": 2 })), 9), [3, 5]);
        assert_eq!(hits(&mut rule(json!({ "times": 1 })), 3), [1]);
        let share = hits(&mut rule(json!({ "probability": 0.3 })), 1_000);
        assert!((250..350).contains(&share.len()), "{}", share.len());
        assert_eq!(share, hits(&mut rule(json!({ "probability": 0.3 })), 1_000), "the same seed hits the same requests");
    }

    #[test]
    fn rules_choose_by_what_is_asked() {
        for fitting in
            [json!({ "method": "post" }), json!({ "path": "/crm/*/batch/*" }), json!({ "portal": "1" }), json!({ "body": "\"7\"" })]
        {
            assert_eq!(hits(&mut rule(fitting.clone()), 1), [1], "{fitting}");
        }
        for other in [json!({ "method": "GET" }), json!({ "path": "/crm/*/read" }), json!({ "portal": "2" }), json!({ "body": "8" })] {
            assert!(hits(&mut rule(other.clone()), 1).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_script_with_a_mistake_is_refused() {
        let read = |rule: Value| {
            let script = serde_json::from_value::<Script>(json!({ "rules": [rule] })).map_err(|e| e.to_string())?;
            script.rules.into_iter().map(|spec| Rule::new(spec, 0, 0).map(|_| ())).collect::<Result<Vec<_>, _>>()
        };
        assert!(read(json!({ "fault": { "kind": "reply", "status": 503 } })).is_ok());
        for bad in [
            json!({ "fault": { "kind": "explode" } }),
            json!({ "fault": { "kind": "reply", "status": 99 } }),
            json!({ "fault": { "kind": "endless" }, "match": { "probability": 2 } }),
            json!({ "fault": { "kind": "endless" }, "match": { "pth": "/x" } }),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
