//! The control API below `/sandbox`: not HubSpot's. It seeds, resets, reads back, and mints grants without a browser.
//!
//! It takes no credentials: whoever can reach the sandbox may use it. Bodies are JSON, so that no foreign web page can post
//! to it from a visitor's browser without being asked first.

use crate::crm::Kind;
use crate::crm::values::{Id, Values};
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use crate::snapshot::{Request, Snapshot};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// The control routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandbox/reset", post(reset))
        .route("/sandbox/requests", get(requests))
        .route("/sandbox/portals", get(portals))
        .route("/sandbox/portals/{portal}", get(snapshot))
        .route("/sandbox/portals/{portal}/refresh-token", post(refresh_token))
        .route("/sandbox/portals/{portal}/authorization-code", post(authorization_code))
        .route("/sandbox/portals/{portal}/{kind}", post(seed))
        .route("/sandbox/portals/{portal}/{kind}/{id}", patch(edit))
        .route("/sandbox/portals/{portal}/{kind}/{id}/merge", post(merge))
}

#[derive(Deserialize)]
struct Reset {
    #[serde(default)]
    portal: Option<Id>,
}

async fn reset(State(app): State<AppState>, Body(input): Body<Reset>) -> StatusCode {
    app.reset(input.portal.as_ref().map(|p| p.0.as_str()));
    StatusCode::NO_CONTENT
}

async fn portals(State(app): State<AppState>) -> Json<Value> {
    Json(json!({ "portals": app.world().portal_ids() }))
}

async fn snapshot(State(app): State<AppState>, Path(portal): Path<String>) -> ApiResult<Json<Snapshot>> {
    app.snapshot(&portal).map(Json)
}

/// The log, oldest first: `?after=NUMBER` goes on from there, `?portal=` and `?limit=` (default 1,000) narrow it.
async fn requests(State(app): State<AppState>, pairs: Pairs) -> ApiResult<Json<Value>> {
    let number = |name: &str, default: u64| match pairs.get(name) {
        Some(text) => text.parse().map_err(|_| ApiError::validation(format!("{name} must be a number"))),
        None => Ok(default),
    };
    let (after, limit) = (number("after", 0)?, number("limit", 1_000)?);
    let portal = pairs.get("portal");
    let world = app.world();
    let wanted = world.requests.iter().filter(|r| r.number > after && (portal.is_none() || r.portal.as_deref() == portal));
    let shown: Vec<&Request> = wanted.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    Ok(Json(json!({ "total": world.request_count, "requests": shown })))
}

#[derive(Deserialize)]
struct Mint {
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    #[serde(default)]
    redirect_uri: Option<String>,
}

async fn refresh_token(State(app): State<AppState>, Path(portal): Path<String>, Body(input): Body<Mint>) -> ApiResult {
    let token = app.mint_refresh_token(&portal, input.client_id.as_deref(), input.scopes.as_deref())?;
    Ok((StatusCode::CREATED, Json(json!({ "refresh_token": token }))).into_response())
}

async fn authorization_code(State(app): State<AppState>, Path(portal): Path<String>, Body(input): Body<Mint>) -> ApiResult {
    let redirect_uri = input.redirect_uri.as_deref().ok_or_else(|| ApiError::validation("redirect_uri is missing"))?;
    let code = app.mint_code(&portal, input.client_id.as_deref(), input.scopes.as_deref(), redirect_uri)?;
    Ok((StatusCode::CREATED, Json(json!({ "code": code }))).into_response())
}

#[derive(Deserialize)]
struct Seed {
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    properties: Values,
    /// For deals.
    #[serde(default)]
    contact_ids: Vec<Id>,
    /// For contacts.
    #[serde(default)]
    deal_ids: Vec<Id>,
}

async fn seed(State(app): State<AppState>, Path((portal, kind)): Path<(String, String)>, Body(input): Body<Seed>) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    let linked: Vec<&str> = input.contact_ids.iter().chain(&input.deal_ids).map(|id| id.0.as_str()).collect();
    let id = app.seed(&portal, kind, input.id.as_ref().map(|id| id.0.as_str()), &input.properties.0, &linked)?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

#[derive(Deserialize)]
struct Edit {
    properties: Values,
}

async fn edit(
    State(app): State<AppState>,
    Path((portal, kind, id)): Path<(String, String, String)>,
    Body(input): Body<Edit>,
) -> ApiResult<StatusCode> {
    app.edit(&portal, Kind::parse(&kind)?, &id, &input.properties.0)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Merge {
    other_id: Id,
}

/// Merges another record into the one in the path.
async fn merge(
    State(app): State<AppState>,
    Path((portal, kind, id)): Path<(String, String, String)>,
    Body(input): Body<Merge>,
) -> ApiResult<StatusCode> {
    app.merge(&portal, Kind::parse(&kind)?, &id, &input.other_id.0)?;
    Ok(StatusCode::NO_CONTENT)
}
