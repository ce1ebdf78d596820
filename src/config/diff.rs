//! What is different between two configurations, for whoever reloads one.
//!
//! # Meaning
//! A running process takes up all but what makes it another job: brokers, client options and topics, where its state lies, the processes
//! it consists of. A change of one of these refuses the whole new configuration.

use super::Config;
use super::rules::{Mode, Rule};
use crate::dataflow::plan::{Counts, UtmProperties, WorkspaceSpec};
use crate::model::time::Ms;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// What is different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// One line for each change that a running process takes up.
    pub changes: Vec<String>,
    /// Fields that only a new process takes up.
    pub refused: Vec<&'static str>,
}

impl Difference {
    /// From one configuration to another.
    pub fn between(old: &Config, new: &Config) -> Self {
        // Without `..`: a new field must say which of the two it is.
        let Config {
            kafka,
            times,
            limits,
            workers,
            hosts,
            hubspot,
            clickhouse,
            http,
            crm,
            forms,
            state,
            snapshots,
            workspaces,
            rules,
            mappings,
        } = new;
        let mut found = Difference::default();
        let mut fixed = |field: &'static str, same: bool| {
            if !same {
                found.refused.push(field);
            }
        };
        fixed("kafka", same(&old.kafka, kafka));
        fixed("cluster.hosts", old.hosts == *hosts);
        fixed("state", old.state == *state);
        fixed("snapshots", old.snapshots == *snapshots);
        let lines = &mut found.changes;
        of_times(&old.times, times, lines);
        let mut value = |field: &str, before: &dyn Debug, now: &dyn Debug| {
            let (before, now) = (format!("{before:?}"), format!("{now:?}"));
            if before != now {
                lines.push(format!("{field}: {before} -> {now}"));
            }
        };
        value("times.idle_slack", &old.limits.idle_slack, &limits.idle_slack);
        value("in_flight", &old.limits.in_flight_bytes, &limits.in_flight_bytes);
        value("workers", &old.workers, workers);
        if let (Some(before), Some(now)) = (&old.hubspot, hubspot) {
            value("hubspot.budget", &before.budget, &now.budget);
        }
        let mut block = |name: &str, before: Option<String>, now: Option<String>| match (before, now) {
            (None, Some(_)) => lines.push(format!("{name}: added")),
            (Some(_), None) => lines.push(format!("{name}: removed")),
            // Not what stands in it: names of variables and addresses are nobody's business.
            (Some(before), Some(now)) if before != now => lines.push(format!("{name}: changed")),
            _ => {}
        };
        // The budget has a line of its own, and properties that are provided follow from the mappings.
        let of_hubspot = |config: &Config| {
            let mut settings = config.hubspot.clone()?;
            settings.budget = hubspot.as_ref().map_or(settings.budget, |new| new.budget);
            settings.provision.clear();
            Some(format!("{settings:?}"))
        };
        block("hubspot", of_hubspot(old), of_hubspot(new));
        block("clickhouse", old.clickhouse.as_ref().map(text), clickhouse.as_ref().map(text));
        block("http", old.http.as_ref().map(text), http.as_ref().map(text));
        block("crm", old.crm.as_ref().map(text), crm.as_ref().map(text));
        block("forms", old.forms.as_ref().map(text), forms.as_ref().map(text));
        of_workspaces(&old.workspaces, workspaces, lines);
        of_mappings(&old.mappings, mappings, lines);
        of_rules(&old.rules, rules, lines);
        found
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refused.is_empty()
    }
}

fn text(of: &impl Debug) -> String {
    format!("{of:?}")
}

fn same(one: &impl Debug, other: &impl Debug) -> bool {
    text(one) == text(other)
}

fn of_times(old: &crate::dataflow::plan::Times, new: &crate::dataflow::plan::Times, lines: &mut Vec<String>) {
    let crate::dataflow::plan::Times { tick, dedupe_horizon, max_future, max_lateness } = *new;
    let all: [(&str, Ms, Ms); 4] = [
        ("tick", old.tick, tick),
        ("times.dedupe_horizon", old.dedupe_horizon, dedupe_horizon),
        ("times.max_future", old.max_future, max_future),
        ("times.max_lateness", old.max_lateness, max_lateness),
    ];
    lines.extend(all.into_iter().filter(|(_, old, new)| old != new).map(|(field, old, new)| format!("{field}: {old} ms -> {new} ms")));
}

fn of_workspaces(old: &[WorkspaceSpec], new: &[WorkspaceSpec], lines: &mut Vec<String>) {
    let named = |list: &[WorkspaceSpec]| -> BTreeMap<String, (Vec<String>, Counts)> {
        list.iter().map(|of| (of.name.clone(), (of.portals.clone(), of.counts))).collect()
    };
    let (old, new) = (named(old), named(new));
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        match (old.get(name), new.get(name)) {
            (None, _) => lines.push(format!("workspace {name}: added")),
            (_, None) => lines.push(format!("workspace {name}: removed")),
            (Some((before, counted)), Some((now, counts))) => {
                if before != now {
                    lines.push(format!("workspace {name}: portals {} -> {}", before.join(", "), now.join(", ")));
                }
                if counted != counts {
                    lines.push(format!("workspace {name}: counts {counted:?} -> {counts:?}"));
                }
            }
        }
    }
}

fn of_mappings(old: &BTreeMap<String, UtmProperties>, new: &BTreeMap<String, UtmProperties>, lines: &mut Vec<String>) {
    for (name, now) in new {
        let Some(before) = old.get(name).filter(|before| *before != now) else { continue };
        lines.push(format!("workspace {name}: last UTM {} -> {}", before.names.join(", "), now.names.join(", ")));
    }
}

fn of_rules(old: &[Rule], new: &[Rule], lines: &mut Vec<String>) {
    type Named<'a> = BTreeMap<(&'a str, &'a str), &'a Rule>;
    fn named(rules: &[Rule]) -> Named<'_> {
        rules.iter().map(|rule| ((rule.workspace.as_deref().unwrap_or_default(), rule.name.as_str()), rule)).collect()
    }
    let (old, new) = (named(old), named(new));
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let (workspace, name) = key;
        let place = format!("workspace {workspace}: rule {name}");
        match (old.get(key), new.get(key)) {
            (None, Some(rule)) => lines.push(format!("{place}: added, {}", rule.meaning())),
            (Some(rule), None) => lines.push(format!("{place}: removed, {}", rule.meaning())),
            (Some(before), Some(now)) => {
                let (was, is) = (before.meaning(), now.meaning());
                if was != is {
                    lines.push(format!("{place}: is a new rule from now on, {was} -> {is}"));
                }
                if before.mode != now.mode {
                    lines.push(format!("{place}: {} -> {}", mode(before.mode), mode(now.mode)));
                }
                if before.backfill != now.backfill {
                    lines.push(format!("{place}: backfill {} -> {}", before.backfill, now.backfill));
                }
            }
            (None, None) => {}
        }
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Live => "live",
        Mode::Shadow => "shadow",
        Mode::Off => "off",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const OLD: &str = "kafka: {brokers: 'b:1'}
workspaces:
  acme:
    portals: ['1']
    rules:
      - name: kept
        trigger: {link_tag: x, contact_window: 30d, click_threshold: 5}
        action: {type: advance_deal_stage, pipeline: p, from_stage: a, to_stage: b}
hubspot: {client_id: c, portals: {'1': {event_template_id: '1'}}}
";

    fn between(new: &str) -> Difference {
        let read = |text: &str| Config::read(text, Path::new("")).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
        Difference::between(&read(OLD), &read(new))
    }

    #[test]
    fn each_change_has_its_line() {
        assert!(between(OLD).is_empty());
        for (from, to, line) in [
            ("click_threshold: 5", "click_threshold: 6", "workspace acme: rule kept: is a new rule from now on"),
            ("name: kept", "name: other", "workspace acme: rule kept: removed"),
            ("name: kept", "name: other", "workspace acme: rule other: added"),
            ("name: kept", "name: kept\n        mode: shadow", "workspace acme: rule kept: live -> shadow"),
            ("name: kept", "name: kept\n        backfill: true", "workspace acme: rule kept: backfill false -> true"),
            ("client_id: c,", "client_id: d,", "hubspot: changed"),
            ("client_id: c,", "client_id: c, budget: {requests: 90},", "hubspot.budget: "),
            ("portals: ['1']", "portals: ['1']\n    counts: all", "workspace acme: counts Ruled -> All"),
            ("portals: ['1']", "portals: ['1']\n    field_mapping: {utm_source: s}", "workspace acme: last UTM "),
            ("hubspot:", "  beta: {}\nhubspot:", "workspace beta: added"),
            ("kafka:", "tick: 200ms\nkafka:", "tick: 100 ms -> 200 ms"),
            ("kafka:", "workers: 2\nkafka:", "workers: 1 -> 2"),
            ("kafka:", "http: {}\nkafka:", "http: added"),
        ] {
            let found = between(&OLD.replacen(from, to, 1));
            assert_eq!(found.changes.iter().filter(|change| change.starts_with(line)).count(), 1, "{to}: {found:?}");
            assert!(found.refused.is_empty() && found.changes.len() <= 2, "{to}: {found:?}");
        }
    }

    #[test]
    fn what_makes_it_another_job_is_refused_by_name() {
        for (from, to, field) in [
            ("'b:1'", "'b:2'", "kafka"),
            ("'b:1'", "'b:1', topics: {clicks: other}", "kafka"),
            ("kafka:", "state: other.sqlite\nkafka:", "state"),
            ("kafka:", "snapshots: none\nkafka:", "snapshots"),
            ("kafka:", "cluster: {hosts: ['a:1', 'b:1']}\nkafka:", "cluster.hosts"),
        ] {
            assert_eq!(between(&OLD.replacen(from, to, 1)).refused, [field], "{to}");
        }
    }
}
