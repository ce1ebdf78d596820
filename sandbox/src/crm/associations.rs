//! Associations between contacts and deals (v4 and the dated paths): batch read, create, delete, and the single calls.
//!
//! Only the unlabelled association is kept (contact → deal is type 4, deal → contact type 3).

use super::batch::{Inputs, answer, check_count};
use super::objects::{resolve, source};
use super::record::Source;
use super::values::{AssociationType, Id, Ref};
use super::{Generation, Kind};
use crate::access::Access;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use crate::portal::{Found, Portal};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// Most inputs of a batch read.
const READ_MAX: usize = 1_000;
/// Most inputs of a batch that writes.
const WRITE_MAX: usize = 2_000;
/// Associated records on a page, also when the caller asks for more.
const PAGE_MAX: usize = 500;

/// Any one of these lets a token read and write associations in batches.
const BATCH_SCOPES: &[&str] =
    &["crm.objects.contacts.read", "crm.objects.contacts.write", "crm.objects.deals.read", "crm.objects.deals.write"];
/// For single associations the specifications add the scope that every OAuth app has.
const SINGLE_SCOPES: &[&str] =
    &["crm.objects.contacts.read", "crm.objects.contacts.write", "crm.objects.deals.read", "crm.objects.deals.write", "oauth"];

/// The batch routes, below any of the version prefixes.
pub(super) fn batch_routes() -> Router<AppState> {
    Router::new()
        .route("/{from}/{to}/batch/read", post(batch_read))
        .route("/{from}/{to}/batch/create", post(batch_create))
        .route("/{from}/{to}/batch/associate/default", post(batch_default))
        .route("/{from}/{to}/batch/archive", post(batch_archive))
}

/// The routes of single records, below the prefix of objects.
pub(super) fn single_routes() -> Router<AppState> {
    Router::new()
        .route("/{kind}/{id}/associations/{to}", get(list))
        .route("/{kind}/{id}/associations/{to}/{to_id}", put(create).delete(remove))
        .route("/{kind}/{id}/associations/default/{to}/{to_id}", put(create_default))
}

/// HubSpot's id of the unlabelled association.
pub(super) fn type_id(from: Kind, to: Kind) -> u64 {
    match (from, to) {
        (Kind::Contact, Kind::Deal) => 4,
        (Kind::Deal, Kind::Contact) => 3,
        (Kind::Contact, Kind::Contact) => 449,
        (Kind::Deal, Kind::Deal) => 451,
    }
}

fn pair(from: &str, to: &str, access: &Access, scopes: &[&str]) -> ApiResult<(Kind, Kind)> {
    access.any_of(scopes)?;
    let (from, to) = (Kind::parse(from)?, Kind::parse(to)?);
    if from == to {
        return Err(ApiError::validation(format!("Associations from {} to {} are not kept by this sandbox", from.plural(), to.plural())));
    }
    Ok((from, to))
}

fn shown_types(from: Kind, to: Kind) -> Value {
    json!([{ "category": "HUBSPOT_DEFINED", "typeId": type_id(from, to), "label": null }])
}

/// One page of what `id` is associated with, from the cursor `after` on.
fn page(portal: &Portal, from: Kind, id: u64, after: u64, limit: usize) -> (Vec<Value>, Option<u64>) {
    let mut ids = portal.store(from).linked_to(id).filter(|to| *to >= after);
    let types = shown_types(from, from.other());
    let results = ids.by_ref().take(limit).map(|to| json!({ "toObjectId": to, "associationTypes": types })).collect();
    (results, ids.next())
}

fn cursor(after: Option<&str>) -> ApiResult<u64> {
    match after.filter(|a| !a.is_empty()) {
        Some(after) => after.parse().map_err(|_| ApiError::validation("after is not a paging cursor of this call")),
        None => Ok(0),
    }
}

#[derive(Deserialize)]
struct Fetch {
    id: Id,
    #[serde(default)]
    after: Option<String>,
}

async fn batch_read(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path((from, to)): Path<(String, String)>,
    Body(input): Body<Inputs<Fetch>>,
) -> ApiResult {
    let (from, to) = pair(&from, &to, &access, BATCH_SCOPES)?;
    check_count(input.inputs.len(), READ_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    // Results are not aligned with inputs in HubSpot's answers: here they come in reverse.
    for Fetch { id, after } in input.inputs.iter().rev() {
        let found = portal.find(from, &id.0, None)?;
        let after = cursor(after.as_deref())?;
        let (linked, next) = match found {
            Found::Live(found) => page(portal, from, found, after, PAGE_MAX),
            Found::Merged(_) | Found::Missing => (Vec::new(), None),
        };
        if linked.is_empty() {
            let message = format!("No {} is associated with {} {}.", to.singular(), from.singular(), id.0);
            let context = json!({ "fromObjectId": [id.0], "fromObjectType": [from.singular()], "toObjectType": [to.singular()] });
            let error = ApiError::not_found(message).with("subCategory", "crm.associations.NO_ASSOCIATIONS_FOUND".into());
            errors.push(error.into_entry(context));
            continue;
        }
        let mut result = json!({ "from": { "id": id.0 }, "to": linked });
        if let Some(next) = next {
            result["paging"] = json!({ "next": { "after": next.to_string() } });
        }
        results.push(result);
    }
    Ok(answer(StatusCode::OK, generation, now, app.now(), results, errors))
}

#[derive(Deserialize)]
struct Labelled {
    from: Ref,
    to: Ref,
    types: Vec<AssociationType>,
}

#[derive(Deserialize)]
struct Plain {
    from: Ref,
    to: Ref,
}

#[derive(Deserialize)]
struct Unlink {
    from: Ref,
    to: Vec<Ref>,
}

fn check_types(types: &[AssociationType], from: Kind, to: Kind) -> ApiResult<()> {
    match types.iter().find(|t| t.association_category != "HUBSPOT_DEFINED" || t.association_type_id != type_id(from, to)) {
        None => Ok(()),
        Some(wrong) => {
            let message =
                format!("{} is not a valid association type between {} and {}", wrong.association_type_id, from.plural(), to.plural());
            Err(ApiError::validation(message))
        }
    }
}

fn link(portal: &mut Portal, from: Kind, from_id: &str, to_id: &str, source: Source, now: u64) -> ApiResult<(u64, u64)> {
    let id = resolve(portal, from, from_id, None)?;
    let other = resolve(portal, from.other(), to_id, None)?;
    let (contact, deal) = from.contact_and_deal(id, other);
    portal.link(contact, deal, source, now);
    Ok((id, other))
}

fn unlink(portal: &mut Portal, from: Kind, from_id: &str, to_id: &str, source: Source, now: u64) -> ApiResult<()> {
    let (id, other) = (resolve(portal, from, from_id, None)?, resolve(portal, from.other(), to_id, None)?);
    let (contact, deal) = from.contact_and_deal(id, other);
    portal.unlink(contact, deal, source, now);
    Ok(())
}

async fn batch_create(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path((from, to)): Path<(String, String)>,
    Body(input): Body<Inputs<Labelled>>,
) -> ApiResult {
    let (from, to) = pair(&from, &to, &access, BATCH_SCOPES)?;
    check_count(input.inputs.len(), WRITE_MAX)?;
    for one in &input.inputs {
        check_types(&one.types, from, to)?;
    }
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for one in &input.inputs {
        match link(portal, from, &one.from.id.0, &one.to.id.0, source(&access), now) {
            Ok((id, other)) => results.push(labels(from, id, other)),
            Err(error) => errors.push(error.into_entry(json!({ "fromObjectId": [one.from.id.0], "toObjectId": [one.to.id.0] }))),
        }
    }
    let success = if generation == Generation::September2026 { StatusCode::OK } else { StatusCode::CREATED };
    Ok(answer(success, generation, now, app.now(), results, errors))
}

fn labels(from: Kind, id: u64, other: u64) -> Value {
    json!({
        "fromObjectTypeId": from.type_id(), "fromObjectId": id.to_string(), "toObjectTypeId": from.other().type_id(),
        "toObjectId": other.to_string(), "labels": [],
    })
}

fn default_pair(from: Kind, id: u64, other: u64) -> [Value; 2] {
    let one = |from: Kind, id: u64, other: u64| {
        let spec = json!({ "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": type_id(from, from.other()) });
        json!({ "from": { "id": id.to_string() }, "to": { "id": other.to_string() }, "associationSpec": spec })
    };
    [one(from, id, other), one(from.other(), other, id)]
}

async fn batch_default(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((from, to)): Path<(String, String)>,
    Body(input): Body<Inputs<Plain>>,
) -> ApiResult {
    let (from, _) = pair(&from, &to, &access, BATCH_SCOPES)?;
    check_count(input.inputs.len(), WRITE_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for one in &input.inputs {
        match link(portal, from, &one.from.id.0, &one.to.id.0, source(&access), now) {
            Ok((id, other)) => results.extend(default_pair(from, id, other)),
            Err(error) => errors.push(error.into_entry(json!({ "fromObjectId": [one.from.id.0], "toObjectId": [one.to.id.0] }))),
        }
    }
    // No version's specification lists a 207 here: failures come with a 200.
    Ok(answer(StatusCode::OK, Generation::September2026, now, app.now(), results, errors))
}

async fn batch_archive(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path((from, to)): Path<(String, String)>,
    Body(input): Body<Inputs<Unlink>>,
) -> ApiResult {
    let (from, _) = pair(&from, &to, &access, BATCH_SCOPES)?;
    check_count(input.inputs.len(), WRITE_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    for one in &input.inputs {
        for to in &one.to {
            unlink(portal, from, &one.from.id.0, &to.id.0, source(&access), now)?;
        }
    }
    // The dated paths answer with an empty batch.
    match generation {
        Generation::Classic => Ok(StatusCode::NO_CONTENT.into_response()),
        Generation::March2026 | Generation::September2026 => Ok(answer(StatusCode::OK, generation, now, app.now(), Vec::new(), Vec::new())),
    }
}

async fn list(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((from, id, to)): Path<(String, String, String)>,
    pairs: Pairs,
) -> ApiResult<Json<Value>> {
    let (from, _) = pair(&from, &to, &access, SINGLE_SCOPES)?;
    let limit = pairs.get("limit").map_or(Ok(PAGE_MAX), str::parse).unwrap_or(0);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::validation(format!("limit must be between 1 and {PAGE_MAX}")));
    }
    let after = cursor(pairs.get("after"))?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let (results, next) = page(portal, from, resolve(portal, from, &id, None)?, after, limit);
    let mut answer = json!({ "results": results });
    if let Some(next) = next {
        answer["paging"] = json!({ "next": { "after": next.to_string() } });
    }
    Ok(Json(answer))
}

type Four = Path<(String, String, String, String)>;

async fn create(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((from, id, to, to_id)): Four,
    Body(types): Body<Vec<AssociationType>>,
) -> ApiResult {
    let (from, to) = pair(&from, &to, &access, SINGLE_SCOPES)?;
    check_types(&types, from, to)?;
    let now = app.now();
    let mut world = app.world();
    let (id, other) = link(world.portal(&access.portal), from, &id, &to_id, source(&access), now)?;
    Ok((StatusCode::CREATED, Json(labels(from, id, other))).into_response())
}

async fn create_default(State(app): State<AppState>, Extension(access): Extension<Access>, Path((from, id, to, to_id)): Four) -> ApiResult {
    let (from, _) = pair(&from, &to, &access, SINGLE_SCOPES)?;
    let now = app.now();
    let mut world = app.world();
    let (id, other) = link(world.portal(&access.portal), from, &id, &to_id, source(&access), now)?;
    Ok(answer(StatusCode::OK, Generation::Classic, now, now, default_pair(from, id, other).into(), Vec::new()))
}

async fn remove(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((from, id, to, to_id)): Four,
) -> ApiResult<StatusCode> {
    let (from, _) = pair(&from, &to, &access, SINGLE_SCOPES)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    unlink(portal, from, &id, &to_id, source(&access), now)?;
    Ok(StatusCode::NO_CONTENT)
}
