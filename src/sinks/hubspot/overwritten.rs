//! Whether a move has overwritten a person's.
//!
//! HubSpot has no conditional write: in the round trip between reading a deal and moving it somebody may move it elsewhere, and our write
//! comes on top. That can't be prevented, and the answer to the write does not show it; the deal's history does. So once a batch is
//! settled the histories of what was moved are read, as part of the bulk, and what was overwritten is said, for a person to look at. Nothing
//! is moved back: nobody knows which of the two was meant.
//!
//! # Limits
//! One request for up to [`AT_ONCE`] moved deals. It is not made again when it fails, and not made at all when the sink ends before. A deal
//! that comes back to the stage before it is looked at, by another way, is told although nothing was overwritten.

use super::budget::Share;
use super::outcome::Outcome;
use super::request;
use super::run::{Done, Run};
use super::work::{Desk, id_in, results};
use serde_json::Value;
use std::sync::Arc;

/// Histories in one request; HubSpot's bound is quoted as 50, and not documented.
pub const AT_ONCE: usize = 50;

/// A deal that was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its id.
    pub deal: String,
    /// The rule's name.
    pub rule: String,
    /// Where it was when it was read.
    pub from_stage: String,
    /// Where it was moved to.
    pub to_stage: String,
}

impl Run {
    /// Finds out, beside everything else, whether moves have overwritten a person's.
    pub(super) fn look_back(&mut self, portal: &str, moved: &[Moved]) {
        for moved in moved.chunks(AT_ONCE).map(<[Moved]>::to_vec) {
            let (service, settings, portal) = (Arc::clone(&self.service), Arc::clone(&self.settings), portal.to_owned());
            self.chores.spawn_local(async move {
                let desk = Desk { service: &service, paths: &settings.paths, portal: &portal };
                let found = look(desk, moved).await;
                Done::Overwritten(portal, found)
            });
        }
    }

    /// Moves that have overwritten a person's.
    pub(super) fn overwrote(&mut self, portal: &str, moves: &[(Moved, String)]) {
        for (Moved { deal, rule, to_stage, .. }, stage) in moves {
            self.stats.overwritten += 1;
            tracing::warn!(
                event = "deal_move_overwrote",
                portal,
                deal,
                rule,
                stage,
                to_stage,
                "somebody moved the deal in the moment before: look at it in HubSpot, nothing is moved back"
            );
        }
    }
}

/// Of these deals, at most [`AT_ONCE`], those whose move has replaced another stage than the one that was read, with that stage.
async fn look(desk: Desk<'_>, moved: Vec<Moved>) -> Vec<(Moved, String)> {
    let ids = moved.iter().map(|moved| moved.deal.as_str());
    let Outcome::Done(body) = desk.call(&request::read_stage_histories(desk.paths, ids), Share::Bulk).await else { return Vec::new() };
    let record = |deal: &str| results(&body).iter().find(|record| id_in(record, "id").is_some_and(|id| id == deal));
    let overwritten = |moved: Moved| {
        let stage = replaced(record(&moved.deal)?, &moved)?.to_owned();
        Some((moved, stage))
    };
    moved.into_iter().filter_map(overwritten).collect()
}

/// The stage that a move has replaced, where it is not the one it was to replace.
fn replaced<'a>(record: &'a Value, moved: &Moved) -> Option<&'a str> {
    // The newest first.
    let history = record.pointer("/propertiesWithHistory/dealstage")?.as_array()?;
    let mut stages = history.iter().map(|entry| entry.get("value").and_then(Value::as_str).unwrap_or_default());
    stages.find(|stage| *stage == moved.to_stage)?;
    stages.next().filter(|stage| *stage != moved.from_stage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_stage_before_ours_tells() {
        let moved = Moved { deal: "1".into(), rule: "r".into(), from_stage: "a".into(), to_stage: "b".into() };
        let of = |stages: &[&str]| {
            let history: Vec<Value> = stages.iter().map(|stage| json!({"value": stage, "sourceType": "CRM_UI"})).collect();
            replaced(&json!({"id": "1", "propertiesWithHistory": {"dealstage": history}}), &moved).map(str::to_owned)
        };
        assert_eq!(of(&["b", "a"]), None, "as it was to be");
        assert_eq!(of(&["b", "x", "a"]).as_deref(), Some("x"));
        assert_eq!(of(&["c", "b", "x", "a"]).as_deref(), Some("x"), "it has gone on since");
        assert_eq!(of(&["c", "b", "a", "b", "x"]), None, "an earlier visit to the stage is not ours");
        assert_eq!(of(&["b"]), None, "the history is cut");
        assert_eq!(of(&[]), None);
        assert_eq!(replaced(&json!({"id": "1"}), &moved), None, "HubSpot does not show it");
    }
}
