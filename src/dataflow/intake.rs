//! Lets each click and form through once.
//!
//! # Meaning
//! A click or form whose id was seen within the dedupe horizon has no effect. Ids belong to a workspace and a kind: a
//! form's id says nothing about a click's. Every appearance counts as seen, also one that had no effect.
//!
//! # Ties and edges
//! Of several appearances in one tick the first in the log (least partition, then offset) is let through. An id seen
//! exactly one horizon ago is still seen.
//!
//! # Cost
//! One look-up a record; about 50 bytes for each id of the horizon.
//!
//! # Not guaranteed
//! Two records with one id further apart than the horizon are two records.

use super::rows::{self, ClickId, Place};
use super::step::{Machine, Map};
use crate::model::time::Ms;
use crate::model::{Form, PackedClick};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use ustr::Ustr;

/// A click or a form, at its place in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// A redirect served.
    Click(Arc<PackedClick>),
    /// A form submitted.
    Form(Arc<Form>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    form: bool,
    workspace: Ustr,
    id: ClickId,
}

fn key(record: &Record) -> Key {
    match record {
        Record::Click(click) => Key { form: false, workspace: rows::workspace(click.workspace()), id: click.id.clone() },
        Record::Form(form) => Key { form: true, workspace: rows::workspace(&form.workspace), id: ClickId::of(&form.id) },
    }
}

/// The machine; see the module.
pub struct Intake {
    horizon: Ms,
    seen: Map<Key, Ms>,
    /// Ids in the order in which they were last seen, possibly long ago refreshed.
    order: VecDeque<(Ms, Key)>,
}

impl Intake {
    /// With the dedupe horizon, ms.
    pub fn new(horizon: Ms) -> Self {
        Intake { horizon, seen: Map::default(), order: VecDeque::new() }
    }

    /// Where a record is judged.
    pub fn route(record: &Record) -> u64 {
        let (workspace, id) = match record {
            Record::Click(click) => (click.workspace(), rows::hash_id(&click.id)),
            Record::Form(form) => (form.workspace.as_str(), rows::hash(&form.id)),
        };
        rows::mix(rows::hash(workspace) ^ id.rotate_left(32))
    }

    fn forget(&mut self, now: Ms) {
        while let Some((at, _)) = self.order.front()
            && at.saturating_add(self.horizon) < now
        {
            let Some((at, key)) = self.order.pop_front() else { break };
            if self.seen.get(&key) == Some(&at) {
                self.seen.remove(&key);
            }
        }
    }
}

impl Machine for Intake {
    type In = (Place, Record);
    type Out = Record;

    fn warm(&self, rows: &[(Ms, Self::In)]) {
        let lengths = rows.iter().map(|(_, (_, record))| match record {
            Record::Click(click) => click.workspace().len(),
            Record::Form(form) => usize::from(form.id.as_bytes().first().copied().unwrap_or_default()),
        });
        black_box(lengths.sum::<usize>());
        black_box(rows.iter().filter_map(|(_, (_, record))| self.seen.get(&key(record))).sum::<Ms>());
        // As many ids are forgotten as come.
        black_box(self.order.iter().take(rows.len()).filter_map(|(_, key)| self.seen.get(key)).sum::<Ms>());
    }

    fn step(&mut self, at: Ms, rows: &mut Vec<Self::In>, out: &mut dyn FnMut(Self::Out)) {
        self.forget(at);
        rows.sort_by_key(|(place, _)| *place);
        for (_, record) in rows.drain(..) {
            let key = key(&record);
            let before = self.seen.insert(key.clone(), at);
            if before.is_none() {
                out(record);
            }
            if before != Some(at) {
                self.order.push_back((at, key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::testing::run;
    use super::*;
    use crate::model::Click;

    fn click(offset: i64, id: &str, title: &str) -> (Place, Record) {
        let click = Click { id: id.into(), workspace: "w".into(), title: Some(title.into()), ..Click::default() };
        (Place { partition: 0, offset }, Record::Click(click.into()))
    }

    fn form(offset: i64, id: &str) -> (Place, Record) {
        (Place { partition: 0, offset }, Record::Form(Arc::new(Form { id: id.into(), workspace: "w".into(), ..Form::default() })))
    }

    fn titles(rows: Vec<((Place, Record), Ms)>) -> Vec<(String, Ms)> {
        let said = run(&mut Intake::new(100), rows, 10_000);
        said.into_iter()
            .map(|(record, at)| match record {
                Record::Click(click) => (click.unpacked().title.unwrap_or_default(), at),
                Record::Form(_) => ("form".to_owned(), at),
            })
            .collect()
    }

    #[test]
    fn the_first_in_the_log_wins_within_a_tick() {
        let said = titles(vec![(click(2, "a", "second"), 10), (click(1, "a", "first"), 10)]);
        assert_eq!(said, [("first".to_owned(), 10)]);
    }

    #[test]
    fn the_horizon_is_inclusive_and_every_appearance_counts() {
        let said = titles(vec![(click(1, "a", "1"), 10), (click(2, "a", "2"), 110), (click(3, "a", "3"), 210), (click(4, "a", "4"), 311)]);
        assert_eq!(said, [("1".to_owned(), 10), ("4".to_owned(), 311)]);
    }

    #[test]
    fn clicks_and_forms_have_ids_of_their_own() {
        assert_eq!(titles(vec![(click(1, "a", "1"), 10), (form(1, "a"), 10)]).len(), 2);
    }

    #[test]
    fn what_is_past_the_horizon_is_forgotten() {
        let mut intake = Intake::new(100);
        run(&mut intake, (0..1_000).map(|n| (click(n, &n.to_string(), ""), n as Ms * 10)).collect(), 10_000);
        assert!(intake.seen.len() <= 12 && intake.order.len() <= 12, "{} ids kept", intake.seen.len());
    }
}
