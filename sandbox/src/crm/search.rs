//! Search: filters, text, one sort, pages. Up to 10,000 results a query, and as late as the configuration says.

use super::Kind;
use super::objects::View;
use super::record::Record;
use super::schema::Schema;
use super::values::Id;
use crate::access::Access;
use crate::clock::parse_time;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Measured};
use crate::portal::Portal;
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::cmp::Ordering;

/// Characters of a query's body.
const BODY_MAX: usize = 3_000;
/// Filter groups of a query (the specification's number; a guide says 5).
const GROUPS_MAX: usize = 6;
/// Filters of a group.
const FILTERS_MAX: usize = 6;
/// Filters of a query.
const ALL_FILTERS_MAX: usize = 18;
/// Records of a page.
const PAGE_MAX: usize = 200;
/// Records of a page when the caller names no number.
const PAGE_DEFAULT: usize = 10;
/// Results that can be paged through.
const RESULTS_MAX: usize = 10_000;

/// The search route, below any of the version prefixes.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/{kind}/search", post(search))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Query {
    filter_groups: Vec<FilterGroup>,
    filters: Vec<Filter>,
    sorts: Vec<Value>,
    query: Option<String>,
    properties: Vec<String>,
    limit: Option<usize>,
    after: Option<Id>,
}

#[derive(Deserialize)]
struct FilterGroup {
    filters: Vec<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    property_name: String,
    operator: Operator,
    #[serde(default)]
    value: Option<Id>,
    #[serde(default)]
    high_value: Option<Id>,
    #[serde(default)]
    values: Vec<Id>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Operator {
    Between,
    ContainsToken,
    Eq,
    Gt,
    Gte,
    HasProperty,
    In,
    Lt,
    Lte,
    Neq,
    NotContainsToken,
    NotHasProperty,
    NotIn,
}

/// A record as search sees it: by its type and as it was when the index last caught up.
struct Seen<'a> {
    portal: &'a Portal,
    schema: &'a Schema,
    kind: Kind,
    at: u64,
}

impl Seen<'_> {
    fn value(&self, record: &Record, name: &str) -> Option<String> {
        record.read_at(self.kind, name, self.at)
    }

    /// Numbers and times compare as numbers, all else as text in lower case.
    fn order(&self, name: &str, left: &str, right: &str) -> Ordering {
        let data_type = self.schema.properties.get(name).map_or("string", |p| p.data_type.as_str());
        match data_type {
            "number" => match (left.parse::<f64>(), right.parse::<f64>()) {
                (Ok(left), Ok(right)) => left.total_cmp(&right),
                _ => left.cmp(right),
            },
            "date" | "datetime" => parse_time(left).cmp(&parse_time(right)),
            _ => left.to_lowercase().cmp(&right.to_lowercase()),
        }
    }

    fn passes(&self, filter: &Filter, record: &Record) -> bool {
        let name = filter.property_name.as_str();
        if let Some(other) = name.strip_prefix("associations.") {
            let linked: Vec<String> = self.portal.store(self.kind).linked_to(record.id).map(|id| id.to_string()).collect();
            let wanted: Vec<&str> = filter.value.iter().chain(&filter.values).map(|v| v.0.as_str()).collect();
            let hit = Kind::parse(other).is_ok_and(|k| k == self.kind.other()) && linked.iter().any(|id| wanted.contains(&id.as_str()));
            return match filter.operator {
                Operator::Eq | Operator::In => hit,
                Operator::Neq | Operator::NotIn => !hit,
                Operator::HasProperty => !linked.is_empty(),
                Operator::NotHasProperty => linked.is_empty(),
                _ => false,
            };
        }
        let value = self.value(record, name);
        let against = |other: &Option<Id>| match (&value, other) {
            (Some(value), Some(Id(other))) => Some(self.order(name, value, other)),
            _ => None,
        };
        let contains = |token: &Option<Id>| match (&value, token) {
            (Some(value), Some(Id(token))) => {
                let token = token.to_lowercase();
                let part = token.trim_matches('*');
                let value = value.to_lowercase();
                if token == part {
                    value.split(|c: char| !c.is_alphanumeric()).any(|t| t == part) || value == part
                } else {
                    value.contains(part)
                }
            }
            _ => false,
        };
        // Text in a list must be written in lower case to be found; elsewhere case makes no difference.
        let text = self.schema.properties.get(name).is_none_or(|p| p.data_type == "string");
        let one_of = |v: &str, w: &str| if text { v.to_lowercase() == w } else { self.order(name, v, w) == Ordering::Equal };
        let listed = || value.as_ref().is_some_and(|v| filter.values.iter().any(|w| one_of(v, &w.0)));
        match filter.operator {
            Operator::Eq => against(&filter.value) == Some(Ordering::Equal),
            Operator::Neq => value.is_some() && against(&filter.value) != Some(Ordering::Equal),
            Operator::Lt => against(&filter.value) == Some(Ordering::Less),
            Operator::Lte => against(&filter.value).is_some_and(Ordering::is_le),
            Operator::Gt => against(&filter.value) == Some(Ordering::Greater),
            Operator::Gte => against(&filter.value).is_some_and(Ordering::is_ge),
            Operator::Between => {
                against(&filter.value).is_some_and(Ordering::is_ge) && against(&filter.high_value).is_some_and(Ordering::is_le)
            }
            Operator::In => listed(),
            Operator::NotIn => value.is_some() && !listed(),
            Operator::HasProperty => value.is_some(),
            Operator::NotHasProperty => value.is_none(),
            Operator::ContainsToken => contains(&filter.value),
            Operator::NotContainsToken => !contains(&filter.value),
        }
    }

    /// Free text looks into the properties that name a record.
    fn mentions(&self, text: &str, record: &Record) -> bool {
        let names: &[&str] = match self.kind {
            Kind::Contact => &["email", "firstname", "lastname", "phone", "company"],
            Kind::Deal => &["dealname", "pipeline", "dealstage", "description"],
        };
        let text = text.to_lowercase();
        names.iter().filter_map(|name| self.value(record, name)).any(|value| value.to_lowercase().contains(&text))
    }
}

fn check(query: &Query, schema: &Schema) -> ApiResult<()> {
    let all = query.filter_groups.iter().flat_map(|g| &g.filters).chain(&query.filters);
    if query.filter_groups.len() > GROUPS_MAX || query.filter_groups.iter().any(|g| g.filters.len() > FILTERS_MAX) {
        return Err(ApiError::validation(format!("A search may have {GROUPS_MAX} filter groups of {FILTERS_MAX} filters each")));
    }
    if all.clone().count() > ALL_FILTERS_MAX {
        return Err(ApiError::validation(format!("A search may have {ALL_FILTERS_MAX} filters in all")));
    }
    for filter in all {
        let name = &filter.property_name;
        if !name.starts_with("associations.") && !schema.properties.contains_key(name) {
            return Err(ApiError::validation(format!("There was a problem with the request: Property \"{name}\" does not exist")));
        }
        let complete = match filter.operator {
            Operator::HasProperty | Operator::NotHasProperty => true,
            Operator::In | Operator::NotIn => !filter.values.is_empty(),
            Operator::Between => filter.value.is_some() && filter.high_value.is_some(),
            _ => filter.value.is_some(),
        };
        if !complete {
            return Err(ApiError::validation(format!("The filter on {name} lacks the value its operator needs")));
        }
    }
    Ok(())
}

/// A sort is an object in the guides and plain text (`-name` for descending) in the specification.
fn sort_of(sorts: &[Value]) -> ApiResult<(String, bool)> {
    match sorts {
        [] => Ok(("createdate".into(), false)),
        [Value::String(name)] => Ok((name.trim_start_matches('-').to_owned(), name.starts_with('-'))),
        [Value::Object(sort)] => match sort.get("propertyName").and_then(Value::as_str) {
            Some(name) => Ok((name.to_owned(), sort.get("direction").and_then(Value::as_str) == Some("DESCENDING"))),
            None => Err(ApiError::validation("A sort needs a propertyName")),
        },
        _ => Err(ApiError::validation("A search takes one sort")),
    }
}

async fn search(
    State(app): State<AppState>,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    Measured(query, length): Measured<Query>,
) -> ApiResult<Json<Value>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.read_scopes())?;
    if length > BODY_MAX {
        return Err(ApiError::validation(format!("The body of a search may have at most {BODY_MAX} characters")));
    }
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::validation(format!("limit must be between 1 and {PAGE_MAX}")));
    }
    let after: usize = match query.after.as_ref().filter(|a| !a.0.is_empty()) {
        Some(after) => after.0.parse().map_err(|_| ApiError::validation("after is not a paging cursor of this call"))?,
        None => 0,
    };
    if after + limit > RESULTS_MAX {
        return Err(ApiError::validation(format!("A search can be paged through up to {RESULTS_MAX} results")));
    }
    let (sort, descending) = sort_of(&query.sorts)?;
    let lag = u64::try_from(app.config().search_delay.as_millis()).unwrap_or(u64::MAX);
    let at = if lag == 0 { u64::MAX } else { app.now().saturating_sub(lag) };
    let mut world = app.world();
    let portal = &*world.portal(&access.portal);
    let seen = Seen { portal, schema: portal.schema(kind), kind, at };
    check(&query, seen.schema)?;
    let mut found: Vec<&Record> = portal
        .store(kind)
        .live()
        .filter(|r| r.created_at <= at)
        .filter(|r| query.filters.iter().all(|f| seen.passes(f, r)))
        .filter(|r| query.filter_groups.is_empty() || query.filter_groups.iter().any(|g| g.filters.iter().all(|f| seen.passes(f, r))))
        .filter(|r| query.query.as_deref().is_none_or(|text| seen.mentions(text, r)))
        .collect();
    found.sort_by(|left, right| {
        let (a, b) = (seen.value(left, &sort), seen.value(right, &sort));
        let order = match (&a, &b) {
            (Some(a), Some(b)) => seen.order(&sort, a, b),
            _ => a.is_some().cmp(&b.is_some()),
        };
        if descending { order.reverse() } else { order }
    });
    let view = View { properties: query.properties, ..View::default() };
    let page = found.iter().skip(after).take(limit);
    let results: Vec<Value> = page.map(|r| view.show(portal, kind, r).map(Value::Object)).collect::<Result<_, _>>()?;
    let mut answer = json!({ "total": found.len(), "results": results });
    if after + limit < found.len() {
        answer["paging"] = json!({ "next": { "after": (after + limit).to_string() } });
    }
    Ok(Json(answer))
}
