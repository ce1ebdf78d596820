//! Apps: the event types of their projects, and the webhooks that they are sent.

use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::timeline::app_event_types::{self, NewType};
use crate::webhooks::deliver::{Delivery, Sender, Signed};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// The routes of apps.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandbox/apps/{client_id}/event-types", post(event_type))
        .route("/sandbox/apps/{client_id}/webhooks", post(send))
        .route("/sandbox/webhooks", get(deliveries))
}

fn app_of(app: &AppState, client_id: &str) -> ApiResult<usize> {
    let found = app.config().apps.iter().position(|a| a.client_id == client_id);
    found.ok_or_else(|| ApiError::not_found(format!("no app has the client id {client_id}")))
}

/// Takes an event type as a project's file has it: `{"uid":…,"config":{…}}`.
async fn event_type(State(app): State<AppState>, Path(client_id): Path<String>, Body(new): Body<NewType>) -> ApiResult {
    let name = app_event_types::put(&app, app_of(&app, &client_id)?, new)?;
    Ok((StatusCode::CREATED, Json(json!({ "fullyQualifiedName": name }))).into_response())
}

/// The attempts to deliver webhooks, oldest first; the last 10,000.
async fn deliveries(State(app): State<AppState>) -> Json<Value> {
    let world = app.world();
    let shown: Vec<&Delivery> = world.webhooks.deliveries().collect();
    Json(json!({ "deliveries": shown }))
}

/// A request to an app's webhook target, of whatever content, signed as told: for what should not be believed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    /// The JSON to send.
    events: Value,
    /// The app's target unless another one is named.
    #[serde(default)]
    url: Option<String>,
    /// The app's secret unless another one is named.
    #[serde(default)]
    secret: Option<String>,
    /// The sandbox's time unless another one is named, in milliseconds.
    #[serde(default)]
    timestamp_ms: Option<u64>,
    /// The right signature unless another one is named.
    #[serde(default)]
    signature: Option<String>,
}

async fn send(State(app): State<AppState>, Path(client_id): Path<String>, Body(send): Body<Send>) -> ApiResult<Json<Value>> {
    let index = app_of(&app, &client_id)?;
    let config = app.config();
    let target = app.world().webhooks.settings(index).map(|s| s.target_url.clone());
    let url = send.url.or(target).ok_or_else(|| ApiError::validation("the app has no webhook settings: name a url"))?;
    let secret = send.secret.as_deref().unwrap_or(&config.apps[index].client_secret);
    let mut signed = Signed::new(url, send.events.to_string().into_bytes(), secret, send.timestamp_ms.unwrap_or_else(|| app.now()));
    signed.signature = send.signature.unwrap_or(signed.signature);
    let sender = Sender::new().map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", e.to_string()))?;
    Ok(Json(json!({ "status": sender.send(signed).await })))
}
