//! Which deal a rule may move, and for whom: deals joined with persons.
//!
//! # Meaning
//! A deal is eligible for a rule while it is in the rule's pipeline and `from_stage` and has the amount that the guard
//! asks for. Its persons are those that its contacts stand for; for a rule that counts a deal's own links it is the deal
//! itself. A deal that names two contacts of one person names the person once.
//!
//! # Ties and edges
//! Of several states of a deal in one tick the last in the log counts; a tombstone is a state. A deal without an amount
//! does not pass `deal_amount_min`.
//!
//! # Cost
//! Deals that no rule looks at are dropped before they are arranged; each kept deal is one row for each rule and contact.

use super::plan::{Plan, RuleIx};
use super::rows::{Candidate, Place, Standing, Subject, Who};
use super::step::{Machine, by_tick, to};
use crate::model::Deal;
use crate::model::time::Ms;
use differential_dataflow::operators::ThresholdTotal;
use differential_dataflow::operators::arrange::upsert::arrange_from_upsert;
use differential_dataflow::trace::implementations::{ValBuilder, ValSpine};
use differential_dataflow::{AsCollection, VecCollection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::vec::{Filter, Map};
use ustr::{Ustr, ustr};

/// A deal's new state, or its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DealState {
    /// HubSpot account.
    pub portal: Ustr,
    /// The deal.
    pub id: Ustr,
    /// Where it stands in the log.
    pub place: Place,
    /// `None`: a tombstone.
    pub deal: Option<Arc<Deal>>,
}

impl DealState {
    fn route(&self) -> u64 {
        super::rows::mix(super::rows::hash(&self.portal) ^ super::rows::hash(&self.id).rotate_left(32))
    }
}

/// Lets through the last state of each deal in a tick.
struct Newest;

impl Machine for Newest {
    type In = DealState;
    type Out = DealState;

    fn step(&mut self, _at: Ms, rows: &mut Vec<DealState>, out: &mut dyn FnMut(DealState)) {
        let mut newest: BTreeMap<(Ustr, Ustr), DealState> = BTreeMap::new();
        for row in rows.drain(..) {
            match newest.get_mut(&(row.portal, row.id)) {
                Some(kept) if kept.place > row.place => {}
                Some(kept) => *kept = row,
                None => {
                    newest.insert((row.portal, row.id), row);
                }
            }
        }
        newest.into_values().for_each(out);
    }
}

/// What a deal offers: rules that may move it, and the contacts it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Offer {
    rules: Vec<RuleIx>,
    contacts: Vec<Ustr>,
}

fn offer(plan: &Plan, portal: Ustr, deal: &Deal) -> Option<Offer> {
    let passes = |rule: &crate::config::rules::Rule| {
        let connected = rule.workspace.as_deref().is_some_and(|of| plan.connections(ustr(of)).iter().any(|c| c.portal == portal));
        let worth = rule.guard.deal_amount_min.is_none_or(|least| deal.amount.is_some_and(|amount| amount >= least));
        connected && worth && rule.pipeline == deal.pipeline && rule.from_stage == deal.stage
    };
    let rules: Vec<RuleIx> = (0..).zip(&plan.rules).filter(|(_, planned)| passes(&planned.rule)).map(|(ix, _)| ix).collect();
    if rules.is_empty() {
        return None;
    }
    let mut contacts: Vec<Ustr> = deal.contact_ids.iter().filter(|id| !id.trim().is_empty()).map(|id| ustr(id)).collect();
    contacts.sort();
    contacts.dedup();
    Some(Offer { rules, contacts })
}

/// The deals that each (rule, person or deal) may move.
pub fn eligible<'scope>(
    deals: StreamVec<'scope, Ms, (DealState, Ms)>,
    standings: StreamVec<'scope, Ms, (Standing, Ms)>,
    plan: &Arc<Plan>,
) -> VecCollection<'scope, Ms, (Candidate, Ustr), isize> {
    let of_plan = Arc::clone(plan);
    let offers = by_tick(deals, "NewestDeal", to(DealState::route), Newest).map(move |(state, at)| {
        let offer = state.deal.as_deref().and_then(|deal| offer(&of_plan, state.portal, deal));
        ((state.portal, state.id), offer, at)
    });
    let offers = arrange_from_upsert::<ValBuilder<_, _, _, _>, ValSpine<(Ustr, Ustr), Offer, Ms, isize>, _, _>(offers, "Deals");

    let by_deal = Arc::clone(plan);
    let own = offers.clone().flat_map_ref(move |(portal, deal), offer| {
        let (portal, deal) = (*portal, *deal);
        let own = offer.rules.iter().filter_map(|ix| by_deal.rules.get(*ix as usize).map(|planned| (*ix, planned)));
        own.filter(|(_, planned)| !planned.rule.guard.require_associated_contact)
            .map(|(rule, planned)| {
                let workspace = ustr(planned.rule.workspace.as_deref().unwrap_or_default());
                (Candidate { rule, subject: Subject { workspace, portal, who: Who::deal(&deal) } }, deal)
            })
            .collect::<Vec<_>>()
    });

    let by_contact = Arc::clone(plan);
    let named = offers.flat_map_ref(move |(portal, deal), offer| {
        let rules = offer.rules.iter().copied();
        let rules: Vec<RuleIx> = rules
            .filter(|ix| by_contact.rules.get(*ix as usize).is_some_and(|planned| planned.rule.guard.require_associated_contact))
            .collect();
        let mut rows = Vec::with_capacity(rules.len() * offer.contacts.len());
        for contact in &offer.contacts {
            rows.extend(rules.iter().map(|rule| ((*portal, Who::contact(contact)), (*rule, *deal))));
        }
        rows
    });

    // Contacts that stand for another; all others stand for themselves.
    let stands = standings
        .filter(|(standing, _)| standing.who.is_contact())
        .flat_map(|(Standing { portal, who, was, is }, at)| {
            let row = move |person: Option<Who>, diff: isize| person.map(|person| (((portal, who), person), at, diff));
            [row(was, -1), row(is, 1)].into_iter().flatten()
        })
        .as_collection()
        .arrange_by_key_named("Standings");
    let named = named.arrange_by_key_named("NamedContacts");
    let moved = named.clone().join_core(stands, |(portal, who), row, person| Some(((*portal, *who), *row, *person)));
    let unmoved = named.as_collection(|key, row| (*key, *row)).concat(moved.clone().map(|(key, row, _)| (key, row)).negate());
    let workspaces: Vec<Ustr> = plan.rules.iter().map(|planned| ustr(planned.rule.workspace.as_deref().unwrap_or_default())).collect();
    let person = move |portal: Ustr, who: Who, (rule, deal): (RuleIx, Ustr)| {
        let workspace = workspaces.get(rule as usize).copied().unwrap_or_default();
        (Candidate { rule, subject: Subject { workspace, portal, who } }, deal)
    };
    let same = person.clone();
    moved
        .map(move |((portal, _), row, who)| person(portal, who, row))
        .concat(unmoved.map(move |((portal, who), row)| same(portal, who, row)))
        .concat(own)
        .threshold_total::<isize, _>(|_, n| isize::from(*n > 0))
}
