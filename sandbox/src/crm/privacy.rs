//! GDPR delete: a contact is erased for good, found by id or by address.

use super::Kind;
use super::objects::source;
use super::values::Id;
use crate::access::Access;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::portal::Found;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Router};
use serde::Deserialize;

/// The route, below any of the version prefixes.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/{kind}/gdpr-delete", post(erase))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Erase {
    object_id: Id,
    #[serde(default)]
    id_property: Option<String>,
}

/// An archived contact can be erased, too. An address that nobody has is a success: HubSpot then bars it for the future, which
/// this sandbox does not keep.
async fn erase(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    Body(input): Body<Erase>,
) -> ApiResult<StatusCode> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    if kind != Kind::Contact {
        return Err(ApiError::validation("Only contacts can be deleted under the GDPR"));
    }
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let id = match portal.find(kind, &input.object_id.0, input.id_property.as_deref())? {
        Found::Live(id) | Found::Merged(id) => Some(id),
        Found::Missing => input.object_id.0.parse().ok().filter(|id| portal.contacts.records.contains_key(id)),
    };
    match id {
        Some(id) => portal.erase(id, source(&access), now),
        None if input.id_property.as_deref() == Some("email") => {}
        None => return Err(ApiError::no_record(&input.object_id.0)),
    }
    Ok(StatusCode::NO_CONTENT)
}
