//! What a backtest found, in numbers that tools and people read.

use super::journal::Journal;
use super::variants::{Variant, Variants};
use crate::config::rules::{Counted, Mode, Rule, window_text};
use crate::dataflow::plan::Plan;
use crate::dataflow::rows::Advance;
use crate::history::deals::{DealStates, state_at};
use crate::model::outputs::{Guard, Person};
use crate::model::time::{Ms, rfc3339};
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use ustr::{Ustr, ustr};

/// Which advances are told: from one moment on, up to another; both count, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first tick's end.
    pub from: Ms,
    /// The last tick's end.
    pub to: Ms,
}

impl Default for Range {
    fn default() -> Self {
        Range { from: 0, to: Ms::MAX }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was found in.
    pub history: Extent,
    /// What to know before the numbers are believed.
    pub notes: Vec<String>,
    /// By workspace, in the order of the rules.
    pub rules: Vec<OfRule>,
}

/// How far a history reaches and what it holds.
#[derive(Clone, Debug, Serialize)]
pub struct Extent {
    /// The first click's tick.
    #[serde(serialize_with = "moment")]
    pub from: Option<Ms>,
    /// The last tick.
    #[serde(serialize_with = "moment")]
    pub to: Option<Ms>,
    /// Clicks, repetitions and machines among them.
    pub clicks: u64,
    /// Form submissions.
    pub forms: u64,
    /// States of contacts.
    pub contacts: u64,
    /// States of deals.
    pub deals: u64,
    /// Records that could not be read.
    pub unreadable: u64,
}

/// What a rule would have done.
#[derive(Clone, Debug, Serialize)]
pub struct OfRule {
    /// Its workspace.
    pub workspace: String,
    /// Its name.
    pub rule: String,
    /// `live`, `shadow` or `off`, as it is written.
    pub mode: &'static str,
    /// The tag that is counted; else `link` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_tag: Option<String>,
    /// The link that is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The pipeline.
    pub pipeline: String,
    /// From this stage.
    pub from_stage: String,
    /// To this one.
    pub to_stage: String,
    /// Further conditions.
    pub guard: Guard,
    /// Deals that ever stood in `from_stage` with the amount that the guard asks for.
    pub deals_in_stage: usize,
    /// Those of them that the history later shows in `to_stage`.
    pub deals_moved: usize,
    /// By window and threshold.
    pub variants: Vec<OfVariant>,
}

/// What a rule would have done with one window and threshold.
#[derive(Clone, Debug, Serialize)]
pub struct OfVariant {
    /// The window, as in a rule.
    pub window: String,
    /// The same in ms.
    pub window_ms: Ms,
    /// Clicks in it that make the rule hot.
    pub threshold: u64,
    /// Whether the rule is written so.
    pub own: bool,
    /// Deals advanced.
    pub deals: usize,
    /// What they were worth then, together.
    pub worth: f64,
    /// Those of them that had no amount.
    pub without_amount: usize,
    /// Those of them that the history later shows in `to_stage`.
    pub moved: usize,
    /// How long before that the rule would have advanced them, ms: the middle one, of two the earlier.
    pub ahead_ms: Option<Ms>,
    /// Further advances of deals that had been advanced before.
    pub repeated: usize,
    /// The first advance.
    #[serde(serialize_with = "moment")]
    pub first: Option<Ms>,
    /// The last one.
    #[serde(serialize_with = "moment")]
    pub last: Option<Ms>,
    /// One by one, in the order of time.
    pub advances: Vec<Advanced>,
}

/// One advance of one deal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advanced {
    /// When: the tick's end.
    #[serde(serialize_with = "moment_of")]
    pub at: Ms,
    /// HubSpot account.
    pub portal: String,
    /// The deal.
    pub deal_id: String,
    /// Whose clicks; absent where a deal's own links are counted.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
    /// Clicks in the window then.
    pub count: u64,
    /// Since when the rule had been hot.
    #[serde(serialize_with = "moment_of")]
    pub hot_since: Ms,
    /// What it was worth then.
    pub amount: Option<f64>,
    /// When the history shows it in `to_stage`, if it does later.
    #[serde(serialize_with = "moment")]
    pub moved: Option<Ms>,
    /// Whether it had been advanced before.
    pub repeated: bool,
}

fn moment<S: Serializer>(at: &Option<Ms>, to: S) -> Result<S::Ok, S::Error> {
    at.map(rfc3339).serialize(to)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn moment_of<S: Serializer>(at: &Ms, to: S) -> Result<S::Ok, S::Error> {
    rfc3339(*at).serialize(to)
}

/// Sums up what was heard.
pub(super) fn report(journal: &Journal, variants: &Variants, plan: &Plan, range: &Range, from_files: bool, end: Ms) -> Report {
    let mut advances: BTreeMap<usize, Vec<&(Ms, Advance)>> = BTreeMap::new();
    for advance in &journal.advances {
        advances.entry(advance.1.candidate.rule as usize).or_default().push(advance);
    }
    let mut rules: Vec<(usize, OfRule)> = Vec::new();
    for (ix, planned) in plan.rules.iter().enumerate() {
        let Some(variant) = variants.of_rule(&planned.rule) else { continue };
        let workspace = planned.rule.workspace.as_deref().unwrap_or_default();
        let place = rules.iter().position(|(of, found)| *of == variant.rule && found.workspace == workspace);
        let place = place.unwrap_or_else(|| {
            let portals: BTreeSet<Ustr> = plan.connections(ustr(workspace)).iter().map(|connection| connection.portal).collect();
            rules.push((variant.rule, of_rule(journal, &variants.of[variant.rule], workspace, &portals)));
            rules.len() - 1
        });
        let of_variant = of_variant(journal, variant, &planned.rule, advances.remove(&ix).unwrap_or_default(), range);
        rules[place].1.variants.push(of_variant);
    }
    let [clicks, forms, contacts, deals, unreadable] = journal.records;
    let history = Extent {
        from: journal.clicks.map(|(first, _)| first),
        to: Some(end).filter(|end| *end > 0),
        clicks,
        forms,
        contacts,
        deals,
        unreadable,
    };
    let mut report = Report { history, notes: Vec::new(), rules: rules.into_iter().map(|(_, rule)| rule).collect() };
    report.notes = notes(&report, journal, from_files);
    report
}

/// Whether a deal is where the rule takes it from, as far as amount and stage go.
fn in_stage(rule: &Rule, deal: &crate::model::Deal) -> bool {
    let worth = rule.guard.deal_amount_min.is_none_or(|least| deal.amount.is_some_and(|amount| amount >= least));
    worth && deal.pipeline == rule.pipeline && deal.stage == rule.from_stage
}

/// The first tick's end after `at` from which on the deal is where the rule takes it to.
fn moved_after(states: &DealStates, rule: &Rule, at: Ms) -> Option<Ms> {
    let there = |deal: &crate::model::Deal| deal.pipeline == rule.pipeline && deal.stage == rule.to_stage;
    states.iter().find(|((of, _), deal)| *of > at && deal.as_deref().is_some_and(there)).map(|((of, _), _)| *of)
}

fn of_rule(journal: &Journal, rule: &Rule, workspace: &str, portals: &BTreeSet<Ustr>) -> OfRule {
    let (mut deals_in_stage, mut deals_moved) = (0, 0);
    for (_, states) in journal.deals.iter().filter(|((portal, _), _)| portals.contains(portal)) {
        let stood = states.iter().find(|(_, deal)| deal.as_deref().is_some_and(|deal| in_stage(rule, deal)));
        if let Some(((since, _), _)) = stood {
            deals_in_stage += 1;
            deals_moved += usize::from(moved_after(states, rule, *since).is_some());
        }
    }
    let (link_tag, link) = match &rule.counted {
        Counted::Tag(tag) => (Some(tag.clone()), None),
        Counted::Link(link) => (None, Some(link.clone())),
    };
    OfRule {
        workspace: workspace.to_owned(),
        rule: rule.name.clone(),
        mode: match rule.mode {
            Mode::Live => "live",
            Mode::Shadow => "shadow",
            Mode::Off => "off",
        },
        link_tag,
        link,
        pipeline: rule.pipeline.clone(),
        from_stage: rule.from_stage.clone(),
        to_stage: rule.to_stage.clone(),
        guard: rule.guard,
        deals_in_stage,
        deals_moved,
        variants: Vec::new(),
    }
}

fn of_variant(journal: &Journal, variant: &Variant, rule: &Rule, mut rows: Vec<&(Ms, Advance)>, range: &Range) -> OfVariant {
    rows.sort_by_key(|(at, advance)| (*at, advance.candidate.subject.portal, advance.deal, advance.candidate.subject.who));
    let mut before: BTreeSet<(Ustr, Ustr)> = BTreeSet::new();
    let mut advances = Vec::new();
    for (at, advance) in rows {
        let subject = advance.candidate.subject;
        let key = (subject.portal, advance.deal);
        // The first of all counts, also where it lies before the range: in it, the deal is no new one.
        let repeated = !before.insert(key);
        if !(range.from..=range.to).contains(at) {
            continue;
        }
        let states = journal.deals.get(&key);
        advances.push(Advanced {
            at: *at,
            portal: subject.portal.to_string(),
            deal_id: advance.deal.to_string(),
            person: subject.who.person(),
            count: advance.period.count,
            hot_since: advance.period.since,
            amount: states.and_then(|states| state_at(states, *at)?.1?.amount),
            moved: states.and_then(|states| moved_after(states, rule, *at)),
            repeated,
        });
    }
    let of_deals = || advances.iter().filter(|advance| !advance.repeated);
    let mut ahead: Vec<Ms> = of_deals().filter_map(|advance| Some(advance.moved? - advance.at)).collect();
    ahead.sort_unstable();
    OfVariant {
        window: window_text(variant.window),
        window_ms: variant.window,
        threshold: variant.threshold,
        own: variant.own,
        deals: of_deals().count(),
        // Not `sum`: that of nothing is -0.
        worth: of_deals().filter_map(|advance| advance.amount).fold(0.0, |sum, amount| sum + amount),
        without_amount: of_deals().filter(|advance| advance.amount.is_none()).count(),
        moved: ahead.len(),
        ahead_ms: ahead.get(ahead.len().saturating_sub(1) / 2).copied(),
        repeated: advances.iter().filter(|advance| advance.repeated).count(),
        first: of_deals().map(|advance| advance.at).next(),
        last: of_deals().map(|advance| advance.at).next_back(),
        advances,
    }
}

/// What the numbers can't say by themselves.
fn notes(report: &Report, journal: &Journal, from_files: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let states: Vec<Ms> = journal.deals.values().flat_map(|states| states.keys().map(|(at, _)| *at)).collect();
    if report.history.clicks == 0 {
        notes.push("the history holds no clicks".to_owned());
    }
    if states.is_empty() {
        notes.push("the history holds no deals: no rule can advance any; give --deals FILE".to_owned());
    } else if from_files && states.iter().all(|at| *at == 0) {
        notes.push(
            "no line of the deals has a `ts`, so each deal stands where it is now from the beginning: deals that have left their stage are missing, and none is seen to move"
                .to_owned(),
        );
    }
    if report.history.unreadable > 0 {
        notes.push(format!("{} records could not be read and were left out; `clickline replay` says which", report.history.unreadable));
    }
    let reach = report.history.to.unwrap_or(0).saturating_sub(report.history.from.unwrap_or(0));
    let longest = report.rules.iter().flat_map(|rule| &rule.variants).map(|variant| variant.window_ms).max().unwrap_or(0);
    if report.history.clicks > 0 && reach < longest {
        let (hours, window) = (reach / crate::model::time::HOUR, window_text(longest));
        notes.push(format!(
            "the history is {hours} hours long, shorter than the window of {window}: counts in it are as if nothing had been clicked before"
        ));
    }
    if !states.is_empty() {
        for rule in report.rules.iter().filter(|rule| rule.deals_in_stage == 0) {
            let OfRule { rule, pipeline, from_stage, .. } = rule;
            notes.push(format!(
                "{rule}: no deal that it may advance ever stood in {from_stage} of {pipeline}; are these their internal ids?"
            ));
        }
    }
    notes
}
