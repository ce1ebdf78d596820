//! What outlives the log: written down for the next start, and read back by it.
//!
//! # Meaning
//! A restart computes everything again from the log that is kept, which reaches back a little further than the longest
//! window. Three things may be older than that: since when a rule has been hot for a person, which deals have advanced in
//! that period, and a person's last campaign values. They are written to a compacted topic of the job's own, in the same
//! transaction as the outputs, and come back as [`Carried`] rows in the tick in which the restart resumes. There they
//! are taken before anything else: they say how things stood at the end of the tick before.
//!
//! Hot periods and advances are written when they change. Campaign values change with every click, so they are written
//! once a day; the log that is kept says the rest. What is written of a rule that the plan does not have any more is taken
//! back in the first tick of the restart: added again it is a new rule.
//!
//! # Not guaranteed
//! Whether a rule is hot is not carried: the counts say so, exactly. A restart that finds no such topic takes a period
//! to have begun where the kept log first shows it.

use super::plan::{Connection, Plan, RuleIx, rule_key};
use super::rows::{Candidate, Carried, ClickId, ClickRef, Subject, UtmField, UtmValues, Who};
use crate::model::outputs::{Output, State, StateOf, StateValue, Topic};
use crate::model::time::Ms;
use std::collections::{BTreeMap, BTreeSet};
use ustr::ustr;

/// A carried row as the record of its topic; a tombstone (no value) when there is nothing left to carry. `None` for a
/// rule that the plan does not have.
pub fn output(carried: &Carried, plan: &Plan, at: Ms) -> Option<Output> {
    let rule = |candidate: &Candidate| {
        let rule = &plan.rules.get(candidate.rule as usize)?.rule;
        Some(rule_key(rule.workspace.as_deref().unwrap_or_default(), &rule.meaning()))
    };
    let (kind, rule, of) = match carried {
        Carried::Period { candidate, since } => {
            let rule = rule(candidate)?;
            ("period", rule.clone(), since.map(|since| StateOf::Period { rule, since }))
        }
        Carried::Advanced { candidate, deals } => {
            let rule = rule(candidate)?;
            let of = StateOf::Advanced { rule: rule.clone(), deals: deals.iter().map(ToString::to_string).collect() };
            ("advanced", rule, (!deals.is_empty()).then_some(of))
        }
        Carried::Utm { values, .. } => ("values", String::new(), Some(StateOf::Values { values: texts(values) })),
        Carried::Gone { key, .. } => return Some(Output { topic: Topic::State, key: key.clone(), value: Vec::new() }),
    };
    let Subject { workspace, portal, who } = carried.subject();
    let key = key(kind, carried.subject(), &rule);
    let value = of.map(|of| {
        let state = State { v: 1, workspace: workspace.to_string(), portal: portal.to_string(), who: who.to_string(), of, at };
        serde_json::to_vec(&state).expect("our own records are JSON")
    });
    Some(Output { topic: Topic::State, key, value: value.unwrap_or_default() })
}

fn key(kind: &str, Subject { workspace, portal, who }: Subject, rule: &str) -> String {
    format!("{kind}/{portal}/{who}/{workspace}/{rule}")
}

fn texts(values: &UtmValues) -> BTreeMap<UtmField, StateValue> {
    let value = |(field, value): (UtmField, &Option<(ClickRef, std::sync::Arc<str>)>)| {
        let (click, text) = value.as_ref()?;
        Some((field, StateValue { text: text.to_string(), click_id: click.id.to_string(), ts: click.ts }))
    };
    UtmField::ALL.into_iter().zip(values).filter_map(value).collect()
}

/// Reads records back.
pub struct Reader {
    connections: BTreeSet<Connection>,
    rules: BTreeMap<String, Vec<RuleIx>>,
}

impl Reader {
    /// For a plan.
    pub fn new(plan: &Plan) -> Self {
        let mut rules: BTreeMap<String, Vec<RuleIx>> = BTreeMap::new();
        for (ix, planned) in (0..).zip(&plan.rules) {
            let key = rule_key(planned.rule.workspace.as_deref().unwrap_or_default(), &planned.rule.meaning());
            rules.entry(key).or_default().push(ix);
        }
        let connections = plan.workspaces.values().flat_map(|workspace| workspace.connections.iter().copied()).collect();
        Reader { connections, rules }
    }

    /// The rows that a record stands for; none for values of a workspace that is not connected to the portal now.
    pub fn rows(&self, state: &State) -> Vec<Carried> {
        let subject = Subject { workspace: ustr(&state.workspace), portal: ustr(&state.portal), who: Who::read(&state.who) };
        let candidates = |rule: &str| {
            let rules = self.rules.get(rule).map_or(&[][..], Vec::as_slice);
            rules.iter().map(|rule| Candidate { rule: *rule, subject }).collect::<Vec<_>>()
        };
        match &state.of {
            StateOf::Period { rule, .. } if !self.rules.contains_key(rule) => {
                vec![Carried::Gone { subject, key: key("period", subject, rule) }]
            }
            StateOf::Advanced { rule, .. } if !self.rules.contains_key(rule) => {
                vec![Carried::Gone { subject, key: key("advanced", subject, rule) }]
            }
            StateOf::Values { .. } if !self.connections.contains(&Connection { workspace: subject.workspace, portal: subject.portal }) => {
                Vec::new()
            }
            StateOf::Period { rule, since } => {
                candidates(rule).into_iter().map(|candidate| Carried::Period { candidate, since: Some(*since) }).collect()
            }
            StateOf::Advanced { rule, deals } => {
                let deals: Vec<_> = deals.iter().map(|deal| ustr(deal)).collect();
                candidates(rule).into_iter().map(|candidate| Carried::Advanced { candidate, deals: deals.clone() }).collect()
            }
            StateOf::Values { values } => {
                let value = |field| {
                    let StateValue { text, click_id, ts } = values.get(&field)?;
                    Some((ClickRef { ts: *ts, id: ClickId::of(click_id) }, text.as_str().into()))
                };
                vec![Carried::Utm { subject, values: Box::new(UtmField::ALL.map(value)) }]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Counts, Times, WorkspaceSpec};
    use super::*;
    use crate::config::rules;

    #[test]
    fn what_is_written_is_read_back() {
        let text = "trigger: {link_tag: x, contact_window: 30d, click_threshold: 3}\naction: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}";
        let spec = WorkspaceSpec { name: "w".into(), portals: vec!["1".into()], counts: Counts::Ruled };
        let plan = Plan::new(Times::with_tick(1_000), &[spec], &rules::read(text).expect("a rule"), |_, _| 0).expect("a plan");
        let subject = Subject { workspace: ustr("w"), portal: ustr("1"), who: Who::email("a@b") };
        let candidate = Candidate { rule: 0, subject };
        let click = ClickRef { ts: 7, id: ClickId::of("0199f3c2-7c1e-7d2a-b0a1-2f6f3c9d1e10") };
        let kept = [
            Carried::Period { candidate, since: Some(5) },
            Carried::Advanced { candidate, deals: vec![ustr("9001"), ustr("9002")] },
            Carried::Utm { subject, values: Box::new([Some((click, "webinar".into())), None, None]) },
        ];
        let reader = Reader::new(&plan);
        for carried in &kept {
            let output = output(carried, &plan, 10).expect("a record");
            let state: State = serde_json::from_slice(&output.value).expect("JSON");
            assert_eq!(reader.rows(&state), std::slice::from_ref(carried));
        }
        let ended = [Carried::Period { candidate, since: None }, Carried::Advanced { candidate, deals: vec![] }];
        for (ended, kept) in ended.iter().zip(&kept) {
            let (ended, kept) = (output(ended, &plan, 10).expect("a record"), output(kept, &plan, 10).expect("a record"));
            assert_eq!((ended.key, ended.value.len()), (kept.key, 0), "a tombstone takes its place");
        }
        // Without the rule, and without the connection.
        let bare = Reader::new(&Plan::new(Times::with_tick(1_000), &[], &[], |_, _| 0).expect("a plan"));
        let rows = |kept: &Carried| {
            let output = output(kept, &plan, 10).expect("a record");
            (output.key, bare.rows(&serde_json::from_slice(&output.value).expect("JSON")))
        };
        for kept in &kept[..2] {
            let (of, gone) = rows(kept);
            assert_eq!(gone, [Carried::Gone { subject, key: of.clone() }]);
            let taken_back = output(&gone[0], &plan, 10).expect("a record");
            assert_eq!((taken_back.key, taken_back.value.len()), (of, 0));
        }
        assert_eq!(rows(&kept[2]).1, []);
        let other = Carried::Period { candidate: Candidate { rule: 7, subject }, since: Some(1) };
        assert_eq!(output(&other, &plan, 10), None);
    }
}
