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
pub mod step;
pub mod window_log;
pub mod windows;

use crate::model::Click;
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
use rows::{Advance, Arrival, Candidate, Carried, CountChange, Heat, Resolved};
use settle::Settle;
use std::sync::Arc;
use step::by_tick;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::vec::{Filter, Map, Partition};
use timely::dataflow::operators::{Concat, Concatenate};
use windows::{Seen, Told, Windows};

/// What the dataflow computes, as rows; each with its tick's end.
pub struct Computed<'scope> {
    /// Clicks that found their person.
    pub resolved: StreamVec<'scope, Ms, (Resolved, Ms)>,
    /// Clicks that found nobody.
    pub unresolved: StreamVec<'scope, Ms, (Arc<Click>, Ms)>,
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
    // What an earlier run has written is computed again, but not put into words.
    let new = move |at: &Ms| *at >= from;
    scope.concatenate([
        resolved.filter(move |(_, at)| new(at)).map(|(resolved, at)| (outputs::timeline(&resolved, at), at)),
        unresolved.filter(move |(_, at)| new(at)).map(|(click, at)| (outputs::unresolved(&click, at), at)),
        values.filter(move |(_, at)| new(at)).map(|(change, at)| (outputs::contact_properties(&change, at), at)),
        counts.filter(move |(_, at)| new(at)).map(move |(change, at)| (outputs::count(&change, &of_counts, at), at)),
        advances
            .filter(move |(_, at)| new(at))
            .flat_map(move |(advance, at)| outputs::deal_stage(&advance, &of_advances, at).map(|output| (output, at))),
        dead.filter(move |(_, at)| new(at)).map(|(letter, at)| (outputs::dead_letter(&letter, at), at)),
        carried
            .filter(move |(_, at)| new(at))
            .flat_map(move |(carried, at)| carried::output(&carried, &of_carried, at).map(|output| (output, at))),
    ])
}

/// Builds the operators on a worker's scope.
pub fn compute<'scope>(arrivals: StreamVec<'scope, Ms, (Arrival, Ms)>, plan: &Arc<Plan>) -> Computed<'scope> {
    let scope = arrivals.scope();
    let times = plan.times;
    let [records, contacts, deals, dead, carried] = split(arrivals, |(arrival, at)| match arrival {
        Arrival::Click(..) | Arrival::Form(..) => (0, (arrival, at)),
        Arrival::Contact(..) => (1, (arrival, at)),
        Arrival::Deal(..) => (2, (arrival, at)),
        Arrival::Dead(..) => (3, (arrival, at)),
        Arrival::Carried(..) => (4, (arrival, at)),
    });
    let carried = carried.flat_map(|(arrival, at)| match arrival {
        Arrival::Carried(carried) => Some((carried, at)),
        _ => None,
    });
    let [since, advanced, values, gone] = split(carried, |(carried, at)| {
        let place = match &carried {
            Carried::Period { .. } => 0,
            Carried::Advanced { .. } => 1,
            Carried::Utm { .. } => 2,
            Carried::Gone { .. } => 3,
        };
        (place, (carried, at))
    });
    let dead = dead.flat_map(|(arrival, at)| match arrival {
        Arrival::Dead(letter) => Some((letter, at)),
        _ => None,
    });

    // Whose click is it?
    let records = records.flat_map(|(arrival, at)| match arrival {
        Arrival::Click(place, click) => Some(((place, Record::Click(click)), at)),
        Arrival::Form(place, form) => Some(((place, Record::Form(form)), at)),
        _ => None,
    });
    let records = by_tick(records, "Intake", |(_, record)| Intake::route(record), Intake::new(times.dedupe_horizon));
    let of_plan = Arc::clone(plan);
    let routed = records.clone().flat_map(move |(record, at)| {
        let mut places = Vec::new();
        route::route(&of_plan, &record, |place| places.push((place, at)));
        places
    });
    let [named, met] = split(routed, |(routed, at)| (u64::from(matches!(routed, Routed::Met(..))), (routed, at)));
    let met = met.flat_map(|(routed, at)| match routed {
        Routed::Met(meeting, met) => Some(((meeting, met), at)),
        Routed::Hit(_) => None,
    });
    let answers =
        by_tick(met, "FirstMatch", |(meeting, _): &(Meeting, _)| meeting.route(), FirstMatch::new(times.tick, times.max_lateness));
    let [single, double] = split(answers, |(answer, at): (Answer, Ms)| (u64::from(answer.halves > 1), (answer, at)));
    let double = by_tick(double, "Settle", |answer| Intake::route(&Record::Click(Arc::clone(&answer.click))), Settle::default());
    let of_plan = Arc::clone(plan);
    let [found, lost] = split(single.concat(double), |(answer, at): (Answer, Ms)| (u64::from(answer.form.is_none()), (answer, at)));
    let unresolved = lost.map(|(answer, at)| (answer.click, at));
    let found = found.flat_map(move |(answer, at)| {
        let mut hits = Vec::new();
        if let Some(form) = &answer.form {
            route::hits_by_form(&of_plan, &answer.click, form, |hit| hits.push((Seen::Hit(hit), at)));
        }
        hits
    });
    let named = named.flat_map(|(routed, at)| match routed {
        Routed::Hit(hit) => Some((Seen::Hit(hit), at)),
        Routed::Met(..) => None,
    });

    // Whose contact is that, and what do they add up to?
    let contacts = contacts.flat_map(|(arrival, at)| match arrival {
        Arrival::Contact(place, portal, id, contact) => Some((ContactState { portal, id, place, contact }, at)),
        _ => None,
    });
    let standings = by_tick(contacts, "Persons", ContactState::route, Persons::default());
    let before = values.flat_map(|(carried, at)| match carried {
        Carried::Utm { subject, values } => Some((Seen::Values(subject, values), at)),
        _ => None,
    });
    let seen = scope.concatenate([named, found, before, standings.clone().map(|(standing, at)| (Seen::Standing(standing), at))]);
    let told = by_tick(seen, "Windows", Seen::route, Windows::new(Arc::clone(plan)));
    let [resolved, tallies, utms, of_windows] = split(told, |(told, at)| {
        let place = match &told {
            Told::Resolved(_) => 0,
            Told::Tally(_) => 1,
            Told::Utm(_) => 2,
            Told::Carried(_) => 3,
        };
        (place, (told, at))
    });
    let resolved = resolved.flat_map(|(told, at)| match told {
        Told::Resolved(resolved) => Some((resolved, at)),
        _ => None,
    });
    let utms = utms.flat_map(|(told, at)| match told {
        Told::Utm(utm) => Some((utm, at)),
        _ => None,
    });
    let values = by_tick(utms, "LastUtm", LastUtms::route, LastUtms::new(Arc::clone(plan)));
    let tallies = tallies.flat_map(|(told, at)| match told {
        Told::Tally(tally) => Some((Part::Tally(tally), at)),
        _ => None,
    });
    let parts = tallies.concat(since.flat_map(|(carried, at)| match carried {
        Carried::Period { candidate, since } => since.map(|since| (Part::Since(candidate, since), at)),
        _ => None,
    }));
    let counted = by_tick(parts, "Counts", Part::route, Sums::new(Arc::clone(plan)));
    let [changes, heats, of_counts] = split(counted, |(counted, at)| {
        let place = match &counted {
            Counted::Change(_) => 0,
            Counted::Heat(_) => 1,
            Counted::Carried(_) => 2,
        };
        (place, (counted, at))
    });
    let changes = changes.flat_map(|(counted, at)| match counted {
        Counted::Change(change) => Some((change, at)),
        _ => None,
    });
    let counts = by_tick(changes.clone(), "Publish", |change| change.subject.route(), Publish::default());

    // Which deals have earned their next stage?
    let deals = deals.flat_map(|(arrival, at)| match arrival {
        Arrival::Deal(place, portal, id, deal) => Some((DealState { portal, id, place, deal }, at)),
        _ => None,
    });
    let heats = heats.flat_map(|(counted, at)| match counted {
        Counted::Heat(heat) => Some((heat, at)),
        _ => None,
    });
    let hot = heats.clone().flat_map(|(heat, at)| {
        let candidate = Candidate { rule: heat.rule, subject: heat.subject };
        let diff = match heat.period {
            Some(_) if heat.begins => 1,
            Some(_) => 0,
            None => -1,
        };
        (diff != 0).then_some(((candidate, ()), at, diff))
    });
    let hot = hot.as_collection().arrange_by_key_named("Hot");
    let eligible = eligible(deals, standings, plan).arrange_by_key_named("Eligible");
    let ready = hot.join_core(eligible, |candidate, (), deal| Some((*candidate, *deal)));
    let turns = ready.inner.map(|((candidate, deal), at, diff)| (Turn::Ready(candidate, deal, diff), at));
    let turns = turns.concat(heats.clone().map(|(heat, at)| (Turn::Heat(heat), at)));
    let turns = turns.concat(advanced.flat_map(|(carried, at)| match carried {
        Carried::Advanced { candidate, deals } => Some((Turn::Advanced(candidate, deals), at)),
        _ => None,
    }));
    let moved = by_tick(turns, "Advance", Turn::route, Advances::new(plan.carries));
    let [advances, of_advances] = split(moved, |(moved, at)| (u64::from(matches!(moved, Moved::Carried(_))), (moved, at)));
    let advances = advances.flat_map(|(moved, at)| match moved {
        Moved::Advance(advance) => Some((advance, at)),
        Moved::Carried(_) => None,
    });

    // What the next start must be told.
    let of_windows = of_windows.flat_map(|(told, at)| match told {
        Told::Carried(carried) => Some((carried, at)),
        _ => None,
    });
    let of_counts = of_counts.flat_map(|(counted, at)| match counted {
        Counted::Carried(carried) => Some((carried, at)),
        _ => None,
    });
    let of_advances = of_advances.flat_map(|(moved, at)| match moved {
        Moved::Carried(carried) => Some((carried, at)),
        Moved::Advance(_) => None,
    });
    let carried = scope.concatenate([of_windows, of_counts, of_advances, gone]);

    Computed { resolved, unresolved, values, counts, advances, dead, carried, taken: records, changes, heats }
}

/// Splits a stream into `N`.
fn split<'scope, A: Clone + 'static, B: Clone + 'static, const N: usize>(
    rows: StreamVec<'scope, Ms, A>,
    part: impl Fn(A) -> (u64, B) + 'static,
) -> [StreamVec<'scope, Ms, B>; N] {
    let parts: Vec<_> = rows.partition(N as u64, part);
    parts.try_into().unwrap_or_else(|_| unreachable!("as many parts as were asked for"))
}
