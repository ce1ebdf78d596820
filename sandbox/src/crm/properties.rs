//! Property definitions: list, read, create, change, archive.

use super::batch::{INPUTS_MAX, Inputs, answer, check_count};
use super::schema::{ModificationMetadata, Property, PropertyOption, Schema, minus_one};
use super::{Generation, Kind};
use crate::access::Access;
use crate::clock::iso;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body, Pairs};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

/// The property routes, below any of the version prefixes.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/{kind}", get(list).post(create))
        .route("/{kind}/{name}", get(read).patch(update).delete(archive))
        .route("/{kind}/batch/create", post(batch_create))
        .route("/{kind}/batch/read", post(batch_read))
        .route("/{kind}/batch/archive", post(batch_archive))
        .merge(super::groups::routes())
}

const TYPES: &[&str] = &["bool", "date", "datetime", "enumeration", "number", "phone_number", "string"];
const FIELD_TYPES: &[&str] = &[
    "booleancheckbox",
    "calculation_equation",
    "checkbox",
    "date",
    "file",
    "html",
    "number",
    "phonenumber",
    "radio",
    "select",
    "text",
    "textarea",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewProperty {
    name: String,
    label: String,
    #[serde(rename = "type")]
    data_type: String,
    field_type: String,
    group_name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    options: Vec<PropertyOption>,
    #[serde(default = "minus_one")]
    display_order: i64,
    #[serde(default)]
    has_unique_value: bool,
    #[serde(default)]
    hidden: bool,
    #[serde(default)]
    form_field: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PropertyPatch {
    label: Option<String>,
    group_name: Option<String>,
    description: Option<String>,
    options: Option<Vec<PropertyOption>>,
    display_order: Option<i64>,
    hidden: Option<bool>,
    form_field: Option<bool>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

fn no_property(name: &str) -> ApiError {
    ApiError::not_found(format!("Property \"{name}\" does not exist"))
}

pub(super) fn valid_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn check(schema: &Schema, new: &NewProperty) -> ApiResult<()> {
    let is_bool = new.data_type == "bool";
    let mut choices: Vec<&str> = new.options.iter().map(|o| o.value.as_str()).collect();
    choices.sort_unstable();
    if !valid_name(&new.name) {
        Err(ApiError::validation(format!(
            "{:?} is not a property name: start with a lower-case letter, go on with a-z, 0-9 and _",
            new.name
        )))
    } else if !TYPES.contains(&new.data_type.as_str()) {
        Err(ApiError::validation(format!("Unknown type {}; known: {}", new.data_type, TYPES.join(", "))))
    } else if !FIELD_TYPES.contains(&new.field_type.as_str()) {
        Err(ApiError::validation(format!("Unknown fieldType {}; known: {}", new.field_type, FIELD_TYPES.join(", "))))
    } else if !schema.groups.contains_key(&new.group_name) {
        Err(ApiError::validation(format!("Property group \"{}\" does not exist", new.group_name)))
    } else if is_bool && choices != ["false", "true"] {
        Err(ApiError::validation("A property of type bool needs exactly the options true and false"))
    } else if schema.properties.contains_key(&new.name) {
        Err(ApiError::new(StatusCode::CONFLICT, "OBJECT_ALREADY_EXISTS", format!("A property named '{}' already exists.", new.name)))
    } else {
        Ok(())
    }
}

fn add(schema: &mut Schema, new: NewProperty, now: u64) -> ApiResult<Property> {
    check(schema, &new)?;
    let property = Property {
        name: new.name,
        label: new.label,
        data_type: new.data_type,
        field_type: new.field_type,
        group_name: new.group_name,
        description: new.description,
        options: new.options,
        display_order: new.display_order,
        calculated: false,
        external_options: false,
        has_unique_value: new.has_unique_value,
        hidden: new.hidden,
        hubspot_defined: false,
        form_field: new.form_field,
        archived: false,
        modification_metadata: ModificationMetadata {
            archivable: true,
            read_only_definition: false,
            read_only_options: false,
            read_only_value: false,
        },
        created_at: Some(iso(now)),
        updated_at: Some(iso(now)),
    };
    schema.properties.insert(property.name.clone(), property.clone());
    Ok(property)
}

type S = State<AppState>;
type Two = Path<(String, String)>;

async fn list(State(app): S, Extension(access): Extension<Access>, Path(kind): Path<String>, pairs: Pairs) -> ApiResult<Json<Value>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_read_scopes())?;
    let archived = pairs.flag("archived");
    let mut world = app.world();
    let properties = &world.portal(&access.portal).schema(kind).properties;
    let shown: Vec<&Property> = properties.values().filter(|p| p.archived == archived).collect();
    Ok(Json(json!({ "results": shown })))
}

async fn read(State(app): S, Extension(access): Extension<Access>, Path((kind, name)): Two, pairs: Pairs) -> ApiResult<Json<Property>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_read_scopes())?;
    let archived = pairs.flag("archived");
    let mut world = app.world();
    let found = world.portal(&access.portal).schema(kind).properties.get(&name).filter(|p| p.archived == archived);
    found.cloned().map(Json).ok_or_else(|| no_property(&name))
}

async fn create(State(app): S, Extension(access): Extension<Access>, Path(kind): Path<String>, Body(new): Body<NewProperty>) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    let now = app.now();
    let mut world = app.world();
    let property = add(world.portal(&access.portal).schema_mut(kind), new, now)?;
    Ok((StatusCode::CREATED, Json(property)).into_response())
}

async fn update(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, name)): Two,
    Body(patch): Body<PropertyPatch>,
) -> ApiResult<Json<Property>> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    let now = app.now();
    let mut world = app.world();
    let schema = world.portal(&access.portal).schema_mut(kind);
    if let Some(group) = patch.group_name.as_ref().filter(|g| !schema.groups.contains_key(*g)) {
        return Err(ApiError::validation(format!("Property group \"{group}\" does not exist")));
    }
    let property = schema.properties.get_mut(&name).filter(|p| !p.archived).ok_or_else(|| no_property(&name))?;
    if property.modification_metadata.read_only_definition {
        return Err(ApiError::validation(format!("The definition of {name} cannot be changed")));
    }
    let PropertyPatch { label, group_name, description, options, display_order, hidden, form_field } = patch;
    property.label = label.unwrap_or_else(|| property.label.clone());
    property.group_name = group_name.unwrap_or_else(|| property.group_name.clone());
    property.description = description.unwrap_or_else(|| property.description.clone());
    property.options = options.unwrap_or_else(|| property.options.clone());
    property.display_order = display_order.unwrap_or(property.display_order);
    property.hidden = hidden.unwrap_or(property.hidden);
    property.form_field = form_field.unwrap_or(property.form_field);
    property.updated_at = Some(iso(now));
    Ok(Json(property.clone()))
}

async fn archive(State(app): S, Extension(access): Extension<Access>, Path((kind, name)): Two) -> ApiResult<StatusCode> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    let mut world = app.world();
    archivable(world.portal(&access.portal).schema_mut(kind), &name)?.archived = true;
    Ok(StatusCode::NO_CONTENT)
}

fn archivable<'s>(schema: &'s mut Schema, name: &str) -> ApiResult<&'s mut Property> {
    let property = schema.properties.get_mut(name).filter(|p| !p.archived).ok_or_else(|| no_property(name))?;
    if !property.modification_metadata.archivable {
        return Err(ApiError::validation(format!("{name} is a HubSpot property and cannot be archived")));
    }
    Ok(property)
}

/// All or nothing.
async fn batch_archive(
    State(app): S,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    Body(input): Body<Inputs<Name>>,
) -> ApiResult<StatusCode> {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    check_count(input.inputs.len(), INPUTS_MAX)?;
    let mut world = app.world();
    let schema = world.portal(&access.portal).schema_mut(kind);
    for Name { name } in &input.inputs {
        archivable(schema, name)?;
    }
    for Name { name } in &input.inputs {
        archivable(schema, name)?.archived = true;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn batch_create(
    State(app): S,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path(kind): Path<String>,
    Body(input): Body<Inputs<NewProperty>>,
) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_write_scopes())?;
    check_count(input.inputs.len(), INPUTS_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let schema = world.portal(&access.portal).schema_mut(kind);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for new in input.inputs {
        let name = new.name.clone();
        match add(schema, new, now) {
            Ok(property) => results.push(json!(property)),
            Err(error) => errors.push(error.into_entry(json!({ "name": [name] }))),
        }
    }
    // The specification of 2026-09 lists no 201 here.
    let success = if generation == Generation::September2026 { StatusCode::OK } else { StatusCode::CREATED };
    Ok(answer(success, generation, now, app.now(), results, errors))
}

async fn batch_read(
    State(app): S,
    Extension(access): Extension<Access>,
    Extension(generation): Extension<Generation>,
    Path(kind): Path<String>,
    Body(input): Body<Inputs<Name>>,
) -> ApiResult {
    let kind = Kind::parse(&kind)?;
    access.any_of(kind.schema_read_scopes())?;
    check_count(input.inputs.len(), INPUTS_MAX)?;
    let now = app.now();
    let mut world = app.world();
    let schema = world.portal(&access.portal).schema(kind);
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for Name { name } in &input.inputs {
        match schema.properties.get(name).filter(|p| !p.archived) {
            Some(property) => results.push(json!(property)),
            None => errors.push(no_property(name).into_entry(json!({ "name": [name] }))),
        }
    }
    Ok(answer(StatusCode::OK, generation, now, app.now(), results, errors))
}
