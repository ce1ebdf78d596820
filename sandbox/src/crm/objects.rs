//! Single records: list, read, create, change, archive.

use super::Kind;
use super::associations::type_id;
use super::record::{Record, Source};
use super::schema::Authority;
use super::values::{NewAssociation, Values};
use crate::access::Access;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use crate::portal::{Found, Portal};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Most records that one page of a list may hold.
const PAGE_MAX: usize = 100;
/// Records of a page when the caller names no number.
const PAGE_DEFAULT: usize = 10;

/// The routes of single records, below any of the version prefixes.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/{kind}", get(list).post(create)).route("/{kind}/{id}", get(read).patch(update).delete(archive))
}

/// What the caller wants to see of a record.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub properties: Vec<String>,
    pub history: Vec<String>,
    pub associations: Vec<String>,
}

impl View {
    fn of(pairs: &Pairs) -> Self {
        Self {
            properties: pairs.list("properties"),
            history: pairs.list("propertiesWithHistory"),
            associations: pairs.list("associations"),
        }
    }

    /// The record with what was asked for, besides what HubSpot always shows. Names that the portal does not have are left out.
    pub fn show(&self, portal: &Portal, kind: Kind, record: &Record) -> ApiResult<Map<String, Value>> {
        let mut names: BTreeSet<&str> = BTreeSet::from(["createdate", "hs_object_id", kind.last_modified()]);
        if self.properties.is_empty() {
            names.extend(kind.default_properties());
        }
        let known = &portal.schema(kind).properties;
        names.extend(self.properties.iter().chain(&self.history).map(String::as_str).filter(|name| known.contains_key(*name)));
        let mut shown = record.show(kind, names);
        if !self.history.is_empty() {
            let history: Map<String, Value> = self.history.iter().map(|name| (name.clone(), record.history(name))).collect();
            shown.insert("propertiesWithHistory".into(), history.into());
        }
        let mut linked = Map::new();
        for to in &self.associations {
            if Kind::parse(to)? != kind.other() {
                continue;
            }
            let label = format!("{}_to_{}", kind.singular(), kind.other().singular());
            let ids = portal.store(kind).linked_to(record.id);
            let results: Vec<Value> = ids.map(|id| json!({ "id": id.to_string(), "type": label })).collect();
            if !results.is_empty() {
                linked.insert(kind.other().plural().into(), json!({ "results": results }));
            }
        }
        if !linked.is_empty() {
            shown.insert("associations".into(), linked.into());
        }
        Ok(shown)
    }
}

/// The answer to a write: what was written, and what HubSpot always adds.
pub(super) fn show_written(kind: Kind, record: &Record, names: &[String]) -> Map<String, Value> {
    let mut all: BTreeSet<&str> = BTreeSet::from(["hs_object_id", kind.last_modified()]);
    all.extend(names.iter().map(String::as_str));
    record.show(kind, all)
}

/// Who writes, for the history.
pub(crate) fn source(access: &Access) -> Source {
    Source::Integration { app_id: access.app_id() }
}

async fn list(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    pairs: Pairs,
) -> ApiResult<Json<Value>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.read_scopes())?;
    let limit = pairs.get("limit").map_or(Ok(PAGE_DEFAULT), str::parse).unwrap_or(0);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::validation(format!("limit must be between 1 and {PAGE_MAX}")));
    }
    let after: u64 = match pairs.get("after").filter(|a| !a.is_empty()) {
        Some(after) => after.parse().map_err(|_| ApiError::validation("after is not a paging cursor of this call"))?,
        None => 0,
    };
    let archived = pairs.flag("archived");
    let view = View::of(&pairs);
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let records = &portal.store(kind).records;
    let mut from = records.range(after..).map(|(_, r)| r).filter(|r| r.archived_at.is_some() == archived);
    let results: Vec<Value> = from.by_ref().take(limit).map(|r| view.show(portal, kind, r).map(Value::Object)).collect::<Result<_, _>>()?;
    let mut answer = json!({ "results": results });
    if let Some(next) = from.next() {
        answer["paging"] = json!({ "next": { "after": next.id.to_string() } });
    }
    Ok(Json(answer))
}

/// The record behind a path. A merged id leads to the survivor.
pub(super) fn resolve(portal: &Portal, kind: Kind, id: &str, id_property: Option<&str>) -> ApiResult<u64> {
    match portal.find(kind, id, id_property)? {
        Found::Live(id) | Found::Merged(id) => Ok(id),
        Found::Missing => Err(ApiError::no_record(id)),
    }
}

async fn read(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((kind, id)): Path<(String, String)>,
    pairs: Pairs,
) -> ApiResult<Json<Value>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.read_scopes())?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let archived = id.parse::<u64>().ok().filter(|_| pairs.flag("archived"));
    let record = match archived.and_then(|id| portal.store(kind).records.get(&id)).filter(|r| r.archived_at.is_some()) {
        Some(record) => record,
        None => {
            let found = resolve(portal, kind, &id, pairs.get("idProperty"))?;
            portal.store(kind).records.get(&found).ok_or_else(|| ApiError::no_record(&id))?
        }
    };
    Ok(Json(Value::Object(View::of(&pairs).show(portal, kind, record)?)))
}

#[derive(Deserialize)]
struct Create {
    #[serde(default)]
    properties: Values,
    #[serde(default)]
    associations: Vec<NewAssociation>,
}

/// Checks and makes one record with its associations; also for batches.
pub(super) fn create_one(
    portal: &mut Portal,
    kind: Kind,
    values: &Values,
    associations: &[NewAssociation],
    source: Source,
    now: u64,
) -> ApiResult<Map<String, Value>> {
    let checked = portal.check(kind, None, &values.0, Authority::Api)?;
    let mut others = Vec::new();
    for association in associations {
        let wanted = type_id(kind, kind.other());
        if let Some(wrong) =
            association.types.iter().find(|t| t.association_category != "HUBSPOT_DEFINED" || t.association_type_id != wanted)
        {
            let message = format!(
                "{} is not a valid association type between {} and {}",
                wrong.association_type_id,
                kind.plural(),
                kind.other().plural()
            );
            return Err(ApiError::validation(message));
        }
        others.push(resolve(portal, kind.other(), &association.to.id.0, None)?);
    }
    let id = portal.create(kind, None, &checked, source, now);
    for other in others {
        let (contact, deal) = kind.contact_and_deal(id, other);
        portal.link(contact, deal, source, now);
    }
    let mut names: Vec<String> = checked.into_iter().map(|(name, _)| name).collect();
    names.extend(["createdate".to_owned()]);
    if kind == Kind::Deal {
        names.extend(["pipeline".to_owned(), "dealstage".to_owned()]);
    }
    let record = portal.store(kind).records.get(&id).ok_or_else(|| ApiError::no_record(&id.to_string()))?;
    Ok(show_written(kind, record, &names))
}

async fn create(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    Body(input): Body<Create>,
) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let shown = create_one(portal, kind, &input.properties, &input.associations, source(&access), now)?;
    Ok((StatusCode::CREATED, Json(Value::Object(shown))).into_response())
}

#[derive(Deserialize)]
struct Update {
    properties: Values,
}

async fn update(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((kind, id)): Path<(String, String)>,
    pairs: Pairs,
    Body(input): Body<Update>,
) -> ApiResult<Json<Value>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = resolve(portal, kind, &id, pairs.get("idProperty"))?;
    let checked = portal.check(kind, Some(found), &input.properties.0, Authority::Api)?;
    let names = portal.apply(kind, found, &checked, source(&access), now);
    let record = portal.store(kind).records.get(&found).ok_or_else(|| ApiError::no_record(&id))?;
    Ok(Json(Value::Object(show_written(kind, record, &names))))
}

async fn archive(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((kind, id)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.write_scopes())?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    // Deleting what is gone is a success, too.
    if let Found::Live(found) = portal.find(kind, &id, None)? {
        portal.archive(kind, found, source(&access), now);
    }
    Ok(StatusCode::NO_CONTENT)
}
