//! Timeline events of version 3: single and batch creation, and reading one back.
//!
//! An id is unique per template. A second event with the id of one on the same record is refused (or accepted unchanged, if
//! the configuration says so); on another record it moves there: the last to be processed wins, as HubSpot documents.

use super::PREFIXES;
use super::templates::{Template, Templates};
use crate::access::Access;
use crate::clock::{iso, parse_time};
use crate::config::{Config, DuplicateEvents};
use crate::crm::record::Source;
use crate::crm::schema::Authority;
use crate::crm::{Generation, Kind, batch};
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::portal::{Found, Portal};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Events of one batch. Version 1 had this bound; for version 3 none is documented.
const BATCH_MAX: usize = 100;
/// Bytes of an event id.
const ID_MAX: usize = 500;
/// Bytes of one token's value.
const TOKEN_MAX: usize = 510 * 1024;
/// Bytes of a whole event.
const EVENT_MAX: usize = 1024 * 1024;

/// Any one of these lets a token create events.
pub(super) const WRITE_SCOPES: &[&str] =
    &["timeline", "crm.objects.contacts.write", "crm.schemas.contacts.write", "crm.objects.deals.write", "crm.schemas.deals.write"];
/// Any one of these lets a token read events.
const READ_SCOPES: &[&str] =
    &["timeline", "crm.objects.contacts.read", "crm.schemas.contacts.read", "crm.objects.deals.read", "crm.schemas.deals.read"];

/// Template and event id.
pub(crate) type EventKey = (String, String);

/// JSON kept as text. Events are many and seldom read: as maps, their tokens and extra data would take several times the room.
#[derive(Clone, Debug)]
pub(crate) struct Packed(Box<str>);

impl Packed {
    pub fn of(value: &impl Serialize) -> Self {
        Self(serde_json::to_string(value).unwrap_or_else(|_| "null".into()).into())
    }

    /// The value again.
    pub fn read<T: DeserializeOwned + Default>(&self) -> T {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// One event of a record's timeline.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub key: EventKey,
    pub app_id: u64,
    pub kind: Kind,
    pub object_id: u64,
    /// When it happened, ms.
    pub timestamp: u64,
    /// When it was created, ms.
    pub created_at: u64,
    pub tokens: Packed,
    pub extra_data: Packed,
    pub iframe: Option<Value>,
}

/// The event routes that take an access token.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new();
    for prefix in PREFIXES {
        router = router
            .route(&format!("{prefix}/events"), post(create))
            .route(&format!("{prefix}/events/batch/create"), post(create_batch))
            .route(&format!("{prefix}/events/{{template}}/{{id}}"), get(read));
    }
    router
}

/// An event as a caller sends it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewEvent {
    #[serde(default)]
    pub event_template_id: Option<String>,
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub object_id: Option<String>,
    #[serde(default)]
    pub email: Option<String>,
    #[serde(default)]
    pub utk: Option<String>,
    #[serde(default)]
    pub timestamp: Option<Value>,
    #[serde(default)]
    pub tokens: BTreeMap<String, String>,
    #[serde(default)]
    pub extra_data: Option<Value>,
    #[serde(default, rename = "timelineIFrame")]
    pub iframe: Option<Value>,
}

impl Event {
    /// The event as the API shows it.
    fn show(&self, object_type: &str) -> Value {
        let mut shown = json!({
            "eventTemplateId": self.key.0, "id": self.key.1, "objectId": self.object_id.to_string(), "objectType": object_type,
            "timestamp": iso(self.timestamp), "createdAt": iso(self.created_at), "tokens": self.tokens.read::<Value>(),
        });
        let extra_data: Value = self.extra_data.read();
        if !extra_data.is_null() {
            shown["extraData"] = extra_data;
        }
        if let Some(iframe) = &self.iframe {
            shown["timelineIFrame"] = iframe.clone();
        }
        shown
    }
}

/// HubSpot's answer to an event that is too large: here `status` is a number.
fn too_large(id: &str) -> ApiError {
    let message = format!("Event {id} failed with validation error(s)");
    ApiError::validation(message.clone()).with("status", 400.into()).with("errors", json!([{ "message": message }]))
}

fn check_tokens(template: &Template, tokens: &BTreeMap<String, String>) -> ApiResult<()> {
    for (name, value) in tokens {
        let Some(token) = template.tokens.iter().find(|t| t.name == *name) else {
            return Err(ApiError::validation(format!("The token {name} is not defined on event template {}", template.id)));
        };
        let valid = match token.data_type.as_str() {
            "number" => value.parse::<f64>().is_ok_and(f64::is_finite),
            "date" => value.parse::<u64>().is_ok(),
            "enumeration" => token.options.iter().any(|o| o.value == *value),
            _ => true,
        };
        if !valid {
            return Err(ApiError::validation(format!("{value:?} is not a valid {} for the token {name}", token.data_type)));
        }
    }
    Ok(())
}

/// Finds (or, by e-mail, makes) the record that an event belongs to.
pub(super) fn record_of(portal: &mut Portal, kind: Kind, new: &NewEvent, source: Source, now: u64) -> ApiResult<u64> {
    let email = new.email.as_deref().filter(|_| kind == Kind::Contact);
    let values = |email: &str| [("email".to_owned(), email.to_owned())];
    if let Some(id) = new.object_id.as_deref() {
        let (Found::Live(found) | Found::Merged(found)) = portal.find(kind, id, None)? else {
            return Err(ApiError::no_record(id));
        };
        // Documented: an event with both changes the contact's address.
        if let Some(email) = email {
            let checked = portal.check(kind, Some(found), &values(email), Authority::Api)?;
            portal.apply(kind, found, &checked, source, now);
        }
        return Ok(found);
    }
    if let Some(email) = email {
        return match portal.find(kind, email, Some("email"))? {
            Found::Live(found) | Found::Merged(found) => Ok(found),
            Found::Missing => {
                let checked = portal.check(kind, None, &values(email), Authority::Api)?;
                Ok(portal.create(kind, None, &checked, source, now))
            }
        };
    }
    match &new.utk {
        Some(_) => Err(ApiError::validation("No contact has this usertoken: this sandbox keeps no tracking cookies")),
        None => Err(ApiError::validation("An event needs an objectId, or for contacts an email or utk")),
    }
}

fn duplicate(how: DuplicateEvents) -> Option<ApiError> {
    let message = "Event ID already in use, please choose a new unique ID";
    match how {
        DuplicateEvents::Conflict => Some(ApiError::conflict(message)),
        DuplicateEvents::BadRequest => Some(ApiError::bare(StatusCode::BAD_REQUEST, message)),
        DuplicateEvents::Accept => None,
    }
}

/// What is known of an event before its record is looked for.
pub(super) struct Checked {
    pub id: String,
    pub kind: Kind,
    pub timestamp: u64,
    extra_data: Value,
}

/// Checks an event by itself: its size, its tokens, its time.
pub(super) fn check(template: &Template, new: &NewEvent, now: u64) -> ApiResult<Checked> {
    let id = match &new.id {
        Some(id) if !id.is_empty() => id.replace("{{uuid}}", &Uuid::now_v7().to_string()),
        _ => Uuid::now_v7().to_string(),
    };
    let extra_data = new.extra_data.clone().unwrap_or(Value::Null);
    let tokens_size: usize = new.tokens.iter().map(|(n, v)| n.len() + v.len()).sum();
    if id.len() > ID_MAX
        || new.tokens.values().any(|v| v.len() > TOKEN_MAX)
        || tokens_size + extra_data.to_string().len() + id.len() > EVENT_MAX
    {
        return Err(too_large(&id));
    }
    check_tokens(template, &new.tokens)?;
    let timestamp = match &new.timestamp {
        None | Some(Value::Null) => now,
        Some(Value::String(text)) => parse_time(text).ok_or_else(|| ApiError::validation(format!("{text} is not a timestamp")))?,
        Some(Value::Number(ms)) => ms.as_u64().ok_or_else(|| ApiError::validation(format!("{ms} is not a timestamp")))?,
        Some(other) => return Err(ApiError::validation(format!("{other} is not a timestamp"))),
    };
    let Some(kind) = template.kind else {
        return Err(ApiError::validation(format!("Events on {} are not kept by this sandbox", template.object_type)));
    };
    Ok(Checked { id, kind, timestamp, extra_data })
}

/// Checks and stores one event.
fn store(portal: &mut Portal, templates: &Templates, access: &Access, config: &Config, new: NewEvent, now: u64) -> ApiResult<Value> {
    let template_id = new
        .event_template_id
        .clone()
        .filter(|t| !t.is_empty())
        .ok_or_else(|| ApiError::bad_json("Cannot build TimelineEvent, some of required attributes are not set [eventTemplateId]"))?;
    let template = templates
        .get(access.oauth_app()?, &template_id)
        .ok_or_else(|| ApiError::not_found(format!("No event template with ID {template_id}")))?;
    let checked = check(template, &new, now)?;
    let source = Source::Integration { app_id: access.app_id() };
    let object_id = record_of(portal, checked.kind, &new, source, now)?;
    let known = portal.event_index.get(&(template_id, checked.id.clone())).copied();
    if let Some(at) = known.filter(|at| portal.events[*at].object_id == object_id) {
        return duplicate(config.duplicate_events).map_or_else(|| Ok(portal.events[at].show(&template.object_type)), Err);
    }
    put(portal, template, access, checked, object_id, new, now);
    let at = known.unwrap_or(portal.events.len() - 1);
    Ok(portal.events[at].show(&template.object_type))
}

/// Stores an event on a record; one with the same key loses its place there.
pub(super) fn put(portal: &mut Portal, template: &Template, access: &Access, checked: Checked, object_id: u64, new: NewEvent, now: u64) {
    let Checked { id, kind, timestamp, extra_data } = checked;
    let source = Source::Integration { app_id: access.app_id() };
    stamp_properties(portal, kind, object_id, template, &new.tokens, source, now);
    let event = Event {
        key: (template.id.clone(), id),
        app_id: access.app_id(),
        kind,
        object_id,
        timestamp,
        created_at: now,
        tokens: Packed::of(&new.tokens),
        extra_data: Packed::of(&extra_data),
        iframe: new.iframe,
    };
    portal.put_event(event);
}

/// Tokens that name a property write it on the record; values it does not take are left out.
fn stamp_properties(
    portal: &mut Portal,
    kind: Kind,
    id: u64,
    template: &Template,
    tokens: &BTreeMap<String, String>,
    source: Source,
    now: u64,
) {
    for token in &template.tokens {
        if let (Some(property), Some(value)) = (&token.object_property_name, tokens.get(&token.name))
            && let Ok(checked) = portal.check(kind, Some(id), &[(property.clone(), value.clone())], Authority::Api)
        {
            portal.apply(kind, id, &checked, source, now);
        }
    }
}

async fn create(State(app): State<AppState>, Extension(access): Extension<Access>, Body(new): Body<NewEvent>) -> ApiResult {
    access.oauth_app()?;
    access.any_of(WRITE_SCOPES)?;
    let (now, config) = (app.now(), app.config());
    let mut world = app.world();
    let (portal, templates) = world.portal_and_templates(&access.portal);
    let shown = store(portal, templates, &access, &config, new, now)?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

async fn create_batch(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Body(input): Body<batch::Inputs<NewEvent>>,
) -> ApiResult {
    access.oauth_app()?;
    access.any_of(WRITE_SCOPES)?;
    batch::check_count(input.inputs.len(), BATCH_MAX)?;
    let (now, config) = (app.now(), app.config());
    let mut world = app.world();
    let (portal, templates) = world.portal_and_templates(&access.portal);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for new in input.inputs {
        let id = new.id.clone().unwrap_or_default();
        match store(portal, templates, &access, &config, new, now) {
            Ok(shown) => results.push(shown),
            Err(error) => errors.push(error.into_entry(json!({ "id": [id] }))),
        }
    }
    Ok(batch::answer(StatusCode::CREATED, Generation::Classic, now, app.now(), results, errors))
}

async fn read(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path((template_id, id)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    access.any_of(READ_SCOPES)?;
    let mut world = app.world();
    let (portal, templates) = world.portal_and_templates(&access.portal);
    let template = templates
        .get(access.oauth_app()?, &template_id)
        .ok_or_else(|| ApiError::not_found(format!("No event template with ID {template_id}")))?;
    let at = portal.event_index.get(&(template_id, id.clone())).ok_or_else(|| ApiError::not_found(format!("No event with ID {id}")))?;
    Ok(Json(portal.events[*at].show(&template.object_type)))
}
