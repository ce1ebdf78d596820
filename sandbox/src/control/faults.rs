//! Scripted faults: play a script, add a rule, look, end.

use crate::error::{ApiError, ApiResult};
use crate::faults::script::{RuleSpec, Script};
use crate::http::{AppState, Body};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// The routes of faults.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/sandbox/faults", get(show).put(play).post(add).delete(clear))
}

async fn show(State(app): State<AppState>) -> Json<Value> {
    Json(app.world().faults.show())
}

async fn play(State(app): State<AppState>, Body(script): Body<Script>) -> ApiResult<StatusCode> {
    app.world().faults.play(script).map_err(ApiError::validation)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add(State(app): State<AppState>, Body(rule): Body<RuleSpec>) -> ApiResult {
    let name = app.world().faults.add(rule).map_err(ApiError::validation)?;
    Ok((StatusCode::CREATED, Json(json!({ "name": name }))).into_response())
}

async fn clear(State(app): State<AppState>) -> StatusCode {
    app.world().faults.clear();
    StatusCode::NO_CONTENT
}
