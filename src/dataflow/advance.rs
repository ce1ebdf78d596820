//! Decides which deal moves, once for each rule, person, deal and hot period.
//!
//! # Meaning
//! A deal is ready while a rule is hot for a person and the deal is eligible for both. When it becomes ready, whichever
//! of the two came last, it advances, unless it has advanced in this hot period already: a deal that somebody moves
//! back by hand stays where they put it.
//!
//! # Ties and edges
//! Only ticks' ends are looked at: a deal that is eligible for a part of a tick only does not advance. When a period
//! ends and another begins, the deal may advance again. What is carried over a restart is taken first in its tick and
//! replaces what the kept log says of the running period.
//!
//! # Cost
//! One record for each hot (rule, person); nothing for the others.

use super::rows::{Advance, Candidate, Carried, Heat, HotPeriod};
use super::step::{Machine, Map};
use crate::model::time::Ms;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use ustr::Ustr;

/// What the machine is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Turn {
    /// A hot period began, went on, or ended.
    Heat(Heat),
    /// A deal became (+1) or is no longer (−1) ready.
    Ready(Candidate, Ustr, isize),
    /// Deals that had advanced in the running period when the job was stopped.
    Advanced(Candidate, Vec<Ustr>),
}

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Moved {
    /// A deal moves.
    Advance(Advance),
    /// Which deals have moved in the running period, for the next start.
    Carried(Carried),
}

impl Turn {
    fn candidate(&self) -> Candidate {
        match self {
            Turn::Heat(heat) => Candidate { rule: heat.rule, subject: heat.subject },
            Turn::Ready(candidate, _, _) | Turn::Advanced(candidate, _) => *candidate,
        }
    }

    /// A person's decisions are made at one worker.
    pub fn route(&self) -> u64 {
        self.candidate().subject.route()
    }
}

#[derive(Default)]
struct State {
    period: Option<HotPeriod>,
    ready: BTreeMap<Ustr, isize>,
    advanced: BTreeSet<Ustr>,
}

/// The machine; see the module.
pub struct Advances {
    states: Map<Candidate, State>,
    carries: bool,
}

impl Advances {
    /// `carries`: whether the next start is told what has advanced.
    pub fn new(carries: bool) -> Self {
        Advances { states: Map::default(), carries }
    }
}

impl Machine for Advances {
    type In = Turn;
    type Out = Moved;

    fn step(&mut self, _at: Ms, rows: &mut Vec<Turn>, out: &mut dyn FnMut(Moved)) {
        let mut touched = BTreeSet::new();
        for turn in rows.iter() {
            if let Turn::Advanced(candidate, deals) = turn {
                let state = self.states.entry(*candidate).or_default();
                // Deals that are ready have been seen to: they became so before the restart.
                let ready = state.ready.iter().filter(|(_, n)| **n > 0).map(|(deal, _)| *deal);
                state.advanced = deals.iter().copied().chain(ready).collect();
                if state.period.is_none() {
                    out(Moved::Carried(Carried::Advanced { candidate: *candidate, deals: Vec::new() }));
                }
            }
        }
        for turn in rows.drain(..) {
            let candidate = turn.candidate();
            touched.insert((candidate.subject, candidate.rule));
            let state = self.states.entry(candidate).or_default();
            match turn {
                Turn::Advanced(..) => {}
                Turn::Heat(heat) => {
                    if heat.begins || heat.period.is_none() {
                        if self.carries && !state.advanced.is_empty() {
                            out(Moved::Carried(Carried::Advanced { candidate, deals: Vec::new() }));
                        }
                        state.advanced.clear();
                    }
                    state.period = heat.period;
                }
                Turn::Ready(_, deal, diff) => *state.ready.entry(deal).or_default() += diff,
            }
        }
        for (subject, rule) in touched {
            let candidate = Candidate { rule, subject };
            let Some(state) = self.states.get_mut(&candidate) else { continue };
            state.ready.retain(|_, n| *n != 0);
            match &state.period {
                Some(period) => {
                    let before = state.advanced.len();
                    for (deal, _) in state.ready.iter().filter(|(_, n)| **n > 0) {
                        if state.advanced.insert(*deal) {
                            out(Moved::Advance(Advance { candidate, deal: *deal, period: period.clone() }));
                        }
                    }
                    if self.carries && state.advanced.len() > before {
                        let deals = state.advanced.iter().copied().collect();
                        out(Moved::Carried(Carried::Advanced { candidate, deals }));
                    }
                }
                None if state.ready.is_empty() => {
                    self.states.remove(&candidate);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{ClickId, ClickRef, Subject, Who};
    use super::super::step::testing::run;
    use super::*;
    use ustr::ustr;

    fn candidate() -> Candidate {
        Candidate { rule: 0, subject: Subject { workspace: ustr("w"), portal: ustr("1"), who: Who::contact("801") } }
    }

    fn hot(begins: bool, since: Ms, count: u64) -> Turn {
        let period = (count > 0).then(|| HotPeriod { since, count, last: ClickRef { ts: since, id: ClickId::of("c") } });
        Turn::Heat(Heat { rule: 0, subject: candidate().subject, begins, period })
    }

    fn ready(deal: &str, diff: isize) -> Turn {
        Turn::Ready(candidate(), ustr(deal), diff)
    }

    fn moved(rows: Vec<(Turn, Ms)>) -> Vec<(Ms, &'static str, Ms, u64)> {
        let said = run(&mut Advances::new(true), rows, Ms::MAX);
        let advance = |(moved, at)| match moved {
            Moved::Advance(advance) => Some((at, advance.deal.as_str(), advance.period.since, advance.period.count)),
            Moved::Carried(_) => None,
        };
        said.into_iter().filter_map(advance).collect()
    }

    #[test]
    fn once_a_period_and_again_in_the_next() {
        let rows = vec![
            (hot(true, 10, 3), 10),
            (ready("9001", 1), 10),
            // moved on, and back by hand: no second time
            (ready("9001", -1), 20),
            (ready("9001", 1), 30),
            // eligible in the middle of the period, with the count of then
            (hot(false, 10, 5), 40),
            (ready("9002", 1), 40),
            (hot(false, 0, 0), 50),
            (ready("9001", -1), 50),
            (ready("9002", -1), 50),
            (hot(true, 60, 3), 60),
            (ready("9001", 1), 60),
        ];
        assert_eq!(moved(rows), [(10, "9001", 10, 3), (40, "9002", 10, 5), (60, "9001", 60, 3)]);
    }

    #[test]
    fn ready_for_a_part_of_a_tick_is_not_ready() {
        let rows = vec![(hot(true, 10, 3), 10), (ready("9001", 1), 10), (ready("9001", -1), 10)];
        assert_eq!(moved(rows), []);
    }
}
