//! Deals, and which guard of which rule lets each pass.

use super::{Sources, moment, moment_of};
use crate::config::rules::Rule;
use crate::dataflow::plan::RuleIx;
use crate::dataflow::rows::{Subject, Who};
use crate::history::deals::state_at;
use crate::model::Deal;
use crate::model::time::{Ms, rfc3339};
use serde::Serialize;
use ustr::Ustr;

/// A deal as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct OfDeal {
    /// The deal.
    pub deal_id: String,
    /// Its state; `None`: it was deleted.
    pub state: Option<OfDealState>,
    /// Since when it has stood so: the tick's end of the last record.
    #[serde(serialize_with = "moment_of")]
    pub since: Ms,
    /// What it was before.
    pub before: Vec<OfDealState>,
    /// What each rule says of it, for each contact that is asked about.
    pub rules: Vec<Verdict>,
}

/// One state of a deal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfDealState {
    /// From when on.
    #[serde(serialize_with = "moment_of")]
    pub from: Ms,
    /// Pipeline.
    pub pipeline: String,
    /// Stage.
    pub stage: String,
    /// Amount.
    pub amount: Option<f64>,
    /// Contacts that it names.
    pub contact_ids: Vec<String>,
}

/// What a rule says of a deal.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The rule's number in this explanation.
    pub number: usize,
    /// Its name.
    pub rule: String,
    /// Whose clicks: the contact's id or e-mail; absent where the deal's own links count.
    pub who: Option<String>,
    /// What the deal must satisfy.
    pub guards: Vec<Guard>,
    /// Clicks now, and clicks that make the rule hot.
    pub count: u64,
    /// Clicks that make the rule hot.
    pub threshold: u64,
    /// Since when the rule has been hot.
    #[serde(serialize_with = "moment")]
    pub hot_since: Option<Ms>,
    /// When it has advanced the deal in this hot period.
    #[serde(serialize_with = "moment")]
    pub advanced: Option<Ms>,
    /// How often it has advanced it in earlier hot periods.
    pub advanced_before: usize,
    /// Why it does not advance the deal now; nothing if all is as it must be.
    pub missing: Vec<String>,
}

/// One condition and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guard {
    /// `pipeline`, `stage`, `amount` or `contact`.
    pub guard: &'static str,
    /// Whether it holds.
    pub passes: bool,
    /// What is, and what must be.
    pub why: String,
}

fn state(from: Ms, deal: &Deal) -> OfDealState {
    let Deal { v: _, portal: _, deal_id: _, pipeline, stage, amount, contact_ids } = deal.clone();
    OfDealState { from, pipeline, stage, amount, contact_ids }
}

/// All deals in question, by id.
pub fn deals(from: &Sources<'_>) -> Vec<OfDeal> {
    from.witness.wanted.deals.iter().filter_map(|deal| of_deal(from, *deal)).collect()
}

fn of_deal(from: &Sources<'_>, id: Ustr) -> Option<OfDeal> {
    let states = from.known.deals.get(&(from.portal, id))?;
    let (since, deal) = state_at(states, from.end)?;
    let mut rules = Vec::new();
    for (ix, connection, rule) in from.rules() {
        let by_deal = !rule.guard.require_associated_contact;
        // The deal's own links are a matter of the deal: a contact is not asked about them.
        let subjects = from.subjects.iter().filter(|who| who.is_deal() == by_deal);
        rules.extend(subjects.map(|who| verdict(from, ix, rule, Subject::new(connection, *who), id, deal)));
    }
    let before = states.iter().filter(|((at, _), _)| *at < since);
    let before = before.filter_map(|((at, _), deal)| Some(state(*at, deal.as_deref()?))).collect();
    Some(OfDeal { deal_id: id.to_string(), state: deal.map(|deal| state(since, deal)), since, before, rules })
}

fn verdict(from: &Sources<'_>, ix: RuleIx, rule: &Rule, subject: Subject, id: Ustr, deal: Option<&Deal>) -> Verdict {
    let guards = guards(from, rule, subject.who, deal);
    let count = from.plan.measure(ix).and_then(|measure| from.witness.counts.get(&(subject, measure))).map_or(0, |(_, count)| *count);
    let (hot_since, _) = super::periods(from, ix, subject);
    let advances = from.witness.advances.iter().filter(|(_, advance)| {
        let by = advance.candidate.subject;
        let by_whom = if by.who.is_deal() { by.who } else { from.known.person(by.portal, by.who) };
        advance.deal == id && advance.candidate.rule == ix && by.portal == from.portal && by_whom == subject.who
    });
    let (now, before): (Vec<_>, Vec<_>) =
        advances.partition(|(_, advance)| advance.candidate.subject == subject && Some(advance.period.since) == hot_since);
    let mut missing: Vec<String> = guards.iter().filter(|guard| !guard.passes).map(|guard| guard.why.clone()).collect();
    if hot_since.is_none() {
        let more = rule.threshold.saturating_sub(count);
        // Of a period that the rule does not act on the dataflow says nothing.
        let added = from.plan.rules.get(ix as usize).map(|planned| planned.added_at).filter(|added| more == 0 && *added > 0);
        missing.push(match added {
            Some(added) => format!("the rule was added {}, in this hot period, and acts on later ones", rfc3339(added)),
            None => format!("{count} of {} clicks: {more} missing", rule.threshold),
        });
    }
    let advanced = now.iter().map(|(at, _)| *at).max();
    if missing.is_empty() && advanced.is_some() {
        missing.push("it has advanced in this hot period already".to_owned());
    }
    Verdict {
        number: ix as usize + 1,
        rule: rule.name.clone(),
        who: (!subject.who.is_deal()).then(|| subject.who.text().to_owned()),
        guards,
        count,
        threshold: rule.threshold,
        hot_since,
        advanced,
        advanced_before: before.len(),
        missing,
    }
}

fn guards(from: &Sources<'_>, rule: &Rule, who: Who, deal: Option<&Deal>) -> Vec<Guard> {
    let Some(deal) = deal else {
        return vec![Guard { guard: "stage", passes: false, why: "the deal was deleted".to_owned() }];
    };
    let same = |guard: &'static str, is: &str, must: &str| {
        let passes = is == must;
        let why = if passes { format!("{guard} is {is}") } else { format!("{guard} is {is}, not {must}") };
        Guard { guard, passes, why }
    };
    let mut guards = vec![same("pipeline", &deal.pipeline, &rule.pipeline), same("stage", &deal.stage, &rule.from_stage)];
    if let Some(least) = rule.guard.deal_amount_min {
        let passes = deal.amount.is_some_and(|amount| amount >= least);
        let why = match deal.amount {
            Some(amount) if passes => format!("amount {amount} is at least {least}"),
            Some(amount) => format!("amount {amount} is less than {least}"),
            None => format!("it has no amount, and must have at least {least}"),
        };
        guards.push(Guard { guard: "amount", passes, why });
    }
    if rule.guard.require_associated_contact {
        let passes = deal.contact_ids.iter().any(|id| from.known.person(from.portal, Who::contact(id)) == who);
        let why = if passes { format!("it names {}", who.text()) } else { format!("it does not name {}", who.text()) };
        guards.push(Guard { guard: "contact", passes, why });
    }
    guards
}
