//! Publishes counts, at most once a second each.
//!
//! # Meaning
//! Of all changes of one count within a second of log time the last is published, at the second's end, unless it is
//! what was published before.
//!
//! # Cost
//! An entry for each count that changed in the running second; nothing is kept beyond it.

use super::rows::{CountChange, Measure, Subject};
use super::step::Machine;
use crate::model::time::{Ms, tick_end};
use std::collections::BTreeMap;

/// One second.
const PACE: Ms = 1_000;

/// Counts that changed in one second: what was published before it, and what is now.
type Second = BTreeMap<(Subject, Measure), (u64, u64)>;

/// The machine; see the module.
#[derive(Default)]
pub struct Publish {
    /// By the second's end.
    waiting: BTreeMap<Ms, Second>,
}

impl Machine for Publish {
    type In = CountChange;
    type Out = CountChange;

    fn step(&mut self, at: Ms, rows: &mut Vec<CountChange>, out: &mut dyn FnMut(CountChange)) {
        let second = self.waiting.entry(tick_end(at, PACE)).or_default();
        for CountChange { subject, measure, was, is } in rows.drain(..) {
            second.entry((subject, measure)).or_insert((was, was)).1 = is;
        }
        while let Some(entry) = self.waiting.first_entry()
            && *entry.key() <= at
        {
            for ((subject, measure), (was, is)) in entry.remove() {
                if was != is {
                    out(CountChange { subject, measure, was, is });
                }
            }
        }
        self.waiting.retain(|_, second| !second.is_empty());
    }

    fn due(&self) -> Option<Ms> {
        self.waiting.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Who;
    use super::super::step::testing::run;
    use super::*;
    use ustr::ustr;

    fn change(who: &str, was: u64, is: u64) -> CountChange {
        let subject = Subject { workspace: ustr("w"), portal: ustr("1"), who: Who::contact(who) };
        CountChange { subject, measure: Measure { key: ustr("t:x"), window: 1 }, was, is }
    }

    #[test]
    fn the_last_of_a_second_is_published_at_its_end() {
        let rows = vec![
            (change("1", 0, 1), 1_100),
            (change("1", 1, 2), 1_900),
            (change("1", 2, 3), 2_000),
            (change("2", 5, 6), 2_100),
            (change("2", 6, 5), 2_200),
        ];
        let said = run(&mut Publish::default(), rows, Ms::MAX);
        assert_eq!(said, [(change("1", 0, 3), 2_000)]);
    }
}
