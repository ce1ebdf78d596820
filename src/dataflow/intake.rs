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
//! One look-up a record; about 65 bytes for each id of the horizon.
//!
//! # Not guaranteed
//! Two records with one id further apart than the horizon are two records.

use super::blocks::Blocks;
use super::boxes::Half;
use super::rows::{self, ClickId, Place};
use super::step::{AHEAD, Machine, each};
use crate::model::time::Ms;
use crate::model::{Form, PackedClick};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::hash::BuildHasher as _;
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
    /// Ids in the order in which they were last seen, possibly long ago refreshed.
    order: Blocks<(Ms, Key)>,
    /// The number of the first of them. Numbers go round: there is no room for as many ids at once.
    first: u32,
    /// For each id the number of its last appearance: keys and times are there, so that the table is small enough to be near.
    seen: HashTable<(u32, Half)>,
    hasher: RandomState,
}

/// The appearance with a number.
fn nth(order: &Blocks<(Ms, Key)>, first: u32, number: u32) -> &(Ms, Key) {
    &order[number.wrapping_sub(first) as usize]
}

impl Intake {
    /// With the dedupe horizon, ms.
    pub fn new(horizon: Ms) -> Self {
        Intake { horizon, order: Blocks::default(), first: 0, seen: HashTable::new(), hasher: RandomState::default() }
    }

    /// Where a record is judged.
    pub fn route(record: &Record) -> u64 {
        let (workspace, id) = match record {
            Record::Click(click) => (click.workspace(), rows::hash_id(&click.id)),
            Record::Form(form) => (form.workspace.as_str(), rows::hash(&form.id)),
        };
        rows::mix(rows::hash(workspace) ^ id.rotate_left(32))
    }

    fn hash(&self, key: &Key) -> Half {
        Half::of(self.hasher.hash_one(key))
    }

    fn forget(&mut self, now: Ms) {
        while let Some((at, key)) = self.order.get(0)
            && at.saturating_add(self.horizon) < now
        {
            // An id that has come again since is at a later place.
            let hash = self.hash(key);
            if let Ok(last) = self.seen.find_entry(hash.spread(), |(number, _)| *number == self.first) {
                last.remove();
            }
            self.order.drop_first();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Notes that an id is seen at `at`; says whether it had not been.
    fn note(&mut self, key: Key, at: Ms) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "numbers go round")]
        let number = self.first.wrapping_add(self.order.len() as u32);
        let (order, first, hash) = (&self.order, self.first, self.hash(&key));
        let is = |(number, of): &(u32, Half)| *of == hash && nth(order, first, *number).1 == key;
        match self.seen.entry(hash.spread(), is, |(_, of)| of.spread()) {
            Entry::Vacant(place) => {
                place.insert((number, hash));
                self.order.push((at, key));
                true
            }
            Entry::Occupied(mut last) => {
                if nth(order, first, last.get().0).0 != at {
                    last.get_mut().0 = number;
                    self.order.push((at, key));
                }
                false
            }
        }
    }
}

impl Machine for Intake {
    type In = (Place, Record);
    type Out = Record;

    fn warm<'r>(&mut self, rows: impl Iterator<Item = &'r Self::In> + Clone) {
        let records = rows.clone().map(|(_, record)| match record {
            Record::Click(click) => click.workspace().len(),
            Record::Form(form) => usize::from(form.id.as_bytes().first().copied().unwrap_or_default()),
        });
        black_box(records.sum::<usize>());
        // As many ids are forgotten as come.
        let come = rows.clone().map(|(_, record)| self.hash(&key(record)));
        let go = self.order.iter().take(rows.count()).map(|(_, key)| self.hash(key));
        let hashes: SmallVec<[Half; 2 * AHEAD]> = come.chain(go).collect();
        black_box(hashes.into_iter().filter_map(|hash| self.seen.find(hash.spread(), |_| true)).fold(0, |all, (number, _)| all ^ number));
    }

    fn step(&mut self, at: Ms, rows: &mut Vec<Self::In>, out: &mut dyn FnMut(Self::Out)) {
        self.forget(at);
        rows.sort_by_key(|(place, _)| *place);
        let show = |intake: &mut Intake, rows: &[Self::In]| intake.warm(rows.iter());
        each(self, rows, show, |intake, (_, record)| {
            if intake.note(key(&record), at) {
                out(record);
            }
        });
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
    fn numbers_of_appearances_go_round() {
        let mut intake = Intake { first: u32::MAX - 20, ..Intake::new(100) };
        // Each id comes again, half a horizon and one and a half horizons later.
        let rows = (0..100).flat_map(|n| [n, n + 5, n + 20].map(|at| (click(at, &n.to_string(), &n.to_string()), at as Ms * 10))).collect();
        let mut said: Vec<i64> = run(&mut intake, rows, 10_000)
            .into_iter()
            .map(|(record, _)| match record {
                Record::Click(click) => click.id_text().parse().unwrap_or(-1),
                Record::Form(_) => -1,
            })
            .collect();
        said.sort_unstable();
        assert_eq!(said, (0..100).flat_map(|n| [n, n]).collect::<Vec<_>>());
        assert!(intake.first < 1_000, "round");
    }

    #[test]
    fn what_is_past_the_horizon_is_forgotten() {
        let mut intake = Intake::new(100);
        run(&mut intake, (0..1_000).map(|n| (click(n, &n.to_string(), ""), n as Ms * 10)).collect(), 10_000);
        assert!(intake.seen.len() <= 12 && intake.order.len() <= 12, "{} ids kept", intake.seen.len());
    }
}
