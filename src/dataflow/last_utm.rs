//! Each person's last campaign values.
//!
//! # Meaning
//! A last value belongs to a portal's person and a property: the value of the click with the largest (time, id) among
//! all clicks of all identities that stand for the person, of every workspace that maps a campaign value onto the
//! property. A change of its text is told, once a tick, with all properties that changed.
//!
//! # Ties and edges
//! An older click that resolves late changes nothing. Of two values of one click id and time (an id that came again after
//! the dedupe horizon) the larger text counts. When an identity leaves a person the value may go back to an
//! older one, which is a change and told; where no value is left there is nothing to tell. A value that is carried over
//! a restart has been told: it is taken first in its tick, in silence.
//!
//! # Cost
//! One value for each person, identity and property, kept for ever: it is a last value, not a windowed one.

use super::boxes::{Boxes, Keyed};
use super::plan::{Connection, Plan, UtmProperties};
use super::rows::{ClickRef, LastUtm, UtmValues, Who, address};
use super::step::{Machine, Map, each};
use crate::model::time::Ms;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;
use ustr::{Ustr, ustr};

/// One property's new value and the click it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewValue {
    /// HubSpot's internal name.
    pub property: Ustr,
    /// The value.
    pub text: Arc<str>,
    /// Where it came from.
    pub click: ClickRef,
}

/// All that changed for a person in a tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UtmChange {
    /// HubSpot account.
    pub portal: Ustr,
    /// Whose.
    pub who: Who,
    /// At least one.
    pub values: SmallVec<[NewValue; 3]>,
}

/// The values of one identity in one workspace.
struct Part {
    workspace: Ustr,
    identity: Who,
    /// The names of the workspace's properties, by their place in `names`.
    names: u32,
    values: UtmValues,
}

/// A portal's person.
struct Person {
    of: (Ustr, Who),
    parts: SmallVec<[Part; 1]>,
    /// What was told, by property: three, unless workspaces of a portal map differently.
    told: SmallVec<[(Ustr, Arc<str>); 3]>,
}

impl Keyed for Person {
    type Key = [u64; 2];

    fn key(&self) -> [u64; 2] {
        key(self.of)
    }
}

impl Person {
    /// A look at each of its lines of memory.
    fn look(&self) -> u64 {
        let of_part = |part: &Part| part.values.iter().flatten().fold(0, |all, (click, _)| all ^ click.ts);
        self.parts.iter().fold(self.told.len() as u64, |all, part| all ^ of_part(part))
    }
}

/// The newest values of some properties.
type Newest<'a> = SmallVec<[(Ustr, &'a ClickRef, &'a Arc<str>); 3]>;

/// A person's newest value of each property.
fn newest<'a>(parts: &'a [Part], names: &[[Ustr; 3]]) -> Newest<'a> {
    let mut newest = Newest::new();
    for part in parts {
        for (name, value) in names[part.names as usize].iter().zip(&part.values) {
            let Some((click, text)) = value else { continue };
            match newest.iter_mut().find(|(of, ..)| of == name) {
                Some(kept) if (kept.1, kept.2) >= (click, text) => {}
                Some(kept) => (kept.1, kept.2) = (click, text),
                None => newest.push((*name, click, text)),
            }
        }
    }
    newest
}

/// A person's key in this process's maps.
fn key((portal, who): (Ustr, Who)) -> [u64; 2] {
    [who.address(), address(portal)]
}

/// The machine; see the module.
pub struct LastUtms {
    plan: Arc<Plan>,
    default: UtmProperties,
    persons: Boxes<Person>,
    /// Property names, in the order of the fields.
    names: Vec<[Ustr; 3]>,
    /// Where those of a connection stand.
    of_connection: Map<(Ustr, Ustr), u32>,
    /// Where those of the row before stood: mostly this one's, too.
    last: Option<(Connection, u32)>,
    /// Scratch: persons that a tick has changed.
    touched: Vec<(Ustr, Who)>,
}

impl LastUtms {
    /// For a plan.
    pub fn new(plan: Arc<Plan>) -> Self {
        LastUtms {
            plan,
            default: UtmProperties::default(),
            persons: Boxes::default(),
            names: Vec::new(),
            of_connection: Map::default(),
            last: None,
            touched: Vec::new(),
        }
    }

    /// All workspaces of a portal meet.
    pub fn route(row: &LastUtm) -> u64 {
        row.subject.route()
    }

    /// Takes a row in, and says whose it is.
    fn take(&mut self, row: &LastUtm) -> (Ustr, Who) {
        let LastUtm { subject, identity, click, texts, .. } = row;
        let person = (subject.portal, subject.who);
        let names = self.names(Connection { workspace: subject.workspace, portal: subject.portal });
        let new = || Person { of: person, parts: SmallVec::new(), told: SmallVec::new() };
        let parts = &mut self.persons.get_or_insert_with(key(person), new).parts;
        let place = parts.iter().position(|part| part.identity == *identity && part.workspace == subject.workspace);
        match (click, place) {
            (None, Some(place)) => drop(parts.remove(place)),
            (None, None) => {}
            (Some(click), place) => {
                let place = place.unwrap_or_else(|| {
                    parts.push(Part { workspace: subject.workspace, identity: *identity, names, values: [None, None, None] });
                    parts.len() - 1
                });
                for (value, text) in parts[place].values.iter_mut().zip(texts) {
                    if let Some(text) = text {
                        *value = Some((click.clone(), Arc::clone(text)));
                    }
                }
            }
        }
        person
    }

    /// Where the names of a connection's properties stand.
    fn names(&mut self, connection: Connection) -> u32 {
        if let Some((last, place)) = self.last
            && last == connection
        {
            return place;
        }
        let place = *self.of_connection.entry((connection.workspace, connection.portal)).or_insert_with(|| {
            let names = &self.plan.utm_properties.get(&connection).unwrap_or(&self.default).names;
            self.names.push([0, 1, 2].map(|field| ustr(&names[field])));
            u32::try_from(self.names.len() - 1).expect("a connection is a line of the configuration")
        });
        self.last = Some((connection, place));
        place
    }
}

impl Machine for LastUtms {
    type In = LastUtm;
    type Out = UtmChange;

    fn warm<'r>(&mut self, rows: impl Iterator<Item = &'r LastUtm> + Clone) {
        self.persons.ahead(rows.map(|row| key((row.subject.portal, row.subject.who))), Person::look);
    }

    fn step(&mut self, _at: Ms, rows: &mut Vec<LastUtm>, out: &mut dyn FnMut(UtmChange)) {
        let mut touched = std::mem::take(&mut self.touched);
        // Carried values say how things stood before the tick.
        if rows.iter().any(|row| row.carried) {
            rows.sort_by_key(|row| !row.carried);
        }
        let before = rows.partition_point(|row| row.carried);
        touched.extend(rows.drain(..before).map(|row| self.take(&row)));
        for person in touched.drain(..) {
            let Some(person) = self.persons.get_mut(key(person)) else { continue };
            person.told = newest(&person.parts, &self.names).into_iter().map(|(name, _, text)| (name, Arc::clone(text))).collect();
        }
        each(self, rows, |last, few| last.warm(few.iter()), |last, row| touched.push(last.take(&row)));
        touched.sort_unstable_by_key(|person| key(*person));
        touched.dedup();
        let show = |last: &mut LastUtms, few: &[(Ustr, Who)]| last.persons.ahead(few.iter().map(|person| key(*person)), Person::look);
        each(self, &mut touched, show, |last, person| {
            let Some(of) = last.persons.get_mut(key(person)) else { return };
            let newest = newest(&of.parts, &last.names);
            // What no identity has any more is forgotten, and told when it comes again.
            of.told.retain(|(name, _)| newest.iter().any(|(of, ..)| of == name));
            let mut values: SmallVec<[NewValue; 3]> = SmallVec::new();
            for (name, click, text) in newest {
                match of.told.iter_mut().find(|(of, _)| *of == name) {
                    Some((_, told)) if told == text => continue,
                    Some((_, told)) => told.clone_from(text),
                    None => of.told.push((name, Arc::clone(text))),
                }
                values.push(NewValue { property: name, text: Arc::clone(text), click: click.clone() });
            }
            values.sort_unstable_by_key(|value| value.property);
            if of.parts.is_empty() {
                last.persons.remove(key(person));
            }
            if !values.is_empty() {
                out(UtmChange { portal: person.0, who: person.1, values });
            }
        });
        self.touched = touched;
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Times;
    use super::super::rows::{ClickId, Subject, UtmField};
    use super::super::step::testing::run;
    use super::*;

    fn row(who: &str, identity: &str, field: UtmField, value: Option<(Ms, &str)>) -> LastUtm {
        let subject = Subject { workspace: ustr("w"), portal: ustr("1"), who: Who::contact(who) };
        let click = value.map(|(ts, _)| ClickRef { ts, id: ClickId::of("c") });
        let texts = UtmField::ALL.map(|of| value.filter(|_| of == field).map(|(_, text)| text.into()));
        LastUtm { subject, identity: Who::contact(identity), click, texts, carried: false }
    }

    fn told(rows: Vec<(LastUtm, Ms)>) -> Vec<(Ms, String, Vec<String>)> {
        let plan = Plan::new(Times::with_tick(1), &[], &[], |_, _| 0).expect("a plan");
        let said = run(&mut LastUtms::new(Arc::new(plan)), rows, Ms::MAX);
        let value = |value: &NewValue| format!("{}={}", value.property.trim_start_matches("elido_last_utm_"), value.text);
        let mut told: Vec<_> =
            said.into_iter().map(|(change, at)| (at, change.who.text().to_owned(), change.values.iter().map(value).collect())).collect();
        // Of one tick in any order.
        told.sort();
        told
    }

    #[test]
    fn a_tick_of_many_is_a_tick_of_each() {
        let who: Vec<String> = (100..400).map(|n| n.to_string()).collect();
        let rows = |text: &str, at: Ms| -> Vec<_> {
            who.iter()
                .flat_map(|who| [UtmField::Source, UtmField::Medium].map(|field| (row(who, who, field, Some((at, text))), at)))
                .collect()
        };
        let all = [rows("a", 10), rows("a", 20), rows("b", 30)].concat();
        let one = |at: Ms, text: &str| {
            let values = vec![format!("medium={text}"), format!("source={text}")];
            who.iter().map(move |who| (at, who.clone(), values.clone())).collect::<Vec<_>>()
        };
        assert_eq!(told(all), [one(10, "a"), one(30, "b")].concat());
    }

    #[test]
    fn the_newest_click_wins_and_equal_texts_are_silent() {
        use UtmField::{Medium, Source};
        let rows = vec![
            (row("1", "1", Source, Some((5, "webinar"))), 10),
            (row("1", "1", Medium, Some((5, "email"))), 10),
            (row("1", "7", Source, Some((4, "old"))), 20),
            (row("1", "1", Source, Some((6, "webinar"))), 30),
            (row("1", "7", Source, Some((9, "ads"))), 40),
            (row("1", "7", Source, None), 50),
            (row("2", "7", Source, Some((9, "ads"))), 50),
        ];
        let one = |at: Ms, who: &str, values: &[&str]| (at, who.to_owned(), values.iter().map(|v| (*v).to_owned()).collect());
        assert_eq!(
            told(rows),
            [
                one(10, "1", &["medium=email", "source=webinar"]),
                one(40, "1", &["source=ads"]),
                one(50, "1", &["source=webinar"]),
                one(50, "2", &["source=ads"])
            ]
        );
    }
}
