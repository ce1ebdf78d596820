//! Types of app events. They come with the app's project, not over the API: here the control API or the library puts them in.

use super::APP_EVENT_PREFIXES;
use super::templates::{Template, Token, app_of, check, object_kind, stamp};
use crate::clock::iso;
use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest name, header and detail, in characters; most properties.
const NAME_MAX: usize = 50;
const HEADER_MAX: usize = 1_000;
const DETAIL_MAX: usize = 10_000;

/// A type as a project's file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewType {
    uid: String,
    config: TypeConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeConfig {
    name: String,
    #[serde(default)]
    header_template: String,
    #[serde(default)]
    detail_template: String,
    object_type: String,
    #[serde(default)]
    properties: Vec<Token>,
}

/// The route of the developer API.
pub(crate) fn routes() -> Router<AppState> {
    let mut router = Router::new();
    for prefix in APP_EVENT_PREFIXES {
        router = router.route(&format!("{prefix}/types/projects"), post(resolve));
    }
    router
}

/// Puts a type into an app as its project's upload would; gives back the full name.
pub(crate) fn put(app: &AppState, index: usize, new: NewType) -> ApiResult<String> {
    let NewType { uid, config: TypeConfig { name, header_template, detail_template, object_type, properties } } = new;
    let too_long = |text: &str, max: usize| text.chars().count() > max;
    if uid.is_empty() || too_long(&name, NAME_MAX) || too_long(&header_template, HEADER_MAX) || too_long(&detail_template, DETAIL_MAX) {
        let limits = format!("name {NAME_MAX}, headerTemplate {HEADER_MAX}, detailTemplate {DETAIL_MAX} characters");
        return Err(ApiError::validation(format!("An event type needs a uid, and is bounded: {limits}")));
    }
    let object_type = match object_type.as_str() {
        "CONTACT" => "contacts",
        "DEAL" => "deals",
        other => other,
    };
    let kind = object_kind(object_type)?;
    check(&header_template, &detail_template, &properties)?;
    let now = iso(app.now());
    let mut tokens = properties;
    stamp(&mut tokens, &now);
    let id = format!("ae{}_{uid}", Config::app_id(index));
    let template = Template {
        id: id.clone(),
        name,
        object_type: object_type.to_owned(),
        header_template,
        detail_template,
        tokens,
        created_at: now.clone(),
        updated_at: now,
        app: index,
        kind,
        uid: Some(uid),
    };
    app.world().templates.put_event_type(template);
    Ok(id)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Symbol {
    developer_symbol: String,
    project_name: String,
}

/// The full name of a type, by its `uid`. Any project name does: this sandbox keeps no projects. Takes the developer key, with
/// the app chosen by its first type of that `uid`.
async fn resolve(State(app): State<AppState>, pairs: Pairs, Body(symbol): Body<Symbol>) -> ApiResult<Json<Value>> {
    let apps = app.config().apps.len();
    for index in 0..apps {
        let owner = app_of(&app, &Config::app_id(index).to_string(), &pairs)?;
        if let Some(found) = app.world().templates.event_type(owner, &symbol.developer_symbol) {
            return Ok(Json(json!({
                "fullyQualifiedName": found.id,
                "developerQualifiedSymbol": { "developerSymbol": symbol.developer_symbol, "projectName": symbol.project_name },
            })));
        }
    }
    Err(ApiError::not_found(format!("No event type {} in project {}", symbol.developer_symbol, symbol.project_name)))
}
