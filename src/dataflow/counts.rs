//! Adds up a person's counts and finds hot periods.
//!
//! # Meaning
//! A person's count of a measure is the sum over the identities that stand for the person. A rule is hot for a person
//! while the count is at or above the rule's threshold; the period begins at the first tick's end at which it is, and
//! ends at the first at which it is not. Only ticks' ends are looked at: a click and an expiry in one tick make no edge.
//!
//! # Ties and edges
//! - When persons merge, the merged person's count may begin a period; the period of a person that is no more ends.
//! - What is carried over a restart is taken first in its tick: it says how things stood before it, as far as the log
//!   that is kept can't. Only a period's beginning is taken from it; whether there is a period the counts know.
//! - A rule that was added at `a` ignores periods that began at or before `a`, until they end. With `backfill` it takes
//!   those that still last when it was told to, as if they had become known then. Either way the beginnings of those that
//!   still last at `a` are written down then: a later restart must not take them for younger than the rule.
//!
//! # Cost
//! One look-up a changed key of a person, one comparison for each rule of the window that changed.

use super::plan::{Plan, PlannedRule, RuleIx};
use super::rows::{Candidate, Carried, CountChange, Heat, HotPeriod, Measure, Subject, Tally};
use super::shares::{Count, Counts, Ruled, address};
use super::step::{AHEAD, Machine, Map};
use crate::model::time::Ms;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::vec::Drain;
use ustr::Ustr;

/// What the machine is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Part {
    /// An identity's part of a count.
    Tally(Tally),
    /// Since when a rule was hot when the job was stopped.
    Since(Candidate, Ms),
}

impl Part {
    /// A person's parts meet.
    pub fn route(&self) -> u64 {
        match self {
            Part::Tally(tally) => tally.subject.route(),
            Part::Since(candidate, _) => candidate.subject.route(),
        }
    }
}

/// What the machine says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Counted {
    /// A count changed.
    Change(CountChange),
    /// A hot period began, went on, or ended.
    Heat(Heat),
    /// A period's beginning or end, for the next start.
    Carried(Carried),
}

/// Periods by a tick in which something is to be done about them.
type Older = BTreeMap<Ms, BTreeSet<(RuleIx, Subject, Measure)>>;

/// The machine; see the module.
pub struct Sums {
    plan: Arc<Plan>,
    counts: Counts,
    /// Periods from before their rule was added, by the tick in which they are written down, or become known to a rule
    /// that backfills.
    older: Older,
    /// Rules by what they count; many persons, few keys.
    ruled: Map<(Ustr, Ustr, bool), Rc<Ruled>>,
}

impl Sums {
    /// For a plan.
    pub fn new(plan: Arc<Plan>) -> Self {
        Sums { plan, counts: Counts::default(), older: BTreeMap::new(), ruled: Map::default() }
    }
}

impl Sums {
    /// Takes a period's beginning from before the log that is kept.
    fn carry(&mut self, at: Ms, candidate: Candidate, since: Ms, out: &mut dyn FnMut(Counted)) {
        let Candidate { rule, subject } = candidate;
        let Some(measure) = self.plan.measure(rule) else { return };
        let count = self.counts.get_mut(address(&subject, measure.key)).and_then(|count| {
            let hot = count.hot.iter().position(|(hot, _)| *hot == rule)?;
            Some((hot, count.of().place(measure.window)?, count))
        });
        let Some((hot, place, count)) = count else {
            // It ended while nobody looked: the rule was off, or its window was another.
            return out(Counted::Carried(Carried::Period { candidate, since: None }));
        };
        let Some(planned) = self.plan.rules.get(rule as usize) else { return };
        let seen = std::mem::replace(&mut count.hot[hot].1, since);
        // What this start has told of the period, and what was told before it.
        let before = at.saturating_sub(1);
        match (known(planned, seen, before), known(planned, since, before)) {
            (true, true) => tell(rule, subject, false, count.period(place, since), out),
            (true, false) => tell(rule, subject, false, None, out),
            (false, true) => tell(rule, subject, true, count.period(place, since), out),
            (false, false) => {}
        }
        if waits(planned, since, at) {
            self.older.entry(at).or_default().insert((rule, subject, measure));
        }
    }
}

impl Machine for Sums {
    type In = Part;
    type Out = Counted;

    fn warm<'r>(&mut self, rows: impl Iterator<Item = &'r Part> + Clone) {
        look(&self.counts, rows);
    }

    fn step(&mut self, at: Ms, rows: &mut Vec<Part>, out: &mut dyn FnMut(Counted)) {
        for part in rows.iter() {
            if let Part::Since(candidate, since) = part {
                self.carry(at, *candidate, *since, out);
            }
        }
        // What changes one count stands together, window by window; in its order, since the last word on an identity counts.
        if rows.len() > 1 {
            rows.sort_by_key(|part| match part {
                Part::Tally(tally) => Some((address(&tally.subject, tally.measure.key), tally.measure.window)),
                Part::Since(..) => None,
            });
        }
        let mut tallies = Tallies::of(rows);
        while let Some(Tally { subject, measure: Measure { key, .. }, .. }) = tallies.peek(&self.counts) {
            let (subject, key) = (*subject, *key);
            let new = || Count::new(subject, ruled(&mut self.ruled, &self.plan, &subject, key));
            let count = self.counts.get_or_insert_with(address(&subject, key), new);
            let of = Rc::clone(count.of());
            while let Some(Tally { measure, identity, n, last, .. }) =
                tallies.next_if(|next| next.subject == subject && next.measure.key == key)
            {
                // The plan has all windows that it lets clicks be counted in.
                let Some(place) = of.place(measure.window) else { continue };
                let was = count.sum(place);
                count.put(place, identity, n, last);
                while let Some(more) = tallies.next_if(|next| next.subject == subject && next.measure == measure) {
                    count.put(place, more.identity, more.n, more.last);
                }
                let is = count.sum(place);
                if was != is {
                    out(Counted::Change(CountChange { subject, measure, was, is }));
                }
                let looked = Looked { at, subject, measure, place };
                for rule in of.windows[place].1.iter().copied() {
                    looked.by(rule, &self.plan, count, &mut self.older, out);
                }
            }
            if count.tidy() {
                self.counts.remove(address(&subject, key));
            }
        }
        while let Some(entry) = self.older.first_entry()
            && *entry.key() <= at
        {
            for (rule, subject, measure) in entry.remove() {
                let (Some(count), Some(planned)) = (self.counts.get(address(&subject, measure.key)), self.plan.rules.get(rule as usize))
                else {
                    continue;
                };
                let hot = count.hot.iter().find(|(hot, _)| *hot == rule).filter(|(_, since)| *since <= planned.added_at);
                let (Some((_, since)), Some(place)) = (hot, count.of().place(measure.window)) else {
                    continue; // it has ended
                };
                if self.plan.carries && at == planned.added_at {
                    out(Counted::Carried(Carried::Period { candidate: Candidate { rule, subject }, since: Some(*since) }));
                }
                if waits(planned, *since, at) {
                    tell(rule, subject, true, count.period(place, *since), out);
                }
            }
        }
    }

    fn due(&self) -> Option<Ms> {
        self.older.keys().next().copied()
    }
}

/// Looks at the counts of at most [`AHEAD`] rows.
fn look<'r>(counts: &Counts, rows: impl Iterator<Item = &'r Part>) {
    let keys = rows.filter_map(|part| match part {
        Part::Tally(tally) => Some(address(&tally.subject, tally.measure.key)),
        Part::Since(..) => None,
    });
    counts.ahead(keys, Count::look);
}

/// A tick's tallies in their order; of many, those that come next are looked at, as [`super::step::each`] does where no row looks at the next.
struct Tallies<'a> {
    rows: Drain<'a, Part>,
    many: bool,
    /// How many of the next have been looked at.
    shown: usize,
}

impl<'a> Tallies<'a> {
    /// Of rows of which those that are none stand first.
    fn of(rows: &'a mut Vec<Part>) -> Self {
        let first = rows.iter().take_while(|part| matches!(part, Part::Since(..))).count();
        rows.drain(..first);
        Tallies { many: rows.len() > AHEAD, rows: rows.drain(..), shown: 0 }
    }

    fn next_one(&self) -> Option<&Tally> {
        self.rows.as_slice().first().and_then(|part| match part {
            Part::Tally(tally) => Some(tally),
            Part::Since(..) => None,
        })
    }

    /// The next.
    fn peek(&mut self, counts: &Counts) -> Option<&Tally> {
        if self.many && self.shown == 0 {
            let rows = self.rows.as_slice();
            self.shown = AHEAD.min(rows.len());
            look(counts, rows[..self.shown].iter());
        }
        self.next_one()
    }

    /// The next, taken, if it is wanted.
    fn next_if(&mut self, wanted: impl Fn(&Tally) -> bool) -> Option<Tally> {
        if !self.next_one().is_some_and(wanted) {
            return None;
        }
        self.shown = self.shown.saturating_sub(1);
        match self.rows.next() {
            Some(Part::Tally(tally)) => Some(tally),
            _ => None,
        }
    }
}

/// A subject's key, with the rules that look at it.
fn ruled(known: &mut Map<(Ustr, Ustr, bool), Rc<Ruled>>, plan: &Plan, subject: &Subject, key: Ustr) -> Rc<Ruled> {
    let of_key = known.entry((subject.workspace, key, subject.who.is_deal()));
    Rc::clone(of_key.or_insert_with(|| Rc::new(Ruled::new(plan, subject, key))))
}

/// A window of a count that a tick may have changed.
struct Looked {
    at: Ms,
    subject: Subject,
    measure: Measure,
    /// Where the window stands in the count.
    place: usize,
}

impl Looked {
    /// Whether a period of the rule begins, goes on or ends.
    fn by(&self, rule: RuleIx, plan: &Plan, count: &mut Count, older: &mut Older, out: &mut dyn FnMut(Counted)) {
        let Looked { at, subject, measure, place } = *self;
        let Some(planned) = plan.rules.get(rule as usize) else { return };
        let known = |since: Ms| known(planned, since, at) && !waits(planned, since, at);
        let carried = |since| Counted::Carried(Carried::Period { candidate: Candidate { rule, subject }, since });
        let hot = count.hot.iter().position(|(hot, _)| *hot == rule);
        match (hot, count.sum(place) >= planned.rule.threshold) {
            (None, true) => {
                count.hot.push((rule, at));
                if plan.carries {
                    out(carried(Some(at)));
                }
                if known(at) {
                    tell(rule, subject, true, count.period(place, at), out);
                }
                for later in [plan.carries.then_some(planned.added_at), planned.rule.backfill.then_some(planned.backfills_at)] {
                    if let Some(later) = later.filter(|later| at <= planned.added_at && at < *later) {
                        older.entry(later).or_default().insert((rule, subject, measure));
                    }
                }
            }
            (Some(hot), true) => {
                let since = count.hot[hot].1;
                if known(since) {
                    tell(rule, subject, false, count.period(place, since), out);
                }
            }
            (Some(hot), false) => {
                let (_, since) = count.hot.remove(hot);
                if plan.carries {
                    out(carried(None));
                }
                if known(since) {
                    tell(rule, subject, false, None, out);
                }
            }
            (None, false) => {}
        }
    }
}

/// Whether a rule acts at `at` on a period that began at `since`.
fn known(planned: &PlannedRule, since: Ms, at: Ms) -> bool {
    since > planned.added_at || (planned.rule.backfill && at >= planned.backfills_at)
}

/// Whether a rule that backfills learns at `at`, at the tick's very end, of a period that began at `since`.
fn waits(planned: &PlannedRule, since: Ms, at: Ms) -> bool {
    planned.rule.backfill && at == planned.backfills_at && since <= planned.added_at && since < at
}

fn tell(rule: RuleIx, subject: Subject, begins: bool, period: Option<HotPeriod>, out: &mut dyn FnMut(Counted)) {
    out(Counted::Heat(Heat { rule, subject, begins, period }));
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Counts, Times, WorkspaceSpec, tag_key};
    use super::super::rows::{ClickId, ClickRef, Who};
    use super::super::step::testing::run;
    use super::*;
    use crate::config::rules;
    use ustr::ustr;

    fn plan(extra: &str, added_at: Ms) -> Arc<Plan> {
        let text = format!(
            "trigger: {{link_tag: x, contact_window: 30d, click_threshold: 3}}\naction: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n{extra}"
        );
        let spec = WorkspaceSpec { name: "w".into(), portals: vec!["1".into()], counts: Counts::Ruled };
        Arc::new(Plan::new(Times::with_tick(1_000), &[spec], &rules::read(&text).expect("a rule"), |_, _| added_at).expect("a plan"))
    }

    fn tally(who: &str, identity: &str, n: u64, at: Ms) -> (Part, Ms) {
        let subject = Subject { workspace: ustr("w"), portal: ustr("1"), who: Who::contact(who) };
        let measure = Measure { key: tag_key("x"), window: rules::window("30d").expect("a window") };
        let last = (n > 0).then(|| ClickRef { ts: at, id: ClickId::of("c") });
        (Part::Tally(Tally { subject, measure, identity: Who::contact(identity), n, last }), at)
    }

    /// `(tick, who, begins, since or 0, count)` of each heat.
    fn heats(plan: Arc<Plan>, rows: Vec<(Part, Ms)>) -> Vec<(Ms, &'static str, bool, Ms, u64)> {
        let said = run(&mut Sums::new(plan), rows, Ms::MAX);
        said.into_iter()
            .filter_map(|(row, at)| match row {
                Counted::Heat(heat) => {
                    let (since, count) = heat.period.map_or((0, 0), |period| (period.since, period.count));
                    Some((at, heat.subject.who.text(), heat.begins, since, count))
                }
                Counted::Change(_) | Counted::Carried(_) => None,
            })
            .collect()
    }

    #[test]
    fn identities_add_up_and_periods_begin_and_end() {
        let rows =
            vec![tally("1", "1", 2, 10), tally("1", "7", 1, 20), tally("1", "1", 3, 30), tally("1", "7", 0, 40), tally("1", "1", 2, 50)];
        assert_eq!(
            heats(plan("", 0), rows),
            [(20, "1", true, 20, 3), (30, "1", false, 20, 4), (40, "1", false, 20, 3), (50, "1", false, 0, 0)]
        );
    }

    #[test]
    fn a_tick_of_many_is_a_tick_of_each() {
        // Two identities a person, the second of whose tallies stand far from the first's, and some rows that are none.
        let who: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        let (first, second) = (who.iter().map(|who| tally(who, who, 2, 10)), who.iter().map(|who| tally(who, &format!("1{who}"), 1, 10)));
        let (Part::Tally(of), _) = tally("none", "none", 1, 10) else { unreachable!() };
        let since = (Part::Since(Candidate { rule: 0, subject: of.subject }, 5), 10);
        let rows: Vec<_> = first.chain([since]).chain(second).collect();
        let mut said = heats(plan("", 0), rows);
        said.sort_unstable();
        let mut expected: Vec<_> = who.iter().map(|who| (10, ustr(who).as_str(), true, 10, 3)).collect();
        expected.sort_unstable();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_merge_moves_the_count() {
        let rows = vec![tally("1", "1", 2, 10), tally("7", "7", 2, 10), tally("7", "7", 0, 20), tally("1", "7", 2, 20)];
        assert_eq!(heats(plan("", 0), rows), [(20, "1", true, 20, 4)]);
    }

    #[test]
    fn a_rule_ignores_what_began_before_it_until_that_ends() {
        let rows = vec![tally("1", "1", 3, 10), tally("1", "1", 4, 30), tally("1", "1", 0, 40), tally("1", "1", 3, 50)];
        assert_eq!(heats(plan("", 20), rows.clone()), [(50, "1", true, 50, 3)]);
        assert_eq!(
            heats(plan("backfill: true", 20), rows),
            [(20, "1", true, 10, 3), (30, "1", false, 10, 4), (40, "1", false, 0, 0), (50, "1", true, 50, 3)]
        );
    }

    #[test]
    fn a_backfill_tells_nothing_of_a_period_that_ended_before() {
        let rows = vec![tally("1", "1", 3, 10), tally("1", "1", 0, 20), tally("2", "2", 3, 15), tally("2", "2", 4, 20)];
        assert_eq!(heats(plan("backfill: true", 20), rows), [(20, "2", true, 15, 4)]);
    }

    /// `(tick, since)` of what is written down about the period, and the heats.
    fn restarted(added_at: Ms, more: &str, since: Ms, rows: Vec<(Part, Ms)>) -> Vec<(Ms, bool, Ms)> {
        let mut plan = (*plan(more, added_at)).clone();
        plan.carries = true;
        let (Part::Tally(of), _) = tally("1", "1", 3, 0) else { unreachable!() };
        let carried = (Part::Since(Candidate { rule: 0, subject: of.subject }, since), 60);
        let said = run(&mut Sums::new(Arc::new(plan)), rows.into_iter().chain([carried]).collect(), Ms::MAX);
        let heat = |(row, at)| match row {
            Counted::Heat(heat) => Some((at, heat.begins, heat.period.map_or(0, |period| period.since))),
            Counted::Change(_) | Counted::Carried(_) => None,
        };
        said.into_iter().filter_map(heat).collect()
    }

    #[test]
    fn a_restart_takes_a_period_for_as_old_as_it_is() {
        let rows = || vec![tally("1", "1", 3, 50), tally("1", "1", 4, 70), tally("1", "1", 0, 80), tally("1", "1", 3, 90)];
        assert_eq!(
            restarted(20, "", 40, rows()),
            [(50, true, 50), (60, false, 40), (70, false, 40), (80, false, 0), (90, true, 90)],
            "younger than the rule"
        );
        assert_eq!(restarted(20, "", 10, rows()), [(50, true, 50), (60, false, 0), (90, true, 90)], "older than the rule");
        assert_eq!(restarted(55, "", 55, rows()), [(90, true, 90)], "never told: nothing to take back");
        let backfilled = [(50, true, 50), (60, false, 10), (70, false, 10), (80, false, 0), (90, true, 90)];
        assert_eq!(restarted(20, "backfill: true", 10, rows()), backfilled);
    }

    #[test]
    fn periods_that_are_older_than_their_rule_are_written_down_when_it_comes() {
        let mut plan = (*plan("", 20)).clone();
        plan.carries = true;
        let rows =
            vec![tally("1", "1", 3, 10), tally("2", "2", 3, 15), tally("2", "2", 0, 18), tally("3", "3", 3, 20), tally("1", "1", 0, 30)];
        let said = run(&mut Sums::new(Arc::new(plan)), rows, Ms::MAX);
        let written = said.into_iter().filter_map(|(row, at)| match row {
            Counted::Carried(Carried::Period { candidate, since }) if at >= 20 => Some((at, candidate.subject.who.text(), since)),
            _ => None,
        });
        assert_eq!(written.collect::<Vec<_>>(), [(20, "3", Some(20)), (20, "1", Some(10)), (30, "1", None)]);
    }
}
