//! The oracle: random logs, and what the contract says they mean.
//!
//! [`log`] makes logs, [`expect`] reads them as the contract words it, [`feed`] runs the dataflow over them.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod expect;
pub mod feed;
pub mod log;

use clickline::config::rules::{self, Rule};
use clickline::dataflow::plan::{Connection, Counts, Plan, Times, UtmProperties, WorkspaceSpec};
use clickline::model::outputs::{Output, Topic};
use clickline::model::time::{DAY, Ms};
use std::collections::BTreeMap;
use ustr::ustr;

pub use log::{Log, Record};

pub const TICK: Ms = 500;

pub const RULES: &str = r"
- name: tag two in 30 days
  workspace: one
  trigger: {link_tag: x, contact_window: 30d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b, guard: {deal_amount_min: 100}}
- name: link twice a day
  trigger: {link: d/1, contact_window: 1d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: b, to_stage: c}
- name: shadow, three in two hours
  workspace: two
  mode: shadow
  trigger: {link_tag: y, contact_window: 2h, click_threshold: 3}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: c}
- name: the deal's own links
  trigger: {link_tag: x, contact_window: 1d, click_threshold: 2}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: c, guard: {require_associated_contact: false}}
- name: one is enough
  trigger: {link_tag: y, contact_window: 30d, click_threshold: 1}
  action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: c}
";

/// Workspace, portal, and who is hot (`c:`, `e:` or `d:`).
pub type Subject = (String, String, String);

/// Since which tick's end each subject is hot.
pub type Hot = BTreeMap<Subject, Ms>;

/// A rule for as long as it stands in the configuration: what it is from which frontier on. All versions mean the same; name,
/// mode and backfill may differ.
#[derive(Clone, Debug)]
pub struct Term {
    pub versions: Vec<(Ms, Rule)>,
    /// The frontier at which it was taken away.
    pub until: Ms,
    /// For a rule that was added: the hot periods that the log which was kept then shows, before its first tick.
    pub shown: Hot,
}

impl Term {
    pub fn always(rule: Rule) -> Self {
        Term { versions: vec![(0, rule)], until: Ms::MAX, shown: Hot::new() }
    }

    pub fn from(&self) -> Ms {
        self.versions.first().map_or(0, |(from, _)| *from)
    }

    pub fn rule_at(&self, t: Ms) -> Option<&Rule> {
        self.versions.iter().rev().find(|(from, _)| *from <= t && t < self.until).map(|(_, rule)| rule)
    }

    /// Whether a period that began at `since` is the rule's own at `t`.
    pub fn acts(&self, since: Ms, t: Ms) -> bool {
        // The versions up to this one that backfill without a break: since the first of them.
        let versions = self.versions.iter().rev().skip_while(|(from, _)| *from > t);
        let told = versions.take_while(|(_, rule)| rule.backfill).map(|(from, _)| *from).last();
        self.from() == 0 || since > self.from() || told.is_some_and(|told| t >= told)
    }
}

/// Workspaces, portals and rules of a log: `one` → 1, `two` → 1 and 2, `three` → none.
pub struct World {
    pub terms: Vec<Term>,
    pub portals: BTreeMap<&'static str, Vec<&'static str>>,
    /// Since when counts are published at their persons' moments; at the second's end before.
    pub counts_since: Ms,
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}

impl World {
    /// With [`RULES`], always.
    pub fn new() -> Self {
        World::with(rules::read(RULES).expect("rules").into_iter().map(Term::always).collect())
    }

    pub fn with(terms: Vec<Term>) -> Self {
        World { terms, portals: [("one", vec!["1"]), ("two", vec!["1", "2"]), ("three", vec![])].into(), counts_since: 0 }
    }

    /// The rules that are there from the beginning.
    pub fn rules(&self) -> Vec<Rule> {
        self.terms.iter().filter_map(|term| term.rule_at(0).cloned()).collect()
    }

    /// Workspace `two` has a property of its own for the medium, also where it shares a portal.
    pub fn property(workspace: &str, field: &str) -> String {
        if (workspace, field) == ("two", "medium") { "our_medium".to_owned() } else { format!("elido_last_utm_{field}") }
    }

    pub fn plan(&self, times: Times, rules: &[Rule]) -> Plan {
        let specs: Vec<WorkspaceSpec> = self
            .portals
            .iter()
            .map(|(name, portals)| WorkspaceSpec {
                name: (*name).to_owned(),
                portals: portals.iter().map(|portal| (*portal).to_owned()).collect(),
                counts: if *name == "one" { Counts::All } else { Counts::Ruled },
            })
            .collect();
        let mut plan = Plan::new(times, &specs, rules, |_, _| 0).expect("a plan");
        let names = UtmProperties { names: ["source", "campaign", "medium"].map(|field| World::property("two", field)) };
        for portal in &self.portals["two"] {
            plan.utm_properties.insert(Connection { workspace: ustr("two"), portal: ustr(portal) }, names.clone());
        }
        plan
    }

    /// The lengths of time of most tests: the logs hold clicks later than forms are kept for by default, and the contract
    /// knows no such limit.
    pub fn times() -> Times {
        Times { max_lateness: 400 * DAY, ..Times::with_tick(TICK) }
    }
}

/// An output as one line: tick, topic, key and the whole record.
pub fn line(at: Ms, output: &Output) -> String {
    let record: serde_json::Value = serde_json::from_slice(&output.value).expect("JSON");
    assert_eq!(record["at"], at, "the record names its tick");
    line_of(output.topic, &output.key, &record)
}

/// The same for a record that should be there.
pub fn line_of(topic: Topic, key: &str, record: &serde_json::Value) -> String {
    format!("{} {} {key} {record}", record["at"], topic.default_name())
}

/// Compares sorted lines; what is missing and what is too much, or which deltas share an id: HubSpot's side knows a delta by its id alone.
pub fn differences(expected: &[String], said: &[String]) -> Option<String> {
    let mut ids = BTreeMap::new();
    // An event's id is its click's, and a click that comes again after the dedupe horizon is another one.
    for line in said {
        let [_, topic, _, record] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { continue };
        if ["hubspot.contact-properties", "hubspot.deal-stages"].contains(&topic) {
            let record: serde_json::Value = serde_json::from_str(record).expect("JSON");
            // A rule that is taken away, put back and told to backfill says once more what it said of a hot period.
            let about = ["portal", "workspace", "rule", "deal_id", "hot_since"].map(|field| record[field].to_string());
            let again = topic == "hubspot.deal-stages";
            if let Some((other, of)) = ids.insert((topic, record["id"].to_string()), (line, about.clone()))
                && !(again && of == about)
            {
                return Some(format!("two deltas with one id:\n{other}\n{line}"));
            }
        }
    }
    if expected == said {
        return None;
    }
    let missing: Vec<_> = expected.iter().filter(|line| said.binary_search(line).is_err()).collect();
    let surplus: Vec<_> = said.iter().filter(|line| expected.binary_search(line).is_err()).collect();
    Some(format!("missing {missing:#?}\nsurplus {surplus:#?}\n{} lines for {}", said.len(), expected.len()))
}
