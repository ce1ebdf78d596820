//! Event templates. They belong to an app, not to an account, and are managed with the developer key.

use super::{PREFIXES, render};
use crate::clock::iso;
use crate::config::Config;
use crate::crm::Kind;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Templates that one app may have.
const TEMPLATES_MAX: usize = 750;
/// Tokens that one template may have.
const TOKENS_MAX: usize = 500;

/// One token of a template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    pub name: String,
    pub label: String,
    #[serde(rename = "type")]
    pub data_type: String,
    #[serde(default)]
    pub options: Vec<TokenOption>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_property_name: Option<String>,
    #[serde(skip_deserializing)]
    pub created_at: String,
    #[serde(skip_deserializing)]
    pub updated_at: String,
}

/// One choice of an enumeration token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TokenOption {
    pub value: String,
    pub label: String,
}

/// One template.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Template {
    pub id: String,
    pub name: String,
    pub object_type: String,
    pub header_template: String,
    pub detail_template: String,
    pub tokens: Vec<Token>,
    pub created_at: String,
    pub updated_at: String,
    /// The app it belongs to, as an index of the configuration.
    #[serde(skip)]
    pub app: usize,
    #[serde(skip)]
    pub kind: Option<Kind>,
    /// Of an app event's type: its `uid`. Types come with the app's project and are no templates to the API.
    #[serde(skip)]
    pub uid: Option<String>,
}

/// All templates of all apps.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    by_id: BTreeMap<String, Template>,
    made: u64,
}

impl Templates {
    /// A template of this app.
    pub fn get(&self, app: usize, id: &str) -> Option<&Template> {
        self.by_id.get(id).filter(|t| t.app == app && t.uid.is_none())
    }

    /// A type of this app's events, by its full name or its `uid`.
    pub fn event_type(&self, app: usize, name: &str) -> Option<&Template> {
        let mut types = self.by_id.values().filter(|t| t.app == app && t.uid.is_some());
        types.find(|t| t.id == name || t.uid.as_deref() == Some(name))
    }

    /// Adds or replaces a type of an app's events.
    pub fn put_event_type(&mut self, template: Template) {
        self.by_id.insert(template.id.clone(), template);
    }

    /// The templates of all apps.
    pub fn all(&self) -> impl Iterator<Item = &Template> {
        self.by_id.values()
    }
}

/// A template to create.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewTemplate {
    name: String,
    object_type: String,
    #[serde(default)]
    header_template: String,
    #[serde(default)]
    detail_template: String,
    #[serde(default)]
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TemplateUpdate {
    name: String,
    #[serde(default)]
    header_template: Option<String>,
    #[serde(default)]
    detail_template: Option<String>,
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenUpdate {
    label: String,
    #[serde(default)]
    options: Vec<TokenOption>,
    #[serde(default)]
    object_property_name: Option<String>,
}

/// The template routes.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new();
    for prefix in PREFIXES {
        router = router
            .route(&format!("{prefix}/{{app_id}}/event-templates"), get(list).post(create))
            .route(&format!("{prefix}/{{app_id}}/event-templates/{{template}}"), get(read).put(update).delete(remove))
            .route(&format!("{prefix}/{{app_id}}/event-templates/{{template}}/tokens"), post(create_token))
            .route(&format!("{prefix}/{{app_id}}/event-templates/{{template}}/tokens/{{token}}"), put(update_token).delete(remove_token));
    }
    router
}

/// The app that the path names, for a caller with the developer key.
pub(crate) fn app_of(app: &AppState, app_id: &str, pairs: &Pairs) -> ApiResult<usize> {
    let config = app.config();
    if pairs.get("hapikey") != Some(config.developer_key.as_str()) {
        return Err(ApiError::unauthenticated());
    }
    let found = (0..config.apps.len()).find(|index| Config::app_id(*index).to_string() == app_id);
    found.ok_or_else(|| ApiError::not_found(format!("App {app_id} does not exist")))
}

fn no_template(id: &str) -> ApiError {
    ApiError::not_found(format!("No event template with ID {id}"))
}

pub(super) fn object_kind(object_type: &str) -> ApiResult<Option<Kind>> {
    match object_type.to_ascii_lowercase().as_str() {
        "contacts" | "contact" | "0-1" => Ok(Some(Kind::Contact)),
        "deals" | "deal" | "0-3" => Ok(Some(Kind::Deal)),
        "companies" | "company" | "0-2" | "tickets" | "ticket" | "0-5" => Ok(None),
        _ => Err(ApiError::validation(format!("{object_type} is not an object type of events: contacts, companies, deals, tickets"))),
    }
}

pub(super) fn check(header: &str, detail: &str, tokens: &[Token]) -> ApiResult<()> {
    if tokens.len() > TOKENS_MAX {
        return Err(ApiError::validation(format!("A template may have at most {TOKENS_MAX} tokens")));
    }
    for (at, token) in tokens.iter().enumerate() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if token.name.is_empty() || !token.name.chars().all(allowed) || matches!(token.name.as_str(), "log" | "lookup") {
            return Err(ApiError::validation(format!("{:?} is not a token name", token.name)));
        }
        if !matches!(token.data_type.as_str(), "string" | "number" | "date" | "enumeration") {
            return Err(ApiError::validation(format!("{} is not a token type: string, number, date, enumeration", token.data_type)));
        }
        if token.data_type == "enumeration" && token.options.is_empty() {
            return Err(ApiError::validation(format!("The enumeration token {} needs options", token.name)));
        }
        if tokens[..at].iter().any(|other| other.name == token.name) {
            return Err(ApiError::validation(format!("The token {} is there twice", token.name)));
        }
    }
    if header.contains("extraData") {
        return Err(ApiError::validation("extraData can be used in the detail template only"));
    }
    for template in [header, detail] {
        render::check(template).map_err(|e| ApiError::validation(format!("The template cannot be read: {e}")))?;
    }
    Ok(())
}

type S = State<AppState>;

async fn list(State(app): S, Path(app_id): Path<String>, pairs: Pairs) -> ApiResult<Json<Value>> {
    let index = app_of(&app, &app_id, &pairs)?;
    let world = app.world();
    let results: Vec<&Template> = world.templates.by_id.values().filter(|t| t.app == index && t.uid.is_none()).collect();
    Ok(Json(json!({ "results": results })))
}

async fn create(State(app): S, Path(app_id): Path<String>, pairs: Pairs, Body(new): Body<NewTemplate>) -> ApiResult {
    let index = app_of(&app, &app_id, &pairs)?;
    let template = add(&app, index, new)?;
    Ok((StatusCode::CREATED, Json(template)).into_response())
}

fn add(app: &AppState, index: usize, mut new: NewTemplate) -> ApiResult<Template> {
    let kind = object_kind(&new.object_type)?;
    check(&new.header_template, &new.detail_template, &new.tokens)?;
    let now = iso(app.now());
    let templates = &mut app.world().templates;
    if templates.by_id.values().filter(|t| t.app == index && t.uid.is_none()).count() >= TEMPLATES_MAX {
        return Err(ApiError::validation(format!("An app may have at most {TEMPLATES_MAX} event templates")));
    }
    templates.made += 1;
    stamp(&mut new.tokens, &now);
    let template = Template {
        id: (1_001_000 + templates.made).to_string(),
        name: new.name,
        object_type: new.object_type,
        header_template: new.header_template,
        detail_template: new.detail_template,
        tokens: new.tokens,
        created_at: now.clone(),
        updated_at: now,
        app: index,
        kind,
        uid: None,
    };
    templates.by_id.insert(template.id.clone(), template.clone());
    Ok(template)
}

pub(super) fn stamp(tokens: &mut [Token], now: &str) {
    for token in tokens {
        token.created_at = now.to_owned();
        token.updated_at = now.to_owned();
    }
}

type Two = Path<(String, String)>;
type Three = Path<(String, String, String)>;

async fn read(State(app): S, Path((app_id, id)): Two, pairs: Pairs) -> ApiResult<Json<Template>> {
    let index = app_of(&app, &app_id, &pairs)?;
    app.world().templates.get(index, &id).cloned().map(Json).ok_or_else(|| no_template(&id))
}

/// Changes a template of the caller's app, after which it must still be well-formed.
fn change(
    app: &AppState,
    app_id: &str,
    id: &str,
    pairs: &Pairs,
    edit: impl FnOnce(&mut Template, &str) -> ApiResult<()>,
) -> ApiResult<Template> {
    let index = app_of(app, app_id, pairs)?;
    let now = iso(app.now());
    let mut world = app.world();
    let template = world.templates.by_id.get_mut(id).filter(|t| t.app == index && t.uid.is_none()).ok_or_else(|| no_template(id))?;
    let mut changed = template.clone();
    edit(&mut changed, &now)?;
    check(&changed.header_template, &changed.detail_template, &changed.tokens)?;
    changed.updated_at = now;
    *template = changed.clone();
    Ok(changed)
}

async fn update(State(app): S, Path((app_id, id)): Two, pairs: Pairs, Body(new): Body<TemplateUpdate>) -> ApiResult<Json<Template>> {
    let changed = change(&app, &app_id, &id, &pairs, |template, now| {
        let TemplateUpdate { name, header_template, detail_template, mut tokens } = new;
        stamp(&mut tokens, now);
        template.name = name;
        template.tokens = tokens;
        template.header_template = header_template.unwrap_or_else(|| template.header_template.clone());
        template.detail_template = detail_template.unwrap_or_else(|| template.detail_template.clone());
        Ok(())
    })?;
    Ok(Json(changed))
}

/// Deleting a template takes its events along, in every portal.
async fn remove(State(app): S, Path((app_id, id)): Two, pairs: Pairs) -> ApiResult<StatusCode> {
    let index = app_of(&app, &app_id, &pairs)?;
    let mut world = app.world();
    world.templates.get(index, &id).ok_or_else(|| no_template(&id))?;
    world.templates.by_id.remove(&id);
    for portal in world.portal_ids() {
        world.portal(&portal).keep_events(|event| event.key.0 != id);
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn create_token(State(app): S, Path((app_id, id)): Two, pairs: Pairs, Body(mut token): Body<Token>) -> ApiResult<Json<Token>> {
    let name = token.name.clone();
    let changed = change(&app, &app_id, &id, &pairs, |template, now| {
        stamp(std::slice::from_mut(&mut token), now);
        template.tokens.push(token);
        Ok(())
    })?;
    token_of(changed, &name)
}

fn token_of(template: Template, name: &str) -> ApiResult<Json<Token>> {
    template.tokens.into_iter().find(|t| t.name == name).map(Json).ok_or_else(|| no_token(name))
}

fn no_token(name: &str) -> ApiError {
    ApiError::not_found(format!("No token named {name}"))
}

async fn update_token(
    State(app): S,
    Path((app_id, id, name)): Three,
    pairs: Pairs,
    Body(new): Body<TokenUpdate>,
) -> ApiResult<Json<Token>> {
    let changed = change(&app, &app_id, &id, &pairs, |template, now| {
        let token = template.tokens.iter_mut().find(|t| t.name == name).ok_or_else(|| no_token(&name))?;
        let TokenUpdate { label, options, object_property_name } = new;
        token.label = label;
        token.options = options;
        token.object_property_name = object_property_name.or(token.object_property_name.take());
        token.updated_at = now.to_owned();
        Ok(())
    })?;
    token_of(changed, &name)
}

async fn remove_token(State(app): S, Path((app_id, id, name)): Three, pairs: Pairs) -> ApiResult<StatusCode> {
    change(&app, &app_id, &id, &pairs, |template, _| {
        let at = template.tokens.iter().position(|t| t.name == name).ok_or_else(|| no_token(&name))?;
        template.tokens.remove(at);
        Ok(())
    })?;
    Ok(StatusCode::NO_CONTENT)
}
