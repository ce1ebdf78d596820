//! Publishes counts, at most once a second each.
//!
//! # Meaning
//! Each person has a moment of the second ([`moment`]). Of all changes of one of the person's counts since it was last there, the last is published then, unless it is
//! what was published before. So counts of one person change together, and of all persons a tenth in each tick of 100 ms: published at the second's end, all of them
//! made one tick in ten three times as long as the others, and what clicked in it as late.
//!
//! # Ties and edges
//! - A job of a build that published all counts at the second's end goes on so until the end of the second in which it stopped: `since`, which the
//!   progress keeps ([`crate::sinks::outbox::Progress::counts_since`]). What a restart goes through again must be published when it was, or a count would
//!   be lost or said twice. In the second after that one a count may be published twice.
//! - An e-mail and the contact that carries it are two names: when the contact appears the counts of the one fall and those of the other rise, each at its own moment.
//!
//! # Cost
//! An entry for each count that changed in the running second; nothing is kept beyond it.

use super::rows::{self, CountChange, Who};
use super::step::Machine;
use crate::model::time::{Ms, tick_end};
use std::collections::BTreeMap;

/// One second: ticks of whole seconds need no [`Publish`].
pub const PACE: Ms = 1_000;

/// Where in a second the counts of `who` are published, ms, at the end of one of its ticks, which are of `tick` ms and divide it: by the CRC-32 of the name with
/// its mark (`c:801`, `e:ada@example.com`), which is the same in every build. `text` is room for that.
pub fn moment(who: Who, tick: Ms, text: &mut String) -> Ms {
    text.clear();
    who.write_to(text);
    u64::from(crc32fast::hash(text.as_bytes())) % (PACE / tick) * tick
}

/// The machine; see the module.
pub struct Publish {
    tick: Ms,
    since: Ms,
    /// By when they are to be published, in the order in which they came.
    changes: BTreeMap<Ms, Vec<CountChange>>,
    text: String,
}

impl Publish {
    /// With the clock's step, and since when each person has a moment, ms.
    pub fn new(tick: Ms, since: Ms) -> Self {
        Publish { tick, since, changes: BTreeMap::new(), text: String::new() }
    }

    /// When what changes in the tick that ends at `at` is published.
    fn due_at(&mut self, at: Ms, who: Who) -> Ms {
        if at < self.since {
            return tick_end(at, PACE);
        }
        let moment = moment(who, self.tick, &mut self.text);
        tick_end(at.saturating_sub(moment), PACE) + moment
    }
}

fn publish(mut changes: Vec<CountChange>, out: &mut dyn FnMut(CountChange)) {
    let key = |change: &CountChange| (change.subject, change.measure);
    // Stable: the first of a key says what was, the last what is.
    changes.sort_by_key(address);
    for changes in changes.chunk_by(|a, b| key(a) == key(b)) {
        if let (Some(first), Some(last)) = (changes.first(), changes.last())
            && first.was != last.is
        {
            out(CountChange { was: first.was, ..*last });
        }
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
        for change in rows.drain(..) {
            let due = self.due_at(at, change.subject.who);
            self.changes.entry(due).or_default().push(change);
        }
        while let Some(entry) = self.changes.first_entry()
            && *entry.key() <= at
        {
            publish(entry.remove(), out);
        }
    }

    fn due(&self) -> Option<Ms> {
        self.changes.first_key_value().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Measure, Subject};
    use super::super::step::testing::run;
    use super::*;
    use ustr::ustr;

    fn change(who: &str, was: u64, is: u64) -> CountChange {
        let subject = Subject { workspace: ustr("w"), portal: ustr("1"), who: Who::contact(who) };
        CountChange { subject, measure: Measure { key: ustr("t:x"), window: 1 }, was, is }
    }

    /// Names whose moments are at the second's end and half a second later, with a tick of 500 ms.
    fn at_the_end_and_at_half() -> [String; 2] {
        let mut names: Vec<(Ms, String)> =
            (1..20).map(|n| n.to_string()).map(|who| (moment(Who::contact(&who), 500, &mut String::new()), who)).collect();
        names.sort();
        [names[0].1.clone(), names[names.len() - 1].1.clone()]
    }

    #[test]
    fn the_last_of_a_second_is_published_at_the_person_s_moment() {
        let [end, half] = at_the_end_and_at_half();
        let rows = |who: &str| {
            vec![
                (change(who, 0, 1), 1_500),
                (change(who, 1, 2), 2_000),
                (change(who, 2, 3), 2_500),
                // Back to what was published.
                (change(who, 3, 4), 4_500),
                (change(who, 4, 3), 5_000),
                (change(who, 3, 2), 5_500),
            ]
        };
        let said = |who: &str| run(&mut Publish::new(500, 0), rows(who), 9_000);
        assert_eq!(said(&end), [(change(&end, 0, 2), 2_000), (change(&end, 2, 3), 3_000), (change(&end, 3, 2), 6_000)]);
        assert_eq!(
            said(&half),
            [(change(&half, 0, 1), 1_500), (change(&half, 1, 3), 2_500), (change(&half, 3, 4), 4_500), (change(&half, 4, 2), 5_500)]
        );
    }

    #[test]
    fn a_job_of_an_earlier_build_goes_on_at_the_second_s_end_until_it_is_over() {
        let [end, half] = at_the_end_and_at_half();
        let rows = |who: &str| {
            vec![(change(who, 0, 1), 1_500), (change(who, 1, 2), 2_500), (change(who, 2, 3), 3_000), (change(who, 3, 4), 4_500)]
        };
        let said = |who: &str| run(&mut Publish::new(500, 3_000), rows(who), 9_000);
        assert_eq!(said(&end), [(change(&end, 0, 1), 2_000), (change(&end, 1, 3), 3_000), (change(&end, 3, 4), 5_000)]);
        assert_eq!(
            said(&half),
            [(change(&half, 0, 1), 2_000), (change(&half, 1, 2), 3_000), (change(&half, 2, 3), 3_500), (change(&half, 3, 4), 4_500)]
        );
    }

    #[test]
    fn moments_are_the_same_in_every_build() {
        let at = |who: Who| moment(who, 100, &mut String::new());
        assert_eq!([at(Who::contact("801")), at(Who::email("ada@example.com")), at(Who::deal("91"))], [800, 300, 200]);
        let mut tenths = [0; 10];
        (0..10_000).for_each(|n: u32| tenths[at(Who::contact(&n.to_string())) as usize / 100] += 1);
        assert!(tenths.iter().all(|n| (900..1_100).contains(n)), "{tenths:?}");
    }
}
