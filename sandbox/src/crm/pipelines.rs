//! Deal pipelines and their stages: read, create, change, delete.

use super::{Kind, defaults};
use crate::access::Access;
use crate::clock::iso;
use crate::error::{ApiError, ApiResult};
use crate::http::{AppState, Body};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type S = State<AppState>;

/// A sequence of stages that deals move through.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub id: String,
    pub label: String,
    pub display_order: i64,
    pub stages: Vec<Stage>,
    pub created_at: u64,
    pub updated_at: u64,
}

/// One stage of a pipeline. All metadata values are strings.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub id: String,
    pub label: String,
    pub display_order: i64,
    pub metadata: BTreeMap<String, String>,
    pub created_at: u64,
    pub updated_at: u64,
}

impl Stage {
    /// Whether a deal in this stage is closed.
    pub fn closed(&self) -> bool {
        self.metadata.get("isClosed").is_some_and(|v| v == "true")
    }

    /// HubSpot's probability that a deal in this stage is won, as text.
    pub fn probability(&self) -> &str {
        self.metadata.get("probability").map_or("", String::as_str)
    }

    fn show(&self) -> Value {
        json!({
            "id": self.id, "label": self.label, "displayOrder": self.display_order, "metadata": self.metadata, "archived": false,
            "writePermissions": "CRM_PERMISSIONS_ENFORCEMENT", "createdAt": iso(self.created_at), "updatedAt": iso(self.updated_at),
        })
    }
}

impl Pipeline {
    fn show(&self) -> Value {
        json!({
            "id": self.id, "label": self.label, "displayOrder": self.display_order, "archived": false,
            "stages": self.stages.iter().map(Stage::show).collect::<Vec<_>>(),
            "createdAt": iso(self.created_at), "updatedAt": iso(self.updated_at),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PipelineInput {
    label: String,
    display_order: i64,
    stages: Vec<StageInput>,
    #[serde(default)]
    pipeline_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StageInput {
    label: String,
    display_order: i64,
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    stage_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PipelinePatch {
    label: Option<String>,
    display_order: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StagePatch {
    label: Option<String>,
    display_order: Option<i64>,
    metadata: Option<BTreeMap<String, String>>,
}

/// The pipeline routes, below any of the version prefixes.
pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/{kind}", get(list).post(create))
        .route("/{kind}/{pipeline}", get(read).put(replace).patch(update).delete(remove))
        .route("/{kind}/{pipeline}/stages", get(list_stages).post(create_stage))
        .route("/{kind}/{pipeline}/stages/{stage}", get(read_stage).put(replace_stage).patch(update_stage).delete(remove_stage))
}

/// Only deals have pipelines here; contacts answer with an empty list.
fn readable(kind: &str, access: &Access) -> ApiResult<Kind> {
    let kind = Kind::parse(kind)?;
    access.any_of(kind.schema_read_scopes())?;
    Ok(kind)
}

fn writable(kind: &str, access: &Access) -> ApiResult<()> {
    let kind = Kind::parse(kind)?;
    access.any_of(kind.schema_write_scopes())?;
    match kind {
        Kind::Deal => Ok(()),
        Kind::Contact => Err(ApiError::validation("Pipelines of contacts are not kept by this sandbox")),
    }
}

fn missing(what: &str, id: &str) -> ApiError {
    ApiError::not_found(format!("{what} with id {id} does not exist"))
}

async fn list(State(app): S, Extension(access): Extension<Access>, Path(kind): Path<String>) -> ApiResult<Json<Value>> {
    let kind = readable(&kind, &access)?;
    let mut world = app.world();
    let pipelines = if kind == Kind::Deal { world.portal(&access.portal).pipelines.clone() } else { Vec::new() };
    Ok(Json(json!({ "results": pipelines.iter().map(Pipeline::show).collect::<Vec<_>>() })))
}

async fn read(State(app): S, Extension(access): Extension<Access>, Path((kind, id)): Path<(String, String)>) -> ApiResult<Json<Value>> {
    readable(&kind, &access)?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = portal.pipelines.iter().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    Ok(Json(found.show()))
}

async fn create(
    State(app): S,
    Extension(access): Extension<Access>,
    Path(kind): Path<String>,
    Body(input): Body<PipelineInput>,
) -> ApiResult {
    writable(&kind, &access)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let id = input.pipeline_id.unwrap_or_else(|| portal.new_id().to_string());
    if portal.pipelines.iter().any(|p| p.id == id || p.label == input.label) {
        return Err(ApiError::conflict(format!("A pipeline with the label {} or the id {id} already exists", input.label)));
    }
    let mut pipeline =
        Pipeline { id, label: input.label, display_order: input.display_order, stages: Vec::new(), created_at: now, updated_at: now };
    for stage in input.stages {
        let id = stage.stage_id.clone().unwrap_or_else(|| portal.new_id().to_string());
        if portal.stage(&id).is_some() || pipeline.stages.iter().any(|s| s.id == id) {
            return Err(ApiError::conflict(format!("A stage with the id {id} already exists")));
        }
        pipeline.stages.push(new_stage(id, stage, now)?);
    }
    pipeline.stages.sort_by_key(|s| s.display_order);
    let shown = pipeline.show();
    portal.pipelines.push(pipeline);
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

fn new_stage(id: String, input: StageInput, now: u64) -> ApiResult<Stage> {
    let mut metadata = input.metadata;
    let probability = metadata.get("probability").and_then(|p| p.parse::<f64>().ok()).filter(|p| (0.0..=1.0).contains(p));
    let Some(probability) = probability else {
        return Err(ApiError::validation("Deal stages need a probability between 0.0 and 1.0 in their metadata"));
    };
    let closed = probability == 0.0 || probability == 1.0;
    metadata.entry("isClosed".into()).or_insert_with(|| closed.to_string());
    Ok(Stage { id, label: input.label, display_order: input.display_order, metadata, created_at: now, updated_at: now })
}

/// Label and order of a pipeline; its stages stay.
async fn update(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id)): Path<(String, String)>,
    Body(patch): Body<PipelinePatch>,
) -> ApiResult<Json<Value>> {
    writable(&kind, &access)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = portal.pipelines.iter_mut().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    found.label = patch.label.unwrap_or_else(|| found.label.clone());
    found.display_order = patch.display_order.unwrap_or(found.display_order);
    found.updated_at = now;
    Ok(Json(found.show()))
}

/// Everything of a pipeline. A stage that is named by its id stays what it is to the deals in it.
async fn replace(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id)): Path<(String, String)>,
    Body(input): Body<PipelineInput>,
) -> ApiResult<Json<Value>> {
    writable(&kind, &access)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let at = portal.pipelines.iter().position(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    let mut stages: Vec<Stage> = Vec::new();
    for stage in input.stages {
        let id = stage.stage_id.clone().unwrap_or_else(|| portal.new_id().to_string());
        let elsewhere = portal.pipelines.iter().enumerate().any(|(other, p)| other != at && p.stages.iter().any(|s| s.id == id));
        if elsewhere || stages.iter().any(|s| s.id == id) {
            return Err(ApiError::conflict(format!("A stage with the id {id} already exists")));
        }
        stages.push(new_stage(id, stage, now)?);
    }
    stages.sort_by_key(|s| s.display_order);
    let found = &mut portal.pipelines[at];
    (found.label, found.display_order, found.stages, found.updated_at) = (input.label, input.display_order, stages, now);
    Ok(Json(found.show()))
}

async fn remove(State(app): S, Extension(access): Extension<Access>, Path((kind, id)): Path<(String, String)>) -> ApiResult<StatusCode> {
    writable(&kind, &access)?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let at = portal.pipelines.iter().position(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    if id == defaults::pipeline().id {
        return Err(ApiError::validation("The default pipeline cannot be deleted"));
    }
    portal.pipelines.remove(at);
    Ok(StatusCode::NO_CONTENT)
}

async fn list_stages(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    readable(&kind, &access)?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = portal.pipelines.iter().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    Ok(Json(json!({ "results": found.stages.iter().map(Stage::show).collect::<Vec<_>>() })))
}

async fn read_stage(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id, stage)): Path<(String, String, String)>,
) -> ApiResult<Json<Value>> {
    readable(&kind, &access)?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = portal.pipelines.iter().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    let stage = found.stages.iter().find(|s| s.id == stage).ok_or_else(|| missing("Stage", &stage))?;
    Ok(Json(stage.show()))
}

async fn create_stage(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id)): Path<(String, String)>,
    Body(input): Body<StageInput>,
) -> ApiResult {
    writable(&kind, &access)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let stage_id = input.stage_id.clone().unwrap_or_else(|| portal.new_id().to_string());
    if portal.stage(&stage_id).is_some() {
        return Err(ApiError::conflict(format!("A stage with the id {stage_id} already exists")));
    }
    let found = portal.pipelines.iter_mut().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    let stage = new_stage(stage_id, input, now)?;
    let shown = stage.show();
    found.stages.push(stage);
    found.stages.sort_by_key(|s| s.display_order);
    found.updated_at = now;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

async fn update_stage(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id, stage)): Path<(String, String, String)>,
    Body(patch): Body<StagePatch>,
) -> ApiResult {
    writable(&kind, &access)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = portal.pipelines.iter_mut().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    let stage = found.stages.iter_mut().find(|s| s.id == stage).ok_or_else(|| missing("Stage", &stage))?;
    stage.label = patch.label.unwrap_or_else(|| stage.label.clone());
    stage.display_order = patch.display_order.unwrap_or(stage.display_order);
    stage.metadata.extend(patch.metadata.unwrap_or_default());
    stage.updated_at = now;
    let shown = stage.show();
    found.stages.sort_by_key(|s| s.display_order);
    Ok(Json(shown).into_response())
}

async fn replace_stage(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id, stage)): Path<(String, String, String)>,
    Body(input): Body<StageInput>,
) -> ApiResult<Json<Value>> {
    writable(&kind, &access)?;
    let now = app.now();
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = portal.pipelines.iter_mut().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    let old = found.stages.iter_mut().find(|s| s.id == stage).ok_or_else(|| missing("Stage", &stage))?;
    *old = Stage { created_at: old.created_at, ..new_stage(stage, input, now)? };
    let shown = old.show();
    found.stages.sort_by_key(|s| s.display_order);
    Ok(Json(shown))
}

async fn remove_stage(
    State(app): S,
    Extension(access): Extension<Access>,
    Path((kind, id, stage)): Path<(String, String, String)>,
) -> ApiResult<Response> {
    writable(&kind, &access)?;
    let mut world = app.world();
    let portal = world.portal(&access.portal);
    let found = portal.pipelines.iter_mut().find(|p| p.id == id).ok_or_else(|| missing("Pipeline", &id))?;
    let at = found.stages.iter().position(|s| s.id == stage).ok_or_else(|| missing("Stage", &stage))?;
    found.stages.remove(at);
    Ok(StatusCode::NO_CONTENT.into_response())
}
