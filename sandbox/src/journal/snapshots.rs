//! Snapshots: the state of records, put into the journal as an entry of its own.

use super::AppAccess;
use super::entries::Snapshot;
use crate::clock::iso;
use crate::crm::Kind;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::oauth::inspect::hub_id;
use crate::portal::Found;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

const READ: &str = "developer.webhooks_journal.snapshots.read";
const WRITE: &str = "developer.webhooks_journal.snapshots.write";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wanted {
    snapshot_requests: Vec<One>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct One {
    portal_id: u64,
    object_type_id: String,
    object_id: u64,
    properties: Vec<String>,
}

/// Takes every snapshot at once; those of one portal come as one entry. HubSpot takes its time.
pub(super) async fn create(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Body(wanted): Body<Wanted>,
) -> ApiResult<Json<Value>> {
    let index = access.app(WRITE)?;
    let now = app.now();
    let mut world = app.world();
    let (mut answers, mut events) = (Vec::new(), BTreeMap::<String, Vec<Value>>::new());
    for one in wanted.snapshot_requests {
        let kind = Kind::parse(&one.object_type_id)?;
        if !access.has(kind.read_scopes()) {
            return Err(ApiError::missing_scopes(kind.read_scopes()));
        }
        let (id, portal) = (Uuid::now_v7(), one.portal_id.to_string());
        let found = if world.oauth.installed(index, &portal) {
            world.portal(&portal).find(kind, &one.object_id.to_string(), None)?
        } else {
            Found::Missing
        };
        let error = match found {
            Found::Live(found) | Found::Merged(found) => {
                let record = world.portal(&portal).store(kind).records.get(&found);
                let read = |name: &String| (name.clone(), record.and_then(|r| r.read(kind, name)).map_or(Value::Null, Value::String));
                let values: Map<String, Value> = one.properties.iter().map(read).collect();
                events.entry(portal).or_default().push(json!({
                    "type": "crmObject", "portalId": one.portal_id, "occurredAt": iso(now), "action": "SNAPSHOT",
                    "objectTypeId": kind.type_id(), "objectId": found, "propertyChanges": values,
                }));
                None
            }
            Found::Missing => Some(("VALIDATION_ERROR", format!("account {portal} has no {} {}", kind.singular(), one.object_id))),
        };
        world.journals.snapshots.insert(id, Snapshot { app: index, at: now, error });
        answers.push(json!({
            "portalId": hub_id(&one.portal_id.to_string()), "objectTypeId": kind.type_id(), "objectId": one.object_id, "snapshotStatusId": id.to_string(),
        }));
    }
    for (portal, events) in events {
        world.journals.put(index, &portal, events, now);
    }
    Ok(Json(json!({ "snapshotResponses": answers })))
}

pub(super) async fn status(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let index = access.app(READ)?;
    let world = app.world();
    let found = id.parse::<Uuid>().ok().and_then(|id| world.journals.snapshots.get(&id)).filter(|s| s.app == index);
    let found = found.ok_or_else(|| ApiError::not_found(format!("No snapshot {id}")))?;
    let mut answer = json!({ "id": id, "initiatedAt": found.at, "completedAt": found.at, "status": "SUCCESS" });
    if let Some((code, message)) = &found.error {
        answer["status"] = "FAILED".into();
        answer["errorCode"] = (*code).into();
        answer["message"] = message.as_str().into();
    }
    Ok(Json(answer))
}
