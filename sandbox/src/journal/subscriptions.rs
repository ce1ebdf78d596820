//! What an app wants to find in its journal.

use super::feed::action;
use super::{AppAccess, AppState};
use crate::changes::{Change, What};
use crate::clock::iso;
use crate::config::Config;
use crate::crm::Kind;
use crate::error::{ApiError, ApiResult};
use crate::http::Body;
use crate::oauth::inspect::hub_id;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

const READ: &str = "developer.webhooks_journal.subscriptions.read";
const WRITE: &str = "developer.webhooks_journal.subscriptions.write";
const TYPES: &[&str] = &["OBJECT", "ASSOCIATION", "APP_LIFECYCLE_EVENT", "LIST_MEMBERSHIP", "GDPR_PRIVACY_DELETION"];
const ACTIONS: &[&str] = &[
    "CREATE",
    "UPDATE",
    "DELETE",
    "MERGE",
    "RESTORE",
    "ASSOCIATION_ADDED",
    "ASSOCIATION_REMOVED",
    "SNAPSHOT",
    "APP_INSTALL",
    "APP_UNINSTALL",
    "ADDED_TO_LIST",
    "REMOVED_FROM_LIST",
    "GDPR_DELETE",
];

/// One subscription of one app to one portal.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub id: u64,
    pub app: usize,
    pub portal: String,
    spec: Spec,
    created_at: u64,
}

/// A subscription as a caller writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    subscription_type: String,
    portal_id: Option<u64>,
    #[serde(default)]
    object_type_id: Option<String>,
    #[serde(default)]
    actions: Vec<String>,
    #[serde(default)]
    properties: Vec<String>,
    #[serde(default)]
    object_ids: Vec<u64>,
    #[serde(default)]
    associated_object_type_ids: Vec<String>,
}

impl Subscription {
    /// Whether a change is one that was subscribed to. `from_it_on` has the other values that go with it.
    pub fn wants(&self, change: &Change, from_it_on: &[Change]) -> bool {
        let (kind, action) = action(&change.what);
        let spec = &self.spec;
        let same_object = spec.object_type_id.as_deref() == Some(change.kind.type_id());
        let other_end = || match &change.what {
            What::Associated { .. } => spec.associated_object_type_ids.iter().any(|t| t == change.kind.other().type_id()),
            _ => true,
        };
        // An update counts when one of the properties asked for is new; without a list each one is.
        let values = || match &change.what {
            What::Set { .. } => super::feed::about(change, from_it_on).iter().any(|(name, _)| self.shows(name)),
            _ => true,
        };
        spec.subscription_type == kind
            && same_object
            && spec.actions.iter().any(|a| a == action)
            && (spec.object_ids.is_empty() || spec.object_ids.contains(&change.id))
            && other_end()
            && values()
    }

    /// Whether events name this property.
    pub fn shows(&self, property: &str) -> bool {
        self.spec.properties.is_empty() || self.spec.properties.iter().any(|p| p == property)
    }

    fn show(&self) -> Value {
        let at = iso(self.created_at);
        json!({
            "id": self.id, "appId": Config::app_id(self.app), "subscriptionType": self.spec.subscription_type, "portalId": hub_id(&self.portal),
            "objectTypeId": self.spec.object_type_id.as_deref().unwrap_or_default(), "actions": self.spec.actions, "properties": self.spec.properties,
            "objectIds": self.spec.object_ids, "associatedObjectTypeIds": self.spec.associated_object_type_ids, "createdAt": at, "updatedAt": at,
        })
    }
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("No subscription {id}"))
}

/// The scopes that an app's token needs to subscribe to a record type, besides that of the journal.
fn check(spec: &Spec, access: &AppAccess) -> ApiResult<()> {
    if !TYPES.contains(&spec.subscription_type.as_str()) {
        return Err(ApiError::validation(format!("Unknown subscriptionType {}; known: {}", spec.subscription_type, TYPES.join(", "))));
    }
    if let Some(unknown) = spec.actions.iter().find(|a| !ACTIONS.contains(&a.as_str())) {
        return Err(ApiError::validation(format!("Unknown action {unknown}; known: {}", ACTIONS.join(", "))));
    }
    if matches!(spec.subscription_type.as_str(), "OBJECT" | "ASSOCIATION" | "GDPR_PRIVACY_DELETION") {
        let kind = Kind::parse(spec.object_type_id.as_deref().unwrap_or_default())?;
        if spec.actions.is_empty() {
            return Err(ApiError::validation("A subscription needs actions"));
        }
        if !access.has(kind.read_scopes()) {
            return Err(ApiError::missing_scopes(kind.read_scopes()));
        }
    }
    Ok(())
}

pub(super) async fn create(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Body(spec): Body<Spec>,
) -> ApiResult<Json<Value>> {
    let index = access.app(WRITE)?;
    check(&spec, &access)?;
    let now = app.now();
    let mut world = app.world();
    let portal = spec.portal_id.map(|id| id.to_string()).unwrap_or_default();
    if spec.subscription_type != "APP_LIFECYCLE_EVENT" && !world.oauth.installed(index, &portal) {
        return Err(ApiError::validation(format!("The app is not installed in account {portal}")));
    }
    let id = world.journals.number();
    let made = Subscription { id, app: index, portal, spec, created_at: now };
    let shown = made.show();
    world.journals.subscriptions.insert(id, made);
    Ok(Json(shown))
}

pub(super) async fn list(State(app): State<AppState>, Extension(access): Extension<AppAccess>) -> ApiResult<Json<Value>> {
    let index = access.app(READ)?;
    let world = app.world();
    let results: Vec<Value> = world.journals.subscriptions.values().filter(|s| s.app == index).map(Subscription::show).collect();
    Ok(Json(json!({ "results": results })))
}

pub(super) async fn read(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let index = access.app(READ)?;
    let world = app.world();
    let found = id.parse().ok().and_then(|id: u64| world.journals.subscriptions.get(&id)).filter(|s| s.app == index);
    found.map(|s| Json(s.show())).ok_or_else(|| missing(&id))
}

/// Its filters go with it.
pub(super) async fn remove(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let index = access.app(WRITE)?;
    let journals = &mut app.world().journals;
    let number: u64 = id.parse().map_err(|_| missing(&id))?;
    journals.subscriptions.get(&number).filter(|s| s.app == index).ok_or_else(|| missing(&id))?;
    journals.subscriptions.remove(&number);
    journals.filters.retain(|_, f| f.subscription != number);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_portal(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Path(portal): Path<String>,
) -> ApiResult<StatusCode> {
    let index = access.app(WRITE)?;
    let journals = &mut app.world().journals;
    journals.subscriptions.retain(|_, s| s.app != index || s.portal != portal);
    let left = &journals.subscriptions;
    journals.filters.retain(|_, f| left.contains_key(&f.subscription));
    Ok(StatusCode::NO_CONTENT)
}
