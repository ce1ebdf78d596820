//! Property groups: list, read, create, change, delete.

use super::Kind;
use super::properties::valid_name;
use super::schema::{Group, minus_one};
use crate::access::Access;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// The group routes, below the prefix of properties.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/{kind}/groups", get(list).post(create)).route("/{kind}/groups/{name}", get(read).patch(update).delete(remove))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewGroup {
    name: String,
    label: String,
    #[serde(default = "minus_one")]
    display_order: i64,
}

fn no_group(name: &str) -> ApiError {
    ApiError::not_found(format!("Property group \"{name}\" does not exist"))
}

type S = State<AppState>;
type Two = Path<(String, String)>;

async fn list(State(app): S, Extension(access): Extension<Access>, Path(kind): Path<String>) -> ApiResult<Json<Value>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_read_scopes())?;
    let mut world = app.world();
    let groups: Vec<&Group> = world.portal(&access.portal).schema(kind).groups.values().collect();
    Ok(Json(json!({ "results": groups })))
}

async fn read(State(app): S, Extension(access): Extension<Access>, Path((kind, name)): Two) -> ApiResult<Json<Group>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_read_scopes())?;
    let mut world = app.world();
    world.portal(&access.portal).schema(kind).groups.get(&name).cloned().map(Json).ok_or_else(|| no_group(&name))
}

async fn create(State(app): S, Extension(access): Extension<Access>, Path(kind): Path<String>, Body(new): Body<NewGroup>) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    let mut world = app.world();
    let groups = &mut world.portal(&access.portal).schema_mut(kind).groups;
    if !valid_name(&new.name) {
        return Err(ApiError::validation(format!(
            "{:?} is not a group name: start with a lower-case letter, go on with a-z, 0-9 and _",
            new.name
        )));
    }
    if groups.contains_key(&new.name) {
        let message = format!("A property group named '{}' already exists.", new.name);
        return Err(ApiError::new(StatusCode::CONFLICT, "OBJECT_ALREADY_EXISTS", message));
    }
    let group = Group { name: new.name.clone(), label: new.label, display_order: new.display_order, archived: false };
    groups.insert(new.name, group.clone());
    Ok((StatusCode::CREATED, Json(group)).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupPatch {
    label: Option<String>,
    display_order: Option<i64>,
}

async fn update(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, name)): Two,
    Body(patch): Body<GroupPatch>,
) -> ApiResult<Json<Group>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    let mut world = app.world();
    let group = world.portal(&access.portal).schema_mut(kind).groups.get_mut(&name).ok_or_else(|| no_group(&name))?;
    group.label = patch.label.unwrap_or_else(|| group.label.clone());
    group.display_order = patch.display_order.unwrap_or(group.display_order);
    Ok(Json(group.clone()))
}

async fn remove(State(app): S, Extension(access): Extension<Access>, Path((kind, name)): Two) -> ApiResult<StatusCode> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    let mut world = app.world();
    let schema = world.portal(&access.portal).schema_mut(kind);
    if schema.properties.values().any(|p| p.group_name == name && !p.archived) {
        return Err(ApiError::validation(format!("Property group \"{name}\" still has properties")));
    }
    schema.groups.remove(&name).map(|_| StatusCode::NO_CONTENT).ok_or_else(|| no_group(&name))
}
