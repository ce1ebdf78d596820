//! Definitions of custom events: list, read, create, change, delete.

use crate::access::Access;
use crate::clock::iso;
use crate::crm::Kind;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use crate::portal::Portal;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Definitions of one account.
const DEFINITIONS_MAX: usize = 500;
/// Properties of one definition.
const PROPERTIES_MAX: usize = 50;
/// Definitions of a page.
const PAGE_MAX: usize = 100;
/// The scope that every call here takes.
const SCOPE: &[&str] = &["behavioral_events.event_definitions.read_write"];
const TYPES: &[&str] = &["string", "number", "enumeration", "datetime"];

/// All definitions of a portal, by full name.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    by_name: BTreeMap<String, Definition>,
    made: u64,
}

/// One kind of custom event.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    number: u64,
    /// `pe4242_link_click`
    pub full_name: String,
    name: String,
    pub label: String,
    pub kind: Kind,
    properties: BTreeMap<String, Property>,
    created_at: u64,
    updated_at: u64,
}

#[derive(Clone, Debug)]
struct Property {
    name: String,
    label: String,
    data_type: String,
    options: Vec<PropertyOption>,
    created_at: u64,
    updated_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PropertyOption {
    label: String,
    value: String,
    #[serde(default)]
    display_order: i64,
    #[serde(default)]
    hidden: bool,
}

impl Definitions {
    /// The definition that a caller means: by its full name or by the part after the account.
    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.by_name.get(name).or_else(|| self.by_name.values().find(|d| d.name == name))
    }

    fn get_mut(&mut self, name: &str) -> ApiResult<&mut Definition> {
        self.by_name.values_mut().find(|d| d.full_name == name || d.name == name).ok_or_else(|| no_definition(name))
    }
}

impl Definition {
    /// Whether events of this kind may carry the property, and with this value.
    pub fn check(&self, name: &str, value: &str) -> ApiResult<()> {
        let property = self
            .properties
            .get(name)
            .ok_or_else(|| ApiError::validation(format!("Property {name} is not defined on event {}", self.full_name)))?;
        let valid = match property.data_type.as_str() {
            "number" => value.parse::<f64>().is_ok_and(f64::is_finite),
            "datetime" => crate::clock::parse_time(value).is_some(),
            "enumeration" => property.options.iter().any(|o| o.value == value),
            _ => true,
        };
        if valid { Ok(()) } else { Err(ApiError::validation(format!("{value:?} is not a valid {} for {name}", property.data_type))) }
    }

    fn show(&self) -> Value {
        json!({
            "id": self.number.to_string(), "objectTypeId": format!("6-{}", self.number), "fullyQualifiedName": self.full_name, "name": self.name,
            "labels": { "singular": self.label, "plural": self.label }, "primaryObject": self.kind.singular().to_uppercase(),
            "primaryObjectId": self.kind.type_id(), "trackingType": "MANUAL", "archived": false, "associations": [],
            "properties": self.properties.values().map(Property::show).collect::<Vec<_>>(),
            "createdAt": iso(self.created_at), "updatedAt": iso(self.updated_at),
        })
    }
}

impl Property {
    fn show(&self) -> Value {
        let field_type = match self.data_type.as_str() {
            "number" => "number",
            "datetime" => "date",
            "enumeration" => "select",
            _ => "text",
        };
        json!({
            "name": self.name, "label": self.label, "type": self.data_type, "fieldType": field_type, "description": "", "groupName": "eventinformation",
            "options": self.options, "archived": false, "createdAt": iso(self.created_at), "updatedAt": iso(self.updated_at),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewDefinition {
    label: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    primary_object: Option<String>,
    property_definitions: Vec<NewProperty>,
    // HubSpot's own properties (browser, country, …) are not kept here.
    #[serde(rename = "includeDefaultProperties")]
    _include_default_properties: bool,
}

#[derive(Deserialize)]
pub(super) struct NewProperty {
    label: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(rename = "type")]
    data_type: String,
    #[serde(default)]
    options: Vec<PropertyOption>,
}

#[derive(Deserialize)]
pub(super) struct Labelled {
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    options: Option<Vec<PropertyOption>>,
}

fn no_definition(name: &str) -> ApiError {
    ApiError::not_found(format!("No event definition {name}"))
}

/// A name made of a label: lower case, digits and underscores.
fn name_of(label: &str) -> String {
    label.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn check_name(name: &str) -> ApiResult<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(ApiError::validation(format!("{name:?} is not a name: start with a lower-case letter, go on with a-z, 0-9, _ and -")))
}

fn new_property(new: NewProperty, now: u64) -> ApiResult<Property> {
    let NewProperty { label, name, data_type, options } = new;
    let name = name.unwrap_or_else(|| name_of(&label));
    check_name(&name)?;
    if !TYPES.contains(&data_type.as_str()) {
        return Err(ApiError::validation(format!("Unknown type {data_type}; known: {}", TYPES.join(", "))));
    }
    Ok(Property { name, label, data_type, options, created_at: now, updated_at: now })
}

fn add(properties: &mut BTreeMap<String, Property>, property: Property) -> ApiResult<()> {
    if properties.len() >= PROPERTIES_MAX {
        return Err(ApiError::validation(format!("An event may have at most {PROPERTIES_MAX} properties")));
    }
    if properties.contains_key(&property.name) {
        return Err(ApiError::conflict(format!("A property {} already exists", property.name)));
    }
    properties.insert(property.name.clone(), property);
    Ok(())
}

type S = State<AppState>;
type A = Extension<Access>;

pub(super) async fn list(State(app): S, Extension(access): A, pairs: Pairs) -> ApiResult<Json<Value>> {
    access.any_of(SCOPE)?;
    let limit = pairs.get("limit").map_or(Ok(PAGE_MAX), str::parse).unwrap_or(0);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(ApiError::validation(format!("limit must be between 1 and {PAGE_MAX}")));
    }
    let after = pairs.get("after").unwrap_or_default();
    let wanted = pairs.get("searchString").unwrap_or_default();
    let mut world = app.world();
    let all: Vec<&Definition> =
        world.portal(&access.portal).event_definitions.by_name.values().filter(|d| d.full_name.contains(wanted)).collect();
    let mut from = all.iter().filter(|d| d.full_name.as_str() > after);
    let page: Vec<&&Definition> = from.by_ref().take(limit).collect();
    let mut answer = json!({ "total": all.len(), "results": page.iter().map(|d| d.show()).collect::<Vec<_>>() });
    if let (Some(last), Some(_)) = (page.last(), from.next()) {
        answer["paging"] = json!({ "next": { "after": last.full_name } });
    }
    Ok(Json(answer))
}

pub(super) async fn create(State(app): S, Extension(access): A, Body(new): Body<NewDefinition>) -> ApiResult {
    access.any_of(SCOPE)?;
    let now = app.now();
    let mut world = app.world();
    let portal: &mut Portal = world.portal(&access.portal);
    let kind = Kind::parse(new.primary_object.as_deref().unwrap_or("CONTACT"))?;
    let name = new.name.unwrap_or_else(|| name_of(&new.label));
    check_name(&name)?;
    let full_name = format!("pe{}_{name}", portal.id);
    let definitions = &mut portal.event_definitions;
    if definitions.by_name.contains_key(&full_name) {
        return Err(ApiError::conflict(format!("An event definition {full_name} already exists")));
    }
    if definitions.by_name.len() >= DEFINITIONS_MAX {
        return Err(ApiError::validation(format!("An account may have at most {DEFINITIONS_MAX} event definitions")));
    }
    let mut properties = BTreeMap::new();
    for one in new.property_definitions {
        add(&mut properties, new_property(one, now)?)?;
    }
    definitions.made += 1;
    let number = 1_000_000 + definitions.made;
    let made =
        Definition { number, full_name: full_name.clone(), name, label: new.label, kind, properties, created_at: now, updated_at: now };
    let shown = made.show();
    definitions.by_name.insert(full_name, made);
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

pub(super) async fn read(State(app): S, Extension(access): A, Path(name): Path<String>) -> ApiResult<Json<Value>> {
    access.any_of(SCOPE)?;
    let mut world = app.world();
    world.portal(&access.portal).event_definitions.get(&name).map(|d| Json(d.show())).ok_or_else(|| no_definition(&name))
}

pub(super) async fn update(State(app): S, Extension(access): A, Path(name): Path<String>, Body(new): Body<Labelled>) -> ApiResult {
    access.any_of(SCOPE)?;
    let now = app.now();
    let mut world = app.world();
    let found = world.portal(&access.portal).event_definitions.get_mut(&name)?;
    found.label = new.label.unwrap_or_else(|| found.label.clone());
    found.updated_at = now;
    Ok((StatusCode::CREATED, Json(found.show())).into_response())
}

/// Deleting a definition takes its events along.
pub(super) async fn remove(State(app): S, Extension(access): A, Path(name): Path<String>) -> ApiResult<StatusCode> {
    access.any_of(SCOPE)?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let full_name = portal.event_definitions.get(&name).map(|d| d.full_name.clone()).ok_or_else(|| no_definition(&name))?;
    portal.event_definitions.by_name.remove(&full_name);
    portal.keep_events(|event| event.key.0 != full_name);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn add_property(State(app): S, Extension(access): A, Path(name): Path<String>, Body(new): Body<NewProperty>) -> ApiResult {
    access.any_of(SCOPE)?;
    let now = app.now();
    let mut world = app.world();
    let found = world.portal(&access.portal).event_definitions.get_mut(&name)?;
    let property = new_property(new, now)?;
    let shown = property.show();
    add(&mut found.properties, property)?;
    found.updated_at = now;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

fn no_property(name: &str) -> ApiError {
    ApiError::not_found(format!("Property {name} does not exist"))
}

pub(super) async fn update_property(
    State(app): S,
    Extension(access): A,
    Path((name, property)): Path<(String, String)>,
    Body(new): Body<Labelled>,
) -> ApiResult {
    access.any_of(SCOPE)?;
    let now = app.now();
    let mut world = app.world();
    let found = world.portal(&access.portal).event_definitions.get_mut(&name)?;
    let property = found.properties.get_mut(&property).ok_or_else(|| no_property(&property))?;
    property.label = new.label.unwrap_or_else(|| property.label.clone());
    property.options = new.options.unwrap_or_else(|| property.options.clone());
    property.updated_at = now;
    Ok((StatusCode::CREATED, Json(property.show())).into_response())
}

pub(super) async fn remove_property(
    State(app): S,
    Extension(access): A,
    Path((name, property)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    access.any_of(SCOPE)?;
    let mut world = app.world();
    let found = world.portal(&access.portal).event_definitions.get_mut(&name)?;
    found.properties.remove(&property).map(|_| StatusCode::NO_CONTENT).ok_or_else(|| no_property(&property))
}
