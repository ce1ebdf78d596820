//! Sending custom events: 204 says that an event was accepted, not that it was stored. A `uuid` that was used for the same
//! definition within a year is dropped without a word.

use super::definitions::Definition;
use crate::access::Access;
use crate::clock::parse_time;
use crate::crm::Kind;
use crate::crm::batch::{Inputs, check_count};
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::limits::DAY_MS;
use crate::portal::{Found, Portal};
use crate::timeline::events::{Event, Packed};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Events of one batch.
const BATCH_MAX: usize = 500;
/// Properties of one event.
const PROPERTIES_MAX: usize = 50;
/// Characters of a value, and of one that holds an address.
const VALUE_MAX: usize = 256;
const URL_MAX: usize = 1_024;
/// How long a `uuid` is remembered.
const UNIQUE_MS: u64 = 365 * DAY_MS;
const SCOPE: &[&str] = &["analytics.behavioral_events.send"];

/// An event as a caller sends it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewEvent {
    event_name: String,
    properties: BTreeMap<String, String>,
    #[serde(default)]
    uuid: Option<String>,
    #[serde(default)]
    object_id: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    utk: Option<String>,
    #[serde(default)]
    occurred_at: Option<String>,
}

/// Checks an event; gives back its definition, its record and its time. An event whose record does not exist is refused here;
/// what HubSpot does with one is not documented.
fn examine<'p>(portal: &'p Portal, new: &NewEvent, now: u64) -> ApiResult<(&'p Definition, u64, u64)> {
    let unknown = || ApiError::validation(format!("No event definition {}", new.event_name));
    let definition = portal.event_definitions.get(&new.event_name).ok_or_else(unknown)?;
    if new.properties.len() > PROPERTIES_MAX {
        return Err(ApiError::validation(format!("An event may carry at most {PROPERTIES_MAX} properties")));
    }
    for (name, value) in &new.properties {
        definition.check(name, value)?;
        let max = if name.contains("url") || name.contains("referrer") { URL_MAX } else { VALUE_MAX };
        if value.chars().count() > max {
            return Err(ApiError::validation(format!("The value of {name} is longer than {max} characters")));
        }
    }
    let at = match &new.occurred_at {
        None => now,
        Some(text) => parse_time(text).ok_or_else(|| ApiError::validation(format!("{text} is not a timestamp")))?,
    };
    let found = match (&new.object_id, new.email.as_deref().filter(|_| definition.kind == Kind::Contact)) {
        (Some(id), _) => portal.find(definition.kind, id, None)?,
        (None, Some(email)) => portal.find(definition.kind, email, Some("email"))?,
        (None, None) if new.utk.is_some() => Found::Missing,
        (None, None) => return Err(ApiError::validation("An event needs an objectId, or for contacts an email or utk")),
    };
    match found {
        Found::Live(id) | Found::Merged(id) => Ok((definition, id, at)),
        Found::Missing => Err(ApiError::validation(format!("The event's {} does not exist", definition.kind.singular()))),
    }
}

fn store(portal: &mut Portal, access: &Access, new: &NewEvent, now: u64) -> ApiResult<()> {
    let (definition, object_id, timestamp) = examine(portal, new, now)?;
    let (kind, full_name) = (definition.kind, definition.full_name.clone());
    let key = (full_name, new.uuid.clone().unwrap_or_else(|| Uuid::now_v7().to_string()));
    let known = portal.event_index.get(&key).map(|at| portal.events[*at].created_at);
    if known.is_some_and(|created| now < created + UNIQUE_MS) {
        return Ok(());
    }
    portal.put_event(Event {
        key,
        app_id: access.app_id(),
        kind,
        object_id,
        timestamp,
        created_at: now,
        tokens: Packed::of(&new.properties),
        extra_data: Packed::of(&Value::Null),
        iframe: None,
    });
    Ok(())
}

pub(super) async fn one(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Body(new): Body<NewEvent>,
) -> ApiResult<StatusCode> {
    access.any_of(SCOPE)?;
    let now = app.now();
    store(app.world().portal(&access.portal), &access, &new, now)?;
    Ok(StatusCode::NO_CONTENT)
}

/// One bad event and none of the batch is stored.
pub(super) async fn batch(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Body(input): Body<Inputs<NewEvent>>,
) -> ApiResult<StatusCode> {
    access.any_of(SCOPE)?;
    check_count(input.inputs.len(), BATCH_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    for new in &input.inputs {
        examine(portal, new, now)?;
    }
    for new in &input.inputs {
        store(portal, &access, new, now)?;
    }
    Ok(StatusCode::NO_CONTENT)
}
