//! Whether an account has the pipelines and stages that rules name, and lets deals be moved along them.
//!
//! Pure but for [`read`]. Stages are named by HubSpot's internal ids, which an account's people may change, so a rule is held against the
//! account before it fires for the first time.

use super::budget::Share;
use super::outcome::{Outcome, text};
use super::request;
use super::service::Service;
use super::settings::Settings;
use super::setup::{Finding, Standing};
use super::work::listed;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a rule does to a deal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The rule's name.
    pub rule: String,
    /// The pipeline.
    pub pipeline: String,
    /// From this stage …
    pub from_stage: String,
    /// … to this one.
    pub to_stage: String,
}

/// A stage of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// What people call it.
    pub label: String,
    /// Its place in the pipeline.
    pub order: i64,
    /// Whether deals may not be moved to it by an app.
    pub read_only: bool,
    /// Whether a deal in it is won or lost.
    pub closed: bool,
}

/// Pipelines and their stages, by internal id.
pub type Pipelines = BTreeMap<String, BTreeMap<String, Stage>>;

/// The pipelines of an account's deals.
///
/// # Errors
/// The outcome of the request that failed.
pub async fn read(service: &Service, settings: &Settings, portal: &str) -> Result<Pipelines, Outcome> {
    match service.call(portal, &request::get(format!("{}/deals", settings.paths.pipelines)), Share::Bulk).await {
        Outcome::Done(body) => Ok(pipelines(listed(&body)?)),
        outcome => Err(outcome),
    }
}

fn pipelines(listed: &[Value]) -> Pipelines {
    let live = |record: &&Value| record.get("archived").and_then(Value::as_bool) != Some(true);
    let stage = |record: &Value| {
        let stage = Stage {
            label: record.get("label").and_then(Value::as_str).unwrap_or_default().to_owned(),
            order: record.get("displayOrder").and_then(Value::as_i64).unwrap_or(0),
            read_only: matches!(record.get("writePermissions").and_then(Value::as_str), Some("READ_ONLY" | "INTERNAL_ONLY")),
            // HubSpot writes the flag as a text.
            closed: record.pointer("/metadata/isClosed").and_then(Value::as_str) == Some("true"),
        };
        Some((record.get("id").and_then(text)?, stage))
    };
    let stages = |record: &Value| {
        let stages = record.get("stages").and_then(Value::as_array);
        stages.into_iter().flatten().filter(live).filter_map(stage).collect()
    };
    listed.iter().filter(live).filter_map(|record| Some((record.get("id").and_then(text)?, stages(record)))).collect()
}

/// How each rule's move stands in an account.
pub fn check(pipelines: &Pipelines, moves: &[Move]) -> Vec<Finding> {
    let finding = |m: &Move| {
        let standing = problem(pipelines, m).map_or(Standing::Ready, Standing::Refused);
        Finding { what: format!("rule {}", m.rule), standing }
    };
    moves.iter().map(finding).collect()
}

fn problem(pipelines: &Pipelines, m: &Move) -> Option<String> {
    let Move { rule: _, pipeline, from_stage, to_stage } = m;
    let names = |known: Vec<&String>| known.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let Some(stages) = pipelines.get(pipeline) else {
        return Some(format!("the account has no pipeline `{pipeline}`; it has {}", names(pipelines.keys().collect())));
    };
    let missing = [from_stage, to_stage].into_iter().find(|stage| !stages.contains_key(*stage));
    if let Some(stage) = missing {
        let mut known: Vec<_> = stages.iter().collect();
        known.sort_by_key(|(_, stage)| stage.order);
        // Rules are often written by what HubSpot's pages show.
        if let Some((id, _)) = known.iter().find(|(_, known)| known.label.trim().eq_ignore_ascii_case(stage.trim())) {
            return Some(format!("`{stage}` is the label of a stage of the pipeline `{pipeline}`; write its internal id, `{id}`"));
        }
        let known = names(known.into_iter().map(|(id, _)| id).collect());
        return Some(format!("the pipeline `{pipeline}` has no stage `{stage}`; it has {known} (internal ids, not labels)"));
    }
    let (from, to) = (&stages[from_stage], &stages[to_stage]);
    if to.read_only {
        return Some(format!("the account lets no app move a deal to `{to_stage}`"));
    }
    if from.closed {
        return Some(format!("`{from_stage}` is a closed stage, and closed deals are never moved"));
    }
    (from.order >= to.order).then(|| format!("`{to_stage}` comes before `{from_stage}` in the pipeline, and deals only move forward"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn account() -> Pipelines {
        let stage = |id: &str, order: i64, closed: &str, permissions: &str| json!({"id": id, "label": format!("Stage {id}"), "displayOrder": order, "metadata": {"isClosed": closed}, "writePermissions": permissions, "archived": false});
        pipelines(&[
            json!({"id": "default", "archived": false, "stages": [
            stage("a", 0, "false", "CRM_PERMISSIONS_ENFORCEMENT"), stage("b", 1, "false", "CRM_PERMISSIONS_ENFORCEMENT"),
            stage("c", 2, "false", "READ_ONLY"), stage("won", 3, "true", "CRM_PERMISSIONS_ENFORCEMENT")]}),
            json!({"id": "old", "archived": true, "stages": []}),
        ])
    }

    #[test]
    fn a_rule_that_the_account_has_no_place_for_is_told_why() {
        let say = |pipeline: &str, from: &str, to: &str| {
            let m = Move { rule: "r".into(), pipeline: pipeline.into(), from_stage: from.into(), to_stage: to.into() };
            check(&account(), &[m])[0].to_string()
        };
        assert_eq!(say("default", "a", "b"), "rule r: ready");
        assert!(say("old", "a", "b").contains("it has default"));
        assert!(say("default", "a", "Qualified").contains("it has a, b, c, won (internal ids"));
        assert!(say("default", "a", "stage B").contains("write its internal id, `b`"));
        assert!(say("default", "a", "c").contains("no app"));
        assert!(say("default", "won", "b").contains("closed"));
        assert!(say("default", "b", "a").contains("forward"));
        assert!(say("default", "a", "a").contains("forward"));
    }
}
