//! Portals: what is in them, what a person does there, grants without a browser.

use crate::crm::Kind;
use crate::crm::values::{Id, Values};
use crate::error::{ApiError, ApiResult};
use crate::forms::definitions::Field;
use crate::http::{AppState, Body};
use crate::snapshot::Snapshot;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// The routes of portals.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandbox/reset", post(reset))
        .route("/sandbox/portals", get(portals))
        .route("/sandbox/portals/{portal}", get(snapshot))
        .route("/sandbox/portals/{portal}/refresh-token", post(refresh_token))
        .route("/sandbox/portals/{portal}/authorization-code", post(authorization_code))
        .route("/sandbox/portals/{portal}/static-token", post(static_token))
        .route("/sandbox/portals/{portal}/expire-tokens", post(expire_tokens))
        .route("/sandbox/portals/{portal}/revoke", post(revoke))
        .route("/sandbox/portals/{portal}/forms", post(form))
        .route("/sandbox/portals/{portal}/associations/{contact}/{deal}", put(associate).delete(dissociate))
        .route("/sandbox/portals/{portal}/{kind}", post(seed))
        .route("/sandbox/portals/{portal}/{kind}/{id}", patch(edit).delete(archive))
        .route("/sandbox/portals/{portal}/{kind}/{id}/merge", post(merge))
        .route("/sandbox/portals/{portal}/{kind}/{id}/restore", post(restore))
        .route("/sandbox/portals/{portal}/{kind}/{id}/gdpr-delete", post(erase))
}

type S = State<AppState>;

#[derive(Deserialize)]
struct Reset {
    #[serde(default)]
    portal: Option<Id>,
}

async fn reset(State(app): S, Body(input): Body<Reset>) -> StatusCode {
    app.reset(input.portal.as_ref().map(|p| p.0.as_str()));
    StatusCode::NO_CONTENT
}

async fn portals(State(app): S) -> Json<Value> {
    Json(json!({ "portals": app.world().portal_ids() }))
}

async fn snapshot(State(app): S, Path(portal): Path<String>) -> ApiResult<Json<Snapshot>> {
    app.snapshot(&portal).map(Json)
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

async fn refresh_token(State(app): S, Path(portal): Path<String>, Body(input): Body<Mint>) -> ApiResult {
    let token = app.mint_refresh_token(&portal, input.client_id.as_deref(), input.scopes.as_deref())?;
    Ok((StatusCode::CREATED, Json(json!({ "refresh_token": token }))).into_response())
}

async fn authorization_code(State(app): S, Path(portal): Path<String>, Body(input): Body<Mint>) -> ApiResult {
    let redirect_uri = input.redirect_uri.as_deref().ok_or_else(|| ApiError::validation("redirect_uri is missing"))?;
    let code = app.mint_code(&portal, input.client_id.as_deref(), input.scopes.as_deref(), redirect_uri)?;
    Ok((StatusCode::CREATED, Json(json!({ "code": code }))).into_response())
}

async fn static_token(State(app): S, Path(portal): Path<String>, Body(input): Body<Mint>) -> ApiResult {
    let token = app.mint_static_token(&portal, input.scopes.as_deref())?;
    Ok((StatusCode::CREATED, Json(json!({ "token": token }))).into_response())
}

async fn expire_tokens(State(app): S, Path(portal): Path<String>) -> StatusCode {
    let now = app.now();
    app.world().oauth.expire_all(&portal, now);
    StatusCode::NO_CONTENT
}

async fn revoke(State(app): S, Path(portal): Path<String>) -> StatusCode {
    app.world().oauth.revoke_all(&portal);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct NewForm {
    #[serde(default)]
    guid: Option<String>,
    name: String,
    fields: Vec<Field>,
}

async fn form(State(app): S, Path(portal): Path<String>, Body(input): Body<NewForm>) -> ApiResult {
    let form = app.put_form(&portal, input.guid.as_deref(), &input.name, input.fields)?;
    Ok((StatusCode::CREATED, Json(json!({ "guid": form.guid }))).into_response())
}

type Three = Path<(String, String, String)>;

async fn associate(State(app): S, Path((portal, contact, deal)): Three) -> ApiResult<StatusCode> {
    app.associate(&portal, &contact, &deal, true)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn dissociate(State(app): S, Path((portal, contact, deal)): Three) -> ApiResult<StatusCode> {
    app.associate(&portal, &contact, &deal, false)?;
    Ok(StatusCode::NO_CONTENT)
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

async fn seed(State(app): S, Path((portal, kind)): Path<(String, String)>, Body(input): Body<Seed>) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    let linked: Vec<&str> = input.contact_ids.iter().chain(&input.deal_ids).map(|id| id.0.as_str()).collect();
    let id = app.seed(&portal, kind, input.id.as_ref().map(|id| id.0.as_str()), &input.properties.0, &linked)?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

#[derive(Deserialize)]
struct Edit {
    properties: Values,
}

async fn edit(State(app): S, Path((portal, kind, id)): Three, Body(input): Body<Edit>) -> ApiResult<StatusCode> {
    app.edit(&portal, Kind::parse(&kind)?, &id, &input.properties.0)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn archive(State(app): S, Path((portal, kind, id)): Three) -> ApiResult<StatusCode> {
    app.archive(&portal, Kind::parse(&kind)?, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Merge {
    other_id: Id,
}

/// Merges another record into the one in the path.
async fn merge(State(app): S, Path((portal, kind, id)): Three, Body(input): Body<Merge>) -> ApiResult<StatusCode> {
    app.merge(&portal, Kind::parse(&kind)?, &id, &input.other_id.0)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restore(State(app): S, Path((portal, kind, id)): Three) -> ApiResult<StatusCode> {
    app.restore(&portal, Kind::parse(&kind)?, &id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Only contacts can be deleted for good.
async fn erase(State(app): S, Path((portal, kind, id)): Three) -> ApiResult<StatusCode> {
    match Kind::parse(&kind)? {
        Kind::Contact => app.erase(&portal, &id)?,
        Kind::Deal => return Err(ApiError::validation("Only contacts can be deleted under the GDPR")),
    }
    Ok(StatusCode::NO_CONTENT)
}
