//! The dataflow: from what was clicked to what HubSpot should hear.
//!
//! ```text
//! arrivals ─┬─ clicks, forms ─ intake ─ route ─┬──────────────────────── hits ─┐
//!           │                                  └─ first_match ─ settle ─ hits ─┤
//!           │                                            └─ unresolved         │
//!           ├─ contacts ─ persons ─ standings ───────────────────────────┬─────┤
//!           │                                                            │  windows ─┬─ timeline
//!           └─ deals ─ eligible ◄────────────────────────────────────────┘           ├─ last_utm
//!                         └─────────► hot ∧ eligible ─ advance ◄─ heat ── counts ────┘
//!                                                                           └─ publish
//! ```
//!
//! Every row carries the end of the tick it belongs to; timely's stamps are lower bounds of it. Each operator's module
//! says what it means; [`step`] says why their order of arrival does not matter.

pub mod advance;
pub mod blocks;
pub mod boxes;
pub mod carried;
pub mod counts;
pub mod eligible;
pub mod first_match;
pub mod intake;
pub mod last_utm;
pub mod outputs;
pub mod persons;
pub mod plan;
pub mod publish;
pub mod route;
pub mod rows;
pub mod settle;
pub mod shares;
pub mod step;
pub mod window_log;
pub mod windows;

use crate::model::PackedClick;
use crate::model::outputs::{DeadLetter, Output};
use crate::model::time::Ms;
use advance::{Advances, Moved, Turn};
use counts::{Counted, Part, Sums};
use differential_dataflow::AsCollection;
use eligible::{DealState, eligible};
use first_match::{Answer, FirstMatch, Meeting};
use intake::{Intake, Record};
use last_utm::{LastUtms, UtmChange};
use persons::{ContactState, Persons};
use plan::Plan;
use publish::Publish;
use route::Routed;
use rows::{Advance, Arrival, Candidate, Carried, CountChange, Heat, Place, Resolved};
use settle::Settle;
use std::sync::Arc;
use step::{Nothing, Ports, by_tick, by_tick_dealt, deal, to};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Concat, Concatenate};
use windows::{Seen, Told, Windows};

/// What the dataflow computes, as rows; each with its tick's end.
pub struct Computed<'scope> {
    /// Clicks that found their person.
    pub resolved: StreamVec<'scope, Ms, (Resolved, Ms)>,
    /// Clicks that found nobody.
    pub unresolved: StreamVec<'scope, Ms, (Arc<PackedClick>, Ms)>,
    /// Changes of last campaign values.
    pub values: StreamVec<'scope, Ms, (UtmChange, Ms)>,
    /// Published counts.
    pub counts: StreamVec<'scope, Ms, (CountChange, Ms)>,
    /// Deals that have earned their next stage.
    pub advances: StreamVec<'scope, Ms, (Advance, Ms)>,
    /// Records that could not be read.
    pub dead: StreamVec<'scope, Ms, (Arc<DeadLetter>, Ms)>,
    /// What the next start must be told.
    pub carried: StreamVec<'scope, Ms, (Carried, Ms)>,
    /// Clicks and forms that are no repetition; like the two below only for those who ask why.
    pub taken: StreamVec<'scope, Ms, (Record, Ms)>,
    /// Changes of counts, of every tick that has one.
    pub changes: StreamVec<'scope, Ms, (CountChange, Ms)>,
    /// Hot periods.
    pub heats: StreamVec<'scope, Ms, (Heat, Ms)>,
}

/// Builds the dataflow on a worker's scope, down to the records of the output topics.
///
/// `arrivals` carries each record with its tick's end, as do the outputs; outputs of a tick are complete when the
/// frontier has passed it, and a function of the arrivals alone.
pub fn build<'scope>(arrivals: StreamVec<'scope, Ms, (Arrival, Ms)>, plan: &Arc<Plan>) -> StreamVec<'scope, Ms, (Output, Ms)> {
    let scope = arrivals.scope();
    let Computed { resolved, unresolved, values, counts, advances, dead, carried, taken: _, changes: _, heats: _ } =
        compute(arrivals, plan);
    let (of_counts, of_advances, of_carried, from) = (Arc::clone(plan), Arc::clone(plan), Arc::clone(plan), plan.outputs_from);
    scope.concatenate([
        said(resolved, from, |resolved, at| Some(outputs::timeline(resolved, at))),
        said(unresolved, from, |click, at| Some(outputs::unresolved(click, at))),
        said(values, from, |change, at| Some(outputs::contact_properties(change, at))),
        said(counts, from, move |change, at| Some(outputs::count(change, &of_counts, at))),
        said(advances, from, move |advance, at| outputs::deal_stage(advance, &of_advances, at)),
        said(dead, from, |letter, at| Some(outputs::dead_letter(letter, at))),
        said(carried, from, move |carried, at| carried::output(carried, &of_carried, at)),
    ])
}

/// Rows as records of their topic. What an earlier run has written is computed again, but not put into words: ticks that end
/// before `from` say nothing.
fn said<'scope, R: 'static>(
    rows: StreamVec<'scope, Ms, (R, Ms)>,
    from: Ms,
    says: impl Fn(&R, Ms) -> Option<Output> + 'static,
) -> StreamVec<'scope, Ms, (Output, Ms)> {
    rows.flat_map(move |(row, at)| if at < from { None } else { Some((says(&row, at)?, at)) })
}

/// Builds the operators on a worker's scope.
pub fn compute<'scope>(arrivals: StreamVec<'scope, Ms, (Arrival, Ms)>, plan: &Arc<Plan>) -> Computed<'scope> {
    let scope = arrivals.scope();
    let times = plan.times;
    let (records, contacts, deals, others) = deal(arrivals, "Kinds", Arrival::look, |arrival, ports| match arrival {
        Arrival::Click(place, click) => ports.a((place, Record::Click(click))),
        Arrival::Form(place, form) => ports.a((place, Record::Form(form))),
        Arrival::Contact(place, portal, id, contact) => ports.b(ContactState { portal, id, place, contact }),
        Arrival::Deal(place, portal, id, deal) => ports.c(DealState { portal, id, place, deal }),
        Arrival::Dead(_) | Arrival::Carried(_) => ports.d(arrival),
    });
    let (since, advanced, before, others) = deal(
        others,
        "Carried",
        |_| 0,
        |arrival, ports| match arrival {
            Arrival::Carried(Carried::Period { candidate, since }) => {
                since.into_iter().for_each(|since| ports.a(Part::Since(candidate, since)))
            }
            Arrival::Carried(Carried::Advanced { candidate, deals }) => ports.b(Turn::Advanced(candidate, deals)),
            Arrival::Carried(Carried::Utm { subject, values }) => ports.c(Seen::Values(subject, values)),
            other => ports.d(other),
        },
    );
    let (dead, gone, _, _) = deal(
        others,
        "Others",
        |_| 0,
        |arrival, ports| {
            let ports: &mut Ports<'_, '_, _, _, Nothing, Nothing> = ports;
            match arrival {
                Arrival::Dead(letter) => ports.a(letter),
                Arrival::Carried(carried) => ports.b(carried),
                _ => {}
            }
        },
    );

    // Whose click is it?
    let of_plan = Arc::clone(plan);
    let intake = Intake::new(times.dedupe_horizon);
    let by_id = to(|(_, record): &(Place, Record)| Intake::route(record));
    let (named, met, taken, _) = by_tick_dealt(records, "Intake", by_id, intake, move |record, ports| {
        let ports: &mut Ports<'_, '_, _, _, _, Nothing> = ports;
        if of_plan.tells_taken {
            ports.c(record.clone());
        }
        route::route(&of_plan, &record, |routed| match routed {
            Routed::Hit(hit) => ports.a(Seen::Hit(hit)),
            Routed::Met(meeting, met) => ports.b((meeting, met)),
        });
    });
    let first_match = FirstMatch::new(times.tick, times.max_lateness).told_to(&plan.board.held);
    let of_plan = Arc::clone(plan);
    let (found, lost, double, _) =
        by_tick_dealt(met, "FirstMatch", to(|(meeting, _): &(Meeting, _)| meeting.route()), first_match, move |answer, ports| {
            let ports: &mut Ports<'_, '_, _, _, _, Nothing> = ports;
            match answer {
                Answer { halves: 2.., .. } => ports.c(answer),
                Answer { click, form: Some(form), .. } => route::hits_by_form(&of_plan, &click, &form, |hit| ports.a(Seen::Hit(hit))),
                Answer { click, form: None, .. } => ports.b(click),
            }
        });
    let of_plan = Arc::clone(plan);
    let by_click = to(|answer: &Answer| Intake::route(&Record::Click(Arc::clone(&answer.click))));
    let (found_twice, lost_twice, _, _) = by_tick_dealt(double, "Settle", by_click, Settle::default(), move |answer, ports| {
        let ports: &mut Ports<'_, '_, _, _, Nothing, Nothing> = ports;
        match answer.form {
            Some(form) => route::hits_by_form(&of_plan, &answer.click, &form, |hit| ports.a(Seen::Hit(hit))),
            None => ports.b(answer.click),
        }
    });
    let unresolved = lost.concat(lost_twice);

    // Whose contact is that, and what do they add up to?
    let standings = by_tick(contacts, "Persons", to(ContactState::route), Persons::default());
    let of_mirror = standings.clone().map(|(standing, at)| (Seen::Standing(standing), at));
    let seen = scope.concatenate([named, found, found_twice, before, of_mirror]);
    let windows = Windows::new(Arc::clone(plan));
    let (resolved, utms, tallies, of_windows) = by_tick_dealt(seen, "Windows", to(Seen::route), windows, |told, ports| match told {
        Told::Resolved(resolved) => ports.a(resolved),
        Told::Utm(utm) => ports.b(utm),
        Told::Tally(tally) => ports.c(Part::Tally(tally)),
        Told::Carried(carried) => ports.d(carried),
    });
    let values = by_tick(utms, "LastUtm", to(LastUtms::route), LastUtms::new(Arc::clone(plan)));
    let parts = tallies.concat(since);
    let sums = Sums::new(Arc::clone(plan));
    let (changes, heats, of_counts, _) = by_tick_dealt(parts, "Counts", to(Part::route), sums, |counted, ports| {
        let ports: &mut Ports<'_, '_, _, _, _, Nothing> = ports;
        match counted {
            Counted::Change(change) => ports.a(change),
            Counted::Heat(heat) => ports.b(heat),
            Counted::Carried(carried) => ports.c(carried),
        }
    });
    // A person's counts are added up where they are published. A tick of whole seconds changes each once a second at most.
    let counts = match times.tick % publish::PACE {
        0 => changes.clone(),
        _ => by_tick(changes.clone(), "Publish", Pipeline, Publish::new(times.tick, plan.counts_since)),
    };

    // Which deals have earned their next stage?
    let board = Arc::clone(&plan.board);
    let hot = heats.clone().flat_map(move |(heat, at)| {
        let candidate = Candidate { rule: heat.rule, subject: heat.subject };
        let diff = match heat.period {
            Some(_) if heat.begins => 1,
            Some(_) => 0,
            None => -1,
        };
        if let Some(total) = board.hot.get(heat.rule as usize).filter(|_| diff != 0) {
            total.add(diff as i64);
        }
        (diff != 0).then_some(((candidate, ()), at, diff))
    });
    let hot = hot.as_collection().arrange_by_key_named("Hot");
    let eligible = eligible(deals, standings, plan).arrange_by_key_named("Eligible");
    let ready = hot.join_core(eligible, |candidate, (), deal| Some((*candidate, *deal)));
    let turns = ready.inner.map(|((candidate, deal), at, diff)| (Turn::Ready(candidate, deal, diff), at));
    let turns = scope.concatenate([turns, heats.clone().map(|(heat, at)| (Turn::Heat(heat), at)), advanced]);
    let (advances, of_advances, _, _) = by_tick_dealt(turns, "Advance", to(Turn::route), Advances::new(plan.carries), |moved, ports| {
        let ports: &mut Ports<'_, '_, _, _, Nothing, Nothing> = ports;
        match moved {
            Moved::Advance(advance) => ports.a(advance),
            Moved::Carried(carried) => ports.b(carried),
        }
    });

    // What the next start must be told.
    let carried = scope.concatenate([of_windows, of_counts, of_advances, gone]);

    Computed { resolved, unresolved, values, counts, advances, dead, carried, taken, changes, heats }
}
