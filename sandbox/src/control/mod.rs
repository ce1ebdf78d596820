//! The control API below `/sandbox`: what a test or a person wants of the sandbox that HubSpot does not offer.

mod apps;
mod faults;
mod portals;
mod settings;

use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Pairs};
use crate::log::Request;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// The control routes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandbox/requests", get(requests))
        .merge(portals::routes())
        .merge(apps::routes())
        .merge(faults::routes())
        .merge(settings::routes())
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
    let wanted = world.log.requests().filter(|r| r.number > after && (portal.is_none() || r.portal.as_deref() == portal));
    let shown: Vec<&Request> = wanted.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    Ok(Json(json!({ "total": world.log.count, "requests": shown })))
}
