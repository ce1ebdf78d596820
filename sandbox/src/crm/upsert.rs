//! Batch upsert: change the record that a unique property names, or create it.

use super::batch::{INPUTS_MAX, Inputs, Write, answer, check_count, check_unique};
use super::objects::{create_one, show_written, source};
use super::schema::Authority;
use super::values::Values;
use super::{Generation, Kind};
use crate::access::Access;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::portal::{Found, Portal};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Router};
use serde_json::{Map, Value, json};

/// The upsert route, below any of the version prefixes.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/{kind}/batch/upsert", post(upsert))
}

async fn upsert(
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
    // HubSpot: partial upserts are not supported with `email`; one bad input then fails the whole batch.
    let partial = input.inputs.iter().all(|i| i.object_write_trace_id.is_some() && i.id_property.as_deref() != Some("email"));
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    if !partial {
        for one in &input.inputs {
            check_one(portal, kind, one)?;
        }
    }
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for one in &input.inputs {
        match upsert_one(portal, kind, one, &access, now) {
            Ok(shown) => results.push(Value::Object(shown)),
            Err(error) if partial => {
                errors.push(error.into_entry(json!({ "ids": [one.id()], "objectWriteTraceId": [one.object_write_trace_id] })));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answer(StatusCode::OK, generation, now, app.now(), results, errors))
}

/// The values to write: those sent, and the identifying one where it is a property of its own.
fn values(one: &Write) -> Values {
    let mut values = one.properties.clone();
    if let Some(name) = one.id_property.as_deref().filter(|name| *name != "hs_object_id")
        && !values.0.iter().any(|(n, _)| n == name)
    {
        values.0.push((name.to_owned(), one.id().to_owned()));
    }
    values
}

/// The record to change, if there is one, and the checked values.
type Plan = (Option<u64>, Vec<(String, String)>);

fn check_one(portal: &Portal, kind: Kind, one: &Write) -> ApiResult<Plan> {
    let by_id = matches!(one.id_property.as_deref(), None | Some("hs_object_id"));
    match portal.find(kind, one.id(), one.id_property.as_deref())? {
        Found::Live(id) | Found::Merged(id) => Ok((Some(id), portal.check(kind, Some(id), &values(one).0, Authority::Api)?)),
        Found::Missing if by_id => Err(ApiError::no_record(one.id())),
        Found::Missing => Ok((None, portal.check(kind, None, &values(one).0, Authority::Api)?)),
    }
}

fn upsert_one(portal: &mut Portal, kind: Kind, one: &Write, access: &Access, now: u64) -> ApiResult<Map<String, Value>> {
    let (found, checked) = check_one(portal, kind, one)?;
    let mut shown = match found {
        Some(id) => {
            let names = portal.apply(kind, id, &checked, source(access), now);
            let record = portal.store(kind).records.get(&id).ok_or_else(|| ApiError::no_record(one.id()))?;
            show_written(kind, record, &names)
        }
        None => create_one(portal, kind, &values(one), &[], source(access), now)?,
    };
    shown.insert("new".into(), found.is_none().into());
    if let Some(trace) = &one.object_write_trace_id {
        shown.insert("objectWriteTraceId".into(), trace.as_str().into());
    }
    Ok(shown)
}
