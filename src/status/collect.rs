//! Gathers the status from where the parts have written down how they stand.

use super::{
    Board, ClickHouse, ClickHouseTrouble, Connection, DeadLetterCounts, Frontier, HubSpot, Kept, Outbox, Partition, Rule, Said, Sinks,
    Status,
};
use crate::config::rules::Mode;
use crate::dataflow::plan::Plan;
use crate::job::Look;
use crate::kafka::Kafka;
use crate::metrics::Metrics;
use crate::model::time::Ms;
use crate::oauth::{self, Condition, Connections};
use crate::sinks::clickhouse::Stats;
use crate::sources::Kind;
use crate::sources::kafka::Clock;
use crate::stop::Stop;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

/// Whom to ask.
#[derive(Clone)]
pub struct Collect {
    /// The dataflow and the outbox.
    pub board: Arc<Board>,
    /// The job.
    pub look: Look,
    /// Who is asked to stop.
    pub stop: Stop,
    /// Name, workspace and mode of each rule of the plan, in its order.
    pub rules: Vec<(String, String, &'static str)>,
    /// Names of the input topics.
    pub kafka: Kafka,
    /// Connections, where there are any.
    pub connections: Option<Arc<Connections>>,
    /// Workspaces, with their portals.
    pub workspaces: Vec<(String, Vec<String>)>,
    /// Whether this process has a HubSpot sink.
    pub sink: bool,
    /// The sink's counters.
    pub metrics: Arc<Metrics>,
    /// Folder of the snapshots.
    pub snapshots: Option<PathBuf>,
    /// The wall clock.
    pub now: Clock,
}

/// Name, workspace and mode of a plan's rules.
pub fn rules_of(plan: &Plan) -> Vec<(String, String, &'static str)> {
    let rules = plan.rules.iter().map(|planned| &planned.rule);
    rules
        .map(|rule| {
            let mode = match rule.mode {
                Mode::Live => "live",
                Mode::Shadow => "shadow",
                Mode::Off => "off",
            };
            (rule.name.clone(), rule.workspace.clone().unwrap_or_default(), mode)
        })
        .collect()
}

impl Collect {
    /// Everything but the connections: reads memory, and the dates of the snapshots' files.
    pub fn quick(&self) -> Status {
        let (now, frontier) = ((self.now)(), self.look.frontier());
        let said = self.board.outbox.said();
        let draining = self.stop.asked();
        Status {
            v: 1,
            at: now,
            ready: self.look.ready() && !draining,
            draining,
            frontier: Frontier { at: frontier, delay_ms: if frontier == 0 { 0 } else { now.saturating_sub(frontier) } },
            read: Kind::ALL.iter().map(|kind| (kind.name().to_owned(), self.look.meter.records(*kind))).collect(),
            newest: Kind::ALL.iter().filter_map(|kind| Some((kind.name().to_owned(), self.look.meter.newest(*kind)?))).collect(),
            late: self.look.meter.clamped(),
            partitions: self.partitions(),
            kept: Kept {
                held_clicks: self.board.held.get(),
                live_keys: self.board.keys.get(),
                bytes: self.board.bytes.get(),
                outside_windows: self.board.outside.get(),
            },
            rules: self.rules(&said),
            connections: Vec::new(),
            dead_letters: self.dead_letters(&said),
            sinks: Sinks {
                outbox: self.outbox(&said),
                hubspot: self.sink.then(|| self.hubspot()),
                clickhouse: self.metrics.clickhouse.stats().into_iter().map(clickhouse).collect(),
            },
            advances: said.advances.into(),
            snapshot_age_ms: self.snapshots.as_deref().and_then(newest).map(|at| now.saturating_sub(at)),
        }
    }

    /// Everything; reads the connections' table, so it may wait.
    pub fn all(&self) -> Status {
        let mut status = self.quick();
        if let Some(connections) = &self.connections {
            match connections.status() {
                Ok(all) => status.connections = all.iter().map(|of| self.connection(of)).collect(),
                Err(error) => {
                    tracing::warn!(event = "connections_unreachable", "the connections can't be read for the status: {error:#}");
                    status.connections = vec![Connection {
                        state: "unusable".to_owned(),
                        problem: Some("the table of connections can't be read; the job's log says why".to_owned()),
                        ..Connection::default()
                    }];
                }
            }
        }
        status
    }

    fn partitions(&self) -> Vec<Partition> {
        let places = self.look.meter.places().into_iter();
        places
            .map(|((kind, partition), place)| Partition {
                topic: kind.topic(&self.kafka.topics).to_owned(),
                partition,
                offset: place.next,
                end: place.end,
                lag: (place.end - place.next).max(0),
                log_time: place.log_time,
            })
            .collect()
    }

    fn rules(&self, said: &Said) -> Vec<Rule> {
        let all = self.rules.iter().enumerate();
        all.map(|(ix, (name, workspace, mode))| Rule {
            name: name.clone(),
            workspace: workspace.clone(),
            mode: (*mode).to_owned(),
            hot: self.board.hot.get(ix).map_or(0, super::Total::get),
            fired: said.fired.get(&(workspace.clone(), name.clone())).copied().unwrap_or(0),
        })
        .collect()
    }

    fn outbox(&self, said: &Said) -> Outbox {
        let outbox = &self.board.outbox;
        Outbox {
            transactions: outbox.transactions.load(Ordering::Relaxed),
            failed: outbox.failed.load(Ordering::Relaxed),
            records: said.records.iter().map(|(topic, count)| (topic.default_name().to_owned(), *count)).collect(),
            last_at: said.last_at,
        }
    }

    fn hubspot(&self) -> HubSpot {
        let stats = self.metrics.sink.stats().unwrap_or_default();
        HubSpot {
            lag: stats.lag,
            parked: stats.parked,
            delivered: stats.events + stats.properties + stats.stages,
            requests: stats.calls,
            portals: self.metrics.standings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
        }
    }

    fn dead_letters(&self, said: &Said) -> DeadLetterCounts {
        let stats = self.metrics.sink.stats().unwrap_or_default();
        DeadLetterCounts {
            open: stats.dead_letters_open,
            oldest_at: (stats.dead_letters_oldest_at > 0).then_some(stats.dead_letters_oldest_at),
            unreadable: said.dead.clone(),
        }
    }

    fn connection(&self, of: &oauth::Status) -> Connection {
        let state = match (&of.mode, &of.facts) {
            (oauth::Mode::Static, _) => "static",
            (oauth::Mode::App, Some(facts)) => match &facts.condition {
                Condition::Connected => "connected",
                Condition::ReinstallRequired(_) => "reinstall-required",
                Condition::BadClient(_) => "bad-client",
            },
            (oauth::Mode::App, None) if of.installed => "unusable",
            (oauth::Mode::App, None) => "not-installed",
        };
        let why = of.facts.as_ref().and_then(|facts| match &facts.condition {
            Condition::Connected => None,
            Condition::ReinstallRequired(why) => Some(why.to_string()),
            Condition::BadClient(code) => Some(format!("HubSpot refuses the app's client id or secret ({code})")),
        });
        let connected = self.workspaces.iter().filter(|(_, portals)| portals.contains(&of.portal));
        Connection {
            portal: of.portal.clone(),
            workspaces: connected.map(|(name, _)| name.clone()).collect(),
            state: state.to_owned(),
            problem: why.or_else(|| of.problem.clone()),
            refreshed_at: of.facts.as_ref().map(|facts| facts.refreshed_at).filter(|at| *at > 0),
            refreshes: self.refreshes(&of.portal),
            gated: of.gated.iter().map(|(feature, missing)| format!("{feature}: {} is missing", missing.join(" "))).collect(),
        }
    }

    fn refreshes(&self, portal: &str) -> BTreeMap<String, u64> {
        use crate::metrics::{Refresh, RefreshResult};
        let count = |result: RefreshResult| {
            let counter = self.metrics.refresh_attempts.get(&Refresh { portal: portal.to_owned(), result })?;
            Some((result.word().to_owned(), counter.get()))
        };
        RefreshResult::ALL.into_iter().filter_map(count).collect()
    }
}

/// How one topic stands.
fn clickhouse((topic, stats): (&str, Stats)) -> ClickHouse {
    let Stats { rows, lag, refused, lost, last_at, trouble, .. } = stats;
    let trouble = trouble.map(|of| ClickHouseTrouble { class: of.class.word().to_owned(), code: of.code, since: of.since });
    ClickHouse { topic: topic.to_owned(), rows, lag, refused, lost, last_at: (last_at > 0).then_some(last_at), trouble }
}

/// When the newest file under a folder was written, ms since the Unix epoch; two levels deep, as snapshots lie.
fn newest(folder: &Path) -> Option<Ms> {
    let mut newest = None;
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() && depth < 2 {
                folders.push((entry.path(), depth + 1));
            } else if let Some(age) = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
                newest = newest.max(Ms::try_from(age.as_millis()).ok());
            }
        }
    }
    newest
}
