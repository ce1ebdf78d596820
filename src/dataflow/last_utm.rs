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

use super::plan::{Connection, Plan, UtmProperties};
use super::rows::{ClickRef, LastUtm, Who, address};
use super::step::{Machine, Map};
use crate::model::time::Ms;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::hint::black_box;
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

/// The value of one identity in one workspace.
struct Part {
    of: (Ustr, Who),
    click: ClickRef,
    text: Arc<str>,
}

#[derive(Default)]
struct Property {
    parts: SmallVec<[Part; 1]>,
    told: Option<Arc<str>>,
}

/// A person's key in this process's maps.
fn key((portal, who): (Ustr, Who)) -> [u64; 2] {
    [who.address(), address(portal)]
}

/// A person's properties: three, unless workspaces of a portal map differently.
type Properties = SmallVec<[(Ustr, Property); 3]>;

impl Property {
    fn newest(&self) -> Option<&Part> {
        self.parts.iter().max_by(|a, b| (&a.click, &a.text).cmp(&(&b.click, &b.text)))
    }
}

/// The machine; see the module.
pub struct LastUtms {
    plan: Arc<Plan>,
    default: UtmProperties,
    /// By portal and person, see [`address`]; boxed: the map grows without them.
    persons: Map<[u64; 2], Box<Properties>>,
    /// Property names by connection.
    names: Map<(Ustr, Ustr), [Ustr; 3]>,
    /// Those of the row before: mostly this one's, too.
    last: Option<(Connection, [Ustr; 3])>,
    /// Scratch: persons that a tick has changed.
    touched: Vec<(Ustr, Who)>,
}

impl LastUtms {
    /// For a plan.
    pub fn new(plan: Arc<Plan>) -> Self {
        LastUtms {
            plan,
            default: UtmProperties::default(),
            persons: Map::default(),
            names: Map::default(),
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
        let properties = self.persons.entry(key(person)).or_default();
        let of = (subject.workspace, *identity);
        for (name, text) in names.into_iter().zip(texts) {
            let Some(click) = click else {
                properties.iter_mut().filter(|(of, _)| *of == name).for_each(|(_, property)| property.parts.retain(|part| part.of != of));
                continue;
            };
            let Some(text) = text else { continue };
            let place = properties.iter().position(|(of, _)| *of == name).unwrap_or_else(|| {
                properties.push((name, Property::default()));
                properties.len() - 1
            });
            let parts = &mut properties[place].1.parts;
            match parts.iter_mut().find(|part| part.of == of) {
                Some(part) => (part.click, part.text) = (click.clone(), Arc::clone(text)),
                None => parts.push(Part { of, click: click.clone(), text: Arc::clone(text) }),
            }
        }
        person
    }

    /// Names of the properties, in the order of the fields.
    fn names(&mut self, connection: Connection) -> [Ustr; 3] {
        if let Some((last, names)) = self.last
            && last == connection
        {
            return names;
        }
        let names = *self.names.entry((connection.workspace, connection.portal)).or_insert_with(|| {
            let names = &self.plan.utm_properties.get(&connection).unwrap_or(&self.default).names;
            [0, 1, 2].map(|place| ustr(&names[place]))
        });
        self.last = Some((connection, names));
        names
    }
}

impl Machine for LastUtms {
    type In = LastUtm;
    type Out = UtmChange;

    fn warm(&self, rows: &[(Ms, LastUtm)]) {
        let known = rows.iter().filter_map(|(_, row)| self.persons.get(&key((row.subject.portal, row.subject.who))));
        black_box(known.flat_map(|properties| properties.iter()).map(|(_, property)| property.parts.len()).sum::<usize>());
    }

    fn step(&mut self, _at: Ms, rows: &mut Vec<LastUtm>, out: &mut dyn FnMut(UtmChange)) {
        let mut touched = std::mem::take(&mut self.touched);
        // Carried values say how things stood before the tick.
        if rows.iter().any(|row| row.carried) {
            rows.sort_by_key(|row| !row.carried);
        }
        let (before, rest) = rows.split_at(rows.partition_point(|row| row.carried));
        for row in before {
            touched.push(self.take(row));
        }
        for person in touched.drain(..) {
            for (_, property) in self.persons.get_mut(&key(person)).into_iter().flat_map(|properties| properties.iter_mut()) {
                property.told = property.newest().map(|part| Arc::clone(&part.text));
            }
        }
        for row in rest {
            touched.push(self.take(row));
        }
        touched.sort_unstable_by_key(|person| key(*person));
        touched.dedup();
        for person in touched.drain(..) {
            let Some(properties) = self.persons.get_mut(&key(person)) else { continue };
            let mut values: SmallVec<[NewValue; 3]> = SmallVec::new();
            for (name, property) in properties.iter_mut() {
                let newest = property.newest();
                if newest.map(|part| &part.text) != property.told.as_ref() {
                    values.extend(newest.map(|part| NewValue { property: *name, text: Arc::clone(&part.text), click: part.click.clone() }));
                    property.told = newest.map(|part| Arc::clone(&part.text));
                }
            }
            values.sort_unstable_by_key(|value| value.property);
            properties.retain(|(_, property)| !property.parts.is_empty());
            if properties.is_empty() {
                self.persons.remove(&key(person));
            }
            if !values.is_empty() {
                out(UtmChange { portal: person.0, who: person.1, values });
            }
        }
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
