//! What a token is worth: introspection, revocation, the older info calls, and uninstall.

use super::Grant;
use super::token::{Form, TokenError, Version};
use crate::access::Access;
use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::http::AppState;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

/// The one person who installs apps here.
pub(crate) const USER_ID: u64 = 1;

/// A portal's id as the number HubSpot gives out.
pub(crate) fn hub_id(portal: &str) -> i32 {
    portal.parse().unwrap_or(0)
}

/// Routes that take the app's credentials or the token itself.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new()
        .route("/oauth/v1/access-tokens/{token}", get(access_token_info))
        .route("/oauth/v1/refresh-tokens/{token}", get(refresh_token_info).delete(delete_refresh_token));
    for version in ["v3", "2026-03", "2026-09"] {
        router = router
            .route(&format!("/oauth/{version}/token/introspect"), post(introspect))
            .route(&format!("/oauth/{version}/token/revoke"), post(revoke));
    }
    router
}

/// The route that takes the account's access token.
pub(crate) fn account_routes() -> Router<AppState> {
    Router::new()
        .route("/appinstalls/v3/external-install", delete(uninstall))
        .route("/appinstalls/2026-09/external-install", delete(uninstall))
}

fn domain(grant: &Grant) -> String {
    format!("portal-{}.example", grant.portal)
}

fn common(token: &str, grant: &Grant, config: &Config) -> Value {
    json!({
        "token": token, "token_type": "bearer", "hub_id": hub_id(&grant.portal), "hub_domain": domain(grant),
        "user_id": USER_ID, "user": format!("owner@{}", domain(grant)), "app_id": Config::app_id(grant.app),
        "client_id": config.apps.get(grant.app).map(|a| a.client_id.as_str()), "scopes": grant.scopes.as_ref(),
    })
}

async fn introspect(State(app): State<AppState>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(form) = Form::read(&headers, &body, None) else { return not_a_form() };
    if let Err(error) = form.app(&app.config().apps) {
        return error.answer(Version::Later);
    }
    // The guide names the field after the hint, the specification says `token`.
    let Some(token) = ["token", "access_token", "refresh_token"].iter().find_map(|name| form.get(name)) else {
        return TokenError::new("invalid_request", "MISSING_TOKEN", "missing token").answer(Version::Later);
    };
    let now = app.now();
    let world = app.world();
    let answer = if let Some(found) = world.oauth.live_access(token, now) {
        let mut answer = common(token, &found.grant, &app.config());
        answer["active"] = true.into();
        answer["token_use"] = "access_token".into();
        answer["expires_in"] = ((found.expires_at - now) / 1000).into();
        answer["is_private_distribution"] = false.into();
        answer["signed_access_token"] = signed(found, &app.config());
        answer
    } else if let Some(grant) = world.oauth.live_refresh(token, now) {
        let mut answer = common(token, grant, &app.config());
        answer["active"] = true.into();
        answer["token_use"] = "refresh_token".into();
        answer
    } else {
        json!({ "active": false })
    };
    Json(answer).into_response()
}

fn signed(found: &super::AccessToken, config: &Config) -> Value {
    let grant = &found.grant;
    let app = config.apps.get(grant.app).map_or("", |a| a.client_id.as_str());
    json!({
        "expiresAt": found.expires_at, "scopes": "", "hubId": hub_id(&grant.portal), "userId": USER_ID, "appId": Config::app_id(grant.app),
        "signature": "", "newSignature": "", "scopeToScopeGroupPks": "", "trialScopes": "", "trialScopeToScopeGroupPks": "",
        "isUserLevel": false, "hublet": "na1", "isServiceAccount": false, "isPrivateDistribution": false, "installingUserId": USER_ID,
        "audience": "", "appInstallId": format!("{app}:{}", grant.portal),
    })
}

fn not_a_form() -> Response {
    ApiError::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HTTP 415 Unsupported Media Type").into_response()
}

async fn revoke(State(app): State<AppState>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(form) = Form::read(&headers, &body, None) else { return not_a_form() };
    if let Err(error) = form.app(&app.config().apps) {
        return error.answer(Version::Later);
    }
    for token in ["token", "access_token", "refresh_token"].iter().filter_map(|name| form.get(name)) {
        app.world().oauth.revoke(token);
    }
    StatusCode::NO_CONTENT.into_response()
}

/// The older info calls know less: the one the client, the other the app.
fn without(answer: &mut Value, field: &str) {
    if let Some(fields) = answer.as_object_mut() {
        fields.remove(field);
    }
}

async fn access_token_info(State(app): State<AppState>, Path(token): Path<String>) -> ApiResult<Json<Value>> {
    let now = app.now();
    let world = app.world();
    let found = world.oauth.live_access(&token, now).ok_or_else(|| ApiError::not_found("access token not found or expired"))?;
    let mut answer = common(&token, &found.grant, &app.config());
    without(&mut answer, "client_id");
    answer["token_type"] = "access".into();
    answer["expires_in"] = ((found.expires_at - now) / 1000).into();
    Ok(Json(answer))
}

async fn refresh_token_info(State(app): State<AppState>, Path(token): Path<String>) -> ApiResult<Json<Value>> {
    let now = app.now();
    let world = app.world();
    let grant = world.oauth.live_refresh(&token, now).ok_or_else(|| ApiError::not_found("refresh token not found"))?;
    let mut answer = common(&token, grant, &app.config());
    without(&mut answer, "app_id");
    answer["token_type"] = "refresh".into();
    Ok(Json(answer))
}

async fn delete_refresh_token(State(app): State<AppState>, Path(token): Path<String>) -> StatusCode {
    app.world().oauth.revoke(&token);
    StatusCode::NO_CONTENT
}

async fn uninstall(State(app): State<AppState>, Extension(access): Extension<Access>) -> ApiResult<StatusCode> {
    access.any_of(&["oauth"])?;
    app.world().oauth.uninstall(access.oauth_app()?, &access.portal);
    Ok(StatusCode::NO_CONTENT)
}
