//! `POST /oauth/{v1,v3,2026-03,2026-09}/token`: codes and refresh tokens for access tokens, and tokens of an app for itself.

use super::{APP_SCOPES, Exchange, OAuth, Pair, Refusal, SCOPES};
use crate::config::{App, Config};
use crate::error::correlation_id;
use crate::http::{AppState, Pairs};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Version 1 answers errors in its own, older shape and reads some fields from the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    Later,
}

/// The token routes.
pub(crate) fn routes() -> Router<AppState> {
    let later = || post(token).layer(Extension(Version::Later));
    Router::new()
        .route("/oauth/v1/token", post(token).layer(Extension(Version::V1)))
        .route("/oauth/v3/token", later())
        .route("/oauth/2026-03/token", later())
        .route("/oauth/2026-09/token", later())
}

/// An error of the token endpoint.
pub(crate) struct TokenError {
    status: StatusCode,
    /// OAuth's word for it.
    error: &'static str,
    /// HubSpot's word for it.
    hubspot: &'static str,
    message: &'static str,
}

impl TokenError {
    pub fn new(error: &'static str, hubspot: &'static str, message: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, hubspot, message }
    }

    pub fn answer(self, version: Version) -> Response {
        let Self { status, error, hubspot, message } = self;
        let mut body = json!({ "status": hubspot, "message": message, "correlationId": correlation_id() });
        if version == Version::Later {
            body["error"] = error.into();
            body["error_description"] = message.into();
        }
        (status, Json(body)).into_response()
    }
}

/// A form body together with, for version 1, what HubSpot also reads from the query.
pub(crate) struct Form(Pairs, Option<Pairs>);

impl Form {
    /// None when the body is no form.
    pub fn read(headers: &HeaderMap, body: &Bytes, query: Option<Pairs>) -> Option<Self> {
        let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
        let text = std::str::from_utf8(body).ok()?;
        content_type.starts_with("application/x-www-form-urlencoded").then(|| Self(Pairs::parse(Some(text)), query))
    }

    /// A field; empty is as good as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        let in_query = || self.1.as_ref().filter(|_| matches!(name, "client_secret" | "refresh_token"))?.get(name);
        self.0.get(name).or_else(in_query).filter(|v| !v.is_empty())
    }

    /// The app whose credentials the form carries.
    pub fn app(&self, apps: &[App]) -> Result<usize, TokenError> {
        let id = self.get("client_id").ok_or(TokenError::new("invalid_request", "MISSING_CLIENT_ID", "missing client_id"))?;
        let found = apps.iter().position(|app| app.client_id == id);
        let app = found.ok_or(TokenError::new("invalid_client", "BAD_CLIENT_ID", "missing or unknown client id"))?;
        match self.get("client_secret") {
            Some(secret) if secret == apps[app].client_secret => Ok(app),
            _ => Err(TokenError::new("invalid_client", "BAD_CLIENT_SECRET", "missing or invalid client secret")),
        }
    }
}

async fn token(
    State(app): State<AppState>,
    Extension(version): Extension<Version>,
    query: Pairs,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = (version == Version::V1).then_some(query);
    let Some(form) = Form::read(&headers, &body, query) else {
        return crate::error::ApiError::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HTTP 415 Unsupported Media Type").into_response();
    };
    match grant(&app, &form) {
        // RFC 6749, section 5.1: tokens are not to be cached.
        Ok(body) => ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response(),
        Err(error) => error.answer(version),
    }
}

fn grant(app: &AppState, form: &Form) -> Result<Value, TokenError> {
    let config = app.config();
    let client = form.app(&config.apps)?;
    let now = app.now();
    let oauth = &mut app.world().oauth;
    let outcome = match form.get("grant_type") {
        Some("authorization_code") => {
            let code = form.get("code").ok_or(TokenError::new("invalid_request", "MISSING_AUTH_CODE", "missing auth code"))?;
            let redirect_uri = form.get("redirect_uri").unwrap_or_default();
            oauth.exchange(client, Exchange { code, redirect_uri, verifier: form.get("code_verifier") }, &config, now)
        }
        Some("refresh_token") => oauth.refresh(client, form.get("refresh_token").unwrap_or_default(), &config, now),
        Some("client_credentials") => return client_credentials(oauth, client, form, &config, now),
        _ => return Err(TokenError::new("unsupported_grant_type", "BAD_GRANT_TYPE", "missing or unknown grant type")),
    };
    outcome.map(|pair| show(&pair)).map_err(|refusal| match refusal {
        Refusal::BadCode => TokenError::new("invalid_grant", "BAD_AUTH_CODE", "missing or unknown auth code"),
        Refusal::WrongRedirect => {
            TokenError::new("invalid_grant", "BAD_REDIRECT_URI", "redirect_uri does not match the one the code was given to")
        }
        Refusal::WrongVerifier => TokenError::new("invalid_grant", "BAD_CODE_VERIFIER", "code_verifier does not match the code_challenge"),
        Refusal::BadRefreshToken => TokenError {
            status: StatusCode::from_u16(config.bad_refresh_status).unwrap_or(StatusCode::BAD_REQUEST),
            ..TokenError::new("invalid_grant", "BAD_REFRESH_TOKEN", "missing or invalid refresh token")
        },
    })
}

/// A token for the app itself. It comes without a refresh token: the app asks again.
fn client_credentials(oauth: &mut OAuth, client: usize, form: &Form, config: &Config, now: u64) -> Result<Value, TokenError> {
    let scopes: BTreeSet<String> = form.get("scope").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let known = |scope: &String| APP_SCOPES.contains(&scope.as_str()) || SCOPES.contains(&scope.as_str());
    if scopes.is_empty() || !scopes.iter().all(known) {
        return Err(TokenError::new("invalid_scope", "BAD_SCOPE", "missing or unknown scope"));
    }
    let (token, made) = oauth.new_app_token(client, scopes, config, now);
    Ok(json!({
        "token_type": "bearer", "access_token": token, "expires_in": (made.expires_at - now) / 1000, "scopes": made.scopes.as_ref(),
        "token_use": "client_credentials",
    }))
}

fn show(pair: &Pair) -> Value {
    json!({
        "token_type": "bearer", "access_token": pair.access_token, "refresh_token": pair.refresh_token,
        "expires_in": pair.expires_in_s, "hub_id": super::inspect::hub_id(&pair.grant.portal), "user_id": super::inspect::USER_ID,
        "scopes": pair.grant.scopes.as_ref(), "token_use": "access_token",
    })
}
