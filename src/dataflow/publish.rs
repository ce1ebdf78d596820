//! Publishes counts, at most once a second each.
//!
//! # Meaning
//! Of all changes of one count within a second of log time the last is published, at the second's end, unless it is
//! what was published before.
//!
//! # Cost
//! An entry for each count that changed in the running second; nothing is kept beyond it.

use super::rows::{self, CountChange};
use super::step::Machine;
use crate::model::time::{Ms, tick_end};

/// One second: ticks of whole seconds need no [`Publish`].
pub const PACE: Ms = 1_000;

/// The machine; see the module.
#[derive(Default)]
pub struct Publish {
    /// The end of the second that `changes` belong to.
    second: Ms,
    /// In the order in which they came.
    changes: Vec<CountChange>,
}

impl Publish {
    fn publish(&mut self, out: &mut dyn FnMut(CountChange)) {
        let key = |change: &CountChange| (change.subject, change.measure);
        // Stable: the first of a key says what was, the last what is.
        self.changes.sort_by_key(address);
        for changes in self.changes.chunk_by(|a, b| key(a) == key(b)) {
            if let (Some(first), Some(last)) = (changes.first(), changes.last())
                && first.was != last.is
            {
                out(CountChange { was: first.was, ..*last });
            }
        }
        self.changes.clear();
    }
}

/// Any order will do as long as equal keys are together; names that are interned once are told by where they lie.
fn address(change: &CountChange) -> ([u64; 3], u64, Ms) {
    let CountChange { subject, measure, .. } = change;
    (subject.address(), rows::address(measure.key), measure.window)
}

impl Machine for Publish {
    type In = CountChange;
    type Out = CountChange;

    fn step(&mut self, at: Ms, rows: &mut Vec<CountChange>, out: &mut dyn FnMut(CountChange)) {
        let second = tick_end(at, PACE);
        if second != self.second {
            self.publish(out);
            self.second = second;
        }
        self.changes.append(rows);
        if at == second {
            self.publish(out);
        }
    }

    fn due(&self) -> Option<Ms> {
        (!self.changes.is_empty()).then_some(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Measure, Subject, Who};
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
