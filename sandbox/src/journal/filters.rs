//! Filters of a subscription: an event goes into the journal when one of them passes.

use super::{AppAccess, AppState};
use crate::changes::Change;
use crate::error::{ApiError, ApiResult};
use crate::http::Body;
use crate::portal::Portal;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cmp::Ordering;

const READ: &str = "developer.webhooks_journal.subscriptions.read";
const WRITE: &str = "developer.webhooks_journal.subscriptions.write";

/// One filter.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    id: u64,
    app: usize,
    pub subscription: u64,
    conditions: Conditions,
    created_at: u64,
}

/// All of which must hold.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Conditions {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    filter_type: FilterType,
    property: String,
    operator: Operator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum FilterType {
    CrmObjectProperty,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Operator {
    Contains,
    EndsWith,
    Eq,
    Gt,
    Gte,
    In,
    IsEmpty,
    IsNotEmpty,
    Lt,
    Lte,
    NEq,
    NotIn,
    StartsWith,
}

/// Numbers compare as numbers, all else as text.
fn order(left: &str, right: &str) -> Ordering {
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(left), Ok(right)) => left.total_cmp(&right),
        _ => left.cmp(right),
    }
}

impl Condition {
    fn holds(&self, value: Option<&str>) -> bool {
        let wanted = self.value.as_deref().unwrap_or_default();
        let Some(value) = value else { return matches!(self.operator, Operator::IsEmpty | Operator::NEq | Operator::NotIn) };
        let listed = || self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::Contains => value.contains(wanted),
            Operator::EndsWith => value.ends_with(wanted),
            Operator::StartsWith => value.starts_with(wanted),
            Operator::Eq => value == wanted,
            Operator::NEq => value != wanted,
            Operator::Gt => order(value, wanted).is_gt(),
            Operator::Gte => order(value, wanted).is_ge(),
            Operator::Lt => order(value, wanted).is_lt(),
            Operator::Lte => order(value, wanted).is_le(),
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::IsEmpty => false,
            Operator::IsNotEmpty => true,
        }
    }
}

impl Filter {
    /// Whether the record is as the filter wants it, now that the change is done. A record that is gone has no values.
    pub fn passes(&self, portal: &Portal, change: &Change) -> bool {
        let record = portal.store(change.kind).records.get(&change.id);
        self.conditions.conditions.iter().all(|c| {
            let value = record.and_then(|r| r.read(change.kind, &c.property));
            c.holds(value.as_deref())
        })
    }

    fn show(&self) -> Value {
        json!({ "id": self.id, "createdAt": self.created_at, "filter": self.conditions })
    }
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(format!("No filter {id}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewFilter {
    subscription_id: u64,
    filter: Conditions,
}

pub(super) async fn create(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Body(new): Body<NewFilter>,
) -> ApiResult<Json<Value>> {
    let index = access.app(WRITE)?;
    let now = app.now();
    let journals = &mut app.world().journals;
    let subscription = new.subscription_id;
    let found = journals.subscriptions.get(&subscription).filter(|s| s.app == index);
    found.ok_or_else(|| ApiError::not_found(format!("No subscription {subscription}")))?;
    let id = journals.number();
    journals.filters.insert(id, Filter { id, app: index, subscription, conditions: new.filter, created_at: now });
    Ok(Json(json!({ "filterId": id })))
}

pub(super) async fn read(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let index = access.app(READ)?;
    let world = app.world();
    let found = id.parse().ok().and_then(|id: u64| world.journals.filters.get(&id)).filter(|f| f.app == index);
    found.map(|f| Json(f.show())).ok_or_else(|| missing(&id))
}

pub(super) async fn list(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Path(id): Path<u64>,
) -> ApiResult<Json<Value>> {
    let index = access.app(READ)?;
    let world = app.world();
    let found = world.journals.filters.values().filter(|f| f.app == index && f.subscription == id);
    Ok(Json(Value::Array(found.map(Filter::show).collect())))
}

pub(super) async fn remove(
    State(app): State<AppState>,
    Extension(access): Extension<AppAccess>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let index = access.app(WRITE)?;
    let filters = &mut app.world().journals.filters;
    let number: u64 = id.parse().map_err(|_| missing(&id))?;
    filters.get(&number).filter(|f| f.app == index).ok_or_else(|| missing(&id))?;
    filters.remove(&number);
    Ok(StatusCode::NO_CONTENT)
}
