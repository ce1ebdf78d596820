//! A connection as it is known inside: facts that may be read, tokens that may not.

use crate::model::time::Ms;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One connection, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// HubSpot's account id.
    pub portal: String,
    /// Grows with every change.
    pub token_version: i64,
    /// What is no secret.
    pub facts: Facts,
    /// What is.
    pub secrets: Secrets,
}

/// What is known of a connection beside its tokens. Times are ms since the Unix epoch; 0 is never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The app that the refresh token belongs to.
    pub client_id: String,
    /// The workspace whose installation brought it; none for a token that the configuration named.
    pub workspace: Option<String>,
    /// Whether HubSpot takes the tokens.
    pub condition: Condition,
    /// What was granted; empty while unknown.
    pub scopes: Vec<String>,
    /// When the refresh token came in by an installation or the configuration.
    pub installed_at: Ms,
    /// When the access token ends.
    pub expires_at: Ms,
    /// When the access token was given.
    pub refreshed_at: Ms,
    /// When the last refresh was forced by a refused access token that was not yet old: one that brought a token, or whose answer is still to come, which
    /// `unanswered_since` says.
    pub forced_at: Ms,
    /// How often a refresh brought another refresh token.
    pub rotations: u64,
    /// Calls to the token endpoint, ever.
    pub attempts: u64,
    /// Failures since the last success.
    pub failures: u32,
    /// No call before this.
    pub retry_at: Ms,
    /// Who is calling the token endpoint, if somebody is.
    pub lease: Option<Lease>,
    /// The time of the first call with the present refresh token whose answer was never seen: if HubSpot rotated the token then,
    /// the new one is lost.
    pub unanswered_since: Option<Ms>,
    /// Fingerprint of the token that the configuration gave, so that a restart does not undo a rotation.
    pub seed: Option<String>,
    /// Fingerprint of the app credentials that were refused.
    pub refused_credentials: Option<String>,
}

/// The right to call the token endpoint. It saves calls; correctness does not need it (`token_version` is compared in any case).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// A process.
    pub holder: String,
    /// From then on anybody may take it.
    pub until: Ms,
}

/// Whether HubSpot takes the tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// As far as is known.
    #[default]
    Connected,
    /// The refresh token is dead: somebody must install the app again.
    ReinstallRequired(Why),
    /// The app's own credentials are refused, with HubSpot's code.
    BadClient(String),
}

/// Why a refresh token is dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// HubSpot says so and nothing else is known: the app was removed, or the token revoked or replaced.
    Refused,
    /// The answer to an earlier refresh was never stored (a crash or a broken connection). If HubSpot rotated the token in it, the
    /// new one is lost.
    LostAnswer {
        /// When that refresh was asked for.
        asked_at: Ms,
    },
    /// The token endpoint gives access tokens, and HubSpot refuses every one of them.
    AccessRefused,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Refused => f.write_str("HubSpot no longer accepts the refresh token (app removed, or token revoked or replaced)"),
            Why::AccessRefused => f.write_str("HubSpot gives access tokens for this account and accepts none of them"),
            Why::LostAnswer { asked_at } => write!(
                f,
                "the answer to the refresh of {} was never stored (a crash or a broken connection), and the refresh token from before it is refused: \
                 HubSpot replaced it in that answer, or the app was removed since",
                crate::model::time::rfc3339(*asked_at)
            ),
        }
    }
}

/// The tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The last access token; none before the first refresh.
    pub access_token: Option<String>,
    /// The refresh token as it came back last.
    pub refresh_token: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Names a secret of high entropy without telling it: the first 16 bytes of its SHA-256, in hexadecimal digits.
pub fn fingerprint(secret: &str) -> String {
    digest(&SHA256, secret.as_bytes()).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
