//! The token endpoint: codes and refresh tokens for access tokens, and what each of its answers means.
//!
//! # Meaning
//! [`Reply`] is all that the rest knows of an answer. `BAD_REFRESH_TOKEN`, `invalid_grant` and `BAD_AUTH_CODE` are the end of a grant, whether
//! HubSpot sends them with 400 (as it does) or 401; wrong app credentials are their own case; everything else leaves the grant alone. The
//! body's text is never kept: it may hold tokens.

use super::configured::App;
use super::row::fingerprint;
use crate::http::{self, NoAnswer};
use crate::model::time::now;
use crate::secret::Secret;
use oauth2::basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType};
use oauth2::{
    AsyncHttpClient, AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet, ExtraTokenFields, HttpRequest,
    HttpResponse, RedirectUrl, RefreshToken, RequestTokenError, StandardRevocableToken, StandardTokenResponse, TokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::pin::Pin;
use std::time::Duration;

/// A lifetime of more than a day is not believed (HubSpot: 30 min).
const LIFETIME_MAX: u64 = 86_400;

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

/// Tokens as they came.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// The access token.
    pub access_token: String,
    /// The refresh token, the same one or another; absent where the answer lacks one.
    pub refresh_token: Option<String>,
    /// How long the access token lives.
    pub lifetime: Duration,
    /// What was granted, where the answer says it.
    pub scopes: Vec<String>,
    /// The account, where the answer says it.
    pub hub_id: Option<u64>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("lifetime", &self.lifetime).field("hub_id", &self.hub_id).finish_non_exhaustive()
    }
}

/// What the token endpoint made of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Tokens.
    Granted(Grant),
    /// The code or refresh token is dead.
    Dead,
    /// The app's credentials are wrong, with HubSpot's code.
    BadClient(String),
    /// 429 and the like: nothing was done; not before this pause again.
    Throttled(Option<Duration>),
    /// No answer, or one from the way there: it may have been done.
    Failed(String, Option<Duration>),
    /// HubSpot has seen nothing of the call.
    Unsent(String),
    /// A refusal that nobody has documented.
    Odd(String),
}

/// A reply that was read before it came to the library.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct Early(Reply);

/// How the library sends.
#[derive(Debug)]
struct Wire(reqwest::Client);

impl<'c> AsyncHttpClient<'c> for Wire {
    type Error = Early;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Early>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(send(&self.0, request))
    }
}

/// The endpoint with the app's credentials.
#[derive(Debug)]
pub struct Endpoint {
    client: Client<EndpointSet>,
    wire: Wire,
    revoke_url: String,
    id: String,
    secret: Secret,
}

impl Endpoint {
    /// For an app.
    ///
    /// # Errors
    /// When the endpoint's address is no URL.
    pub fn new(app: App) -> anyhow::Result<Self> {
        let App { client_id, client_secret, token_url, http } = app;
        let revoke_url = format!("{token_url}/revoke");
        // HubSpot takes the credentials in the body; Basic is not documented.
        let client = Client::new(ClientId::new(client_id.clone()))
            .set_client_secret(ClientSecret::new(client_secret.reveal().to_owned()))
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(TokenUrl::new(token_url)?);
        Ok(Endpoint { client, wire: Wire(http), revoke_url, id: client_id, secret: client_secret })
    }

    /// The app's id.
    pub fn client_id(&self) -> &str {
        &self.id
    }

    /// Names the app's credentials without telling them.
    pub fn credentials(&self) -> String {
        fingerprint(&format!("{} {}", self.id, self.secret.reveal()))
    }

    /// One refresh.
    pub async fn refresh(&self, refresh_token: &str) -> Reply {
        let token = RefreshToken::new(refresh_token.to_owned());
        let answer = self.client.exchange_refresh_token(&token).request_async(&self.wire).await;
        reply(answer)
    }

    /// Exchanges the code of an installation, which was given to `redirect_uri`.
    ///
    /// # Errors
    /// When `redirect_uri` is no URL.
    pub async fn exchange(&self, code: &str, redirect_uri: &str) -> anyhow::Result<Reply> {
        let redirect_uri = RedirectUrl::new(redirect_uri.to_owned())?;
        let call = self.client.exchange_code(AuthorizationCode::new(code.to_owned())).set_redirect_uri(Cow::Owned(redirect_uri));
        Ok(reply(call.request_async(&self.wire).await))
    }

    /// Gives a refresh token back that nobody will use. An answer is not waited for long, and none is needed.
    pub async fn revoke(&self, refresh_token: &str) {
        let form = [
            ("client_id", self.id.as_str()),
            ("client_secret", self.secret.reveal()),
            ("token", refresh_token),
            ("refresh_token", refresh_token),
        ];
        if let Err(error) = http::exchange(self.wire.0.post(&self.revoke_url).form(&form)).await {
            tracing::warn!(event = "token_revoke_failed", "a refresh token could not be given back: {error}");
        }
    }
}

fn reply<E: oauth2::ErrorResponse>(answer: Result<Answer, RequestTokenError<Early, E>>) -> Reply {
    match answer {
        Ok(answer) => {
            let seconds = answer.expires_in().map_or(1800, |length| length.as_secs()).clamp(1, LIFETIME_MAX);
            Reply::Granted(Grant {
                access_token: answer.access_token().secret().clone(),
                refresh_token: answer.refresh_token().map(|token| token.secret().clone()).filter(|token| !token.is_empty()),
                lifetime: Duration::from_secs(seconds),
                scopes: answer.extra_fields().scopes.clone(),
                hub_id: answer.extra_fields().hub_id,
            })
        }
        Err(RequestTokenError::Request(Early(reply))) => reply,
        // The others quote the body. It was a success, so something was done.
        Err(_) => Reply::Failed("an answer that is no token".to_owned(), None),
    }
}

/// Sends one request. Whatever is no success is read here, where status and headers are still known.
async fn send(client: &reqwest::Client, request: HttpRequest) -> Result<HttpResponse, Early> {
    let failed = |why: String| Early(Reply::Failed(why, None));
    let request = reqwest::Request::try_from(request).map_err(|_| Early(Reply::Odd("the request can't be built".to_owned())))?;
    let answer = http::execute(client, request).await.map_err(|error| match error {
        NoAnswer::Unsent(why) => Early(Reply::Unsent(why)),
        NoAnswer::Lost(why) => failed(why),
    })?;
    let retry_after = answer.retry_after(now());
    if let Some(reply) = refused(answer.status, retry_after, &answer.body) {
        return Err(Early(reply));
    }
    oauth2::http::Response::builder().status(200).body(tidied(answer.body)).map_err(|_| failed("the answer can't be read".to_owned()))
}

/// A success as the library takes it. It refuses all of an answer for one odd field, and with it perhaps the only copy of a refresh token: so
/// whatever is beside the tokens and is not as documented is read for what it must mean, or left out.
fn tidied(body: Vec<u8>) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&body) else { return body };
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    for name in ["expires_in", "hub_id"] {
        if let Some(value) = fields.remove(name)
            && let Some(number) = number(&value)
        {
            fields.insert(name.to_owned(), number.into());
        }
    }
    let scopes: Vec<Value> = match fields.remove("scopes") {
        Some(Value::Array(list)) => list.into_iter().filter(Value::is_string).collect(),
        Some(Value::String(text)) => text.split_whitespace().map(Value::from).collect(),
        _ => Vec::new(),
    };
    fields.insert("scopes".to_owned(), scopes.into());
    // The standard's fields that HubSpot does not send.
    fields.remove("scope");
    fields.insert("token_type".to_owned(), "bearer".into());
    if !fields.get("refresh_token").is_some_and(Value::is_string) {
        fields.remove("refresh_token");
    }
    serde_json::to_vec(&fields).unwrap_or(body)
}

/// What an answer that is no success means.
fn refused(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Option<Reply> {
    match status {
        200..300 => return None,
        429 => return Some(Reply::Throttled(retry_after)),
        400..500 if !matches!(status, 408 | 423 | 477) => {}
        _ => return Some(Reply::Failed(format!("status {status}"), retry_after)),
    }
    // Field by field: HubSpot also writes `status` as a number, and then the other one counts.
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (error, code) = (text("error"), text("status"));
    if matches!(code.as_str(), "BAD_REFRESH_TOKEN" | "BAD_AUTH_CODE") || error == "invalid_grant" {
        return Some(Reply::Dead);
    }
    let named = if code.is_empty() { error } else { code };
    // Codes are words of HubSpot's; anything else is not repeated.
    let word = named.len() <= 64 && named.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let named = if word { named } else { String::new() };
    if named.to_ascii_lowercase().contains("client") {
        return Some(Reply::BadClient(named));
    }
    Some(Reply::Odd(format!("status {status} {named}").trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_dead_grant_is_known_by_either_status_and_either_field() {
        let body = br#"{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}"#;
        assert_eq!(refused(400, None, body), Some(Reply::Dead));
        assert_eq!(refused(401, None, body), Some(Reply::Dead));
        assert_eq!(refused(400, None, br#"{"error":"invalid_grant"}"#), Some(Reply::Dead));
        assert_eq!(refused(400, None, br#"{"status":400,"error":"invalid_grant"}"#), Some(Reply::Dead));
        assert_eq!(refused(400, None, br#"{"error":"invalid_client"}"#), Some(Reply::BadClient("invalid_client".into())));
        assert_eq!(refused(401, None, br#"{"status":"BAD_CLIENT_SECRET"}"#), Some(Reply::BadClient("BAD_CLIENT_SECRET".into())));
    }

    #[test]
    fn an_outage_of_the_token_endpoint_leaves_the_grant_alone() {
        let after = Some(Duration::from_secs(3));
        assert_eq!(refused(429, after, b"{}"), Some(Reply::Throttled(after)));
        for (status, body) in
            [(502, &b"<html>BAD_REFRESH_TOKEN</html>"[..]), (500, b"{\"status\":\"BAD_REFRESH_TOKEN\"}"), (302, b""), (408, b"")]
        {
            assert_eq!(refused(status, None, body), Some(Reply::Failed(format!("status {status}"), None)));
        }
        for body in [&b"canary"[..], br#"{"status":"canary token"}"#] {
            assert_eq!(refused(400, None, body), Some(Reply::Odd("status 400".into())));
        }
        assert_eq!(refused(200, None, b"{}"), None);
    }
    /// What a success with this body is taken for.
    fn granted(body: &[u8]) -> Reply {
        match serde_json::from_slice::<Answer>(&tidied(body.to_vec())) {
            Ok(answer) => reply::<BasicErrorResponse>(Ok(answer)),
            Err(error) => reply::<BasicErrorResponse>(Err(RequestTokenError::Other(error.to_string()))),
        }
    }

    #[test]
    fn whatever_an_answer_with_tokens_leaves_out_or_adds_is_read() {
        let lifetime = |fields: &str| match granted(format!(r#"{{"access_token":"canary","token_type":"bearer"{fields}}}"#).as_bytes()) {
            Reply::Granted(grant) => Some((grant.lifetime.as_secs(), grant.refresh_token)),
            other => {
                assert_eq!(other, Reply::Failed("an answer that is no token".into(), None), "and nothing of it is told");
                None
            }
        };
        assert_eq!(lifetime(""), Some((1800, None)));
        assert_eq!(
            lifetime(r#","expires_in":60,"refresh_token":"r1","hub_id":4242,"scopes":["oauth"],"new":{"x":[1]}"#),
            Some((60, Some("r1".into())))
        );
        assert_eq!(lifetime(r#","expires_in":0,"refresh_token":"""#), Some((1, None)));
        assert_eq!(lifetime(r#","expires_in":18446744073709551615"#), Some((LIFETIME_MAX, None)));
        // No odd field is worth a refresh token that may be the only one.
        for odd in [
            r#","expires_in":-5"#,
            r#","expires_in":{}"#,
            r#","scopes":"oauth timeline""#,
            r#","scopes":[1,null]"#,
            r#","scopes":null"#,
            r#","scope":["oauth"]"#,
            r#","hub_id":"x","token_use":7"#,
        ] {
            assert_eq!(lifetime(&format!(r#"{odd},"refresh_token":"r1""#)), Some((1800, Some("r1".into()))), "{odd}");
        }
        assert_eq!(lifetime(r#","expires_in":" 60 ","refresh_token":null"#), Some((60, None)));
        let Reply::Granted(grant) = granted(br#"{"access_token":"a","hub_id":"4242","scopes":"oauth timeline"}"#) else { panic!("tokens") };
        assert_eq!((grant.hub_id, grant.scopes), (Some(4242), vec!["oauth".to_owned(), "timeline".to_owned()]));
        for body in [&b""[..], b"<html>canary</html>", b"{}", br#"{"access_token":"can"#] {
            assert_eq!(granted(body), Reply::Failed("an answer that is no token".into(), None));
        }
    }

    proptest! {
        /// No answer makes it panic, and a lifetime is never longer than a day nor none at all.
        #[test]
        fn any_answer_is_read(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..100), expires in any::<u64>()) {
            let _ = refused(status, None, &body);
            let _ = granted(&body);
            let answer = format!(r#"{{"access_token":"a","token_type":"bearer","expires_in":{expires}}}"#);
            let Reply::Granted(grant) = granted(answer.as_bytes()) else { panic!("{expires}") };
            prop_assert!((1..=LIFETIME_MAX).contains(&grant.lifetime.as_secs()));
        }
    }
}
