//! Settings and subscriptions of an app, for its developer (`?hapikey=`).

use super::{Settings, Subscription};
use crate::clock::iso;
use crate::crm::batch::{Inputs, check_count};
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use crate::timeline::templates::app_of;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// Subscriptions of one app.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Inputs of a batch of changes.
const BATCH_MAX: usize = 100;
const OBJECTS: &[&str] = &["contact", "deal", "company", "ticket", "product", "line_item", "object"];
const CHANGES: &[&str] = &["creation", "deletion", "propertyChange", "associationChange", "merge", "restore"];
/// Properties that cannot be subscribed to.
const NEVER: &[&str] = &["hs_lastmodifieddate", "lastmodifieddate"];

/// Whether a batch with failures answers 207 (older paths) or 200.
#[derive(Clone, Copy)]
struct MultiStatus(bool);

/// The routes, with the prefix of each path generation.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new();
    for (base, multi_status) in [("/webhooks/v3", true), ("/webhooks/2026-03", true), ("/app-webhooks/2026-09", false)] {
        let group = Router::new()
            .route(&format!("{base}/{{app_id}}/settings"), get(settings).put(put_settings).delete(drop_settings))
            .route(&format!("{base}/{{app_id}}/subscriptions"), get(list).post(create))
            .route(&format!("{base}/{{app_id}}/subscriptions/batch/update"), post(batch_update))
            .route(&format!("{base}/{{app_id}}/subscriptions/{{id}}"), get(read).patch(update).delete(remove))
            .layer(Extension(MultiStatus(multi_status)));
        router = router.merge(group);
    }
    router
}

type S = State<AppState>;

impl Settings {
    fn show(&self) -> Value {
        json!({
            "targetUrl": self.target_url, "throttling": { "maxConcurrentRequests": self.max_concurrent_requests },
            "createdAt": iso(self.created_at), "updatedAt": iso(self.updated_at),
        })
    }
}

impl Subscription {
    fn show(&self) -> Value {
        let mut shown = json!({
            "id": self.id.to_string(), "eventType": self.event_type, "active": self.active, "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
        });
        if let Some(name) = &self.property_name {
            shown["propertyName"] = name.as_str().into();
        }
        shown
    }
}

async fn settings(State(app): S, Path(app_id): Path<String>, pairs: Pairs) -> ApiResult<Json<Value>> {
    let index = app_of(&app, &app_id, &pairs)?;
    let world = app.world();
    world.webhooks.settings(index).map(|s| Json(s.show())).ok_or_else(|| ApiError::not_found("No webhook settings"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewSettings {
    target_url: String,
    throttling: Throttling,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    max_concurrent_requests: u32,
}

/// HubSpot wants https; http is taken here for a target on the same machine.
fn check_target(url: &str) -> ApiResult<()> {
    let parsed = url::Url::parse(url).map_err(|e| ApiError::validation(format!("targetUrl cannot be read: {e}")))?;
    let local = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if parsed.scheme() == "https" || (parsed.scheme() == "http" && local) {
        return Ok(());
    }
    Err(ApiError::validation("targetUrl must use https (http only on the same machine)"))
}

async fn put_settings(State(app): S, Path(app_id): Path<String>, pairs: Pairs, Body(new): Body<NewSettings>) -> ApiResult<Json<Value>> {
    let index = app_of(&app, &app_id, &pairs)?;
    check_target(&new.target_url)?;
    let now = app.now();
    let hooks = &mut app.world().webhooks;
    let created_at = hooks.settings(index).map_or(now, |s| s.created_at);
    let max_concurrent_requests = new.throttling.max_concurrent_requests;
    let made = Settings { target_url: new.target_url, max_concurrent_requests, created_at, updated_at: now };
    let shown = made.show();
    hooks.hooks(index).settings = Some(made);
    Ok(Json(shown))
}

/// Events that wait are dropped with the target.
async fn drop_settings(State(app): S, Path(app_id): Path<String>, pairs: Pairs) -> ApiResult<StatusCode> {
    let index = app_of(&app, &app_id, &pairs)?;
    let mut world = app.world();
    let hooks = world.webhooks.hooks(index);
    hooks.settings = None;
    hooks.queue.clear();
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewSubscription {
    event_type: String,
    #[serde(default)]
    property_name: Option<String>,
    #[serde(default)]
    active: bool,
}

fn check(new: &NewSubscription) -> ApiResult<()> {
    let known = match new.event_type.split_once('.') {
        Some(("contact", "privacyDeletion")) => true,
        Some((object, change)) => OBJECTS.contains(&object) && CHANGES.contains(&change),
        None => false,
    };
    if !known {
        return Err(ApiError::validation(format!("Unknown eventType {}", new.event_type)));
    }
    match (&new.property_name, new.event_type.ends_with(".propertyChange")) {
        (None, true) => Err(ApiError::validation("A propertyChange subscription needs a propertyName")),
        (Some(name), true) if NEVER.contains(&name.as_str()) => Err(ApiError::validation(format!("{name} cannot be subscribed to"))),
        (Some(_), false) => Err(ApiError::validation("Only a propertyChange subscription has a propertyName")),
        _ => Ok(()),
    }
}

async fn create(State(app): S, Path(app_id): Path<String>, pairs: Pairs, Body(new): Body<NewSubscription>) -> ApiResult {
    let index = app_of(&app, &app_id, &pairs)?;
    check(&new)?;
    let now = app.now();
    let webhooks = &mut app.world().webhooks;
    webhooks.made += 1;
    let id = webhooks.made;
    let subscriptions = &mut webhooks.hooks(index).subscriptions;
    if subscriptions.len() >= SUBSCRIPTIONS_MAX {
        return Err(ApiError::validation(format!("An app may have at most {SUBSCRIPTIONS_MAX} webhook subscriptions")));
    }
    if subscriptions.values().any(|s| s.event_type == new.event_type && s.property_name == new.property_name) {
        return Err(ApiError::conflict("This subscription already exists"));
    }
    let NewSubscription { event_type, property_name, active } = new;
    let made = Subscription { id, event_type, property_name, active, created_at: now, updated_at: now };
    let shown = made.show();
    subscriptions.insert(id, made);
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

async fn list(State(app): S, Path(app_id): Path<String>, pairs: Pairs) -> ApiResult<Json<Value>> {
    let index = app_of(&app, &app_id, &pairs)?;
    let mut world = app.world();
    let results: Vec<Value> = world.webhooks.hooks(index).subscriptions.values().map(Subscription::show).collect();
    Ok(Json(json!({ "results": results })))
}

fn missing(id: impl std::fmt::Display) -> ApiError {
    ApiError::not_found(format!("No webhook subscription {id}"))
}

type Two = Path<(String, String)>;

/// Works on one subscription of the caller's app.
fn with<T>(app: &AppState, (app_id, id): &(String, String), pairs: &Pairs, work: impl FnOnce(&mut Subscription) -> T) -> ApiResult<T> {
    let index = app_of(app, app_id, pairs)?;
    let number: u64 = id.parse().map_err(|_| missing(id))?;
    let mut world = app.world();
    world.webhooks.hooks(index).subscriptions.get_mut(&number).map(work).ok_or_else(|| missing(id))
}

async fn read(State(app): S, Path(path): Two, pairs: Pairs) -> ApiResult<Json<Value>> {
    with(&app, &path, &pairs, |found| Json(found.show()))
}

#[derive(Deserialize)]
struct Patch {
    #[serde(default)]
    active: Option<bool>,
}

fn set_active(subscription: &mut Subscription, active: bool, now: u64) -> Value {
    subscription.active = active;
    subscription.updated_at = now;
    subscription.show()
}

async fn update(State(app): S, Path(path): Two, pairs: Pairs, Body(patch): Body<Patch>) -> ApiResult<Json<Value>> {
    let now = app.now();
    with(&app, &path, &pairs, |found| Json(set_active(found, patch.active.unwrap_or(found.active), now)))
}

async fn remove(State(app): S, Path((app_id, id)): Two, pairs: Pairs) -> ApiResult<StatusCode> {
    let index = app_of(&app, &app_id, &pairs)?;
    let number: u64 = id.parse().map_err(|_| missing(&id))?;
    let mut world = app.world();
    world.webhooks.hooks(index).subscriptions.remove(&number).map(|_| StatusCode::NO_CONTENT).ok_or_else(|| missing(&id))
}

#[derive(Deserialize)]
struct Change {
    id: u64,
    active: bool,
}

async fn batch_update(
    State(app): S,
    Extension(MultiStatus(multi_status)): Extension<MultiStatus>,
    Path(app_id): Path<String>,
    pairs: Pairs,
    Body(input): Body<Inputs<Change>>,
) -> ApiResult {
    let index = app_of(&app, &app_id, &pairs)?;
    check_count(input.inputs.len(), BATCH_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let subscriptions = &mut world.webhooks.hooks(index).subscriptions;
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for Change { id, active } in input.inputs {
        match subscriptions.get_mut(&id) {
            Some(found) => results.push(set_active(found, active, now)),
            None => errors.push(missing(id).into_entry(json!({ "ids": [id.to_string()] }))),
        }
    }
    let mut answer = json!({ "status": "COMPLETE", "results": results, "startedAt": iso(now), "completedAt": iso(now) });
    if errors.is_empty() {
        return Ok(Json(answer).into_response());
    }
    answer["numErrors"] = errors.len().into();
    answer["errors"] = errors.into();
    let status = if multi_status { StatusCode::MULTI_STATUS } else { StatusCode::OK };
    Ok((status, Json(answer)).into_response())
}
