//! Access tokens: refreshed before they end, one refresh at a time, and the refresh token that comes back is kept.
//!
//! HubSpot documents no rotation of refresh tokens and keeps the right to start it. So whatever comes back is stored, by
//! compare-and-set on `token_version`, and stored before it is used: a crash between HubSpot's answer and our commit is the one
//! moment in which a rotated token can be lost. Who loses the compare-and-set throws its own answer away and takes the winner's.
//!
//! A dead refresh token is answered with 400 (or 401) and `BAD_REFRESH_TOKEN` or `invalid_grant`. Then the account is
//! [`TokenError::Disconnected`] until the row in the state database changes (a login, or another token in the configuration); a
//! new try every half hour covers an answer that was wrong.

use super::secret::Secret;
use super::settings::Settings;
use crate::http;
use crate::state::{State, TokenRow, TokenUpdate};
use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType};
use oauth2::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet, ExtraTokenFields, HttpRequest, HttpResponse,
    RedirectUrl, RefreshToken, RequestTokenError, StandardRevocableToken, StandardTokenResponse, TokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// HubSpot's fields beside the standard ones: it sends the array `scopes`, not the text `scope`.
#[derive(Debug, Deserialize, Serialize)]
struct Extra {
    #[serde(default)]
    hub_id: Option<u64>,
    #[serde(default)]
    scopes: Vec<String>,
}

impl ExtraTokenFields for Extra {}

type Answer = StandardTokenResponse<Extra, BasicTokenType>;
type Client<HasTokenUrl> = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    HasTokenUrl,
>;

/// Refresh this long before the end …
const EARLY: Duration = Duration::from_secs(90);
/// … and believe no lifetime beyond a day (HubSpot: 30 min).
const LIFETIME_MAX: u64 = 86_400;
/// A dead refresh token is tried again after this.
const DEAD_RETRY: Duration = Duration::from_secs(30 * 60);

/// Why there is no access token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The grant is gone: somebody must install the app again.
    #[error("HubSpot no longer accepts the refresh token: install the app again")]
    Disconnected,
    /// The app's own credentials are wrong.
    #[error("HubSpot does not accept the app's credentials ({0}): check client_id and client_secret")]
    BadClient(String),
    /// It may work later, not before this pause where the answer asks for one.
    #[error("the token endpoint failed: {0}")]
    Transient(String, Option<Duration>),
    /// The state database failed.
    #[error("the state database failed: {0}")]
    State(String),
}

/// An access token in use.
#[derive(Clone, Debug)]
pub struct Access {
    /// The token.
    pub token: Secret,
    /// The row's version it came from; names it when it is refused.
    pub version: i64,
}

/// The tokens of all accounts.
#[derive(Debug)]
pub struct Tokens {
    client: Client<EndpointSet>,
    http: reqwest::Client,
    state: Arc<State>,
    cells: BTreeMap<String, tokio::sync::Mutex<Cell>>,
    /// Refreshes done.
    pub refreshes: AtomicU64,
}

/// What is known of one account's tokens beside the row. Its lock makes refreshes single file.
#[derive(Debug, Default)]
struct Cell {
    /// The version whose refresh token is dead, and when that was seen.
    dead: Option<(i64, Instant)>,
    lifetime: Option<Duration>,
}

fn client(settings: &Settings) -> anyhow::Result<Client<EndpointSet>> {
    let secret = settings.read_client_secret()?;
    // HubSpot takes the credentials in the body; Basic is not documented.
    Ok(Client::new(ClientId::new(settings.client_id.clone()))
        .set_client_secret(ClientSecret::new(secret.reveal().to_owned()))
        .set_auth_type(AuthType::RequestBody)
        .set_token_uri(TokenUrl::new(settings.token_url())?))
}

/// Sends one request to the token endpoint. Whatever is no success is read here, where status and headers are still known.
async fn send(http: &reqwest::Client, request: HttpRequest) -> Result<HttpResponse, TokenError> {
    let transient = |what: &str| TokenError::Transient(what.to_owned(), None);
    let request = reqwest::Request::try_from(request).map_err(|_| transient("the request can't be built"))?;
    // reqwest's errors name the address, never the body.
    let response = http.execute(request).await.map_err(|e| TokenError::Transient(e.without_url().to_string(), None))?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
    let body = http::body(response).await.map_err(|e| TokenError::Transient(e.to_string(), None))?;
    if let Some(error) = refused(status, retry_after, &body) {
        return Err(error);
    }
    oauth2::http::Response::builder().status(200).body(body).map_err(|_| transient("the answer can't be read"))
}

/// What an answer of the token endpoint that is no success means. The body's text is not kept: it may hold tokens.
fn refused(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Option<TokenError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        error: String,
        status: String,
    }
    if (200..300).contains(&status) {
        return None;
    }
    let Body { error, status: code } = serde_json::from_slice(body).unwrap_or_default();
    if status >= 500 || !(400..500).contains(&status) || matches!(status, 408 | 423 | 429 | 477) {
        return Some(TokenError::Transient(format!("status {status}"), retry_after));
    }
    if code == "BAD_REFRESH_TOKEN" || code == "BAD_AUTH_CODE" || error == "invalid_grant" {
        return Some(TokenError::Disconnected);
    }
    let named = if code.is_empty() { error } else { code };
    if named.contains("client") || named.contains("CLIENT") {
        return Some(TokenError::BadClient(named));
    }
    Some(TokenError::Transient(format!("status {status} {named}"), retry_after))
}

fn error_of<E: oauth2::ErrorResponse>(error: RequestTokenError<TokenError, E>) -> TokenError {
    match error {
        RequestTokenError::Request(error) => error,
        // The others quote the body.
        RequestTokenError::ServerResponse(_) | RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            TokenError::Transient("an answer that is no token".to_owned(), None)
        }
    }
}

/// Now, ms since the Unix epoch.
pub fn wall_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

fn update_of(answer: &Answer, old_refresh_token: &str) -> (TokenUpdate, Duration) {
    let seconds = answer.expires_in().map_or(1800, |d| d.as_secs()).clamp(1, LIFETIME_MAX);
    let lifetime = Duration::from_secs(seconds);
    let update = TokenUpdate {
        access_token: answer.access_token().secret().clone(),
        refresh_token: answer.refresh_token().map_or(old_refresh_token, |token| token.secret()).to_owned(),
        expires_at: wall_ms() + seconds * 1000,
        scopes: answer.extra_fields().scopes.join(" "),
    };
    (update, lifetime)
}

/// Exchanges the code of an installation for tokens and stores them; gives back the account.
///
/// # Errors
/// When the code is not accepted, HubSpot does not say which account it is for, or the state database fails.
pub async fn exchange_code(settings: &Settings, state: &State, code: &str, redirect_uri: &str) -> anyhow::Result<String> {
    let http = http::client(settings.request_timeout)?;
    let http = &http;
    let answer = client(settings)?
        .exchange_code(AuthorizationCode::new(code.to_owned()))
        .set_redirect_uri(std::borrow::Cow::Owned(RedirectUrl::new(redirect_uri.to_owned())?))
        .request_async(&|request| send(http, request))
        .await
        .map_err(error_of)?;
    let portal = answer.extra_fields().hub_id.map(|id| id.to_string());
    let portal = portal.ok_or_else(|| anyhow::anyhow!("HubSpot did not say which account the installation is in (no hub_id)"))?;
    state.install_token(&portal, &update_of(&answer, "").0)?;
    Ok(portal)
}

impl Tokens {
    /// For these accounts; what the configuration gives as refresh tokens goes to the state database, where it is new.
    ///
    /// # Errors
    /// When a secret can't be read, or an account has no refresh token at all.
    pub fn new(settings: &Settings, state: Arc<State>, http: reqwest::Client, portals: &[String]) -> anyhow::Result<Self> {
        for portal in portals {
            if let Some(token) = settings.read_refresh_token(portal)? {
                state.seed_token(portal, token.reveal())?;
            } else if state.token(portal)?.is_none() {
                anyhow::bail!("portal {portal} is not connected: log in, or name its refresh token in hubspot.portals.{portal}");
            }
        }
        let cells = portals.iter().map(|portal| (portal.clone(), tokio::sync::Mutex::default())).collect();
        Ok(Tokens { client: client(settings)?, http, state, cells, refreshes: AtomicU64::new(0) })
    }

    /// An access token that is good for a while.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn access(&self, portal: &str) -> Result<Access, TokenError> {
        self.get(portal, None).await
    }

    /// Another access token than the one of version `spent`, which HubSpot has refused.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub async fn renew(&self, portal: &str, spent: i64) -> Result<Access, TokenError> {
        self.get(portal, Some(spent)).await
    }

    async fn get(&self, portal: &str, spent: Option<i64>) -> Result<Access, TokenError> {
        let mut cell = self.cells.get(portal).ok_or(TokenError::Disconnected)?.lock().await;
        let row = self.row(portal)?;
        let early = cell.lifetime.map_or(EARLY, |lifetime| EARLY.min(lifetime / 4));
        let fresh = row.expires_at > wall_ms() + u64::try_from(early.as_millis()).unwrap_or(u64::MAX);
        match &row.access_token {
            Some(token) if fresh && spent != Some(row.token_version) => {
                Ok(Access { token: Secret::new(token.clone()), version: row.token_version })
            }
            _ => self.refresh(portal, row, &mut cell).await,
        }
    }

    fn row(&self, portal: &str) -> Result<TokenRow, TokenError> {
        self.state.token(portal).map_err(|e| TokenError::State(format!("{e:#}")))?.ok_or(TokenError::Disconnected)
    }

    async fn refresh(&self, portal: &str, row: TokenRow, cell: &mut Cell) -> Result<Access, TokenError> {
        if cell.dead.is_some_and(|(version, seen)| version == row.token_version && seen.elapsed() < DEAD_RETRY) {
            return Err(TokenError::Disconnected);
        }
        let token = RefreshToken::new(row.refresh_token.clone());
        let answer = self.client.exchange_refresh_token(&token).request_async(&|request| send(&self.http, request)).await;
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        match answer.map_err(error_of) {
            Ok(answer) => {
                let (update, lifetime) = update_of(&answer, &row.refresh_token);
                *cell = Cell { dead: None, lifetime: Some(lifetime) };
                if self.state.swap_token(portal, row.token_version, &update).map_err(|e| TokenError::State(format!("{e:#}")))? {
                    tracing::debug!(portal, rotated = update.refresh_token != row.refresh_token, "access token refreshed");
                    return Ok(Access { token: Secret::new(update.access_token), version: row.token_version + 1 });
                }
                self.winner(portal, &row)
            }
            Err(TokenError::Disconnected) => {
                // Another process may have used up this refresh token a moment ago; then its row is the better one.
                let refused = self.winner(portal, &row);
                if refused.is_err() {
                    cell.dead = Some((row.token_version, Instant::now()));
                }
                refused
            }
            Err(error) => Err(error),
        }
    }

    /// The access token that somebody else has stored since `row` was read.
    fn winner(&self, portal: &str, row: &TokenRow) -> Result<Access, TokenError> {
        let now = self.row(portal)?;
        match now.access_token {
            Some(token) if now.token_version != row.token_version => Ok(Access { token: Secret::new(token), version: now.token_version }),
            _ => Err(TokenError::Disconnected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_grant_is_known_by_either_status_and_either_field() {
        let body = br#"{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}"#;
        assert_eq!(refused(400, None, body), Some(TokenError::Disconnected));
        assert_eq!(refused(401, None, body), Some(TokenError::Disconnected));
        assert_eq!(refused(400, None, br#"{"error":"invalid_grant"}"#), Some(TokenError::Disconnected));
        assert!(matches!(refused(400, None, br#"{"error":"invalid_client"}"#), Some(TokenError::BadClient(_))));
    }

    #[test]
    fn an_outage_of_the_token_endpoint_leaves_the_grant_alone() {
        let after = Some(Duration::from_secs(3));
        assert_eq!(refused(429, after, b"{}"), Some(TokenError::Transient("status 429".into(), after)));
        for (status, body) in [(502, &b"<html>BAD_REFRESH_TOKEN</html>"[..]), (400, b"canary"), (302, b"")] {
            let Some(TokenError::Transient(text, None)) = refused(status, None, body) else { panic!("transient: {status}") };
            assert!(!text.contains("canary"));
        }
        assert_eq!(refused(200, None, b"{}"), None);
    }
}
