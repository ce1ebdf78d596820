//! Batches of records: read, create, update, archive.
//!
//! A batch is all or nothing for what is wrong with the request itself (too many inputs, the same record twice), and for bad
//! values as long as not every input carries an `objectWriteTraceId`. With trace ids on all of them, and for records that do
//! not exist, the rest goes on and the answer is a 207 that lists the failures.

use super::objects::{View, create_one, show_written, source};
use super::schema::Authority;
use super::values::{NewAssociation, Ref, Values};
use super::{Generation, Kind};
use crate::access::Access;
use crate::clock::iso;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::portal::Found;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Most inputs that a batch of records may have.
pub(super) const INPUTS_MAX: usize = 100;

/// The batch routes, below any of the version prefixes.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/{kind}/batch/read", post(read))
        .route("/{kind}/batch/create", post(create))
        .route("/{kind}/batch/update", post(update))
        .route("/{kind}/batch/archive", post(archive))
}

/// `{"inputs": […]}`
#[derive(Deserialize)]
pub(crate) struct Inputs<T> {
    pub inputs: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    inputs: Vec<Ref>,
    #[serde(default)]
    properties: Vec<String>,
    #[serde(default)]
    properties_with_history: Vec<String>,
    #[serde(default)]
    id_property: Option<String>,
}

/// One record to create.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    #[serde(default)]
    properties: Values,
    #[serde(default)]
    associations: Vec<NewAssociation>,
    #[serde(default)]
    object_write_trace_id: Option<String>,
}

/// One record to change; also for upserts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Write {
    #[serde(flatten)]
    pub reference: Ref,
    #[serde(default)]
    pub id_property: Option<String>,
    pub properties: Values,
    #[serde(default)]
    pub object_write_trace_id: Option<String>,
}

impl Write {
    pub fn id(&self) -> &str {
        &self.reference.id.0
    }
}

/// 400 for an empty batch or one that is too long.
pub(crate) fn check_count(count: usize, max: usize) -> ApiResult<()> {
    match count {
        0 => Err(ApiError::validation("The batch has no inputs")),
        _ if count > max => Err(ApiError::validation(format!("A batch may have at most {max} inputs; this one has {count}"))),
        _ => Ok(()),
    }
}

/// 400 for the same record twice.
pub(super) fn check_unique<'a>(ids: impl Iterator<Item = &'a str>) -> ApiResult<()> {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&str> = ids.filter(|id| !seen.insert(*id)).collect();
    if twice.is_empty() {
        return Ok(());
    }
    let list: Vec<&str> = twice.into_iter().collect();
    let message = format!("Duplicate IDs found in batch input: [{}]. IDs must be unique", list.join(", "));
    Err(ApiError::validation(message).with("context", json!({ "ids": list })))
}

/// The answer to a batch: `success` without errors, 207 with some (2026-09 paths: `success` in both cases).
pub(crate) fn answer(
    success: StatusCode,
    generation: Generation,
    started_at: u64,
    now: u64,
    results: Vec<Value>,
    errors: Vec<Value>,
) -> Response {
    let mut body = json!({ "status": "COMPLETE", "results": Value::Array(results), "startedAt": iso(started_at), "completedAt": iso(now) });
    if errors.is_empty() {
        return (success, Json(body)).into_response();
    }
    body["numErrors"] = errors.len().into();
    body["errors"] = errors.into();
    let status = if generation == Generation::September2026 { success } else { StatusCode::MULTI_STATUS };
    (status, Json(body)).into_response()
}

/// The entry for records that do not exist.
pub(super) fn missing(kind: Kind, ids: &[&str], trace_ids: &[&str]) -> Value {
    let kind = kind.singular().to_uppercase();
    let message = format!("Could not get some {kind} objects, they may be deleted or not exist. Check that ids are valid.");
    let mut context = json!({ "ids": ids });
    if !trace_ids.is_empty() {
        context["objectWriteTraceId"] = json!(trace_ids);
    }
    ApiError::not_found(message).into_entry(context)
}

async fn read(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path(kind): Path<String>,
    Body(input): Body<Read>,
) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.read_scopes())?;
    check_count(input.inputs.len(), INPUTS_MAX)?;
    let now = app.now();
    let view = View { properties: input.properties, history: input.properties_with_history, associations: Vec::new() };
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let (mut results, mut gone) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for Ref { id } in &input.inputs {
        match portal.find(kind, &id.0, input.id_property.as_deref())? {
            Found::Live(found) => {
                if let Some(record) = portal.store(kind).records.get(&found).filter(|_| seen.insert(found)) {
                    results.push(Value::Object(view.show(portal, kind, record)?));
                }
            }
            // Neither a result nor an error, as observed.
            Found::Merged(_) => {}
            Found::Missing => gone.push(id.0.as_str()),
        }
    }
    let errors = if gone.is_empty() { Vec::new() } else { vec![missing(kind, &gone, &[])] };
    Ok(answer(StatusCode::OK, generation, now, app.now(), results, errors))
}

async fn create(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path(kind): Path<String>,
    Body(input): Body<Inputs<Create>>,
) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    check_count(input.inputs.len(), INPUTS_MAX)?;
    let traced = input.inputs.iter().all(|i| i.object_write_trace_id.is_some());
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    if !traced {
        for one in &input.inputs {
            portal.check(kind, None, &one.properties.0, Authority::Api)?;
        }
        let emails = || input.inputs.iter().flat_map(|i| &i.properties.0).filter(|(n, v)| n == "email" && !v.is_empty());
        check_unique(emails().map(|(_, v)| v.as_str()))?;
    }
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for one in &input.inputs {
        match create_one(portal, kind, &one.properties, &one.associations, source(&access), now) {
            Ok(mut shown) => {
                if let Some(trace) = &one.object_write_trace_id {
                    shown.insert("objectWriteTraceId".into(), trace.as_str().into());
                }
                results.push(Value::Object(shown));
            }
            Err(error) if traced => errors.push(error.into_entry(json!({ "objectWriteTraceId": [one.object_write_trace_id] }))),
            Err(error) => return Err(error),
        }
    }
    Ok(answer(StatusCode::CREATED, generation, now, app.now(), results, errors))
}

async fn update(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path(kind): Path<String>,
    Body(input): Body<Inputs<Write>>,
) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    check_count(input.inputs.len(), INPUTS_MAX)?;
    check_unique(input.inputs.iter().map(Write::id))?;
    let traced = input.inputs.iter().all(|i| i.object_write_trace_id.is_some());
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);

    let (mut writes, mut errors, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for one in &input.inputs {
        match portal.find(kind, one.id(), one.id_property.as_deref())? {
            Found::Live(id) => match portal.check(kind, Some(id), &one.properties.0, Authority::Api) {
                Ok(checked) => writes.push((id, checked, one)),
                Err(error) if traced => {
                    errors.push(error.into_entry(json!({ "ids": [one.id()], "objectWriteTraceId": [one.object_write_trace_id] })));
                }
                Err(error) => return Err(error),
            },
            Found::Merged(_) => {}
            Found::Missing if traced => {
                let traces: Vec<&str> = one.object_write_trace_id.as_deref().into_iter().collect();
                errors.push(missing(kind, &[one.id()], &traces));
            }
            Found::Missing => gone.push(one.id()),
        }
    }
    // An id and an address may name the same record.
    let ids: Vec<String> = writes.iter().map(|(id, ..)| id.to_string()).collect();
    check_unique(ids.iter().map(String::as_str))?;
    if !gone.is_empty() {
        errors.push(missing(kind, &gone, &[]));
    }
    let mut results = Vec::new();
    for (id, checked, one) in writes {
        let names = portal.apply(kind, id, &checked, source(&access), now);
        if let Some(record) = portal.store(kind).records.get(&id) {
            let mut shown = show_written(kind, record, &names);
            if let Some(trace) = &one.object_write_trace_id {
                shown.insert("objectWriteTraceId".into(), trace.as_str().into());
            }
            results.push(Value::Object(shown));
        }
    }
    Ok(answer(StatusCode::OK, generation, now, app.now(), results, errors))
}

async fn archive(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    Body(input): Body<Inputs<Ref>>,
) -> ApiResult<StatusCode> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    check_count(input.inputs.len(), INPUTS_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    for Ref { id } in &input.inputs {
        if let Found::Live(found) = portal.find(kind, &id.0, None)? {
            portal.archive(kind, found, source(&access), now);
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
