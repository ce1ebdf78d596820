//! App events: single and batch. An occurrence cannot be changed, and its id can be used once per type: a second one is a 409.
//!
//! A batch is all or nothing: one bad input (400) or one known id (409) and nothing of it is stored.

use super::APP_EVENT_PREFIXES;
use super::events::{Checked, NewEvent, WRITE_SCOPES, check, put, record_of};
use super::templates::{Template, Templates};
use crate::access::Access;
use crate::clock::iso;
use crate::config::AppEvents;
use crate::crm::batch::{self, Inputs};
use crate::crm::record::Source;
use crate::crm::schema::Authority;
use crate::crm::{Generation, Kind};
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use crate::portal::{Found, Portal};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Inputs of one batch. Not in HubSpot's documents; a client in the field was held to it.
const BATCH_MAX: usize = 500;

/// The routes that take an access token.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new();
    for prefix in APP_EVENT_PREFIXES {
        router = router.route(&format!("{prefix}/events"), post(create)).route(&format!("{prefix}/events/batch"), post(create_batch));
    }
    router
}

/// An occurrence as a caller sends it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Occurrence {
    event_type_name: String,
    id: String,
    properties: BTreeMap<String, String>,
    #[serde(default)]
    object_id: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    utk: Option<String>,
    #[serde(default)]
    timestamp: Option<Value>,
    #[serde(default)]
    extra_data: Option<Value>,
    #[serde(default, rename = "timelineIFrame")]
    iframe: Option<Value>,
}

impl Occurrence {
    fn event(&self) -> NewEvent {
        NewEvent {
            event_template_id: None,
            id: Some(self.id.clone()),
            object_id: self.object_id.clone(),
            email: self.email.clone(),
            utk: self.utk.clone(),
            timestamp: self.timestamp.clone(),
            tokens: self.properties.clone(),
            extra_data: self.extra_data.clone(),
            iframe: self.iframe.clone(),
        }
    }

    fn show(&self, checked: &Checked) -> Value {
        let mut shown = Map::new();
        let fields = [
            ("eventTypeName", json!(self.event_type_name)),
            ("id", json!(checked.id)),
            ("properties", json!(self.properties)),
            ("objectId", json!(self.object_id)),
            ("email", json!(self.email)),
            ("timestamp", json!(iso(checked.timestamp))),
            ("extraData", json!(self.extra_data)),
            ("timelineIFrame", json!(self.iframe)),
        ];
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            shown.insert(name.into(), value);
        }
        Value::Object(shown)
    }
}

/// Checks an occurrence without any effect: its type, itself, its record, its id.
fn examine<'t>(portal: &Portal, templates: &'t Templates, app: usize, it: &Occurrence, now: u64) -> ApiResult<(&'t Template, Checked)> {
    let unknown = || ApiError::validation(format!("{} is no event type of this app", it.event_type_name));
    let template = templates.event_type(app, &it.event_type_name).ok_or_else(unknown)?;
    if it.id.is_empty() {
        return Err(ApiError::validation("An occurrence needs an id"));
    }
    let checked = check(template, &it.event(), now)?;
    let email = it.email.as_deref().filter(|_| checked.kind == Kind::Contact);
    let record = match (&it.object_id, email) {
        (Some(id), _) => portal.find(checked.kind, id, None)?,
        (None, Some(email)) => portal.find(checked.kind, email, Some("email"))?,
        (None, None) => return Err(ApiError::validation("An occurrence needs an objectId, or for contacts an email")),
    };
    match (record, &it.object_id) {
        (Found::Missing, Some(id)) => return Err(ApiError::validation(format!("There is no {} {id}", checked.kind.singular()))),
        (Found::Live(found) | Found::Merged(found), _) => check_email(portal, Some(found), email)?,
        (Found::Missing, None) => check_email(portal, None, email)?,
    }
    if portal.event_index.contains_key(&(template.id.clone(), checked.id.clone())) {
        return Err(exists(&checked.id));
    }
    Ok((template, checked))
}

/// An address that comes along is written on the record, or makes one: it must be fit for that.
fn check_email(portal: &Portal, record: Option<u64>, email: Option<&str>) -> ApiResult<()> {
    let values: Vec<(String, String)> = email.into_iter().map(|email| ("email".to_owned(), email.to_owned())).collect();
    portal.check(Kind::Contact, record, &values, Authority::Api).map(|_| ())
}

fn exists(id: &str) -> ApiError {
    ApiError::conflict(format!("An occurrence for this event type and occurrence ID already exists: {id}. Occurrences are immutable"))
}

fn write(portal: &mut Portal, template: &Template, access: &Access, checked: Checked, it: &Occurrence, now: u64) -> ApiResult<()> {
    let new = it.event();
    let record = record_of(portal, checked.kind, &new, Source::Integration { app_id: access.app_id() }, now)?;
    put(portal, template, access, checked, record, new, now);
    Ok(())
}

async fn create(State(app): State<AppState>, Extension(access): Extension<Access>, Body(it): Body<Occurrence>) -> ApiResult {
    let index = access.oauth_app()?;
    access.any_of(WRITE_SCOPES)?;
    let (now, config) = (app.now(), app.config());
    let mut world = app.world();
    let (portal, templates) = world.portal_and_templates(&access.portal);
    let (template, checked) = examine(portal, templates, index, &it, now)?;
    let shown = it.show(&checked);
    write(portal, template, &access, checked, &it, now)?;
    Ok(match config.app_events {
        AppEvents::Accepted => StatusCode::OK.into_response(),
        AppEvents::Created => (StatusCode::CREATED, Json(shown)).into_response(),
    })
}

async fn create_batch(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Body(input): Body<Inputs<Occurrence>>,
) -> ApiResult<Response> {
    let index = access.oauth_app()?;
    access.any_of(WRITE_SCOPES)?;
    batch::check_count(input.inputs.len(), BATCH_MAX)?;
    let (now, config) = (app.now(), app.config());
    let mut world = app.world();
    let (portal, templates) = world.portal_and_templates(&access.portal);
    let mut examined = Vec::new();
    let mut keys = BTreeSet::new();
    for it in &input.inputs {
        let (template, checked) = examine(portal, templates, index, it, now)?;
        if !keys.insert((template.id.clone(), checked.id.clone())) {
            return Err(exists(&checked.id));
        }
        examined.push((template, checked, it));
    }
    let mut results = Vec::new();
    for (template, checked, it) in examined {
        results.push(it.show(&checked));
        write(portal, template, &access, checked, it, now)?;
    }
    Ok(match config.app_events {
        AppEvents::Accepted => StatusCode::OK.into_response(),
        AppEvents::Created => batch::answer(StatusCode::OK, Generation::March2026, now, app.now(), results, Vec::new()),
    })
}
