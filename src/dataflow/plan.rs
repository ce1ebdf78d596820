//! What the dataflow is asked to compute: connections, rules, windows, lengths of time.
//!
//! A plan is fixed for a run. Every worker holds the same one.

use super::rows::{Measure, named};
use super::step::Map;
use crate::config::rules::{Counted, Mode, Rule};
use crate::model::time::{DAY, FORM_BEFORE, HOUR, Ms};
use crate::status::Board;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use ustr::{Ustr, ustr};

/// A workspace connected to a portal; every output is made once per connection of the click's workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// Where clicks and forms belong.
    pub workspace: Ustr,
    /// Where contacts and deals belong.
    pub portal: Ustr,
}

/// Which counts are kept and published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    /// Those that a rule names.
    #[default]
    Ruled,
    /// Every tag and link, in a window of 30 days.
    All,
}

/// A rule's place in the plan.
pub type RuleIx = u32;

/// A rule as the dataflow sees it.
#[derive(Clone, Debug)]
pub struct PlannedRule {
    /// The rule.
    pub rule: Rule,
    /// Hot periods that began at or before this tick's end do not count for it, unless it backfills: when it was
    /// added, 0 for a rule that was always there.
    pub added_at: Ms,
    /// From this tick's end on a rule that backfills acts on the periods from before it was added: when it was first told
    /// to, never before it was added.
    pub backfills_at: Ms,
}

/// What is counted on one tag or link.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    /// Window lengths, distinct; each with the rules that look at it.
    pub windows: Vec<(Ms, Vec<RuleIx>)>,
}

/// One workspace's part of the plan.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    /// Its connections.
    pub connections: Vec<Connection>,
    /// What is counted, by `t:tag` or `l:link`, for persons.
    pub by_person: HashMap<Ustr, Arc<Counter>>,
    /// The same for deals that links name.
    pub by_deal: HashMap<Ustr, Arc<Counter>>,
    /// What else is kept.
    pub counts: Counts,
}

/// Names of the three last-UTM properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UtmProperties {
    /// For source, campaign and medium, in this order.
    pub names: [String; 3],
}

impl Default for UtmProperties {
    fn default() -> Self {
        UtmProperties { names: ["elido_last_utm_source", "elido_last_utm_campaign", "elido_last_utm_medium"].map(str::to_owned) }
    }
}

/// Lengths of time that the contract names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The clock's step, ms.
    pub tick: Ms,
    /// An id seen again within this has no effect.
    pub dedupe_horizon: Ms,
    /// How far ahead of its log time a record's own time may lie.
    pub max_future: Ms,
    /// A click that arrives later than this after it happened finds no earlier form: forms are not kept for ever.
    pub max_lateness: Ms,
}

impl Times {
    /// The defaults with a tick of the caller's.
    pub fn with_tick(tick: Ms) -> Self {
        Times { tick, dedupe_horizon: 72 * HOUR, max_future: 5 * 60_000, max_lateness: 33 * DAY }
    }
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Lengths of time.
    pub times: Times,
    /// All rules that are not off.
    pub rules: Vec<PlannedRule>,
    /// Connections by workspace.
    pub workspaces: Map<Ustr, Arc<Workspace>>,
    /// Property names by connection; the default where absent.
    pub utm_properties: HashMap<Connection, UtmProperties>,
    /// Whether what outlives the log is written down for the next start; see [`super::carried`].
    pub carries: bool,
    /// Whether records that are no repeats are told as they are taken: for a command that explains.
    pub tells_taken: bool,
    /// Outputs of ticks that end before this are not said: an earlier run has written them.
    pub outputs_from: Ms,
    /// Since when counts are published at each person's own moment of the second; at its end before ([`super::publish`]).
    pub counts_since: Ms,
    /// Ticks that end before this only fill windows: last campaign values of then are carried, not computed. 0 where the
    /// log has its beginning.
    pub values_from: Ms,
    /// Where the dataflow writes down how it stands.
    pub board: Arc<Board>,
}

/// What tells a rule from all others and from its own former self: its workspace and its meaning.
pub fn rule_key(workspace: &str, meaning: &str) -> String {
    format!("{workspace}: {meaning}")
}

/// What is added to a rule's key for the time at which it was told to backfill.
const BACKFILLS: &str = ", backfills";

/// For how long before a restart last campaign values are computed again, ms: they are written down once a day.
const VALUES_BACK: Ms = 2 * DAY;

/// Different window lengths, at most.
const MOST_WINDOWS: usize = 255;

/// The window of counts that no rule asked for.
pub const DEFAULT_WINDOW: Ms = 30 * DAY;

/// The key of a tag.
pub fn tag_key(tag: &str) -> Ustr {
    named("t:", tag)
}

/// The key of a link.
pub fn link_key(link: &str) -> Ustr {
    named("l:", link)
}

/// A workspace as the configuration describes it.
#[derive(Clone, Debug, Default)]
pub struct WorkspaceSpec {
    /// The workspace.
    pub name: String,
    /// Portals it is connected to.
    pub portals: Vec<String>,
    /// Which counts are kept.
    pub counts: Counts,
}

/// A mistake that only shows when rules and times meet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(String);

impl Plan {
    /// Brings workspaces and rules together.
    ///
    /// `added_at` says since when a rule has been known, by workspace and [`Rule::meaning`]; rules it does not name
    /// have always been there.
    ///
    /// # Errors
    /// A tick that does not divide a window, or a rule for a workspace that does not exist.
    pub fn new(times: Times, specs: &[WorkspaceSpec], rules: &[Rule], added_at: impl Fn(&str, &Rule) -> Ms) -> Result<Self, PlanError> {
        if times.tick == 0
            || !1_000u64.is_multiple_of(times.tick) && !times.tick.is_multiple_of(1_000)
            || !60_000u64.is_multiple_of(times.tick)
        {
            return Err(PlanError(format!("a tick of {} ms; it must divide a minute, and a second or be whole seconds", times.tick)));
        }
        let mut planned = Vec::new();
        let mut workspaces = Map::default();
        for spec in specs {
            let name = ustr(&spec.name);
            let mut portals: Vec<&String> = spec.portals.iter().collect();
            portals.sort();
            portals.dedup();
            let mut workspace = Workspace {
                connections: portals.into_iter().map(|portal| Connection { workspace: name, portal: ustr(portal) }).collect(),
                counts: spec.counts,
                ..Workspace::default()
            };
            let mut counters: [HashMap<Ustr, Counter>; 2] = Default::default();
            for rule in rules {
                if rule.mode == Mode::Off || rule.workspace.as_ref().is_some_and(|of| *of != spec.name) {
                    continue;
                }
                let ix = RuleIx::try_from(planned.len()).map_err(|_| PlanError("too many rules".to_owned()))?;
                let key = match &rule.counted {
                    Counted::Tag(tag) => tag_key(tag),
                    Counted::Link(link) => link_key(link),
                };
                let of = &mut counters[usize::from(!rule.guard.require_associated_contact)];
                let windows = &mut of.entry(key).or_default().windows;
                match windows.iter_mut().find(|(length, _)| *length == rule.window) {
                    Some((_, rules)) => rules.push(ix),
                    None => windows.push((rule.window, vec![ix])),
                }
                let added_at = added_at(&spec.name, rule);
                planned.push(PlannedRule {
                    added_at,
                    backfills_at: added_at,
                    rule: Rule { workspace: Some(spec.name.clone()), ..rule.clone() },
                });
            }
            let shared = |counters: HashMap<Ustr, Counter>| counters.into_iter().map(|(key, counter)| (key, Arc::new(counter))).collect();
            let [by_person, by_deal] = counters;
            workspace.by_person = shared(by_person);
            workspace.by_deal = shared(by_deal);
            workspaces.insert(name, Arc::new(workspace));
        }
        for rule in rules {
            if let Some(of) = &rule.workspace
                && !specs.iter().any(|spec| spec.name == *of)
            {
                return Err(PlanError(format!("rule {} names the workspace `{of}`, which does not exist", rule.name)));
            }
        }
        let board = Arc::new(Board::for_rules(planned.len()));
        let plan = Plan {
            times,
            rules: planned,
            workspaces,
            utm_properties: HashMap::new(),
            carries: false,
            tells_taken: false,
            outputs_from: 0,
            counts_since: 0,
            values_from: 0,
            board,
        };
        // A window's place is a byte wherever it is noted.
        let sets = plan.window_sets();
        if sets.len() > MOST_WINDOWS || sets.iter().any(|set| set.len() > MOST_WINDOWS) {
            let problem = format!("more than {MOST_WINDOWS} different lengths of contact_window; let some rules share one");
            return Err(PlanError(problem));
        }
        Ok(plan)
    }

    /// The longest window that is counted, ms.
    pub fn longest_window(&self) -> Ms {
        self.rules.iter().map(|rule| rule.rule.window).max().unwrap_or(0).max(DEFAULT_WINDOW)
    }

    /// Window lengths that are counted, those of all keys with the same longest one together.
    pub fn window_sets(&self) -> Vec<Vec<Ms>> {
        let mut sets: BTreeMap<Ms, BTreeSet<Ms>> = BTreeMap::new();
        for workspace in self.workspaces.values() {
            let ruled = workspace.by_person.values().chain(workspace.by_deal.values());
            let lengths = ruled.map(|counter| counter.windows.iter().map(|(window, _)| *window).collect::<Vec<_>>());
            let default = (workspace.counts == Counts::All).then(|| vec![DEFAULT_WINDOW]);
            for lengths in lengths.chain(default) {
                if let Some(longest) = lengths.iter().max() {
                    sets.entry(*longest).or_default().extend(lengths);
                }
            }
        }
        sets.into_values().map(|set| set.into_iter().collect()).collect()
    }

    /// How far before its frontier a restart must read clicks again, ms: those in the longest window, and the ids that
    /// tell their repeats.
    pub fn clicks_back(&self) -> Ms {
        self.longest_window() + self.times.dedupe_horizon + self.times.max_future
    }

    /// How far before its frontier a restart must read forms again, ms: those that the clicks in the longest window have
    /// taken, with the ids that tell their repeats, and those that late clicks of the days since [`Plan::values_from`]
    /// have taken.
    pub fn forms_back(&self) -> Ms {
        let of_windows = self.longest_window() + self.times.dedupe_horizon;
        let of_values = self.times.max_lateness + VALUES_BACK;
        of_windows.max(of_values) + FORM_BEFORE + self.times.max_future
    }

    /// How far before the frontier of an earlier run clicks and forms must be there again for what it had counted, ms. Rules that were not known
    /// before count nothing yet: a window of theirs may begin where the topic does. Asked when [`Plan::date_rules`] has been.
    pub fn counted_back(&self, frontier: Ms) -> (Ms, Ms) {
        let known = self.rules.iter().filter(|rule| rule.added_at < frontier).map(|rule| rule.rule.window);
        let published = self.workspaces.values().any(|workspace| workspace.counts == Counts::All).then_some(DEFAULT_WINDOW);
        let clicks = known.chain(published).max().unwrap_or(0) + self.times.dedupe_horizon + self.times.max_future;
        (clicks, clicks + FORM_BEFORE)
    }

    /// Says of each rule since when it has been known and told to backfill, from what an earlier run has written down and
    /// the frontier it had reached; returns what this one is to write down. Without an earlier run all have always been there.
    ///
    /// A rule that was taken away is forgotten: added again it is a new one.
    pub fn date_rules(&mut self, before: Option<(&BTreeMap<String, Ms>, Ms)>) -> BTreeMap<String, Ms> {
        let mut dates = BTreeMap::new();
        let date = |key: &str| before.map_or(0, |(dates, frontier)| dates.get(key).copied().unwrap_or(frontier));
        for planned in &mut self.rules {
            let key = rule_key(planned.rule.workspace.as_deref().unwrap_or_default(), &planned.rule.meaning());
            planned.added_at = date(&key);
            planned.backfills_at = planned.added_at;
            if planned.rule.backfill {
                let backfills = format!("{key}{BACKFILLS}");
                planned.backfills_at = date(&backfills);
                dates.insert(backfills, planned.backfills_at);
            }
            dates.insert(key, planned.added_at);
        }
        dates
    }

    /// Takes up what was carried over to a restart at `resume`: last campaign values are computed again for the last two
    /// days only. What is older has been written down, which happens within one.
    pub fn resumes_at(&mut self, resume: Ms) {
        self.values_from = resume.saturating_sub(VALUES_BACK);
    }

    /// What a rule counts; `None` for one that the plan does not have.
    pub fn measure(&self, rule: RuleIx) -> Option<Measure> {
        let rule = &self.rules.get(rule as usize)?.rule;
        let key = match &rule.counted {
            Counted::Tag(tag) => tag_key(tag),
            Counted::Link(link) => link_key(link),
        };
        Some(Measure { key, window: rule.window })
    }

    /// The connections of a workspace; none for one that is not connected.
    pub fn connections(&self, workspace: Ustr) -> &[Connection] {
        self.workspaces.get(&workspace).map_or(&[], |workspace| &workspace.connections)
    }

    /// All connections to a portal.
    pub fn connected_to(&self, portal: Ustr) -> impl Iterator<Item = Connection> {
        self.workspaces.values().flat_map(|workspace| workspace.connections.iter().copied()).filter(move |c| c.portal == portal)
    }

    /// What is counted on `key` for a person, or for a deal.
    pub fn counter(&self, workspace: Ustr, key: Ustr, for_deal: bool) -> Option<Arc<Counter>> {
        let workspace = self.workspaces.get(&workspace)?;
        let ruled = if for_deal { &workspace.by_deal } else { &workspace.by_person };
        match (ruled.get(&key), workspace.counts) {
            (Some(counter), _) => Some(Arc::clone(counter)),
            (None, Counts::All) if !for_deal => Some(Arc::new(Counter { windows: vec![(DEFAULT_WINDOW, Vec::new())] })),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules;

    fn rule(tag: &str, window: &str) -> String {
        format!(
            "- trigger: {{link_tag: {tag}, contact_window: {window}, click_threshold: 2}}\n  action: {{type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}}\n"
        )
    }

    #[test]
    fn rules_on_one_tag_share_a_counter() {
        let rules = rules::read(&(rule("x", "30d") + &rule("x", "7d") + &rule("y", "30d"))).expect("rules");
        let spec = WorkspaceSpec { name: "w".into(), portals: vec!["1".into(), "2".into(), "1".into()], counts: Counts::Ruled };
        let plan = Plan::new(Times::with_tick(100), &[spec], &rules, |_, _| 0).expect("a plan");
        assert_eq!(plan.connections(ustr("w")).len(), 2);
        assert_eq!(plan.counter(ustr("w"), tag_key("x"), false).expect("counted").windows.len(), 2);
        assert!(plan.counter(ustr("w"), tag_key("x"), true).is_none());
        assert!(plan.counter(ustr("w"), tag_key("z"), false).is_none());
        assert!(plan.connections(ustr("other")).is_empty());
    }

    #[test]
    fn a_rule_is_as_old_as_the_frontier_at_which_it_was_first_seen() {
        let spec = WorkspaceSpec { name: "w".into(), portals: vec![], counts: Counts::Ruled };
        let plan = |text: &str| {
            let rules = rules::read(text).expect("rules");
            Plan::new(Times::with_tick(100), std::slice::from_ref(&spec), &rules, |_, _| 0).expect("a plan")
        };
        let dates = |plan: &Plan| plan.rules.iter().map(|rule| (rule.added_at, rule.backfills_at)).collect::<Vec<_>>();
        let mut first = plan(&rule("x", "30d"));
        let known = first.date_rules(None);
        assert_eq!(dates(&first), [(0, 0)]);
        let mut second = plan(&(rule("x", "30d") + "  backfill: true\n" + &rule("y", "30d") + "  backfill: true\n"));
        let known = second.date_rules(Some((&known, 500)));
        assert_eq!(dates(&second), [(0, 500), (500, 500)], "told to backfill later than added");
        let mut third = plan(&(rule("x", "7d") + &rule("y", "30d") + "  backfill: true\n"));
        let known = third.date_rules(Some((&known, 700)));
        assert_eq!(dates(&third), [(700, 700), (500, 500)], "another window is another rule");
        let mut fourth = plan(&rule("x", "30d"));
        fourth.date_rules(Some((&known, 900)));
        assert_eq!(dates(&fourth), [(900, 900)], "taken away and added again");
    }

    #[test]
    fn a_tick_must_divide_a_minute() {
        for tick in [0, 7, 1_500, 7_000, 70_000] {
            assert!(Plan::new(Times::with_tick(tick), &[], &[], |_, _| 0).is_err(), "{tick}");
        }
        for tick in [1, 100, 250, 1_000, 5_000, 60_000] {
            assert!(Plan::new(Times::with_tick(tick), &[], &[], |_, _| 0).is_ok(), "{tick}");
        }
    }
}
